"""R13: scripts in stored outputs, dead links, unresolved references, broken mathematics, pictures without a description: page by page."""
import argparse
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]


def measure(share: float = 1.0) -> dict:
    """Run the documentation gate over every page; `share` is ignored, since the gate runs it whole."""
    import docs_gate
    start = time.monotonic()
    faults = docs_gate.problems()
    pages = sorted(p.relative_to(docs_gate.ROOT / "nbs").as_posix() for p in (docs_gate.ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    bad = {page for page in pages if any(page.removesuffix(".ipynb") in fault for fault in faults)}
    return {"id": "R13", "name": "pages without scripts, dead links, broken mathematics or pictures without a description", "tried": len(pages), "passed": len(pages) - len(bad), "failed": len(bad) or len(faults),
            "ok": not faults, "target": "every page, 0 faults", "wall_s": round(time.monotonic() - start, 1), "faults": len(faults), "misses": faults}


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    figure = measure()
    print(*figure["misses"], f"R13: {figure['passed']} of {figure['tried']} pages", sep="\n")
    sys.exit(int(figure["failed"] > 0))
