"""Every test runs offline and under a watch over the library's annotations: jaxtyping's shapes and the types, checked by beartype.

`ATOMSNB_SHAPES=0` switches the watch off, for a debugger that should not step through it.
"""
import os
import sys
from pathlib import Path

os.environ.setdefault("ATOMSNB_PROGRESS", "0")
os.environ.setdefault("MPLBACKEND", "agg")
sys.path.insert(0, str(Path(__file__).parent))

import annotations
import hypothesis
import pytest

hypothesis.settings.register_profile("gate", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.load_profile("gate")

if os.environ.get("ATOMSNB_SHAPES", "1") != "0":
    annotations.install()

OFFLINE = str(Path(__file__).parent / "offline")


@pytest.fixture(autouse=True)
def offline(tmp_path_factory, monkeypatch):
    """Every test, with all Python processes and kernels that it starts, runs without a way out; an attempt fails the test."""
    log = tmp_path_factory.mktemp("net") / "attempts.txt"
    monkeypatch.setenv("ATOMSNB_NET_LOG", str(log))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in (OFFLINE, os.environ.get("PYTHONPATH", "")) if p))
    yield log
    assert not log.exists(), f"tried to leave the machine: {log.read_text()}"


@pytest.fixture(autouse=True)
def annotations_are_true():
    """A lie that the library itself swallowed (`except Exception`) fails the test all the same."""
    annotations.FOUND.clear()
    yield
    assert not annotations.FOUND, f"called or returned against their annotations: {', '.join(annotations.FOUND)}"
