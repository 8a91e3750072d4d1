"""R4: kill -9 at a random moment of training, then resume: weights, optimiser, generators, data order and history end bit for bit as in a run that was never killed.

`python tests/reliability/r4_kill_and_resume.py --count 20 --json out.json`
"""
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

WORKER = """
import os, sys, time
sys.path.insert(0, sys.argv[3])
import numpy as np, torch
from checkpoint_tools import train
def note(model, step):
    # the caller's generators are in use as well, so that a forgotten one shows
    with open(sys.argv[2], "a") as log:
        log.write(f"{step} {np.random.random():.17g} {float(sum(p.abs().sum() for p in model.parameters())).hex()}\\n")
    time.sleep(float(sys.argv[4]))
train(sys.argv[1], callbacks=[note])
"""


def digest(folder: Path, log: Path) -> "dict[str, str]":
    """Hashes of the last save, part by part, and of the log of what each step saw."""
    import numpy as np

    from atomsnb.core.checkpoint import load_checkpoint

    tensors, state = load_checkpoint(folder, allow_nan=("history.",))
    parts: dict = {}
    for name in sorted(tensors):
        if name != "history.wall_s":
            parts.setdefault(name.split(".")[0], hashlib.sha256()).update(name.encode() + np.ascontiguousarray(tensors[name].numpy()).tobytes())
    result = {name: part.hexdigest() for name, part in parts.items()}
    result["state"] = hashlib.sha256(repr([state[k] for k in ("step", "run", "optimizer", "rng", "callbacks")]).encode()).hexdigest()
    rows: dict = {}
    for line in log.read_text().splitlines():
        step, seen = line.split(" ", 1)
        if line.count(" ") == 2 and rows.setdefault(int(step), seen) != seen:      # a step that was repeated after the kill must see the same again
            rows[int(step)] = "two versions"
    result["order"] = hashlib.sha256(repr(sorted(rows.items())).encode()).hexdigest()
    return result


def start(folder: Path, log: Path, pause: float) -> subprocess.Popen:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", WORKER, str(folder), str(log), str(Path(__file__).parent), str(pause)], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for(log: Path, step: int, process: subprocess.Popen) -> None:
    while process.poll() is None and (not log.exists() or log.read_text().count("\n") < step):
        time.sleep(0.002)


def measure(count: int = 20, seed: int = 0) -> dict:
    """Kill `count` runs at random steps, between and inside saves, and finish each; some are killed twice."""
    begin, chance, misses = time.monotonic(), random.Random(seed), []
    with tempfile.TemporaryDirectory() as home:
        whole = start(Path(home) / "whole", Path(home) / "whole.log", 0.0)
        _, errors = whole.communicate()
        assert whole.returncode == 0, errors.decode()[-500:]
        truth = digest(Path(home) / "whole", Path(home) / "whole.log")
        for i in range(count):
            folder, log = Path(home) / f"run{i}", Path(home) / f"run{i}.log"
            kills = 2 if i % 5 == 4 else 1
            for _ in range(kills):
                process = start(folder, log, 0.003)
                wait_for(log, chance.randrange(2, 55), process)
                time.sleep(chance.uniform(0, 0.01))
                process.send_signal(signal.SIGKILL)
                process.communicate()
            last = start(folder, log, 0.0)
            _, errors = last.communicate()
            found = digest(folder, log) if last.returncode == 0 else {"error": errors.decode()[-200:]}
            wrong = [key for key in truth if found.get(key) != truth[key]]
            if wrong:
                misses.append(f"run {i}: {wrong} {found.get('error', '')}")
    from checkpoint_tools import figure

    return figure("R4", "kill -9 at a random step, then resume, bit-exact on CPU", count, misses, f"{count} of {count} bit-exact", begin, compared=sorted(truth))


if __name__ == "__main__":
    from checkpoint_tools import main

    sys.exit(main(measure, 20, __doc__))
