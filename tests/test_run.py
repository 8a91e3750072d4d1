"""Runs: folders, parameters, failures, interruption, the page, storing."""
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from atomsnb.core import run as run_module
from atomsnb.core.execute import execute
from atomsnb.core.folder import RunFolder
from atomsnb.core.papers import UsageError, papers
from atomsnb.core.report import Page, Prose, number_labels, read_bibliography, render_output, tex_to_mathml
from atomsnb.core.run import claim_changes, inject, run_notebook, store_notebook

ROOT = Path(__file__).resolve().parents[1]
PARAMETERS = new_code_cell('SCALE = "cpu"\nSET = {}\nOUT = None', metadata={"tags": ["parameters"]})
FIGURE = "from IPython.display import HTML, SVG, display\ndisplay(SVG('<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"20\" height=\"20\"><desc>a red dot</desc><circle cx=\"9\" cy=\"9\" r=\"4\" fill=\"red\"/></svg>'))"


@pytest.fixture
def write(tmp_path):
    def make(*cells, name="trial.ipynb"):
        nbformat.write(new_notebook(cells=[new_markdown_cell("# A trial\n\n> With $x_1$ in it."), PARAMETERS, *cells]), tmp_path / name)
        return tmp_path / name
    return make


def test_parameters_arrive_and_the_folder_is_complete(write, tmp_path):
    file = write(new_code_cell("import os\nassert SCALE == 'gpu' and SET == {'steps': '7'} and OUT == os.environ['ATOMSNB_OUT'] and os.path.isabs(OUT)\nprint('scale', SCALE)"),
                 new_markdown_cell("## Results\n\n$$\\begin{aligned} a &= b \\end{aligned}$$ {#eq-law}\n\nBy @eq-law."), new_code_cell(FIGURE))
    report = run_notebook(file, scale="gpu", settings={"steps": "7"}, out=tmp_path / "out")
    assert report.exit_code == 0 and report.status == "ok" and report.execution.executed == 4
    assert {"index.html", "trial.ipynb", "run.json", "figures", "checkpoint"} <= {f.name for f in report.out.iterdir()}
    assert [f.name for f in (report.out / "figures").iterdir()] == ["01-results.svg"]
    record = json.loads((report.out / "run.json").read_text())
    assert record["status"] == "ok" and record["identity"]["settings"] == {"steps": "7"} and len(record["cells"]) == 4
    assert not (report.out / ".lock").exists() and not list(report.out.glob("*.tmp*"))
    page = report.page.read_text(encoding="utf-8")
    assert "<math" in page and "Equation 1" in page and 'alt="a red dot"' in page and "scale gpu" in page


def test_the_page_asks_nothing_of_the_network_and_runs_nothing(write, tmp_path):
    file = write(new_code_cell("from IPython.display import HTML\nHTML('<script>alert(1)</script><b onclick=\"x()\">bold</b><iframe src=\"https://example.org\"></iframe>')"))
    page = run_notebook(file, out=tmp_path / "out").page.read_text(encoding="utf-8")
    assert "default-src 'none'" in page and "<b>bold</b>" in page
    shown = re.sub(r'<pre class="code".*?</pre>', "", page, flags=re.S)
    assert not re.search(r"<script|<iframe|onclick=|@import|url\((?!data:)", shown) and not re.search(r'<(?:img|link)\b[^>]*\b(?:src|href)="(?!data:)', shown)
    identifiers = re.findall(r'\bid="([^"]+)"', shown)
    assert len(identifiers) == len(set(identifiers))
    assert set(re.findall(r'href="#([^"]+)"', shown)) <= set(identifiers)


def test_a_failing_cell_is_named_with_its_source_and_traceback(write, tmp_path):
    report = run_notebook(write(new_markdown_cell("## Division"), new_code_cell("a = 1\nratio = a / 0"), new_code_cell("print('never')")), out=tmp_path / "out")
    assert report.exit_code == 1 and report.status == "failed" and report.execution.failure.index == 4  # the injected cell is one of them
    said, page = str(report), report.page.read_text(encoding="utf-8")
    for part in ("cell 4", "Division", "ZeroDivisionError: division by zero", "ratio = a / 0"):
        assert part in said and part in re.sub(r"</?a\b[^>]*>", "", page)
    assert "\x1b" not in said + page
    assert nbformat.read(report.out / "trial.ipynb", 4).cells[4].outputs[0].ename == "ZeroDivisionError"


def test_a_hang_is_a_failure_and_its_kernel_is_dead(write, tmp_path):
    start = time.monotonic()
    report = run_notebook(write(new_code_cell("import time\nwhile True: time.sleep(1)")), out=tmp_path / "out", timeout=2)
    assert report.exit_code == 1 and report.execution.failure.kind == "timeout" and time.monotonic() - start < 40
    with pytest.raises(ProcessLookupError):
        os.kill(report.execution.kernel_pid, 0)


def test_no_executed_cell_is_a_failure(tmp_path):
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Only prose")]), tmp_path / "prose.ipynb")
    report = run_notebook(tmp_path / "prose.ipynb", out=tmp_path / "out")
    assert report.exit_code == 1 and "no code cell was executed" in str(report)


def test_a_second_run_resumes_and_another_is_refused(write, tmp_path):
    file = write(new_code_cell("from pathlib import Path\np = Path(OUT, 'checkpoint', 'n')\nn = int(p.read_text()) if p.exists() else 0\np.write_text(str(n + 1))\nprint('n', n)"))
    out = tmp_path / "out"
    first, second = (run_notebook(file, out=out) for _ in range(2))
    assert (first.resumed, second.resumed) == (False, True) and second.execution.notebook.cells[3].outputs[0].text == "n 1\n"
    for change in ({"scale": "gpu"}, {"settings": {"a": "1"}}):
        with pytest.raises(UsageError, match="holds another run"):
            run_notebook(file, out=out, **change)
    assert run_notebook(file, out=out, scale="gpu", fresh=True).execution.notebook.cells[3].outputs[0].text == "n 0\n"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="not empty"):
        run_notebook(file, out=tmp_path / "mine")
    with pytest.raises(UsageError, match="not empty"):
        run_notebook(file, out=tmp_path / "mine", fresh=True)
    assert [f.name for f in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_checkpoints_of_other_code_are_not_mixed_in(tmp_path):
    me = {"paper": "a.b", "scale": "cpu", "settings": {}, "code": "1"}
    with RunFolder(tmp_path / "r", me).claimed() as folder:
        folder.save(status="ok")
    with RunFolder(tmp_path / "r", {**me, "code": "2"}).claimed() as folder:  # nothing was trained: nothing to mix
        folder.save(status="ok")
        (folder.checkpoint / "x").touch()
    with pytest.raises(UsageError, match="checkpoints of other code"):
        with RunFolder(tmp_path / "r", me).claimed():
            pass


def test_a_broken_run_json_is_refused_rather_than_trusted(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UsageError, match="holds another run"):
        with RunFolder(tmp_path, {"paper": "a.b", "scale": "cpu", "settings": {}, "code": None}).claimed():
            pass


def test_settings_and_scales_need_a_parameters_cell(tmp_path):
    nbformat.write(new_notebook(cells=[new_code_cell("1")]), tmp_path / "plain.ipynb")
    for wrong in ({"scale": "gpu"}, {"settings": {"a": "1"}}):
        with pytest.raises(UsageError, match="parameters"):
            run_notebook(tmp_path / "plain.ipynb", out=tmp_path / "out", **wrong)
    with pytest.raises(UsageError, match="nearest: gpu"):
        run_notebook(tmp_path / "plain.ipynb", scale="gppu")
    for bad in (-1, float("nan"), "x"):
        with pytest.raises((ValueError, TypeError), match="timeout"):
            run_notebook(tmp_path / "plain.ipynb", out=tmp_path / "out", timeout=bad)
    assert not (tmp_path / "out").exists()


def test_ctrl_c_lets_the_cell_save_and_says_how_to_go_on(write, tmp_path):
    """SIGINT to the command alone, as a terminal sends it (the kernel has a session of its own): the cell gets its KeyboardInterrupt and saves."""
    write(new_code_cell("import time\nfrom pathlib import Path\np = Path(OUT, 'checkpoint', 'n')\nif not p.exists():\n    Path(OUT, 'begun').touch()\n    try:\n        time.sleep(120)\n"
                        "    except KeyboardInterrupt:\n        p.write_text('saved')\n        raise"), new_code_cell("print(p.read_text())"))
    command = [sys.executable, "-m", "atomsnb", "run", "trial.ipynb", "--out", "out"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "out" / "begun").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 130, (said, errors)
    assert "INTERRUPTED" in said and "To go on from what was saved: atomsnb run trial.ipynb --out out" in said and "Traceback" not in errors
    assert (tmp_path / "out" / "checkpoint" / "n").read_text() == "saved"
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "interrupted"
    (tmp_path / "out" / "begun").unlink()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0 and "4 of 4 code cells" in again.stdout, again


def test_a_run_that_was_killed_can_be_taken_up(write, tmp_path):
    """kill -9 of the command: no lock remains, the kernel follows its parent, and the same command goes on."""
    write(new_code_cell("import os, time\nfrom pathlib import Path\nif not Path(OUT, 'checkpoint', 'pid').exists():\n    Path(OUT, 'checkpoint', 'pid').write_text(str(os.getpid()))\n    time.sleep(120)"))
    command = [sys.executable, "-m", "atomsnb", "run", "trial.ipynb", "--out", "out"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    pid, deadline = tmp_path / "out" / "checkpoint" / "pid", time.monotonic() + 60
    while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.kill()
    process.wait()
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "running"
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again
    deadline = time.monotonic() + 15
    while Path(f"/proc/{pid.read_text()}").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not Path(f"/proc/{pid.read_text()}").exists()


def test_the_kernel_is_this_interpreter_where_path_is_relative(write, tmp_path, monkeypatch):
    """PATH=.venv/bin makes sys.executable relative to where the shell stood, while kernel and cleaner start elsewhere."""
    absolute = os.path.abspath(sys.executable)
    monkeypatch.setattr(sys, "executable", os.path.relpath(absolute))
    done = execute(new_notebook(cells=[new_code_cell("import os, sys; print(sys.executable, os.getcwd())")]), cwd=tmp_path, timeout=60)
    assert done.failure is None and done.notebook.cells[0].outputs[0].text.split() == [absolute, str(tmp_path)], done.failure
    file = write(new_code_cell("6 * 7"))
    report = store_notebook(file)
    assert report.ok and nbformat.read(file, 4).cells[-1].outputs[0].data["text/plain"] == "42", report


def test_execution_works_inside_a_running_event_loop():
    """In Jupyter the main thread runs a loop already."""
    import asyncio

    async def inside():
        return execute(new_notebook(cells=[new_code_cell("print(6 * 7)")]), timeout=60)
    assert asyncio.run(inside()).notebook.cells[0].outputs[0].text == "42\n"


def test_what_a_later_cell_updates_is_updated(tmp_path):
    """The live ledger's table is an output of an early cell that later cells change; the executed notebook must hold the last state."""
    cells = [new_code_cell("from IPython.display import display\nh = display('early', display_id=True)"), new_code_cell("h.update('late')")]
    assert "late" in execute(new_notebook(cells=cells), timeout=60).notebook.cells[0].outputs[0].data["text/plain"]


def test_a_verdict_that_changed_fails_the_run_only_with_the_committed_settings(tmp_path, monkeypatch):
    from atomsnb.core.execute import Execution
    from atomsnb.core.ledger import Change
    from atomsnb.core.run import RunReport
    done = Execution(new_notebook(cells=[new_code_cell("1")]))
    done.cells.append(run_module.CellRecord(0, "", 0.1, "ok"))
    for kind, scale, settings, code in (("verdict", "cpu", {}, 1), ("verdict", "gpu", {}, 1), ("stale", "cpu", {}, 1), ("stale", "gpu", {}, 0), ("verdict", "cpu", {"a": 1}, 0), ("missing", "full", {}, 1)):
        report = RunReport("a.b", scale, settings, tmp_path, done, None, [Change("x", kind, "holds", "refuted")])
        assert report.exit_code == code, (kind, scale, settings)


def test_a_ledger_of_another_paper_is_a_problem(tmp_path):
    (tmp_path / "claims.json").write_text("{}")
    assert "cannot be read" in claim_changes(tmp_path, "trial", "cpu")[2]


def test_storing_leaves_a_refused_notebook_untouched(write, tmp_path):
    for source, reason in (("1 / 0", "ZeroDivisionError"), ("print('x' * 1_200_000)", "MB"), ("import sys; print('careful', file=sys.stderr)", "stderr"), (f"print({str(tmp_path)!r})", "names")):
        file = write(new_code_cell(source))
        before = file.read_bytes()
        report = store_notebook(file, timeout=60)
        assert not report.ok and any(reason in line for line in report.refused), report
        assert file.read_bytes() == before
    file = write(new_code_cell("print(SCALE, SET, OUT)"))
    assert store_notebook(file, timeout=60).ok
    stored = nbformat.read(file, 4)
    assert stored.cells[2].outputs[0].text == "cpu {} None\n" and stored.cells[1].metadata.tags == ["parameters"]
    once = file.read_bytes()
    assert store_notebook(file, timeout=60).ok and file.read_bytes() == once


def test_injection_does_not_touch_what_it_finds():
    notebook = new_notebook(cells=[PARAMETERS.copy(), new_code_cell("x")])
    assert inject(notebook, {"SCALE": "full", "SET": {"name": "o'brien \"x\"", "flag": True, "none": None, "w": [1.5, 2]}, "OUT": "C:\\runs\\x"})
    space: dict = {}
    exec(notebook.cells[0].source + "\n" + notebook.cells[1].source, space)
    assert space["SET"] == {"name": "o'brien \"x\"", "flag": True, "none": None, "w": [1.5, 2]} and space["OUT"] == "C:\\runs\\x"
    assert [c.source for c in notebook.cells][::2] == [PARAMETERS.source, "x"]


# --- the page's parts ---

def test_formulas_of_every_stored_notebook_become_mathml():
    """No formula of the library falls back to TeX source, and none keeps a backslash command."""
    from atomsnb.core.report import _CODE, _MATH
    bad, seen = [], 0
    for path in run_module.notebooks_of(ROOT):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                for found in _MATH.finditer(_CODE.sub("", cell.source)):
                    seen += 1
                    out = tex_to_mathml(found["display"] or found["inline"], bool(found["display"]))
                    if not out.startswith("<math") or "\\" in re.sub(r'alttext="[^"]*"', "", out):
                        bad.append((path.name, found[0]))
    assert seen > 20 and not bad, bad[:10]


@pytest.mark.parametrize("tex, holds", [(r"\mathbb E_x", "𝔼"), (r"\mathbb{R}^n", "ℝ"), (r"\mathcal L", "ℒ"), (r"\mathbf{x}", "𝐱"), (r"\mathfrak g", "𝔤"), (r"\boldsymbol\theta", "𝛉")])
def test_letters_have_their_own_characters(tex, holds):
    """MathML Core ignores mathvariant, so the character itself has to carry the style."""
    assert holds in tex_to_mathml(tex) and "mathvariant" not in tex_to_mathml(tex)


def test_prose_keeps_code_currency_and_mail_addresses():
    prose = Prose({"eq-a": 1}, {})
    out = prose.render("Costs $5 to $6; `$a$ @eq-a`; mail a@eq-b.org; see @eq-a and @eq-unknown.\n\n```python\nx = '$a$' # @eq-a\n```")
    assert "$5 to $6" in out and "<code>$a$ @eq-a</code>" in out and 'href="#eq-a">Equation 1<' in out and "<math" not in out and "eq-unknown" in out and "x = '$a$' # @eq-a" in out


def test_citations_come_from_the_bibliography():
    library = read_bibliography("@article{a1,\n author={Doe, Jane and Roe, Richard},\n year={2020},\n title={{On} Things},\n doi={10.1/x}\n}\n")
    out = Prose({}, library).render("As @a1 says [@a1, Thm. 2]. [@nobody]")
    assert "Doe and Roe (2020)" in out and "(<a" in out and "Thm. 2" in out and "https://doi.org/10.1/x" in out and "nobody" in out


def test_outputs_fall_back_to_text_and_are_escaped():
    prose = Prose({}, {})
    output = nbformat.v4.new_output("execute_result", {"text/plain": "<a & b>"}, execution_count=1)
    assert "&lt;a &amp; b&gt;" in render_output(output, prose)
    widget = nbformat.v4.new_output("display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "bar"})
    assert "bar" in render_output(widget, prose)


def test_numbers_run_over_the_whole_notebook():
    cells = [new_markdown_cell("$$a$$ {#eq-one}"), new_code_cell("#| label: fig-p\nplot()"), new_markdown_cell("$$b$$ {#eq-two} and ::: {#thm-x}")]
    assert number_labels(new_notebook(cells=cells)) == {"eq-one": 1, "eq-two": 2, "fig-p": 1, "thm-x": 1}


def test_an_empty_page_is_a_page():
    assert "No cell ran" in Page("t", "", {}, "", False, "", new_notebook(), [], {}, {}).to_html()


def test_papers_file_is_one_file():
    """The list at the top level and the one in the package are the same."""
    assert (ROOT / "papers.toml").read_bytes() == (ROOT / "atomsnb" / "papers.toml").read_bytes()
    assert len(papers()) == 33
