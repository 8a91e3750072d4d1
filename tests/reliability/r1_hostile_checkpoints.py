"""R1: hostile checkpoints. Each is read by the whole resume path in a watched child process: nothing runs, nothing hangs, and each is a CheckpointError.

`python tests/reliability/r1_hostile_checkpoints.py --count 40 --json out.json` (a count beyond the number of files means all of them)
"""
import io
import json
import os
import pickle
import struct
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from checkpoint_tools import MANIFEST, STATE, TENSORS, CheckpointError, copy, figure, forked, main, put, template, train

# What only a loader that executes would do. The audit hook sees these whoever does them.
FORBIDDEN = {"exec", "compile", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle.find_class", "marshal.loads", "marshal.load", "code.__new__",
             "ctypes.dlopen", "socket.connect", "socket.bind", "os.remove", "os.rename", "os.mkdir", "os.symlink", "os.chmod", "shutil.rmtree", "import"}


class Call:
    """Unpickles by calling something."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def safetensors(header, data: bytes = b"") -> bytes:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + data


def zipped(names: "dict[str, bytes]") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def torch_zip(thing) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


def object_array(thing) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([thing], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def edit(save: Path, name: str, change) -> None:
    """Change a JSON file of a save in place; the manifest follows."""
    value = json.loads((save / name).read_text())
    put(save, name, json.dumps(change(value) or value).encode())


def into(key, value):
    def change(tree):
        *path, last = key if isinstance(key, tuple) else (key,)
        for part in path:
            tree = tree[part]
        tree[last] = value
    return change


def swap(save: Path, name: str, make) -> None:
    """Put something else than a file in a file's place."""
    (save / name).unlink()
    make(save / name)


def linked(save: Path, name: str) -> None:
    target = save.parent / f"elsewhere-{name}"
    (save / name).rename(target)
    (save / name).symlink_to(target)


def renamed_tensor(name: str):
    def change(save: Path) -> None:
        raw = (save / TENSORS).read_bytes()
        size = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + size])
        put(save, TENSORS, safetensors({(name if key == "model.0.weight" else key): entry for key, entry in header.items()}, raw[8 + size :]))
    return change


def cases(proof: Path) -> "dict[str, object]":
    """Name to a function that makes a healthy save hostile. Every payload would create the file `proof`."""
    touch = f"open({str(proof)!r}, 'w').close()"
    payloads = {"os.system": Call(os.system, f"touch {proof}"), "exec": Call(exec, touch), "eval": Call(eval, f"__import__('os').system('touch {proof}')"),
                "open": Call(open, str(proof), "w"), "import": Call(__import__, "antigravity")}
    evil = payloads["exec"]
    made: dict = {}
    for name, payload in payloads.items():
        made[f"pickle of {name} named safetensors"] = lambda s, p=payload: put(s, TENSORS, pickle.dumps(p))
    for protocol in (0, 2, 4):
        made[f"pickle protocol {protocol} named state.json"] = lambda s, n=protocol: put(s, STATE, pickle.dumps(evil, n))
    made["pickle named manifest.json"] = lambda s: (s / MANIFEST).write_bytes(pickle.dumps(evil))
    made["torch zip with an extra global"] = lambda s: put(s, TENSORS, torch_zip({"w": torch.ones(2), "x": evil}))
    made["torch zip of a whole module"] = lambda s: put(s, TENSORS, torch_zip(torch.nn.Linear(2, 2)))
    made["torch legacy file"] = lambda s: put(s, TENSORS, b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + pickle.dumps(evil))
    made["npy object array"] = lambda s: put(s, TENSORS, object_array(evil))
    made["npz of object arrays"] = lambda s: put(s, TENSORS, zipped({"arr_0.npy": object_array(evil)}))
    made["zip in a zip"] = lambda s: put(s, TENSORS, zipped({"a.zip": zipped({"data.pkl": pickle.dumps(evil)})}))
    made["zip bomb"] = lambda s: put(s, TENSORS, zipped({"data.pkl": bytes(20_000_000)}))
    made["tar with a path outside"] = lambda s: put(s, TENSORS, tarred("../../evil.py", touch.encode()))
    made["python source named safetensors"] = lambda s: put(s, TENSORS, touch.encode())
    made["python bytecode named safetensors"] = lambda s: put(s, TENSORS, b"\xa7\r\r\n" + bytes(12) + b"\xe3" + bytes(80))
    made["shared object named safetensors"] = lambda s: put(s, TENSORS, b"\x7fELF" + bytes(200))
    made["healthy safetensors with a pickle behind it"] = lambda s: put(s, TENSORS, (s / TENSORS).read_bytes() + pickle.dumps(evil))
    made["pickle hidden in the header's padding"] = lambda s: put(s, TENSORS, safetensors(b"{}" + pickle.dumps(evil)))
    made["yaml tag named state.json"] = lambda s: put(s, STATE, f"!!python/object/apply:os.system ['touch {proof}']".encode())
    made["state names a class to build"] = lambda s: put(s, STATE, json.dumps({"_target_": "os.system", "_args_": [f"touch {proof}"]}).encode())
    made["state with py/object markers"] = lambda s: put(s, STATE, json.dumps({"py/object": "os.system", "py/reduce": [f"touch {proof}"]}).encode())
    made["unknown marker in the optimiser"] = lambda s: edit(s, STATE, into("optimizer", {"$class": "os.system", "$args": [f"touch {proof}"]}))
    made["optimiser class replaced"] = lambda s: edit(s, STATE, into(("run", "optimizer"), "__import__('os').system"))
    made["generator state of another size"] = lambda s: edit(s, STATE, into(("rng",), [{"torch": {"$tensor": ["model.0.weight", "float32", [8, 6]]}, "cuda": [], "numpy": [], "python": []}]))
    made["optimiser state of another shape"] = lambda s: edit(s, STATE, into(("optimizer", "state", "0.weight", "exp_avg"), {"$tensor": ["model.3.bias", "float32", [1]]}))
    made["history of unequal lengths"] = lambda s: edit(s, STATE, into(("history", "steps"), {"$tensor": ["model.3.weight", "float32", [1, 8]]}))
    made["negative step"] = lambda s: edit(s, STATE, into("step", -1))
    made["step that is no number"] = lambda s: edit(s, STATE, into("step", "__import__('os')"))
    made["tensor name with a path"] = renamed_tensor("../../../etc/passwd")
    made["tensor name that is absolute"] = renamed_tensor("/etc/passwd")
    made["tensor name of a Windows share"] = renamed_tensor("\\\\host\\share")
    made["tensor name with a control character"] = renamed_tensor("w\x1b[2J")
    made["tensor name with a line break"] = renamed_tensor("w\nx")
    made["tensor name of a megabyte"] = renamed_tensor("w" * 1_000_000)
    made["manifest names a file outside"] = lambda s: edit_manifest(s, lambda m: {**m, "files": {"../../secret": m["files"][TENSORS], STATE: m["files"][STATE]}})
    made["manifest names an absolute file"] = lambda s: edit_manifest(s, lambda m: {**m, "files": {**m["files"], "/etc/passwd": m["files"][STATE]}})
    made["manifest with a further key"] = lambda s: edit_manifest(s, lambda m: {**m, "loader": "os.system"})
    made["manifest of another version"] = lambda s: edit_manifest(s, lambda m: {**m, "version": 999})
    made["manifest with a wrong sum"] = lambda s: edit_manifest(s, into(("files", TENSORS, "sha256"), "0" * 64))
    made["manifest with a sum that is a list"] = lambda s: edit_manifest(s, into(("files", TENSORS, "sha256"), ["a"]))
    made["manifest with a negative size"] = lambda s: edit_manifest(s, into(("files", TENSORS, "bytes"), -1))
    made["manifest that is missing"] = lambda s: (s / MANIFEST).unlink()
    made["manifest of 10 MB"] = lambda s: (s / MANIFEST).write_bytes(b" " * 10_000_000 + b"{}")
    made["JSON a million brackets deep"] = lambda s: put(s, STATE, b"[" * 1_000_000)
    made["JSON a million objects deep"] = lambda s: put(s, STATE, b'{"a":' * 1_000_000)
    made["JSON number of a million digits"] = lambda s: put(s, STATE, b'{"step":' + b"9" * 1_000_000 + b"}")
    made["JSON with a repeated key"] = lambda s: put(s, STATE, (s / STATE).read_bytes()[:-1] + b', "step": 1}')
    made["JSON with NaN"] = lambda s: put(s, STATE, b'{"step": NaN}')
    made["JSON in UTF-16"] = lambda s: put(s, STATE, (s / STATE).read_text().encode("utf-16"))
    made["JSON of 64 MB"] = lambda s: put(s, STATE, b'{"a":"' + b"x" * 64_000_000 + b'"}')
    made["header length of 2^63"] = lambda s: put(s, TENSORS, struct.pack("<Q", 1 << 63) + b"{}")
    made["header of 100 MB"] = lambda s: put(s, TENSORS, safetensors(b" " * 100_000_000))
    made["header of 7 MB in empty lists"] = lambda s: put(s, TENSORS, safetensors(b'{"a":[' + b"[]," * 2_300_000 + b"[]]}"))
    made["tensor of 2^60 bytes"] = lambda s: put(s, TENSORS, safetensors({"w": {"dtype": "U8", "shape": [1 << 60], "data_offsets": [0, 1 << 60]}}))
    made["sparse file of 8 TB"] = lambda s: (os.truncate(s / TENSORS, 8 << 40), edit_manifest(s, into(("files", TENSORS, "bytes"), 8 << 40)))
    for name in (TENSORS, STATE, MANIFEST):
        made[f"{name} is a link to a healthy file"] = lambda s, n=name: linked(s, n)
        made[f"{name} is a named pipe"] = lambda s, n=name: swap(s, n, os.mkfifo)
        made[f"{name} is a folder"] = lambda s, n=name: swap(s, n, Path.mkdir)
    made["tensors are a link to /dev/zero"] = lambda s: swap(s, TENSORS, lambda p: p.symlink_to("/dev/zero"))
    made["tensors are a link to themselves"] = lambda s: swap(s, TENSORS, lambda p: p.symlink_to(p))
    made["the save is a link to another folder"] = lambda s: (s.rename(s.parent / "real"), s.symlink_to(s.parent / "real"))
    made["the save is a file"] = lambda s: ([p.unlink() for p in s.iterdir()], s.rmdir(), s.write_bytes(pickle.dumps(evil)))
    made["the save is a named pipe"] = lambda s: ([p.unlink() for p in s.iterdir()], s.rmdir(), os.mkfifo(s))
    return made


def edit_manifest(save: Path, change) -> None:
    value = json.loads((save / MANIFEST).read_text())
    (save / MANIFEST).write_text(json.dumps(change(value) or value))


def attempt(folder: Path, load=None) -> str:
    """In the child: resume from the folder (or run another loader) under an audit hook; what happened, in one line."""
    from atomsnb.core import runstate  # noqa: F401  (everything that is needed is imported before the hook watches)

    watched: list = []
    seen: list = []
    loaded = set(sys.modules)

    def hook(event: str, arguments: tuple) -> None:
        if watched and event in FORBIDDEN and not (event == "import" and arguments[0] in loaded):
            if event in ("compile", "exec") and "site-packages" in repr(arguments) + repr(sys._getframe(1).f_code.co_filename):
                return                                     # a library's own lazy code generation, not the file's
            seen.append(f"{event} {arguments!r}"[:120])

    sys.addaudithook(hook)
    watched.append(True)
    try:
        train(folder, steps=10, resume="must") if load is None else load(folder)
        outcome = "accepted"
    except CheckpointError as fault:
        outcome = f"refused: {fault}"
    except BaseException as fault:
        outcome = f"{type(fault).__name__}: {fault}"
    watched.clear()
    return json.dumps({"outcome": outcome[:400], "seen": seen})


def measure(count: int = 1000, timeout: float = 20.0) -> dict:
    """Try `count` hostile files (all that there are by default)."""
    torch.set_num_threads(1)
    begin, misses, executed, hung, tried = time.monotonic(), [], 0, 0, 0
    with tempfile.TemporaryDirectory() as home:
        source = template(Path(home) / "template")
        control = copy(source, Path(home) / "control").parent
        # the control runs the same path on a healthy file: what it does on the way is what resuming does, and only a save may write
        state, text = forked(lambda: attempt(control), timeout)
        assert state == "done" and json.loads(text)["outcome"] == "accepted", (state, text)
        todo = list(cases(Path(home) / "proof").items())
        # and the opposite control: a loader that unpickles must be caught by the hook and by the proof file, or the watching is blind
        fooled = copy(source, Path(home) / "fooled")
        todo[1][1](fooled)
        state, text = forked(lambda: attempt(fooled.parent, lambda f: pickle.loads((fooled / TENSORS).read_bytes())), timeout)
        assert state == "done" and json.loads(text)["seen"] and (Path(home) / "proof").exists(), (state, text)
        (Path(home) / "proof").unlink()
        step = max(1, len(todo) // count)
        for i, (name, spoil) in enumerate(todo[::step][:count] if count < len(todo) else todo):
            folder, proof = Path(home) / f"case{i}", Path(home) / "proof"
            save = copy(source, folder)
            spoil(save)
            state, text = forked(lambda folder=folder: attempt(folder), timeout)
            tried += 1
            hung += state == "hung"
            report = json.loads(text) if state == "done" else {"outcome": f"{state} {text}", "seen": []}
            ran = proof.exists() or bool(report["seen"])
            executed += ran
            if ran or not report["outcome"].startswith("refused"):
                misses.append(f"{name}: {report['outcome']} {report['seen']} proof={proof.exists()}")
            proof.unlink(missing_ok=True)
    return figure("R1", "hostile checkpoints refused", tried, misses, ">= 40 files, 0 executed, 0 hung, each a CheckpointError", begin, executed=executed, hung=hung)


if __name__ == "__main__":
    sys.exit(main(measure, 1000, __doc__))
