"""Laws of the memory room: a fault is recognised by its own words and by nothing else, what there is is read from the tightest limit, the setting to lower exists, and nothing is held."""
import gc
import json
import os
import re
import subprocess
import sys
import weakref
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atomsnb.cli import main
from atomsnb.core import memory
from atomsnb.core.memory import Headroom, MemoryShortageError, Shortage, advice, explained, headroom, recognise, recognise_death, show_bytes
from atomsnb.core.papers import find_config, ledger_rooms, memory_settings, papers

sys.path.insert(0, str(Path(__file__).parent / "reliability"))
GIB = 2**30
LANDED = [room for room in ledger_rooms() if room not in {p.room for p in papers() if p.status != "landed"}]


# ---- bytes in words

@given(st.integers(0, 2**62))
def test_bytes_in_words_are_right_to_three_digits(n):
    """Rounding to three significant digits is wrong by at most half a percent, and by half a byte below one KiB."""
    number, unit = show_bytes(n).split()
    assert abs(memory._bytes(number, unit) - n) <= 0.005 * n + 1


# ---- recognising

REAL = {
    "torch on a CPU": (lambda: torch.empty(2**48, dtype=torch.uint8), 2**48), "torch, more than 64 bits": (lambda: torch.empty(2**40, 2**40), 2**63), "numpy": (lambda: np.empty(2**48, dtype=np.uint8), 2**48),
    "numpy, more than 64 bits": (lambda: np.empty((2**40, 2**40)), 2**63), "numpy, one dimension too long": (lambda: np.empty((2**62,), dtype=np.uint8), 2**62), "a list": (lambda: [0] * 2**48, None), "bytes": (lambda: bytearray(2**48), None),
    "a state counted before it is made": (lambda: import_module("atomsnb.quantum.paulis").basis_state(torch.zeros(1, 50, dtype=torch.int64)), 2**53), "a state of more than 64 bits": (lambda: import_module("atomsnb.quantum.paulis").basis_state(torch.zeros(1, 70, dtype=torch.int64)), 2**63),
}


@pytest.mark.parametrize("what", list(REAL))
def test_a_real_fault_is_recognised_with_its_size(what):
    call, asked = REAL[what]
    with pytest.raises((MemoryError, RuntimeError, ValueError)) as caught:
        call()
    found = recognise(caught.type.__name__, str(caught.value))
    assert found is not None and found.asked == asked and found.limit and found.bound


@pytest.mark.parametrize("name, text", [("ImportError", "libXau-154567c4.so.6.0.0: failed to map segment from shared object"), ("OSError", "[Errno 12] Cannot allocate memory"), ("MemoryError", "std::bad_alloc"), ("MemoryError", ""), ("RuntimeError", "Insufficient memory to run circuit, Required memory: 16384M, max memory: 1M")])
def test_the_words_of_loaders_forks_and_native_code_are_known(name, text):
    """None of these can be provoked safely in a test; the first was met under a cap of the suite R7. Where the text has no size the message says so, and shows no other figure in its place."""
    found = recognise(name, text)
    assert found is not None and found.asked == (16 * GIB if "16384M" in text else None)
    assert str(found).startswith("out of memory: the error does not say how much was asked for, " if found.asked is None else "out of memory: 16 GiB were asked for in one piece, ")


MAPPED = """
import resource, sys, torch
from atomsnb.core.memory import recognise
resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30,) * 2)
try:
    torch.from_file(sys.argv[1], shared=False, size=2**35, dtype=torch.uint8)
except RuntimeError as fault:
    print(recognise("RuntimeError", str(fault)).asked, fault)
"""


def test_a_file_that_cannot_be_mapped_has_its_size(tmp_path):
    """32 GiB of a file of holes, under a cap of 8 GiB; met in the suite R7, where torch maps the corpus."""
    pytest.importorskip("resource")
    with open(tmp_path / "holes", "wb") as file:
        file.truncate(2**35)
    done = subprocess.run([sys.executable, "-c", MAPPED, str(tmp_path / "holes")], capture_output=True, text=True)
    asked, said = done.stdout.split(" ", 1) if done.stdout else (None, done.stderr[-300:])
    assert asked == str(2**35) and "unable to mmap" in said, said
    assert recognise("RuntimeError", "unable to mmap 5346488 bytes from file <x>: Permission denied (13)") is None


CUDA = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 4.25 GiB is free. Process 1 has 74.85 GiB memory in use. Of the allocated memory 70.50 GiB is allocated by PyTorch, and 1.10 GiB is reserved by PyTorch but unallocated."
QUOTED = [
    ("OutOfMemoryError", CUDA, 20 * GIB, 4.25, 79.10, "GPU"),
    ("OutOfMemoryError", CUDA.replace("Of the allocated", "72.00 GiB allowed; Of the allocated"), 20 * GIB, 1.5, 72, "GPU"),
    ("RuntimeError", "MPS backend out of memory (MPS allocated: 5.50 GiB, other allocations: 0 bytes, max allowed: 6.75 GiB). Tried to allocate 2.00 GiB on private pool.", 2 * GIB, 1.25, 6.75, "GPU"),
    ("AcceleratorError", "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported", None, None, None, ""),
    ("RuntimeError", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", None, None, None, ""),
]


@pytest.mark.parametrize("name, text, asked, free, limit, bound", QUOTED)
def test_the_allocator_of_a_gpu_speaks_for_itself(name, text, asked, free, limit, bound):
    """What a GPU has is read from the message; the memory of the machine would be the wrong answer. Sizes are printed there with two digits after the point."""
    found = recognise(name, text)
    assert found is not None and found.asked == asked and bound in found.bound and "machine" not in found.bound
    for value, gib in ((found.free, free), (found.limit, limit)):
        assert (value is None) == (gib is None) and (gib is None or abs(value / GIB - gib) < 1e-6)


@pytest.mark.parametrize("name, text", [("RuntimeError", "mat1 and mat2 shapes cannot be multiplied"), ("ValueError", "memory is 3; accepted: a list"), ("OSError", "[Errno 28] No space left on device"), ("ImportError", "x.so: failed to map segment from shared object: Operation not permitted"), ("KeyError", "'out of memory'"), ("AssertionError", ""), ("ValueError", "they need 3 lines")])
def test_canary_other_faults_are_not_taken_for_it(name, text):
    assert recognise(name, text) is None


@pytest.mark.parametrize("status, space, likely", [(-9, False, True), (-9, True, True), (-6, True, True), (-11, True, True), (1, True, True), (-6, False, False), (1, False, False), (0, True, False), (-2, True, False), (None, True, False)])
def test_a_death_is_likely_where_the_system_kills_or_a_cap_is_set(status, space, likely, monkeypatch):
    monkeypatch.setattr(memory, "headroom", lambda pid=None: Headroom(1, 2, "address-space limit of the process" if space else "memory of the machine"))
    found = recognise_death(status)
    assert (found is not None) == likely and (found is None or "most likely for want of memory, how much it asked for is not known, " in str(found) and "out of memory" not in str(found))


# ---- what there is

def test_the_address_space_is_the_limit_where_it_is_the_tightest():
    """A process under a cap of 3 GiB, asked from outside and from inside, before and after it took 512 MiB."""
    pytest.importorskip("resource")
    code = ("import resource; resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30,) * 2)\nfrom atomsnb.core.memory import headroom\na = headroom(); data = bytearray(2**29); b = headroom()\n"
            "print(a.free, b.free, b.limit, b.bound, flush=True); input()")
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        first, second, limit, bound = process.stdout.readline().strip().split(" ", 3)
        outside = headroom(process.pid)
        process.communicate("\n")
    assert int(limit) == 3 * GIB and bound.startswith("address-space") and 2**29 <= int(first) - int(second) <= 2**29 + 2**21
    if Path("/proc/self/status").exists():
        assert (outside.limit, outside.bound) == (3 * GIB, bound) and abs(outside.free - int(second)) < 2**22


def tree(place: Path, **files: str) -> None:
    for name, text in files.items():
        path = place / name.replace("__", "/").replace("-", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_batch_job_under_either_version_of_control_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc"), monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "cg")
    tree(tmp_path, proc__meminfo="MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n", proc__9__cgroup="7:cpu:/x\n4:hugetlb,memory:/job\n", cg__memory__job__placeholder="")
    group = tmp_path / "cg" / "memory" / "job"
    (group / "memory.limit_in_bytes").write_text("1073741824"), (group / "memory.usage_in_bytes").write_text("1000000000")
    assert headroom(9) == Headroom(GIB - 10**9, GIB, "memory limit of the container")
    (group / "memory.limit_in_bytes").write_text("9223372036854771712")  # version 1's way to say "none"
    assert headroom(9) == Headroom(4 * GIB, 8 * GIB, "memory of the machine")


def test_a_system_without_proc_gives_what_it_has(tmp_path, monkeypatch):
    """As on macOS: the size of the machine is known, what is free is not; the message says so."""
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    found = headroom()
    assert found.free is None and (found.limit is None or found.limit == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    said = "what is available is not known" if found.limit is None else "the limit is"
    assert said in str(recognise("MemoryError", "")) and "are available" not in str(recognise("MemoryError", ""))


# ---- what to lower

@pytest.mark.parametrize("room", LANDED)
def test_every_landed_room_declares_settings_that_its_config_has(room):
    config = find_config(import_module(f"atomsnb.{room}"))
    knobs, fields = memory_settings(room), config.preset("cpu").as_dict()
    assert knobs and len(set(knobs)) == len(knobs) and set(knobs) <= set(fields), set(knobs) - set(fields)
    assert all(isinstance(fields[k], int) or (isinstance(fields[k], list) and all(isinstance(v, int) for v in fields[k])) for k in knobs), "only sizes can be lowered"


@pytest.mark.parametrize("room", LANDED)
def test_what_was_raised_is_what_is_named(room):
    last = memory_settings(room)[-1]
    raised, plain = advice(room, "cpu", {last: 10**9, "steps": 3}), advice(room, "gpu", {"steps": 3})
    assert raised.startswith(f"lower {last} (now 1000000000; ") and raised.endswith(f"--set {last}=…") and "--scale" not in raised
    assert f"--set {memory_settings(room)[0]}=…" in plain and plain.endswith("or take --scale cpu") and "steps" not in plain


# ---- explained

def test_what_the_failed_call_held_is_freed_although_the_exception_is_kept():
    def greedy():
        held = torch.ones(1000)
        greedy.seen = weakref.ref(held)
        return held, torch.empty(2**50)

    with pytest.raises(MemoryShortageError, match="4 PiB were asked for") as caught, explained("operators.deeponet"):
        greedy()
    gc.collect()
    assert greedy.seen() is None and isinstance(caught.value.shortage, Shortage) and "lower n_aligned" in str(caught.value)
    assert isinstance(caught.value.__cause__, RuntimeError) and "DefaultCPUAllocator" in str(caught.value.__cause__)


def test_a_fault_behind_another_error_is_found_and_other_errors_pass():
    with pytest.raises(MemoryShortageError), explained():
        try:
            np.empty(2**50)
        except MemoryError as fault:
            raise ValueError("the data could not be read") from fault
    for other in (ValueError("x"), KeyboardInterrupt(), RuntimeError("a wrong shape")):
        with pytest.raises(type(other)) as caught, explained():
            raise other
        assert caught.value is other
    with pytest.raises(MemoryShortageError) as caught, explained("quantum.qnn"):
        with explained("operators.deeponet"):
            raise MemoryError
    assert "n_aligned" in str(caught.value) and "mix_pixels" not in str(caught.value)


def test_the_room_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", "import sys, atomsnb.core.memory; assert not {'torch', 'numpy'} & set(sys.modules)"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- the command line

def test_train_says_it_in_one_line_and_marks_the_run(tmp_path, monkeypatch, capsys):
    atoms = import_module("atomsnb.representation.atoms")
    monkeypatch.setattr(atoms, "train", lambda cfg, **options: torch.empty(2**50))
    assert main(["train", "atoms", "--set", "n_atoms=1024", "--out", str(tmp_path / "run")]) == 1
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and err.startswith("atomsnb: out of memory: 4 PiB were asked for") and "lower n_atoms (now 1024; 512 in the preset of cpu): --set n_atoms=…" in err and not out
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"
    monkeypatch.setattr(atoms, "train", lambda cfg, **options: None)
    assert main(["train", "atoms", "--set", "n_atoms=1024", "--out", str(tmp_path / "run")]) == 0, "the folder can be used again"


def test_any_command_that_runs_out_of_memory_says_so(monkeypatch, capsys):
    def hungry() -> int:
        """Asks for too much."""
        return len(bytearray(2**60))

    monkeypatch.setitem(import_module("atomsnb.cli").COMMANDS, "list", hungry)
    assert main(["list"]) == 1
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and "out of memory" in err and "Traceback" not in err


# ---- the suite can fail

GOOD = "x at cpu: 3 of 9 code cells in 1.0 s\nFAILED in cell 4: out of memory: 7.45 GiB were asked for in one piece, 2 GiB are available of 4 GiB (address-space limit of the process); lower batch (now 9; 1 in the preset of cpu): --set batch=…\nreport: x"

UNSAID = GOOD.replace("7.45 GiB were asked for in one piece", "the error does not say how much was asked for")
ENDED = re.sub(r"out of memory.*?available of", "the process was ended by signal 6, most likely for want of memory, how much it asked for is not known, the limit is", GOOD)


@pytest.mark.parametrize("fault, change", [("exit status", {"status": 0}), ("no end", {"status": 124}), ("traceback", {"text": GOOD + "\nTraceback (most recent call last)"}), ("no single line", {"text": GOOD.replace("out of memory", "RuntimeError")}),
                                           ("names none", {"text": GOOD.replace("--set batch", "--set other")}), ("no single line", {"text": GOOD.replace("; lower batch (now 9; 1 in the preset of cpu): --set batch=…", "")}), ("how much", {"text": UNSAID}),
                                           ("how much", {"text": GOOD.replace("7.45 GiB were asked for in one piece", "something was asked for"), "sized": False}), ("no single line", {"text": ENDED.replace(", how much it asked for is not known", ""), "sized": False}),
                                           ("left behind", {"file": ".claims.json.1.ab.tmp"}), ("taken up", {"file": "claims.json"}), ("run.json says", {"said": "running"})])
def test_canary_of_the_suite_on_memory(fault, change, tmp_path):
    suite = pytest.importorskip("r7_out_of_memory")
    identity = {"paper": "part.x", "scale": "cpu", "settings": {}, "code": None}
    (tmp_path / "run.json").write_text(json.dumps({"identity": identity, "status": change.get("said", "failed")}))
    if "file" in change:
        (tmp_path / change["file"]).write_text("{")
    found = suite.wrong_end(change.get("status", 1), change.get("text", GOOD), tmp_path, ("batch",), sized=change.get("sized", True))
    assert len(found) == 1 and fault in found[0], found


PLANTED = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch
from r7_out_of_memory import judge_inside
room, kept, count = "operators.deeponet", [], iter(range(9))
small, large = lambda: torch.ones(3), lambda: torch.empty(2**50)
def hoard():
    kept.append(torch.empty(2**28, dtype=torch.uint8))
    large()
def wrong():
    raise ValueError("n is 3; accepted: 2")
print(json.dumps(judge_inside([(room, "good", large, small), (room, "enough", small, small), (room, "another error", wrong, small), (room, "another result", large, lambda: torch.tensor(next(count))), ("core.checks", "no setting", large, small), (room, "hoard", hoard, small)])))
"""


def test_canary_of_the_suite_inside_one_process():
    """Six planted cases: a good one, too small a request, an unrelated error, a result that changes, a message without a setting, and memory that is kept."""
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", PLANTED, str(Path(__file__).parent / "reliability")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-800:]
    rows = json.loads(done.stdout)
    assert rows[0] == [] and [len(row) for row in rows[1:]] == [1] * 5, rows
    for row, said in zip(rows[1:], ("enough memory", "ValueError: n is 3", "another result", "names none", "kept 256 MiB")):
        assert said in row[0], rows


def test_the_suite_on_memory_passes_what_is_right(tmp_path):
    suite = pytest.importorskip("r7_out_of_memory")
    (tmp_path / "run.json").write_text(json.dumps({"identity": {"paper": "part.x", "scale": "cpu", "settings": {}, "code": None}, "status": "failed"}))
    assert suite.wrong_end(1, GOOD, tmp_path, ("batch",), sized=True) == []
    for text in (GOOD, UNSAID, ENDED):
        assert suite.wrong_end(1, text, tmp_path, ("batch",), sized=False) == [], "where no size can be known, the line says so"
