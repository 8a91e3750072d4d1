"""The watch over annotations can fail: planted lies are found, refusals keep their own words, and the whole library is under watch."""
import importlib
import os
import random
import subprocess
import sys
from pathlib import Path

import annotations
import pytest
import torch

MODULE = '''
from dataclasses import dataclass
from typing import NamedTuple
from jaxtyping import Float
from torch import Tensor


def double(x: Float[Tensor, "n H"]) -> Float[Tensor, "n H"]:
    "True."
    return 2 * x

def strict(x: Float[Tensor, "n H"], k: int) -> int:
    "Refuses by name what its annotation forbids."
    if not isinstance(k, int): raise TypeError(f"k is {k!r}; accepted: a whole number")
    if x.ndim != 2: raise ValueError(f"x has {x.ndim} axes; accepted: 2")
    return k

def scale(x: float) -> float:
    "An int is a float here, as in PEP 484."
    return x * 0.5

def takes_more(k: int) -> str:
    "Takes a str, against its word."
    return str(k)

def rows_only(x: Float[Tensor, "n H"]) -> Float[Tensor, "n"]:
    "Takes any number of axes, against its word."
    return x.reshape(len(x), -1).sum(1)

def gives_columns(x: Float[Tensor, "n H"]) -> Float[Tensor, "n"]:
    "Gives H numbers, against its word."
    return x.sum(0)

def hushed(k: int) -> None:
    "Hides the lie of another."
    try: takes_more("x")
    except Exception: pass

@dataclass(frozen=True)
class Config:
    size: int

class Pair(NamedTuple):
    a: int

def first(items: list[int]) -> int:
    "A list, of which beartype looks at one random item."
    return items[0]

class Thing:
    def method(self, k: int) -> int: return k
    @classmethod
    def make(cls, k: int) -> "Thing": return cls()
    @staticmethod
    def free(k: int) -> int: return k
    @property
    def lie(self) -> int: return "no number"
'''


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A module imported under watch; the lies found in it are the test's own."""
    (tmp_path / "planted_annotations").mkdir()
    (tmp_path / "planted_annotations" / "__init__.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    annotations.install("planted_annotations")
    yield importlib.import_module("planted_annotations")
    del sys.modules["planted_annotations"]
    sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, "package", "") != "planted_annotations"]
    annotations.FOUND.clear()


def test_what_is_true_passes(planted):
    x = torch.ones(2, 3)
    assert planted.double(x).sum() == 12 and planted.strict(x, 3) == 3 and planted.scale(4) == 2.0 and planted.Config(3).size == 3
    assert planted.Thing().method(1) == planted.Thing.free(1) == planted.Pair(1).a == 1 and isinstance(planted.Thing.make(1), planted.Thing)
    assert not annotations.FOUND


def test_looking_does_not_touch_the_generators(planted):
    state = random.getstate(), torch.get_rng_state()
    for _ in range(5):
        planted.first([1, 2, 3])
    assert random.getstate() == state[0] and torch.equal(torch.get_rng_state(), state[1])


def test_a_refusal_keeps_its_own_words(planted):
    with pytest.raises(TypeError, match="k is 'x'; accepted: a whole number"):
        planted.strict(torch.ones(2, 3), "x")
    with pytest.raises(ValueError, match="x has 1 axes"):
        planted.strict(torch.ones(3), 1)
    assert not annotations.FOUND


@pytest.mark.parametrize("lie", [
    lambda m: m.takes_more("x"), lambda m: m.rows_only(torch.ones(2, 3, 4)), lambda m: m.gives_columns(torch.ones(2, 3)), lambda m: m.Config("x"), lambda m: m.Pair("x"),
    lambda m: m.Thing().method("x"), lambda m: m.Thing.make("x"), lambda m: m.Thing.free("x"), lambda m: m.Thing().lie, lambda m: m.double(torch.ones(2, 3, 4)),
])
def test_canary_untrue_annotations_are_found(planted, lie):
    with pytest.raises(annotations.UntrueAnnotation):
        lie(planted)
    assert len(annotations.FOUND) == 1


def test_canary_a_lie_that_was_swallowed_is_found(planted):
    planted.hushed(1)
    assert annotations.FOUND == ["planted_annotations.takes_more"]


def test_canary_a_lie_fails_the_test_that_meets_it(tmp_path):
    """A pytest run of its own, with this suite's conftest: the test that swallows the lie fails, the honest one passes."""
    here = Path(__file__).parent
    (tmp_path / "planted_annotations.py").write_text(MODULE)
    (tmp_path / "conftest.py").write_text((here / "conftest.py").read_text().replace("Path(__file__).parent", f"Path({str(here)!r})"))
    (tmp_path / "test_planted.py").write_text("import annotations\nannotations.install('planted_annotations')\nimport planted_annotations as m\n\ndef test_honest():\n    m.scale(1)\n\ndef test_hushed():\n    m.hushed(1)\n")
    env = {**os.environ, "ATOMSNB_SHAPES": "1", "PYTHONPATH": os.pathsep.join([str(tmp_path), str(here)])}
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert "1 passed, 1 error" in done.stdout or "1 failed, 1 passed" in done.stdout or "2 passed, 1 error" in done.stdout, done.stdout[-1500:]
    assert done.returncode == 1 and "takes_more" in done.stdout


@pytest.mark.skipif(os.environ.get("ATOMSNB_SHAPES") == "0", reason="the watch is switched off")
def test_the_whole_library_is_under_watch():
    """Every module that can be imported here; a floor under their number, so that the watch cannot fall asleep unseen."""
    root = Path(__file__).resolve().parents[1]
    for path in sorted((root / "atomsnb").rglob("*.py")):
        if path.name not in ("__init__.py", "__main__.py", "_modidx.py"):
            importlib.import_module(".".join(path.relative_to(root).with_suffix("").parts))
    by_module = {name.rsplit(".", 1)[0] for name in annotations.WATCHED}
    assert len(annotations.WATCHED) >= 300, len(annotations.WATCHED)
    for name in ("core.checks.check_tensor", "core.ledger.Ledger.measure", "core.train.fit", "nn.frames.coherence", "kernels.threshold_sae.threshold_sae_loss", "cli.run"):
        assert f"atomsnb.{name}" in annotations.WATCHED
    assert len(by_module) >= 20
