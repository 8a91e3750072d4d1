"""R6: the same figures again. Every notebook that keeps a ledger, run three times on one thread and three times on two: equal settings give equal figures, bit for bit; what moves with the number of threads is listed.

`python tests/reliability/r6_same_figures.py --room models.training --runs 2` takes one room.
"""
import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))
from r8_any_directory import drift, numbers  # noqa: E402

LIBRARIES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def ledger_of(room: str, threads: int, out: Path) -> "tuple[dict, str]":
    """The measured values of a fresh run of a room's notebook, {(claim, column): values}, and what went wrong, or nothing."""
    notebook = ROOT / "nbs" / Path(*room.split(".")).with_suffix(".ipynb")
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--cwd", str(notebook.parent), str(notebook), str(out / "executed.ipynb"), "-p", "OUT", str(out)]
    env = {**os.environ, **dict.fromkeys(LIBRARIES, str(threads)), "ATOMSNB_PROGRESS": "0"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=900)
    if done.returncode:
        return {}, (done.stderr.strip().splitlines() or ["no message"])[-1][:200]
    if not (out / "claims.json").is_file():
        return {}, "no ledger was written"
    return {(claim, column): values for claim, row in numbers(out / "claims.json").items() for column, values in row.items() if values is not None}, ""


def compare(runs: "dict[int, list[dict]]") -> "tuple[list, list, dict]":
    """From the ledgers by number of threads: all figures, as (threads, claim, column); those that differ at equal settings; and the drift of those that move with the number of threads."""
    tried, unequal, moved = [], [], {}
    for threads, ledgers in runs.items():
        for key in sorted({key for ledger in ledgers for key in ledger}):
            tried.append((threads, *key))
            found = [ledger.get(key) for ledger in ledgers]
            if any(value != found[0] for value in found):
                unequal.append((threads, *key, max((drift(found[0] or [], value or []) for value in found), default=0.0)))
    first = {threads: ledgers[0] for threads, ledgers in runs.items() if ledgers}
    base = first.get(min(first, default=0), {})
    for other in first.values():
        for key in base.keys() & other.keys():
            if (gap := drift(base[key], other[key])) > 0:
                moved[key] = max(gap, moved.get(key, 0.0))
    return tried, unequal, moved


def measure(share: float = 1.0, *, rooms: "list[str] | None" = None, repeats: int = 3, threads: "tuple[int, ...]" = (1, 2)) -> dict:
    """Run the notebooks of landed papers and of studies; `share` < 1 takes an evenly spread part of them."""
    from atomsnb.core.papers import papers, studies

    start, misses, drifting, tried, failed = time.monotonic(), [], {}, 0, 0
    chosen = rooms or [*(p.room for p in papers() if p.status == "landed"), *(s.room for s in studies())][:: max(1, round(1 / share))]
    for room in chosen:
        runs: "dict[int, list[dict]]" = {}
        for count in threads:
            for number in range(repeats):
                with tempfile.TemporaryDirectory() as out:
                    values, wrong = ledger_of(room, count, Path(out))
                if wrong:
                    misses.append(f"{room}, {count} threads, run {number + 1}: {wrong}")
                    tried, failed = tried + 1, failed + 1
                else:
                    runs.setdefault(count, []).append(values)
        seen, unequal, moved = compare(runs)
        tried, failed = tried + len(seen), failed + len(unequal)
        misses += [f"{room}, {count} threads: {claim}.{column} differs by up to {gap:.1e} at equal settings" for count, claim, column, gap in unequal]
        drifting |= {f"{room} {claim}.{column}": gap for (claim, column), gap in sorted(moved.items())}
    return {"id": "R6", "name": f"the same figures again: {repeats} runs on {' and '.join(map(str, threads))} threads", "tried": tried, "passed": tried - failed, "failed": failed, "ok": not misses and tried > 0,
            "target": "bit for bit at equal settings; drift between numbers of threads listed", "wall_s": round(time.monotonic() - start, 1), "rooms": len(chosen), "runs": len(chosen) * len(threads) * repeats,
            "drifting": len(drifting), "largest_drift": max(drifting.values(), default=0.0), "drifts": drifting, "misses": misses}


def main() -> int:
    """Print the figure, its misses, and what drifts with the number of threads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--room", action="append", help="only this room; may be repeated")
    parser.add_argument("--runs", type=int, default=3, help="runs at each number of threads")
    parser.add_argument("--share", type=float, default=1.0)
    args = parser.parse_args()
    result = measure(args.share, rooms=args.room, repeats=args.runs)
    for name, gap in result["drifts"].items():
        print(f"  drifts with the number of threads: {name}, by {gap:.1e}")
    print(*result["misses"], f"R6: {result['passed']} of {result['tried']} figures equal at equal settings over {result['runs']} runs; {result['drifting']} drift, by {result['largest_drift']:.1e} at most", sep="\n")
    return int(not result["ok"])


if __name__ == "__main__":
    sys.exit(main())
