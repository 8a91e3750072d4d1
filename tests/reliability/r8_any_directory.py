"""R8: every notebook from three working directories, in shuffled order, two at a time: it runs to its end, its ledger shows the same figures bit for bit wherever it was started, and no file is left behind.

The committed ledgers may come from another processor, whose rounding differs: how far the figures lie from them is reported and counts no miss. (The gate compares the verdicts; R6 the numbers of threads.)
"""
import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ("ours", "peer", "control")


def numbers(path: Path) -> dict:
    """The measured values of a ledger file, claim by claim."""
    return {r["claim_id"]: {name: r[name] for name in FIGURES} for r in json.loads(path.read_text(encoding="utf-8"))["records"]}


def drift(one: "list[float]", other: "list[float]") -> float:
    """Largest relative difference of two lists of values; infinity where they do not pair up."""
    if len(one) != len(other):
        return math.inf
    return max((abs(a - b) / max(abs(a), abs(b)) for a, b in zip(one, other) if a != b), default=0.0)


def run(notebook: Path, cwd: Path, out: Path) -> "tuple[str, dict]":
    """Execute a notebook with `cwd` as its kernel's working directory and `out` for its ledger; what went wrong, or nothing, and the figures of its ledger, if it keeps one."""
    tagged = any("parameters" in c["metadata"].get("tags", []) for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"])
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--cwd", str(cwd), str(notebook), str(out / "executed.ipynb"), *(["-p", "OUT", str(out)] if tagged else [])]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ATOMSNB_PROGRESS": "0"}
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=900)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no message"])[-1][:200], {}
    if not committed(notebook).is_file():
        return "", {}
    fresh = out / "claims.json"
    return ("", numbers(fresh)) if fresh.is_file() else ("no ledger was written", {})


def committed(notebook: Path) -> Path:
    """Where the ledger of a notebook is kept."""
    return ROOT / "claims" / "cpu" / f"{'.'.join(notebook.relative_to(ROOT / 'nbs').with_suffix('').parts)}.json"


def distance(one: dict, other: dict) -> float:
    """Largest relative difference of two ledgers' figures; infinity where they do not pair up."""
    pairs = [(one[c][f], other.get(c, {}).get(f)) for c in one for f in FIGURES]
    return max((math.inf if (a is None) != (b is None) else drift(a, b) for a, b in pairs if a is not None or b is not None), default=0.0)


def measure(share: float = 1.0) -> dict:
    """Notebooks x directories; `share` < 1 takes that part of the notebooks."""
    start, misses, rng, ledgers = time.monotonic(), [], random.Random(0), {}
    notebooks = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    notebooks = notebooks[:: max(1, round(1 / share))]
    with tempfile.TemporaryDirectory() as base:
        places = {"an empty folder": Path(base) / "empty", "a folder with a space": Path(base) / "with space", "the root of the checkout": ROOT}
        for place in places.values():
            place.mkdir(exist_ok=True)
        tasks = [(n, name) for n in notebooks for name in places]
        rng.shuffle(tasks)

        def one(task: "tuple[Path, str]") -> None:
            with tempfile.TemporaryDirectory() as out:
                wrong, figures = run(task[0], places[task[1]], Path(out))
            if figures and not wrong and ledgers.setdefault(task[0], figures) != figures:
                changed = [claim for claim in figures if figures[claim] != ledgers[task[0]].get(claim)]
                wrong = f"figures differ from those of a run elsewhere: {', '.join(changed)}"
            if wrong:
                misses.append(f"{task[0].relative_to(ROOT).as_posix()} from {task[1]}: {wrong}")
                print(f"  {misses[-1]}", flush=True)

        before = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(one, tasks))
        left = [str(p.name) for place in list(places.values())[:2] for p in place.iterdir()]
        after = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout
    failed = len(misses)
    if left or before != after:
        misses.append(f"files left behind: {left or 'in the checkout'}")
    return {"id": "R8", "name": "every notebook from any directory, shuffled, two at a time, with identical ledgers", "tried": len(tasks), "passed": len(tasks) - failed, "failed": len(misses), "ok": not misses,
            "target": "100 %, identical figures, no file left behind", "wall_s": round(time.monotonic() - start, 1), "misses": misses,
            "ledgers": len(ledgers), "largest_distance_from_committed": max((distance(numbers(committed(n)), ours) for n, ours in ledgers.items()), default=0.0)}


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    figure = measure()
    print(f"R8: {figure['passed']} of {figure['tried']}")
    sys.exit(int(figure["failed"] > 0))
