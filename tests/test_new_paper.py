"""`atomsnb new` in a small checkout: the page that it writes passes what the gate asks of a paper, before anybody has changed a cell."""
import json
import os
import shutil
import subprocess
import sys

import docs_gate
import pytest
import test_house
from test_cli import ROOT, call

from atomsnb.core.ledger import load_ledger, stale
from atomsnb.core.papers import papers
from atomsnb.core.run import check_notebook

PLANNED = next((p for p in papers() if p.status == "planned"), None)


@pytest.fixture
def checkout(tmp_path):
    """The package without its weights, the settings, and an empty nbs/."""
    for name in ("settings.ini", "_quarto.yml", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "nbs").mkdir()
    shutil.copytree(ROOT / "atomsnb", tmp_path / "atomsnb", ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    return tmp_path


@pytest.mark.skipif(PLANNED is None, reason="every paper is here")
def test_a_new_paper_passes_the_gate_as_it_is(checkout, monkeypatch):
    env = {"PYTHONPATH": os.pathsep.join([str(checkout), os.environ.get("PYTHONPATH", "")]), "ATOMSNB_HOME": str(checkout)}
    status, out, err = call("new", PLANNED.room, cwd=checkout, **env)
    assert status == 0, (out, err)
    notebook, module = checkout / "nbs" / f"{PLANNED.room.replace('.', '/')}.ipynb", f"atomsnb/{PLANNED.room.replace('.', '/')}.py"
    stored = notebook.read_text()
    page = json.loads(stored)
    assert (checkout / "atomsnb" / "papers.toml").read_text().count('"draft"') == 1 + (ROOT / "atomsnb" / "papers.toml").read_text().count('"draft"')
    assert str(notebook.relative_to(checkout / "nbs")) in (checkout / "_quarto.yml").read_text()

    ledger = load_ledger(checkout / "claims" / "cpu" / f"{PLANNED.room}.json")
    assert {r.verdict for r in ledger.records.values()} == {"holds", "not testable here"}
    monkeypatch.setenv("PYTHONPATH", env["PYTHONPATH"])
    monkeypatch.setenv("ATOMSNB_HOME", str(checkout))
    result = check_notebook(notebook, timeout=120, claims=checkout / "claims" / "cpu" / f"{PLANNED.room}.json")
    assert result.ok and result.executed == result.code_cells > 10, result.failures

    monkeypatch.setattr(test_house, "ROOT", checkout)
    test_house.test_everything_public_is_documented(module)
    test_house.test_a_module_is_written_by_export_and_holds_one_room(module)
    test_house.test_a_stored_notebook_is_small_and_names_no_machine(str(notebook.relative_to(checkout)))
    assert docs_gate.output_faults(page, "page") == [] and docs_gate.pandoc_faults(page, "page") == []
    for tool in (["ruff", "check", str(notebook), module], ["mypy", "--no-incremental", "--follow-imports=silent", module]):
        done = subprocess.run([sys.executable, "-m", *tool], cwd=checkout, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    status, _, err = call("new", PLANNED.room, cwd=checkout, **env)
    assert status == 2 and "left alone" in err and notebook.read_text() == stored
    assert not stale(ledger)
