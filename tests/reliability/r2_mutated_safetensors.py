"""R2: mutated safetensors files behind a forged manifest: each is refused with a CheckpointError, nothing crashes, memory stays within twice the file plus a constant.

`python tests/reliability/r2_mutated_safetensors.py --count 1400 --json out.json`
"""
import gc
import json
import random
import re
import struct
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from checkpoint_tools import TENSORS, CheckpointError, copy, figure, forked, main, put, template, train

from atomsnb.core.checkpoint import DTYPES, load_checkpoint, save_checkpoint

CONSTANT = 256 << 20      # bytes: a header of the largest accepted size (8 MB), parsed, takes some 25 times its length


def split(raw: bytes) -> "tuple[dict, bytes]":
    size = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def join(header, data: bytes) -> bytes:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + data


OFFSETS = [lambda b, e, n: [-1, e], lambda b, e, n: [b, -1], lambda b, e, n: [b - 4, e - 4], lambda b, e, n: [b + 4, e + 4], lambda b, e, n: [e, b], lambda b, e, n: [b, e + 1],
           lambda b, e, n: [b, e - 1], lambda b, e, n: [0, 1 << 63], lambda b, e, n: [1 << 63, 1 << 64], lambda b, e, n: [n, n + e - b], lambda b, e, n: [b, 1 << 200],
           lambda b, e, n: [float(b), float(e)], lambda b, e, n: [str(b), str(e)], lambda b, e, n: [b], lambda b, e, n: [b, e, e], lambda b, e, n: None, lambda b, e, n: {"b": b},
           lambda b, e, n: [True, e], lambda b, e, n: [b, None], lambda b, e, n: [[b], e]]
SHAPES = [lambda s: [*s, 2], lambda s: [-d for d in s] or [-1], lambda s: [*s, 0], lambda s: [1 << 62, 4], lambda s: [1 << 40] * 63, lambda s: [1] * 100, lambda s: "big",
          lambda s: None, lambda s: [float(d) for d in s] or [1.0], lambda s: [str(d) for d in s] or ["1"], lambda s: {"0": 1}, lambda s: [[*s]], lambda s: [None]]


def mutants(raw: bytes, chance: random.Random):
    """(name, bytes) without end: first every truncation below 1 kB, then the families in turn."""
    for n in range(min(1024, len(raw))):
        yield f"cut at byte {n}", raw[:n]
    header, data = split(raw)
    names = [n for n in header if not n.startswith("history.wall")]
    weights = [n for n in names if header[n]["dtype"] in ("F32", "F64") and n.split(".")[0] in ("model", "optimizer")]
    while True:
        name = chance.choice(names)
        entry = header[name]
        begin, end = entry["data_offsets"]
        for i, change in enumerate(OFFSETS):
            yield f"offsets {i} of {name}", join({**header, name: {**entry, "data_offsets": change(begin, end, len(data))}}, data)
        for i, change in enumerate(SHAPES):
            if change(entry["shape"]) != entry["shape"]:
                yield f"shape {i} of {name}", join({**header, name: {**entry, "shape": change(entry["shape"])}}, data)
        for dtype in [*DTYPES, "F7", "object", "", None, 32, ["F32"]]:
            if dtype != entry["dtype"]:
                yield f"dtype {dtype} of {name}", join({**header, name: {**entry, "dtype": dtype}}, data)
        other = chance.choice([n for n in names if n != name])
        text = json.dumps(header)
        yield f"{name} twice", join((text[:-1] + f", {json.dumps(name)}: {json.dumps(entry)}}}").encode(), data)
        yield f"{name} under the name of {other}", join((text.replace(json.dumps(name) + ":", json.dumps(other) + ":")).encode(), data)
        yield f"{name} overlaps {other}", join({**header, name: {**entry, "data_offsets": header[other]["data_offsets"]}}, data)
        yield f"{name} left out", join({k: v for k, v in header.items() if k != name}, data)
        yield f"{name} with a further key", join({**header, name: {**entry, "loader": "os.system"}}, data)
        yield f"{name} is a list", join({**header, name: [entry]}, data)
        yield "data cut", join(header, data[: chance.randrange(len(data))])
        yield "data with a tail", join(header, data + bytes(chance.randrange(1, 100)))
        place = chance.randrange(8, 8 + len(raw) - len(data) - 8)
        yield f"header byte {place} flipped", raw[:place] + bytes([chance.choice([b for b in b"\x00\x01\x80\xff{}[]:,x7" if b != raw[place]])]) + raw[place + 1 :]
        for size in (0, 1, 1 << 32, (1 << 64) - 1, len(raw), len(raw) - len(data) - 8 + chance.choice([-9, -1, 1, 5])):
            yield f"header length {size}", struct.pack("<Q", size) + raw[8:]
        name = chance.choice(weights)
        begin, end = header[name]["data_offsets"]
        place, double = chance.randrange(begin, end, 8 if header[name]["dtype"] == "F64" else 4), header[name]["dtype"] == "F64"
        nan = struct.pack("<d", float("nan")) if double else chance.choice([b"\x00\x00\xc0\x7f", b"\x01\x00\x80\x7f", b"\xff\xff\xff\xff"])
        yield f"NaN in {name}", join(header, data[:place] + nan + data[place + len(nan) :])


def outcome(load) -> str:
    try:
        load()
        return "accepted"
    except CheckpointError:
        return "refused"
    except BaseException as fault:
        return f"{type(fault).__name__}: {fault}"[:200]


def peak(load) -> int:
    """Bytes by which the resident set rose at its highest during `load`."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    def field(name):
        return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10
    before = field("VmRSS")
    load()
    return field("VmHWM") - before


def memory(home: Path, megabytes: int = 24) -> "tuple[list[str], float, float]":
    """Healthy and mutated large files: (misses, most extra memory in MB beyond the file, largest ratio to the bound)."""
    raw = (save_checkpoint(home / "large", {"w": torch.ones(megabytes << 18)}, {"step": 1}) / TENSORS).read_bytes()
    header, data = split(raw)
    trials = {"healthy": raw, "tensor of 2^60 bytes": join({"w": {**header["w"], "shape": [1 << 58], "data_offsets": [0, 1 << 60]}}, data), "NaN": join(header, b"\xff" * len(data)),
              "header of 7 MB in empty lists": join(b'{"a":[' + b"[]," * 2_400_000 + b"[]]}", data), "header of 8 GB": struct.pack("<Q", 8 << 30) + raw[8:],
              "a hundred thousand tensors": join({f"t{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(100_000)}, data),
              "unaligned": join({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "w": {"dtype": "F32", "shape": [(len(data) - 4) // 4], "data_offsets": [1, len(data) - 3]},
                                 "z": {"dtype": "U8", "shape": [3], "data_offsets": [len(data) - 3, len(data)]}}, data)}
    misses, most, ratio = [], 0.0, 0.0
    for name, content in trials.items():
        save = max((home / "large").glob("checkpoint-*"))
        put(save, TENSORS, content)
        size = len(content)
        del content
        state, text = forked(lambda: str(peak(lambda: outcome(lambda: load_checkpoint(home / "large")))), 60)
        rose = int(text) if state == "done" else 1 << 60
        most, ratio = max(most, (rose - size) / 2**20), max(ratio, rose / (2 * size + CONSTANT))
        if rose > 2 * size + CONSTANT:
            misses.append(f"{name}: {state}, {rose >> 20} MB for a file of {size >> 20} MB")
    return misses, most, ratio


def measure(count: int = 1400, seed: int = 0) -> dict:
    """Try `count` mutants of a small run's checkpoint through the whole resume path, then a few large files for memory."""
    torch.set_num_threads(1)
    begin, chance, misses = time.monotonic(), random.Random(seed), []
    with tempfile.TemporaryDirectory() as home:
        source = template(Path(home) / "template")
        raw = (source / TENSORS).read_bytes()
        stream = mutants(raw, chance)
        made = [next(stream) for _ in range(max(count, 1024))] if count >= 1024 else [m for i, m in zip(range(1024 + count), stream) if i % 32 == 0 or i >= 1024][:count]
        for first in range(0, len(made), 100):                  # a fresh child for each hundred: a crash or a hang costs no more than it
            part = made[first : first + 100]
            save = copy(source, Path(home) / f"part{first}")

            def work(part=part, save=save) -> str:
                bad = []
                for name, content in part:
                    put(save, TENSORS, content)
                    said = outcome(lambda: train(save.parent, steps=5, resume="must"))
                    if said != "refused":
                        bad.append(f"{name}: {said}")
                return json.dumps(bad)

            state, text = forked(work, 120)
            misses += json.loads(text) if state == "done" else [f"mutants {first} to {first + len(part)}: {state} {text}"] * len(part)
        heavy, most, ratio = memory(Path(home))
    tried = len(made)
    return figure("R2", "mutated safetensors refused, memory bounded", tried + 7, misses + heavy, ">= 500 mutants, each a CheckpointError; resident set <= 2 x file + 256 MB", begin,
                  truncations=sum(name.startswith("cut") for name, _ in made), most_extra_mb=round(most, 1), largest_share_of_bound=round(ratio, 3))


if __name__ == "__main__":
    sys.exit(main(measure, 1400, __doc__))
