"""R9: no connection leaves the machine, on import of any module or in any notebook. Every Python process refuses and records attempts."""
import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def attempts(command: "list[str]", cwd: Path) -> "tuple[int, str]":
    """Run a Python command under the offline hook; (exit status, recorded attempts)."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "attempts.txt"
        path = os.pathsep.join([str(ROOT / "tests" / "offline"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        env = {**os.environ, "PYTHONPATH": path, "ATOMSNB_NET_LOG": str(log), "ATOMSNB_PROGRESS": "0"}
        done = subprocess.run(command, cwd=cwd, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=900)
        return done.returncode, log.read_text() if log.exists() else ""


def measure(share: float = 1.0) -> dict:
    """Import every module and execute every notebook; `share` < 1 takes the imports only."""
    start, rows, misses = time.monotonic(), [], []

    def take(name: str, command: "list[str]", cwd: Path) -> None:
        status, log = attempts(command, cwd)
        rows.append((status, log))
        if status or log:
            misses.append(f"{name}: " + (log.strip() or f"exit {status}"))
            print(f"  {misses[-1]}", flush=True)

    modules = sorted(p for p in (ROOT / "atomsnb").rglob("*.py") if p.name not in ("__init__.py", "__main__.py", "_modidx.py"))
    for path in modules:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        take(name, [sys.executable, "-c", f"import {name}"], ROOT)
    if share >= 1:
        for path in sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts):
            with tempfile.TemporaryDirectory() as out:
                take(path.relative_to(ROOT).as_posix(), [sys.executable, "-m", "jupyter", "nbconvert", "--to", "notebook", "--execute", "--output-dir", out, str(path)], path.parent)
    good = sum(status == 0 and not log for status, log in rows)
    return {"id": "R9", "name": "imports and notebooks without a connection", "tried": len(rows), "passed": good, "failed": len(rows) - good,
            "attempts": sum(bool(log) for _, log in rows), "target": "0 attempts, every import and notebook runs to its end", "wall_s": round(time.monotonic() - start, 1), "modules": len(modules), "misses": misses}


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    figure = measure()
    print(figure)
    sys.exit(int(figure["failed"] > 0))
