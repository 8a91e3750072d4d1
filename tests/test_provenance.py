"""Laws of atomsnb.core.provenance: words may change, code may not; everything works without git and without a checkout."""
import ast
import json
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atomsnb.core import provenance
from atomsnb.core.provenance import code_hash, device_name, git_commit, peak_memory_mb, versions

MODULE = '''from ..nn.helper import SCALE
from atomsnb.core.plots import show


class Coin:
    bias: float = 0.5

    def toss(self, rng, n=10):
        total = 0
        for _ in range(n):
            total += rng.random() < self.bias
        return total / n * SCALE
'''
CELLS = [
    ("markdown", "# A coin", []),
    ("code", "SCALE = 'cpu'\nSET = {}", ["parameters"]),
    ("code", "from atomsnb.demo.coin import Coin\nfrom atomsnb.kernels import fast", []),
    ("code", "seeds = [0, 1, 2]\nours = [Coin().toss(s) for s in seeds]", []),
]


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A small checkout with one paper; returns a function that rewrites parts of it and hashes the paper's code."""
    monkeypatch.setenv("ATOMSNB_HOME", str(tmp_path))

    def build(module=MODULE, cells=CELLS, helper="SCALE = 2\n", kernel="X = 1\n", plots="COLOUR = 1\n", notebook=True):
        files = {
            "settings.ini": "lib_name = atomsnb\n", "atomsnb/__init__.py": "__version__ = '0'\n", "atomsnb/demo/coin.py": module, "atomsnb/demo/__init__.py": "",
            "atomsnb/nn/helper.py": helper, "atomsnb/nn/__init__.py": "", "atomsnb/kernels/fast.py": kernel, "atomsnb/core/plots.py": plots, "atomsnb/core/__init__.py": "",
            "nbs/demo/coin.ipynb": json.dumps({"cells": [{"cell_type": k, "metadata": {"tags": t}, "source": s} for k, s, t in cells], "nbformat": 4, "nbformat_minor": 5, "metadata": {}}),
        }  # fmt: skip
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        if not notebook:
            (tmp_path / "nbs/demo/coin.ipynb").unlink()
        return code_hash("demo.coin")

    build.root = tmp_path
    return build


def cell(index, text, tags=None):
    """CELLS with one replaced."""
    kind, _, old = CELLS[index]
    return [*CELLS[:index], (kind, text, old if tags is None else tags), *CELLS[index + 1 :]]


WORDS = {
    "module docstring": dict(module='"""Coins."""\n' + MODULE),
    "class and function docstrings": dict(module=MODULE.replace("class Coin:\n", 'class Coin:\n    """A coin."""\n').replace("n=10):\n", 'n=10):\n        """Toss."""\n')),
    "field docstring": dict(module=MODULE.replace("= 0.5\n", '= 0.5\n    "Probability of heads."\n')),
    "comments and blank lines": dict(module="# top\n\n" + MODULE.replace("total = 0\n", "total = 0  # heads so far\n\n\n")),
    "spaces and parentheses": dict(module=MODULE.replace("total / n * SCALE", "((total/n)   *SCALE)")),
    "a docstring below": dict(helper='"""Scale."""\nSCALE = 2  # two\n'),
    "plots": dict(plots="COLOUR = 2\n"),
    "prose": dict(cells=[("markdown", "# Another title", []), ("raw", "tags: x", []), *CELLS[1:]]),
    "parameters": dict(cells=cell(1, "SCALE = 'gpu'\nSET = {'n': 3}")),
    "injected parameters": dict(cells=[*CELLS[:2], ("code", "SCALE = 'full'", ["injected-parameters"]), *CELLS[2:]]),
    "magics": dict(cells=cell(3, "%matplotlib inline\n!ls\n" + CELLS[3][1])),
    "cell magic around it": dict(cells=cell(3, "%%time\n" + CELLS[3][1])),
    "shell cell": dict(cells=[*CELLS, ("code", "%%bash\nls", [])]),
    "directives": dict(cells=cell(3, "#| slow\n" + CELLS[3][1])),
    "split cells": dict(cells=[*CELLS[:3], *[("code", line, []) for line in CELLS[3][1].split("\n")]]),
}  # fmt: skip
CODE = {
    "a constant": dict(module=MODULE.replace("0.5", "0.25")),
    "a default": dict(module=MODULE.replace("n=10", "n=11")),
    "an operator": dict(module=MODULE.replace("<", "<=")),
    "a name": dict(module=MODULE.replace("total", "heads")),
    "an int that becomes a float": dict(module=MODULE.replace("total = 0\n", "total = 0.0\n")),
    "a string that is used": dict(module=MODULE + 'NAME = "coin"\n'),
    "statement order": dict(module=MODULE.replace("from ..nn.helper import SCALE\nfrom atomsnb.core.plots import show\n", "from atomsnb.core.plots import show\nfrom ..nn.helper import SCALE\n")),
    "a module below": dict(helper="SCALE = 3\n"),
    "a module that only the notebook imports": dict(kernel="X = 2\n"),
    "the experiment": dict(cells=cell(3, CELLS[3][1].replace("[0, 1, 2]", "[0, 1]"))),
    "a cell that is no Python": dict(cells=[*CELLS, ("code", "this is no Python", [])]),
    "a module that is no Python": dict(helper="SCALE = = 2\n"),
    "no notebook": dict(notebook=False),
}  # fmt: skip


@pytest.mark.parametrize("what", WORDS)
def test_words_do_not_change_the_fingerprint(house, what):
    assert house(**WORDS[what]) == house()


def test_every_change_of_code_changes_the_fingerprint(house):
    hashes = {what: house(**change) for what, change in CODE.items()}
    hashes["nothing"] = house()
    assert len(set(hashes.values())) == len(hashes), hashes
    assert house(cells=cell(3, "%%time\n" + CELLS[3][1].replace("[0, 1, 2]", "[0, 1]"))) == hashes["the experiment"]  # seen through the magic


@given(st.lists(st.tuples(st.integers(0, 20), st.sampled_from(["# a comment", "", "  # indented comment", '"""Alone."""'])), max_size=5))
def test_comments_anywhere_do_not_change_the_tree(insertions):
    lines = MODULE.splitlines()
    for where, text in insertions:
        at = min(where, len(lines))
        indent = "" if at >= len(lines) else lines[at][: len(lines[at]) - len(lines[at].lstrip())]
        lines.insert(at, indent + text.strip() if text else "")
    try:
        tree = ast.parse("\n".join(lines))
    except SyntaxError:
        return  # a string between a decorator or header and its body
    assert provenance._canonical(tree) == provenance._canonical(ast.parse(MODULE))


def test_fingerprint_is_the_same_on_every_python():
    """Recorded under Python 3.10, 3.11, 3.12 and 3.13, whose own ast.dump differ for this source."""
    source = "@d\nclass A(B, k=1):\n    x: int = -1\n    async def f(self, /, a, *b, c=None, **d) -> str:\n        return f'{a!r:>{c}} {1.5e3}' if b else (y := [*d, 1j, b'z', ..., True])\n"
    assert provenance._canonical(ast.parse(source)) == (
        "Module(body=[ClassDef(name='A',bases=[Name(id='B')],keywords=[keyword(arg='k',value=int:1)],body=[AnnAssign(target=Name(id='x'),annotation=Name(id='int'),"
        "value=UnaryOp(op=USub(),operand=int:1),simple=1)AsyncFunctionDef(name='f',args=arguments(posonlyargs=[arg(arg='self')],args=[arg(arg='a')],vararg=arg(arg='b'),"
        "kwonlyargs=[arg(arg='c')],kw_defaults=[NoneType:None],kwarg=arg(arg='d')),body=[Return(value=IfExp(test=Name(id='b'),body=JoinedStr(values=[FormattedValue("
        "value=Name(id='a'),conversion=114,format_spec=JoinedStr(values=[str:'>',FormattedValue(value=Name(id='c'),conversion=-1)])),str:' ',FormattedValue(value=float:1500.0,"
        "conversion=-1)]),orelse=NamedExpr(target=Name(id='y'),value=List(elts=[Starred(value=Name(id='d')),complex:1j,bytes:b'z',ellipsis:Ellipsis,bool:True]))))],"
        "returns=Name(id='str'))],decorator_list=[Name(id='d')])])"
    ).replace("simple=1)Async", "simple=1),Async")


def test_paper_without_code_has_no_fingerprint_and_a_missing_notebook_is_an_error(house):
    house()
    assert code_hash("no.such") is None
    with pytest.raises(FileNotFoundError, match="notebook is"):
        code_hash("demo.coin", house.root / "none.ipynb")
    other = house.root / "other.ipynb"
    other.write_text((house.root / "nbs/demo/coin.ipynb").read_text())
    assert code_hash("demo.coin", other) == code_hash("demo.coin")


def test_import_cycles_end(house):
    first = house(helper="from ..demo.coin import Coin\nfrom . import helper\nSCALE = 2\n")
    assert first is not None and first != house()


def test_commit_says_dirty_only_when_tracked_files_differ(house):
    house()

    def git(*arguments):
        subprocess.run(["git", "-C", str(house.root), "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments], check=True, capture_output=True)

    assert git_commit() is None  # no repository yet
    git("init", "-q")
    assert git_commit() is None  # no commit yet
    git("add", ".")
    git("commit", "-q", "-m", "all")
    clean = git_commit()
    assert len(clean) == 40
    (house.root / "untracked").write_text("")
    assert git_commit() == clean
    (house.root / "atomsnb/nn/helper.py").write_text("SCALE = 4\n")
    assert git_commit() == clean + "-dirty"


def test_without_git_the_environment_names_the_commit(house, monkeypatch):
    house()
    for told in ("0" * 40, "ab" * 20 + "-dirty"):
        monkeypatch.setenv("ATOMSNB_COMMIT", told)
        assert git_commit() == told
    for told in ("abc123", "main", "0" * 40 + "-changed"):
        monkeypatch.setenv("ATOMSNB_COMMIT", told)
        with pytest.raises(ValueError, match="ATOMSNB_COMMIT is .*accepted"):
            git_commit()
    monkeypatch.setenv("ATOMSNB_COMMIT", "")
    assert git_commit() is None


def test_an_empty_end_of_a_format_changes_nothing():
    """Python 3.12.0 to 3.12.2 put an empty string behind a nested replacement field; the fingerprint must not see it."""
    tree = ast.parse("f'{a:>{c}}'", mode="eval")
    other = ast.parse("f'{a:>{c}}'", mode="eval")
    other.body.values[0].format_spec.values.append(ast.Constant(""))
    assert provenance._canonical(tree) == provenance._canonical(other) != provenance._canonical(ast.parse("f'{a:<{c}}'", mode="eval"))
    assert provenance._canonical(ast.parse("['', 'a']")) != provenance._canonical(ast.parse("['a']"))


def test_without_git_there_is_no_commit(house, monkeypatch):
    house()
    monkeypatch.setenv("PATH", str(house.root))
    assert git_commit() is None


def test_folder_inside_somebody_elses_repository_has_no_commit_of_its_own(house, monkeypatch):
    house()
    inner = house.root / "inner"
    for name in ("nbs", "atomsnb"):
        (inner / name).mkdir(parents=True)
    (inner / "settings.ini").write_text("lib_name = atomsnb\n")
    for arguments in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(house.root), *arguments], check=True, capture_output=True)
    monkeypatch.setenv("ATOMSNB_HOME", str(inner))
    assert git_commit() is None


def test_machine_is_described_without_a_checkout(monkeypatch):
    monkeypatch.setattr(provenance, "repo_root", lambda: None)
    assert git_commit() is None and device_name("cpu") and len(versions()) == 4 and (peak_memory_mb() or 100) > 10
