"""A small share of each figure in the gate; `make reliability` takes them in full. And the last full figures are there. (R3 runs in full in test_bad_inputs.)"""
import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "reliability"))
FULL = HERE.parents[0] / "benchmarks" / "results" / "reliability"
SHARES = {"r1_hostile_checkpoints": 20, "r2_mutated_safetensors": 150, "r4_kill_and_resume": 1, "r5_kill_during_save": 10}
AT_LEAST = {"R1": 40, "R2": 500, "R4": 20, "R5": 50, "R7": 25, "R9": 50}


@pytest.mark.parametrize("suite", list(SHARES))
def test_a_share_of_the_suite_passes(suite):
    result = import_module(suite).measure(SHARES[suite])
    assert result["failed"] == 0 and result["tried"] >= SHARES[suite], result


@pytest.mark.parametrize("figure", list(AT_LEAST))
def test_the_full_figure_was_taken_and_met_its_target(figure):
    result = json.loads((FULL / f"{figure}.json").read_text())
    assert result["id"] == figure and result["tried"] >= AT_LEAST[figure] and result["failed"] == 0 and result["passed"] == result["tried"]
    assert {"name", "target", "wall_s", "machine", "date", "torch", "python"} <= set(result)


def test_adversarial_sizes_show_no_flaw_that_is_not_on_record():
    """A fifth of R14. Flaws that the last full figure names are known; anything else is new."""
    recorded = json.loads((FULL / "R14.json").read_text())
    assert recorded["tried"] >= 40 and recorded["passed"] + recorded["failed"] == recorded["tried"] and len(recorded["missed"]) == recorded["failed"]
    result = import_module("r14_adversarial_sizes").measure(0.2)
    assert result["tried"] >= 25 and not set(result["missed"]) - set(recorded["missed"]), result["misses"]


def test_too_little_memory_is_said_in_one_line_and_the_process_goes_on():
    """The part of R7 that lasts seconds: library functions of every room under a cap, and a kernel that is killed."""
    pytest.importorskip("resource")
    result = import_module("r7_out_of_memory").measure(0.1)
    assert result["failed"] == 0 and result["tried"] >= 14, result["misses"]


PLANTED = {"hang": (lambda: time.sleep(60), "", "no answer"), "death": (lambda: os.kill(os.getpid(), 9), "", "died"), "nan": (lambda: float("nan"), "", "silent NaN"),
           "wrong value": (lambda: exec("assert 1 == 2"), "", "undocumented"), "unrelated error": (lambda: [][0], "x", "another type"),
           "unnamed": (lambda: int("three"), "x", "does not name"), "accepted": (lambda: 1.0, "x", "accepted")}


@pytest.mark.parametrize("fault", list(PLANTED))
def test_canary_of_adversarial_sizes(fault):
    """Each way to miss is counted as one."""
    suite, (run, refuses, said) = import_module("r14_adversarial_sizes"), PLANTED[fault]
    assert said in suite.verdict(suite.Case(fault, "none", "planted", "nothing", run, refuses), limit=2.0 if fault != "hang" else 0.3)[0]


def test_figures_that_differ_at_equal_settings_are_told_from_those_that_drift_with_threads():
    """R6's comparison: 'a' differs between equal runs, 'b' moves with the number of threads by one part in ten, 'c' stands still."""
    compare = import_module("r6_same_figures").compare
    runs = {1: [{("a", "ours"): [1.0], ("b", "ours"): [0.9], ("c", "peer"): [2.0]}, {("a", "ours"): [1.0 + 2**-52], ("b", "ours"): [0.9], ("c", "peer"): [2.0]}],
            2: [{("a", "ours"): [1.0], ("b", "ours"): [1.0], ("c", "peer"): [2.0]}] * 2}
    tried, unequal, moved = compare(runs)
    assert len(tried) == 6 and [row[:3] for row in unequal] == [(1, "a", "ours")] and set(moved) == {("b", "ours")} and abs(moved["b", "ours"] - 0.1) < 1e-12
