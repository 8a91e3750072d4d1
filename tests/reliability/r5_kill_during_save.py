"""R5: kill -9, or a full disk, during a save: the latest or the previous checkpoint always loads, and what was reported as saved is not lost.

`python tests/reliability/r5_kill_during_save.py --count 50 --json out.json`
"""
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from checkpoint_tools import CheckpointError, figure, forked, main

from atomsnb.core.checkpoint import checkpoints, load_checkpoint, save_checkpoint

SIZE = 100_000      # numbers in a save: 400 kB, a few milliseconds


def content(step: int, size: int = SIZE) -> dict:
    return {"w": torch.full((size,), float(step)), "step": torch.tensor([step])}


def check(folder: Path, at_least: int, at_most: int) -> str:
    """Empty if the folder loads, hangs together, and stands where it should; else what is wrong."""
    try:
        tensors, state = load_checkpoint(folder)
    except CheckpointError as fault:
        return f"does not load: {fault}"
    step = state["step"]
    if not at_least <= step <= at_most:
        return f"stands at {step}, expected {at_least} to {at_most}"
    if int(tensors["step"]) != step or not bool((tensors["w"] == step).all()):
        return f"mixes saves at step {step}"
    return ""


def kill_once(folder: Path, first: int, wait: float) -> "tuple[int, bool]":
    """Save steps first, first + 1, ... in a child and kill it after `wait` seconds: (last step it announced, whether a save was cut in half)."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        step = first
        while True:
            save_checkpoint(folder, content(step), {"step": step})
            os.write(write, b"%d\n" % step)
            step += 1
    os.close(write)
    time.sleep(wait)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        said = pipe.read().split()
    return (int(said[-1]) if said else first - 1), any(folder.glob(".saving-*"))


def full_disk(home: Path, chance: random.Random, count: int) -> "tuple[int, list[str], str]":
    """Saves that run out of space at `count` places; on a small file system of its own where one may be mounted, else under a limit on file sizes."""
    place = home / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True).returncode == 0 if os.geteuid() == 0 else False
    misses = []
    try:
        for i in range(count):
            folder = place / f"run{i}"
            save_checkpoint(folder, content(1, 1000), {"step": 1})
            numbers = chance.randrange(4_000, 260_000)
            ballast = place / "ballast"
            if mounted:
                free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
                ballast.write_bytes(bytes(max(0, free - chance.randrange(0, 4 * numbers))))

            def work(folder=folder, numbers=numbers) -> str:
                if not mounted:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * numbers, 2 * numbers))
                try:
                    save_checkpoint(folder, content(2, numbers), {"step": 2})
                    return "saved"
                except CheckpointError as fault:
                    return f"refused: {fault}"
            state, said = forked(work, 30)
            wrong = "" if state == "done" and said.startswith("refused") and "is untouched" in said else f"{state} {said}"
            wrong = wrong or check(folder, 1, 1) or ("left half a save behind" if any(folder.glob(".saving-*")) else "")
            ballast.unlink(missing_ok=True)
            if not wrong:
                save_checkpoint(folder, content(3, 1000), {"step": 3})
                wrong = check(folder, 3, 3)
            if wrong:
                misses.append(f"full disk {i}: {wrong}")
            subprocess.run(["rm", "-rf", str(folder)], check=True)
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)
    return count, misses, "ENOSPC on a 1 MB tmpfs" if mounted else "EFBIG under RLIMIT_FSIZE"


def measure(count: int = 50, seed: int = 0) -> dict:
    """Kill `count` processes that do nothing but save (each goes on in the folder that the one before it left), then fill the disk `count // 5` times."""
    torch.set_num_threads(1)
    begin, chance, misses, inside = time.monotonic(), random.Random(seed), [], 0
    with tempfile.TemporaryDirectory() as home:
        folder, last = Path(home) / "run", 0
        save_checkpoint(folder, content(0), {"step": 0})
        for i in range(count):
            announced, cut = kill_once(folder, last + 1, chance.uniform(0.002, 0.06))
            inside += cut
            wrong = check(folder, max(announced, last), max(announced, last) + 1)
            if wrong:
                misses.append(f"kill {i}: {wrong}")
            last = load_checkpoint(folder).state["step"] if not wrong else last + 1000
        assert len(checkpoints(folder)) <= 3
        more, faults, how = full_disk(Path(home), chance, max(2, count // 5))
    return figure("R5", "kill -9 or a full disk during a save", count + more, misses + faults, f"{count + more} of {count + more} leave a loadable latest or previous", begin,
                  kills=count, cut_inside_a_save=inside, full_disks=more, full_disk_by=how)


if __name__ == "__main__":
    sys.exit(main(measure, 50, __doc__))
