"""Laws of atomsnb.core.runtime: unknown settings are errors, files are whole, hashes are canonical, progress is silent when nobody looks."""
import io
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atomsnb.core import runtime
from atomsnb.core.runtime import (
    Config,
    MissingExtraError,
    atomic_write,
    cache_dir,
    default_device,
    facts,
    progress,
    repo_root,
    require,
    seed_everything,
    sha256_array,
    sha256_file,
    sha256_json,
)

ROOT = Path(__file__).resolve().parent.parent
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@dataclass(frozen=True)
class Demo(Config):
    steps: int = 200
    rate: float = 1e-3
    sizes: tuple[int, ...] = (1, 2)
    engine: Literal["adam", "sgd"] = "adam"
    compiled: bool = False
    note: str | None = None

    PRESETS = {"cpu": {}, "gpu": {"steps": 5000}, "full": {"steps": 100_000, "sizes": (64, 128)}}

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; accepted: at least 1")


@given(st.integers(1, 10**9), st.floats(1e-9, 1e9), st.lists(st.integers(1, 999), min_size=1, max_size=4), st.sampled_from(["adam", "sgd"]), st.booleans())
def test_text_settings_mean_what_typed_settings_mean(steps, rate, sizes, engine, compiled):
    typed = Demo(steps=steps, rate=rate, sizes=tuple(sizes), engine=engine, compiled=compiled)
    text = Demo.preset("cpu", steps=str(steps), rate=repr(rate), sizes=str(tuple(sizes)), engine=engine, compiled=str(compiled), note="none")
    assert text == typed and text.sha256 == typed.sha256 and hash(text) == hash(typed)


@pytest.mark.parametrize(
    "settings, part",
    [
        ({"stpes": 1}, "nearest: steps"), ({"steps": "many"}, "setting steps of Demo is 'many'"), ({"steps": 2.5}, "accepted: int"), ({"steps": True}, "True"),
        ({"steps": math.nan}, "nan"), ({"rate": "inf"}, "inf"), ({"rate": None}, "None"), ({"compiled": 2}, "bool"), ({"engine": "rmsprop"}, "rmsprop"),
        ({"sizes": "1,two"}, "two"), ({"sizes": 3}, "sizes"), ({"note": 3}, "note"), ({"steps": 0}, "at least 1"), ({"": 1}, "unknown setting ''"),
    ],
)  # fmt: skip
def test_bad_setting_is_named(settings, part):
    for make in (lambda: Demo.preset("cpu", **settings), lambda: Demo().replace(**settings)):
        with pytest.raises(ValueError) as caught:
            make()
        assert part in str(caught.value)


def test_preset_is_default_plus_scale_plus_overrides():
    assert Demo.preset() == Demo() and Demo.preset("full").sizes == (64, 128) and Demo.preset("gpu", steps=3).steps == 3
    assert Demo.preset("gpu").replace(rate="1e-2") == Demo(steps=5000, rate=0.01)
    with pytest.raises(ValueError, match="did you mean 'gpu'"):
        Demo.preset("gup")


def test_same_settings_same_hash_and_json_form():
    assert Demo(sizes=(3,)).as_dict()["sizes"] == [3] and json.loads(json.dumps(Demo().as_dict())) == Demo().as_dict()
    assert len({Demo().sha256, Demo(steps=201).sha256, Demo(rate=1.0).sha256}) == 3
    assert Demo().sha256 == sha256_json(Demo()) == sha256_json(dict(reversed(Demo().as_dict().items())))


@given(JSON)
def test_json_hash_survives_a_round_trip_and_key_order(value):
    assert sha256_json(value) == sha256_json(json.loads(json.dumps(value)))


def test_equal_settings_have_equal_hashes_whatever_their_number_type():
    assert Demo(rate=1) == Demo(rate=1.0) and Demo(rate=1).sha256 == Demo(rate=1.0).sha256
    assert sha256_json([0.0, 1e300]) == sha256_json([-0.0, int(1e300)]) and sha256_json(True) != sha256_json(1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, {1: 2}, {None: 1}, object(), {1, 2}, b"x", 1j, np.ones(2), torch.ones(2), [math.nan], {"a": -math.inf}])
def test_json_hash_refuses_what_has_no_canonical_form(bad):
    with pytest.raises((TypeError, ValueError)):
        sha256_json(bad)


def test_array_hash_sees_dtype_shape_and_bytes_and_nothing_else():
    x = torch.arange(6.0).reshape(2, 3)
    same = [x, x.numpy(), x.T.contiguous().T, x.clone().requires_grad_(), x.numpy().astype(">f4"), np.asfortranarray(x.numpy())]
    assert len({sha256_array(a) for a in same}) == 1
    other = [x.T, x.reshape(-1), x.double(), x + 1e-6, x.int(), x.bfloat16(), torch.empty(0, 3), torch.empty(3, 0)]
    assert len({sha256_array(a) for a in [x, *other]}) == 1 + len(other)
    assert sha256_array(x, x) != sha256_array(x) and sha256_array(x[:1], x[1:]) != sha256_array(x)
    for bad in ((), ([1.0],), ("a",), (np.array([None]),)):
        with pytest.raises((TypeError, ValueError), match="arrays"):
            sha256_array(*bad)


def test_file_hash_is_sha256_of_the_bytes(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_file(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4, example B.1


def test_written_file_is_whole_after_kill_nine(tmp_path):
    """Twenty times a process that rewrites a file is killed at a random moment; the file must hold one whole content."""
    target, contents = tmp_path / "file", [bytes([i]) * 200_000 for i in (1, 2)]
    atomic_write(target, contents[0])
    rng = random.Random(0)
    for _ in range(20):
        child = os.fork()
        if child == 0:
            while True:
                for content in contents:
                    atomic_write(target, content)
        time.sleep(rng.uniform(0.002, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert target.read_bytes() in contents
    atomic_write(target, contents[1])
    assert target.read_bytes() == contents[1]


def test_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    atomic_write(tmp_path / "f", "old")
    monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        atomic_write(tmp_path / "f", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["f"] and (tmp_path / "f").read_text() == "old"


def test_write_follows_links_keeps_newlines_and_refuses_other_types(tmp_path):
    (tmp_path / "real").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    atomic_write(tmp_path / "link", "é\r\n")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == "é\r\n".encode()
    for bad in (None, 3, ["a"]):
        with pytest.raises(TypeError, match="^data is "):
            atomic_write(tmp_path / "real", bad)


def test_missing_library_names_the_extra(tmp_path, monkeypatch):
    with pytest.raises(MissingExtraError, match=r"`no_such_lib` is needed for photos: pip install 'atomsnb\[data\]'"):
        require("no_such_lib", "data", "photos")
    (tmp_path / "broken_lib.py").write_text("raise RuntimeError('broken inside')")
    (tmp_path / "hungry_lib.py").write_text("import no_such_dependency")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RuntimeError, match="broken inside"):
        require("broken_lib", "data")
    with pytest.raises(MissingExtraError, match="no_such_dependency"):
        require("hungry_lib", "data")
    assert require("os.path", "data") is os.path


@pytest.mark.parametrize("switch, tty, rank, shown", [("", True, "0", True), ("", False, "0", False), ("0", True, "0", False), ("1", False, "0", True), ("", True, "3", False)])
def test_progress_shows_when_somebody_looks(monkeypatch, switch, tty, rank, shown):
    stream = io.StringIO()
    stream.isatty = lambda: tty
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("ATOMSNB_PROGRESS", switch)
    monkeypatch.setenv("RANK", rank)
    assert list(progress(range(3), desc="steps")) == [0, 1, 2]
    assert ("steps" in stream.getvalue()) == shown


def test_silent_bar_still_counts_as_a_context(monkeypatch):
    monkeypatch.setenv("ATOMSNB_PROGRESS", "0")
    with progress(total=4, unit="cell") as bar:
        bar.update(2)
        bar.set_postfix(loss=1.0)


def test_seed_gives_the_same_numbers_everywhere():
    def draws():
        g = seed_everything(7)
        return random.random(), np.random.rand(), torch.rand(1).item(), torch.rand(1, generator=g).item()

    assert draws() == draws()
    for bad in (-1, 2**32, 0.5, "0", None, True):
        with pytest.raises((TypeError, ValueError), match="^seed is "):
            seed_everything(bad)


def test_facts_is_one_line():
    line = facts("cpu", seed=3, device="cpu")
    assert "\n" not in line and "scale cpu" in line and "seed 3" in line and torch.__version__ in line
    assert default_device().type in ("cpu", "cuda")


def test_places_follow_their_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("ATOMSNB_CACHE", str(tmp_path / "c"))
    assert cache_dir() == tmp_path / "c" and cache_dir().is_dir()
    monkeypatch.delenv("ATOMSNB_HOME", raising=False)
    assert repo_root() == ROOT
    (tmp_path / "nbs").mkdir()
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nlib_name = somebody_else\n")
    monkeypatch.setenv("ATOMSNB_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="ATOMSNB_HOME"):
        repo_root()
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nlib_name=atomsnb\n")
    assert repo_root() == tmp_path.resolve()


def test_installed_without_checkout_there_is_no_root(tmp_path, monkeypatch):
    monkeypatch.delenv("ATOMSNB_HOME", raising=False)
    monkeypatch.setattr(runtime.atomsnb, "__file__", str(tmp_path / "site" / "atomsnb" / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    assert repo_root() is None


def test_import_has_no_side_effect(tmp_path):
    """Importing the ground floor writes nothing, prints nothing and makes no folder."""
    code = "import atomsnb.core.checks, atomsnb.core.runtime, atomsnb.core.rule, atomsnb.core.record, atomsnb.core.provenance, atomsnb.core.ledger"
    env = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "") and list(tmp_path.iterdir()) == []
