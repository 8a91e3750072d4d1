"""R12: every measured claim carries its provenance, and none is older than the code that it speaks of."""
import argparse
import json
import sys
import time
from pathlib import Path

from atomsnb.core.ledger import load_ledger, stale

ROOT = Path(__file__).resolve().parents[2]
# seeds are not among them: a record without any says that nothing was drawn
FIELDS = ("commit", "config_hash", "code_hash", "device", "threads", "versions", "wall_s", "peak_mb", "date")


def measure(share: float = 1.0) -> dict:
    """Judge every record of every committed ledger; `share` is ignored, since it takes seconds."""
    start, tried, misses = time.monotonic(), 0, []
    for path in sorted((ROOT / "claims").rglob("*.json")):
        old = set(stale(load_ledger(path)))
        for record in json.loads(path.read_text(encoding="utf-8"))["records"]:
            if record["verdict"] == "not testable here":
                continue
            tried += 1
            lost = [name for name in FIELDS if record.get(name) in (None, "", [], {})]
            if lost or record["claim_id"] in old:
                misses.append(f"{path.parent.name}/{path.stem} {record['claim_id']}: {'stale' if record['claim_id'] in old else ''} {' '.join(lost)}".strip())
    return {"id": "R12", "name": "ledger figures with full provenance, none stale", "tried": tried, "passed": tried - len(misses), "failed": len(misses), "ok": not misses,
            "target": "100 %", "wall_s": round(time.monotonic() - start, 1), "misses": misses}


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    figure = measure()
    print(*figure["misses"], f"R12: {figure['passed']} of {figure['tried']}", sep="\n")
    sys.exit(int(figure["failed"] > 0))
