"""The notebook gate: every notebook as it is stored, in a kernel of its own; and the canaries that prove that the gate can fail."""
import ast
import json
import os
import re
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from atomsnb.core.ledger import Ledger, load_ledger
from atomsnb.core.papers import papers, room_of
from atomsnb.core.run import check_notebook, notebooks_of

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = notebooks_of(ROOT)
CELL_TIMEOUT = 300


def name(path: Path) -> str:
    return path.relative_to(ROOT / "nbs").as_posix()


def test_there_are_notebooks():
    """An empty collection would be a green gate that checks nothing."""
    assert len(NOTEBOOKS) >= 10
    assert {room_of(p) for p in NOTEBOOKS} >= {p.room for p in papers() if p.status == "landed"}


@pytest.mark.notebook
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook_runs_and_its_claims_are_those_committed(path):
    """All code cells, in order, each within the limit; for a paper, the ledger measured anew against the committed one. The library's annotations are under watch."""
    result = check_notebook(path, timeout=CELL_TIMEOUT, env={"ATOMSNB_WATCH": os.environ.get("ATOMSNB_SHAPES", "1")})
    assert result.ok, "\n".join([name(path), *result.failures])
    assert result.executed == result.code_cells > 0
    print(f"{name(path)}: {result.executed} cells in {result.seconds:.1f} s")


def _prints(source: str) -> bool:
    """Whether a cell calls print or display at its own top level, or ends in an expression that is certain to be shown."""
    try:
        tree = ast.parse(re.sub(r"^[%!].*$", "", source, flags=re.M))
    except SyntaxError:
        return False
    top = [n.value for n in tree.body if isinstance(n, ast.Expr)]
    shows = any(isinstance(v, ast.Call) and isinstance(v.func, ast.Name) and v.func.id in ("print", "display", "assert_identity") for v in top)
    last = tree.body[-1] if tree.body else None
    quiet = isinstance(last, ast.Expr) and not isinstance(last.value, (ast.Call, ast.Await, ast.Yield)) and not source.rstrip().endswith(";")
    return shows or quiet and not (isinstance(last.value, ast.Constant) and last.value.value is None or isinstance(last.value, ast.Constant) and isinstance(last.value.value, str) and len(tree.body) == 1)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_what_prints_is_stored(path):
    """Every visible code cell that shows something has its output stored, and no stored output is an error."""
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
        if cell.cell_type != "code":
            continue
        assert not any(o.output_type == "error" for o in cell.outputs), f"{name(path)}, cell {number}: a stored error"
        hidden = re.search(r"^#\|\s*(hide|eval:\s*false|output:\s*false)\b", cell.source, re.M)
        if not hidden and _prints(cell.source):
            assert cell.outputs, f"{name(path)}, cell {number} shows something, and nothing is stored:\n{cell.source[:300]}"


# --- canaries: this very gate must fail on each of these ---

LEDGER = """
import os
from atomsnb.core.ledger import Ledger
book = Ledger("trial.canary")
book.claim("size", "It is large.", source="Table 1", source_certainty="ours", rule="ours >= 1", refuted_if="it is small")
book.measure("size", ours=[2.0, 3.0], seeds=[0, 1])
book.save()
"""


@pytest.fixture
def write(tmp_path):
    def make(*cells, file="canary.ipynb"):
        nbformat.write(new_notebook(cells=[new_markdown_cell("# Canary"), *cells]), tmp_path / file)
        return tmp_path / file
    return make


@pytest.fixture
def committed_claims(tmp_path, monkeypatch):
    """A ledger file as LEDGER writes it."""
    book = Ledger("trial.canary", out=tmp_path)
    book.claim("size", "It is large.", source="Table 1", source_certainty="ours", rule="ours >= 1", refuted_if="it is small")
    book.measure("size", ours=[2.0, 3.0], seeds=[0, 1])
    return book.save(tmp_path / "committed.json")


def test_a_healthy_notebook_passes(write, committed_claims):
    result = check_notebook(write(new_code_cell(LEDGER), new_code_cell("x = 1")), timeout=120, claims=committed_claims)
    assert result.ok and (result.executed, result.code_cells) == (2, 2), result.failures


def test_canary_failing_cell(write):
    result = check_notebook(write(new_code_cell("x = 1"), new_code_cell("assert x == 2, 'planted'"), new_code_cell("x = 3")), timeout=120)
    assert not result.ok and result.error.kind == "error" and result.error.index == 2
    assert (result.executed, result.code_cells) == (1, 3) and "planted" in str(result.error) and "assert x == 2" in str(result.error)


def test_canary_untrue_annotation(write):
    """A function that takes what its annotation forbids, called in a kernel."""
    source = ("import atomsnb.core.checks as room\nimport annotations\n\ndef double(k: int) -> str:\n    return str(k)\n\ndouble.__module__ = 'atomsnb.core.checks'\n"
              "room.double = double\nannotations.watch(room)\nroom.double('x')")
    result = check_notebook(write(new_code_cell(source)), timeout=120, env={"ATOMSNB_WATCH": "1"})
    assert not result.ok and "UntrueAnnotation" in str(result.error)


def test_canary_hang(write, tmp_path):
    """A cell that waits for ever and ignores interrupts: it is ended at its limit, and neither the kernel nor its child lives on."""
    source = ("import os, signal, subprocess, sys, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
              "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
              f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\nwhile True: time.sleep(1)")
    start = time.monotonic()
    result = check_notebook(write(new_code_cell(source)), timeout=3)
    assert not result.ok and result.error.kind == "timeout" and result.executed == 0
    assert time.monotonic() - start < 60
    pids = [int(p) for p in (tmp_path / "pids").read_text().split()]
    deadline = time.monotonic() + 10
    while any(_alive(p) for p in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_alive(p) for p in pids)


def _alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        pass
    if Path("/proc/self").exists():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_canary_wrong_verdict(write, committed_claims):
    """The committed file is edited so that it agrees with itself: other values, another verdict. Only measuring anew can tell."""
    content = json.loads(committed_claims.read_text())
    content["records"][0].update(ours=[0.5, 0.25], spread=0.25, verdict="refuted")
    committed_claims.write_text(json.dumps(content))
    assert load_ledger(committed_claims)["size"].verdict == "refuted"
    result = check_notebook(write(new_code_cell(LEDGER)), timeout=120, claims=committed_claims)
    assert not result.ok and result.error is None and result.executed == 1
    assert result.changed_verdicts == ("size: verdict refuted -> holds",)


def test_canary_stale(write, committed_claims):
    content = json.loads(committed_claims.read_text())
    content["records"][0]["code_hash"] = "0" * 64
    committed_claims.write_text(json.dumps(content))
    result = check_notebook(write(new_code_cell(LEDGER)), timeout=120, claims=committed_claims)
    assert not result.ok and result.stale == ("size",) and not result.changed_verdicts


def test_canary_claims_that_vanish(write, committed_claims):
    result = check_notebook(write(new_code_cell("x = 1")), timeout=120, claims=committed_claims)
    assert not result.ok and "wrote no ledger" in result.failures[0]


def test_canary_no_code_cell(write):
    result = check_notebook(write(), timeout=60)
    assert not result.ok and (result.executed, result.code_cells) == (0, 0) and "no code cell" in result.failures[0]


def test_canary_kernel_that_dies(write):
    result = check_notebook(write(new_code_cell("import os; os._exit(3)")), timeout=60)
    assert not result.ok and result.error.kind == "died"


def test_canary_unstored_output():
    assert _prints("print(1)") and _prints("x = 1\nx") and not _prints("x = 1") and not _prints("f(x);") and not _prints("show(fig)")
