"""Every reliability suite in full: `make reliability`. Results go to benchmarks/results/reliability/, one file a figure."""
import argparse
import json
import platform
import sys
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
SUITES = ("r1_hostile_checkpoints", "r2_mutated_safetensors", "r3_bad_inputs", "r4_kill_and_resume", "r5_kill_during_save", "r6_same_figures", "r7_out_of_memory", "r8_any_directory", "r9_offline", "r10_canaries", "r12_provenance", "r13_pages", "r14_adversarial_sizes")


def machine() -> str:
    """What the figures were taken on, without naming the host."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {torch.get_num_threads()} threads, {platform.system()}"


def main() -> int:
    """Run the named suites (all by default) and write one JSON file each; 1 if a figure misses its target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="*", help=f"default: {', '.join(SUITES)}")
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "benchmarks" / "results" / "reliability")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    missed = 0
    for name in args.suites or SUITES:
        print(f"==> {name}", flush=True)
        result = import_module(name).measure()
        result.pop("misses", None)
        result |= {"machine": machine(), "date": datetime.now(timezone.utc).date().isoformat(), "python": platform.python_version(), "torch": torch.__version__}
        (args.out / f"{result['id']}.json").write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        print(f"{result['id']} {result['name']}: {result['passed']} of {result['tried']} ({result['target']})", flush=True)
        missed += not result.get("ok", result["failed"] == 0 or result["passed"] >= 0.95 * result["tried"] and result["id"] == "R3")
    print(f"{len(args.suites or SUITES) - missed} passed, {missed} failed")
    return int(missed > 0)


if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    sys.exit(main())
