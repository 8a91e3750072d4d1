"""A small share of each figure in the gate; `make reliability` takes them in full. And the last full figures are there. (R3 runs in full in test_bad_inputs.)"""
import json
import sys
from importlib import import_module
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "reliability"))
FULL = HERE.parents[0] / "benchmarks" / "results" / "reliability"
SHARES = {"r1_hostile_checkpoints": 20, "r2_mutated_safetensors": 150, "r4_kill_and_resume": 1, "r5_kill_during_save": 10}
AT_LEAST = {"R1": 40, "R2": 500, "R4": 20, "R5": 50, "R9": 50}


@pytest.mark.parametrize("suite", list(SHARES))
def test_a_share_of_the_suite_passes(suite):
    result = import_module(suite).measure(SHARES[suite])
    assert result["failed"] == 0 and result["tried"] >= SHARES[suite], result


@pytest.mark.parametrize("figure", list(AT_LEAST))
def test_the_full_figure_was_taken_and_met_its_target(figure):
    result = json.loads((FULL / f"{figure}.json").read_text())
    assert result["id"] == figure and result["tried"] >= AT_LEAST[figure] and result["failed"] == 0 and result["passed"] == result["tried"]
    assert {"name", "target", "wall_s", "machine", "date", "torch", "python"} <= set(result)
