"""R14: adversarial sizes. Ties, degenerate matrices, one row, the edge of the number range, deep nesting: each has a defined answer, or an error that names the argument, in bounded time.

Every case runs in a process of its own, which is ended after five seconds. A case that hangs, dies, gives NaN or an undocumented value, or raises something unrelated is a miss.
`python tests/reliability/r14_adversarial_sizes.py` prints the figure and its misses.
"""
import argparse
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

LIMIT = 5.0
"Seconds that a case may take."


@dataclass(frozen=True)
class Case:
    """One adversarial call and what is documented about it."""

    name: str
    room: str
    kind: str  # ties, degenerate, one of a kind, empty, range, large, nested, constant
    documented: str  # what the library promises, in words
    run: Callable[[], Any]  # asserts the documented value, or makes the call that is to be refused
    refuses: str = ""  # the word that the refusal must hold; empty: a value is promised
    error: str = ""  # further exception types that are documented, by name


def holds_nan(value: Any) -> bool:
    """Whether a returned value holds a NaN."""
    from r3_bad_inputs import silent_nan

    return silent_nan(value)


def judge(case: Case) -> str:
    """`ok`, or what went wrong in a few words; runs in the case's own process."""
    import torch

    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    accepted = {"ValueError", "TypeError", "LedgerError", *case.error.split()}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = case.run()
        except AssertionError as error:
            return f"undocumented value: {str(error).splitlines()[0][:200] if str(error) else 'the assertion of the case failed'}"
        except Exception as error:
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            if not case.refuses:
                return f"raised {said.splitlines()[0]}"
            if type(error).__name__ not in accepted:
                return f"another type of error: {said}"
            return "ok" if re.search(rf"(?<!\w){re.escape(case.refuses)}(?!\w)", str(error)) else f"does not name {case.refuses}: {said}"
    if case.refuses:
        return f"accepted, returned {' '.join(str(result).split())[:80]}"
    return "silent NaN" if holds_nan(result) else "ok"


def verdict(case: Case, limit: float = LIMIT) -> "tuple[str, float]":
    """(`ok` or what went wrong, seconds), in a process of its own."""
    from checkpoint_tools import forked

    start = time.monotonic()
    ended, said = forked(lambda: judge(case), limit)
    seconds = time.monotonic() - start
    return (said if ended == "done" else f"no answer within {limit:.0f} s" if ended == "hung" else f"the process died ({said})"), seconds


def measure(share: float = 1.0) -> dict:
    """Judge every case; `share` < 1 takes an evenly spread part of them. A fresh interpreter does it: forking is safe only where no library has started threads yet."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run([sys.executable, __file__, "--share", str(share), "--json"], env=env, capture_output=True, text=True, timeout=1200)
    if done.returncode not in (0, 1) or not done.stdout.strip():
        raise RuntimeError(f"R14 ended with {done.returncode}: {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def judge_all(share: float) -> dict:
    """The figure, taken in this process."""
    from r14_cases import CASES

    start, misses, slowest = time.monotonic(), [], 0.0
    cases = CASES[:: max(1, round(1 / share))]
    for case in cases:
        said, seconds = verdict(case)
        slowest = max(slowest, seconds)
        if said != "ok":
            misses.append(f"{case.room}, {case.name} ({case.documented}): {said}")
    return {"id": "R14", "name": "adversarial sizes: a defined answer, or an error that names the argument, in bounded time", "tried": len(cases), "passed": len(cases) - len(misses), "failed": len(misses),
            "ok": not misses, "target": f">= 40 cases, each defined within {LIMIT:.0f} s", "wall_s": round(time.monotonic() - start, 1), "slowest_s": round(slowest, 2), "rooms": len({c.room for c in cases}),
            "missed": [m.split(" (")[0] for m in misses], "misses": misses}


def main() -> int:
    """Print the figure and its misses, or the figure as JSON on one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--json", action="store_true", help="one line of JSON on the standard output")
    args = parser.parse_args()
    figure = judge_all(args.share)
    if args.json:
        print(json.dumps(figure))
    else:
        print(*figure["misses"], f"R14: {figure['passed']} of {figure['tried']} over {figure['rooms']} rooms, the slowest in {figure['slowest_s']} s", sep="\n")
    return int(not figure["ok"])


if __name__ == "__main__":
    sys.modules["r14_adversarial_sizes"] = sys.modules["__main__"]  # the cases import this module by its name
    sys.exit(main())
