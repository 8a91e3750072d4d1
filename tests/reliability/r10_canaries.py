"""R10: a gate that can fail. Every canary of the test suite (a planted failing cell, a hang, a wrong verdict, a stale record, an untrue annotation …) is caught."""
import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def measure(share: float = 1.0) -> dict:
    """Run the tests whose name says that they are canaries; `share` is ignored, since the gate runs them all."""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "canary", "tests"], cwd=ROOT, capture_output=True, text=True, timeout=900)
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout.splitlines()[-1] if done.stdout else "")}
    bad = counts.get("failed", 0) + counts.get("error", 0)
    return {"id": "R10", "name": "a gate that can fail: planted faults caught", "tried": counts.get("passed", 0) + bad, "passed": counts.get("passed", 0), "failed": bad + (not counts), "ok": bool(counts) and not bad,
            "target": "every canary caught", "wall_s": round(time.monotonic() - start, 1), "misses": re.findall(r"^FAILED (\S+)", done.stdout, re.M)}


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    figure = measure()
    print(*figure["misses"], f"R10: {figure['passed']} of {figure['tried']}", sep="\n")
    sys.exit(int(figure["failed"] > 0))
