"""Laws of `core.checkpoint`: what is saved comes back, what is damaged is refused, and no crash leaves nothing."""
import json
import os
import threading
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load as library_load
from safetensors.torch import save as library_save

from atomsnb.core import checkpoint as room
from atomsnb.core.checkpoint import CheckpointError, checkpoints, load_checkpoint, pack, save_checkpoint, unpack

FLOATS = st.floats(allow_nan=False)
PLAIN = st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
                     lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=8)
SHAPES = st.lists(st.integers(0, 4), max_size=4)
DTYPES = st.sampled_from([d for d in room.DTYPES.values()])


def bits(t: torch.Tensor) -> bytes:
    return t.contiguous().flatten().view(torch.uint8).numpy().tobytes() if t.numel() else b""


def make(dtype: torch.dtype, shape: "list[int]") -> torch.Tensor:
    size = torch.Size(shape).numel()
    top = 2 if dtype == torch.bool else 60
    return (torch.arange(max(size, 1) * dtype.itemsize) % top).to(torch.uint8).view(dtype)[:size].reshape(shape)


@given(parts=st.lists(st.tuples(DTYPES, SHAPES), max_size=4), state=st.dictionaries(st.text(max_size=6), PLAIN, max_size=3))
def test_what_is_saved_comes_back_bit_for_bit(tmp_path_factory, parts, state):
    folder = tmp_path_factory.mktemp("run")
    tensors = {f"t{i}.w": make(dtype, shape) for i, (dtype, shape) in enumerate(parts)}
    save_checkpoint(folder, tensors, state)
    back = load_checkpoint(folder)
    assert back.state == state and set(back.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert back.tensors[name].dtype == tensor.dtype and back.tensors[name].shape == tensor.shape and bits(back.tensors[name]) == bits(tensor)


@given(parts=st.lists(st.tuples(DTYPES, SHAPES), max_size=4), edit=st.tuples(st.integers(0, 10**6), st.integers(0, 255)))
def test_every_file_that_is_accepted_reads_the_same_in_the_library(tmp_path_factory, parts, edit):
    """One byte of a good file is changed: this reader refuses, or both readers return the same tensors."""
    folder = tmp_path_factory.mktemp("run")
    raw = bytearray(library_save({f"t{i}": make(dtype, shape) for i, (dtype, shape) in enumerate(parts)}))
    raw[edit[0] % len(raw)] = edit[1]
    path = folder / "x"
    path.write_bytes(raw)
    import hashlib

    try:
        ours = room._read_tensors(path, {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}, ("",))
    except CheckpointError:
        return
    peer = library_load(bytes(raw))
    assert {k: (v.dtype, v.shape, bits(v)) for k, v in ours.items()} == {k: (v.dtype, v.shape, bits(v)) for k, v in peer.items()}


@given(tree=st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.builds(lambda n: torch.arange(n), st.integers(0, 3)),
                         lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text("ab", min_size=1, max_size=3), inner, max_size=3)
                         | st.dictionaries(st.integers(0, 99), inner, max_size=3), max_leaves=10))
def test_unpack_inverts_pack(tree):
    flat: dict = {}
    back = unpack(json.loads(json.dumps(pack(tree, "p", flat), allow_nan=False)), flat)

    def same(a, b) -> bool:
        if isinstance(a, torch.Tensor):
            return isinstance(b, torch.Tensor) and torch.equal(a, b)
        if isinstance(a, (list, tuple)):
            return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
        if isinstance(a, dict):
            return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
        return type(a) is type(b) and a == b
    assert same(tree, back)


def test_a_boolean_byte_other_than_0_and_1_is_refused(tmp_path):
    save = save_checkpoint(tmp_path, {"mask": torch.tensor([True, False])}, {})
    raw = bytearray((save / "tensors.safetensors").read_bytes())
    raw[-1] = 2
    (save / "tensors.safetensors").write_bytes(raw)
    import hashlib

    manifest = json.loads((save / "manifest.json").read_text())
    manifest["files"]["tensors.safetensors"]["sha256"] = hashlib.sha256(raw).hexdigest()
    (save / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="BOOL"):
        load_checkpoint(tmp_path)


def test_nan_is_refused_when_saving_and_the_previous_save_stays(tmp_path):
    save_checkpoint(tmp_path, {"w": torch.ones(2)}, {"step": 1})
    with pytest.raises(ValueError, match="'w'.*NaN"):
        save_checkpoint(tmp_path, {"w": torch.tensor([1.0, float("nan")])}, {"step": 2})
    save_checkpoint(tmp_path, {"w": torch.ones(1), "log.loss": torch.tensor([float("nan")])}, {"step": 3}, allow_nan=("log.",))
    assert load_checkpoint(tmp_path, allow_nan=("log.",)).state["step"] == 3
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert load_checkpoint(tmp_path).state["step"] == 1, "without the exemption the newest is refused and the previous one taken"
    assert "log.loss" in str(caught[0].message)


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_exactly_the_newest_saves_are_kept(tmp_path, keep):
    for step in range(6):
        save_checkpoint(tmp_path, {}, {"step": step}, keep=keep)
    assert [int(p.name[-8:]) for p in checkpoints(tmp_path)] == list(range(6, 6 - keep, -1))


def test_a_half_written_save_is_never_picked_up_and_is_swept_away(tmp_path):
    save_checkpoint(tmp_path, {}, {"step": 1})
    for name in [".saving-123", ".saving-old-checkpoint-00000009"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    assert load_checkpoint(tmp_path).state["step"] == 1
    save_checkpoint(tmp_path, {}, {"step": 2})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-00000001", "checkpoint-00000002"]


def test_two_writers_take_turns(tmp_path):
    """Sixteen saves from four threads in one folder: sixteen different numbers, and the last two are whole."""
    def work(who: int) -> None:
        for i in range(4):
            made.append(save_checkpoint(tmp_path, {"w": torch.full((1000,), float(who))}, {"who": who, "i": i}).name)
    made: list = []
    threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(set(made)) == 16 and len(checkpoints(tmp_path)) == 2
    back = load_checkpoint(tmp_path)
    assert torch.equal(back.tensors["w"], torch.full((1000,), float(back.state["who"])))


def test_shared_and_strided_tensors_are_stored_by_value(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    save_checkpoint(tmp_path, {"all": base, "column": base[:, 1], "transposed": base.T, "again": base}, {})
    back = load_checkpoint(tmp_path).tensors
    assert torch.equal(back["column"], base[:, 1]) and torch.equal(back["transposed"], base.T) and torch.equal(back["again"], base)


@pytest.mark.parametrize("state", [{"x": float("inf")}, {"x": (1, 2)}, {"x": {1: 2}}, {"x": object()}, {"x": torch.ones(1)}])
def test_state_that_json_cannot_carry_is_refused_with_its_path(tmp_path, state):
    with pytest.raises((TypeError, ValueError), match="state.x"):
        save_checkpoint(tmp_path, {}, state)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("call", [lambda p: load_checkpoint(p / "missing"), lambda p: load_checkpoint(p)])
def test_no_checkpoint_is_an_error_that_says_so(tmp_path, call):
    with pytest.raises(CheckpointError, match="holds none"):
        call(tmp_path)


def test_a_folder_that_cannot_be_made_is_a_checkpoint_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not save"):
        save_checkpoint(tmp_path / "file" / "run", {}, {})


def test_the_library_reads_what_is_written(tmp_path):
    save = save_checkpoint(tmp_path, {"w": torch.arange(5, dtype=torch.bfloat16)}, {})
    assert torch.equal(library_load((save / "tensors.safetensors").read_bytes())["w"], torch.arange(5, dtype=torch.bfloat16))
    assert os.listdir(save) and Path(save).name == "checkpoint-00000001"


def forge(save: Path, raw: bytes) -> None:
    """Put other tensors into a save, with a manifest that agrees."""
    import hashlib

    (save / "tensors.safetensors").write_bytes(raw)
    manifest = json.loads((save / "manifest.json").read_text())
    manifest["files"]["tensors.safetensors"] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    (save / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", ["../w", "/w", "~w", "a\\b", "a\nb", "a\x1b[2J", "", "w" * 600])
def test_a_name_like_a_path_is_refused_when_reading_and_when_writing(tmp_path, name):
    save = save_checkpoint(tmp_path, {"w": torch.ones(2)}, {})
    forge(save, library_save({name: torch.ones(2)}))
    with pytest.raises(CheckpointError, match="is not allowed"):
        load_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="is not allowed"):
        save_checkpoint(tmp_path, {name: torch.ones(2)}, {})


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json", "manifest.json"])
def test_every_flipped_bit_is_noticed(tmp_path, file):
    """One bit in each byte of each file: refused, or (a space of the manifest that became another space) nothing changed."""
    save = save_checkpoint(tmp_path, {"w": torch.arange(4.0)}, {"step": 1, "name": "run"})
    raw = (save / file).read_bytes()
    accepted = 0
    for i in range(len(raw)):
        (save / file).write_bytes(raw[:i] + bytes([raw[i] ^ (1 << i % 7)]) + raw[i + 1 :])
        try:
            back = load_checkpoint(tmp_path)
            accepted += 1
            assert back.state == {"step": 1, "name": "run"} and torch.equal(back.tensors["w"], torch.arange(4.0))
        except CheckpointError:
            pass
    assert accepted == 0 if file != "manifest.json" else accepted < 0.1 * len(raw)
