"""The tool that plants faults: it plants what it says, leaves checks alone, and tells a fault that is noticed from one that is not."""
import ast

import mutation

SOURCE = '''
from dataclasses import dataclass
class Config: ...
@dataclass
class MyConfig(Config):
    n: int = 5 + 3
def area(r: float, k: int = 7) -> float:
    """3 + 4"""
    if r < 0:
        raise ValueError(f"r is {r + 1}")
    check_number(r, "r", minimum=3 - 1)
    return 3.5 * r ** 2 - r @ r.T
'''


def test_faults_are_planted_in_formulas_alone():
    found = mutation.mutants(SOURCE)
    assert sorted(kind for kind, *_ in found) == sorted(["flipped sign", "dropped term", "product for quotient", "dropped factor", "dropped factor", "wrong constant", "off by one", "lost transpose"])
    assert {line for _, line, _, _ in found} == {12}
    for _, _, said, text in found:
        ast.parse(text)
        assert text != ast.unparse(ast.parse(SOURCE)) and " -> " in said


def test_every_fault_changes_one_place():
    sound = ast.unparse(ast.parse(SOURCE)).splitlines()
    for _, _, _, text in mutation.mutants(SOURCE):
        assert sum(a != b for a, b in zip(sound, text.splitlines(), strict=True)) == 1


def test_a_module_can_be_made_from_a_faulty_source():
    """The rule's room, with its comparison turned round: the same name, another behaviour, and the true one back afterwards."""
    import sys

    import atomsnb.core.rule as true
    source = (mutation.ROOT / "atomsnb" / "core" / "rule.py").read_text()
    try:
        faulty = mutation.install("core.rule", source + "\nVERDICTS = ()\n")
        assert faulty.VERDICTS == () and sys.modules["atomsnb.core.rule"] is faulty and true.VERDICTS
    finally:
        sys.modules["atomsnb.core.rule"] = true
        sys.modules["atomsnb.core"].rule = true
