"""The gate behind `make test`: every step runs, each is counted, and the last line is `N passed, N failed`.

A step is a check of the whole tree (export leaves it unchanged, lint is clean, …) or a pytest run, whose tests are counted one by
one. A step that runs nothing fails: an empty gate is not a green gate.
"""
import argparse
import hashlib
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


@dataclass
class Outcome:
    """What a step amounted to."""

    passed: int
    failed: int
    said: str = ""


def run(*command: str, timeout: float, env: "dict[str, str] | None" = None) -> "tuple[int, str]":
    """Run a command in the root, echo its output and return (exit status, output); a time-out is status 124."""
    full_env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}", "ATOMSNB_PROGRESS": "0", **(env or {})}
    lines: list[str] = []
    process = subprocess.Popen(command, cwd=ROOT, env=full_env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               stdin=subprocess.DEVNULL, start_new_session=True)
    import threading
    expired = threading.Event()

    def end() -> None:
        expired.set()
        os.killpg(process.pid, 9)

    alarm = threading.Timer(timeout, end)
    alarm.start()
    try:
        for line in process.stdout or ():
            lines.append(line)
            print("    " + line.rstrip(), flush=True)
        status = process.wait()
    finally:
        alarm.cancel()
        if process.poll() is None:
            os.killpg(process.pid, 9)
    return (124 if expired.is_set() else status), "".join(lines)


def fingerprint(*patterns: str) -> "dict[str, str]":
    """SHA-256 of every file that matches, by relative path."""
    files = {f for p in patterns for f in ROOT.glob(p) if f.is_file() and "__pycache__" not in f.parts and ".ipynb_checkpoints" not in f.parts}
    return {str(f.relative_to(ROOT)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(files)}


def unchanged_by(command: str, *patterns: str) -> Outcome:
    """Run `command` and demand that the files it may write are byte for byte what they were."""
    before = fingerprint(*patterns)
    status, _ = run(command, timeout=300)
    after = fingerprint(*patterns)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if status or changed or not before:
        return Outcome(0, 1, f"{command} exited {status} and changed: {', '.join(changed) or 'nothing'} ({len(before)} files watched)")
    return Outcome(1, 0, f"{len(before)} files unchanged")


def export_is_current() -> Outcome:
    """`nbdev_export` leaves the library as it is committed."""
    return unchanged_by("nbdev_export", "atomsnb/**/*.py", "nbs/**/*.ipynb")


def notebooks_are_clean() -> Outcome:
    """`nbdev_clean` has nothing to clean."""
    return unchanged_by("nbdev_clean", "nbs/**/*.ipynb")


def nbdev_tests() -> Outcome:
    """Every notebook through nbdev_test, without its `#| slow` cells. nbdev_test has no time limit and passes on an empty match: both are guarded here."""
    notebooks = [p for p in ROOT.glob("nbs/**/*.ipynb") if ".ipynb_checkpoints" not in p.parts and not p.name.startswith("_")]
    if not notebooks:
        return Outcome(0, 1, "no notebook found")
    status, text = run("nbdev_test", "--n_workers", "2", "--do_print", timeout=1500, env={"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})
    seen = {p.name for p in notebooks if p.name in text}
    missing = [p.name for p in notebooks if p.name not in seen]
    if status or "Success" not in text or missing:
        return Outcome(0, 1, f"nbdev_test exited {status}; notebooks not seen in its output: {', '.join(missing) or 'none'}")
    return Outcome(len(notebooks), 0, f"{len(notebooks)} notebooks")


def pytest_step(*args: str, timeout: float) -> Outcome:
    """A pytest run; its own counts become the step's."""
    status, text = run(sys.executable, "-m", "pytest", *args, "-q", "--durations=8", timeout=timeout)
    tail = text[-4000:]
    count = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", tail)}
    passed, failed = count.get("passed", 0), count.get("failed", 0) + count.get("error", 0) + count.get("errors", 0)
    if (status and not failed) or not passed:
        failed = max(failed, 1)
    return Outcome(passed, failed, f"{count.get('skipped', 0)} skipped, exit {status}")


def command_step(*command: str) -> Outcome:
    """A tool whose exit status is the verdict."""
    status, _ = run(*command, timeout=600)
    return Outcome(int(status == 0), int(status != 0), f"exit {status}")


STEPS = {
    "export": export_is_current,
    "clean": notebooks_are_clean,
    "lint": lambda: command_step("ruff", "check", "."),
    "types": lambda: command_step("mypy"),
    "nbdev": nbdev_tests,
    "notebooks": lambda: pytest_step("tests/test_notebooks.py", timeout=2400),
    "tests": lambda: pytest_step("tests", "--ignore=tests/test_notebooks.py", "-m", "not slow", timeout=2400),
}


def main() -> int:
    """Run the named steps (all by default) and return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", nargs="*", choices=[[], *STEPS], help=f"default: all of {', '.join(STEPS)}")
    chosen = parser.parse_args().steps or list(STEPS)
    total, table = Outcome(0, 0), []
    for name in chosen:
        print(f"==> {name}: {(STEPS[name].__doc__ or name).splitlines()[0]}", flush=True)
        start = time.monotonic()
        try:
            outcome = STEPS[name]()
        except Exception as error:  # a broken step is a failed step, and the others still run
            outcome = Outcome(0, 1, f"{type(error).__name__}: {error}")
        total = Outcome(total.passed + outcome.passed, total.failed + outcome.failed)
        table.append(f"{'ok  ' if not outcome.failed else 'FAIL'} {name:10s} {outcome.passed:5d} passed {outcome.failed:4d} failed "
                     f"{time.monotonic() - start:7.1f} s  {outcome.said}")
        print(table[-1], flush=True)
    print("\n" + "\n".join(table))
    print(f"\n{total.passed} passed, {total.failed} failed", flush=True)
    return int(total.failed > 0)


if __name__ == "__main__":
    sys.exit(main())
