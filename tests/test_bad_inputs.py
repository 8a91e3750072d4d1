"""R3 in full: every class of bad input on every public function is refused by a message that names the argument."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "reliability"))
import annotations
import r3_bad_inputs


def test_bad_inputs_are_refused_by_name_and_nothing_is_silently_nan():
    result = r3_bad_inputs.measure()
    annotations.FOUND.clear()  # bad input that was taken is counted below, as a miss
    assert result["tried"] >= 7000 and result["functions"] >= 400
    assert result["silent_nan"] == 0
    assert result["passed"] >= 0.95 * result["tried"], result["misses"]


def test_the_harness_sees_a_function_that_refuses_nothing():
    """A case whose argument is not checked must be counted as a miss."""
    case = r3_bad_inputs.Case("core.checks:nearest", lambda: {"name": "x", "options": ["x"]}, {"name": "text"})
    assert {row["outcome"] for row in r3_bad_inputs.case_rows(case)} & {"accepted", "unnamed", "wrong type"}
    annotations.FOUND.clear()
