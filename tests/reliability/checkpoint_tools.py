"""What the checkpoint suites share: a small training run, a folder with a hostile file in it, and a watched child process."""
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn

from atomsnb.core.checkpoint import MANIFEST, STATE, TENSORS, CheckpointError
from atomsnb.core.train import TensorBatches, fit, warmup_cosine

STEPS = 60


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))


def train(folder, *, steps=STEPS, save_every=5, callbacks=(), model=None, **options):
    """The run of these suites: dropout, Adam, a schedule, data in another order each epoch. Returns (model, history)."""
    x = torch.randn(100, 6, generator=torch.Generator().manual_seed(1))
    model = network() if model is None else model
    history = fit(model, lambda m, b, s: (m(b[0]) - b[1]).square().mean(), TensorBatches(x, x.sum(1, keepdim=True), batch_size=8, seed=2), steps=steps, lr=1e-2,
                  schedule=warmup_cosine(STEPS, warmup=5), device="cpu", checkpoint=folder, save_every=save_every, callbacks=callbacks, progress=False, **options)
    return model, history


def template(folder: Path) -> Path:
    """A healthy checkpoint of that run; its newest save."""
    train(folder, steps=5)
    return max(folder.glob("checkpoint-*"))


def stamp(save: Path, name: str, data: "bytes | None" = None) -> None:
    """Make the manifest agree with a changed file, as a forger would."""
    data = (save / name).read_bytes() if data is None else data
    manifest = json.loads((save / MANIFEST).read_text())
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (save / MANIFEST).write_text(json.dumps(manifest))


def put(save: Path, name: str, data: bytes) -> None:
    """Replace a file of a save and forge its entry in the manifest."""
    (save / name).write_bytes(data)
    if name != MANIFEST:
        stamp(save, name, data)


def copy(source: Path, folder: Path) -> Path:
    """A fresh run folder with one save, for a suite to damage."""
    save = folder / "checkpoint-00000001"
    shutil.copytree(source, save)
    return save


def forked(work, timeout: float) -> "tuple[str, str]":
    """Run `work()` in a forked child: ('done', its text), ('died', how) or ('hung', '')."""
    read, write = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(read)
        code = 1
        try:
            os.write(write, work().encode()[:60_000])
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            with os.fdopen(read) as pipe:
                return ("done", pipe.read()) if status == 0 else ("died", str(os.waitstatus_to_exitcode(status)))
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read)
    return "hung", ""


def figure(id: str, name: str, tried: int, misses: "list[str]", target: str, start: float, **more) -> dict:
    """One reliability figure, as `run_all.py` stores it."""
    return {"id": id, "name": name, "tried": tried, "passed": tried - len(misses), "failed": len(misses), "target": target,
            "wall_s": round(time.monotonic() - start, 1), "misses": misses[:20], **more}


def main(measure, default: int, doc: str) -> int:
    """The command line of a suite: `--count`, `--json`."""
    import argparse

    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--count", type=int, default=default)
    parser.add_argument("--json", type=Path, help="write the figure here")
    args = parser.parse_args()
    result = measure(args.count)
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return int(result["failed"] > 0)


__all__ = ["MANIFEST", "STATE", "STEPS", "TENSORS", "CheckpointError", "copy", "figure", "forked", "main", "network", "put", "stamp", "template", "train"]
