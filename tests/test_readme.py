"""The README is what its notebook gives, its commands exist, its Python runs, its links lead somewhere."""
import re
import subprocess
import sys
from pathlib import Path

import pytest
import readme

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = [line.split("#")[0].strip() for block in re.findall(r"```sh\n(.*?)```", TEXT, flags=re.S) for line in block.splitlines() if line.strip()]
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)


def test_readme_is_what_its_notebook_gives():
    assert TEXT == readme.current(), "README.md differs from nbs/index.ipynb: run `make store NB=nbs/index.ipynb`"


def test_first_screen_holds_the_promise_and_the_two_commands():
    first = "\n".join(TEXT.splitlines()[:30])
    assert "Thirty-three papers that you can read, run, check and import" in first
    assert "make demo" in first and "make test" in first


@pytest.mark.parametrize("line", [c for c in SHELL if c.startswith("make ")])
def test_make_targets_exist(line):
    done = subprocess.run(["make", "-n", *line.split()[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", [c for c in SHELL if c.startswith("atomsnb ") or "-m atomsnb" in c])
def test_commands_are_understood(line):
    """The documented command's own --help exits 0, and its options are listed there."""
    words = line.split("atomsnb ", 1)[1].split()
    done = subprocess.run([sys.executable, "-m", "atomsnb", words[0], "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for option in (w for w in words if w.startswith("--")):
        assert option in done.stdout, f"{option} is not in the help of {words[0]}"


def test_python_blocks_run_in_order():
    assert PYTHON
    done = subprocess.run([sys.executable, "-c", "\n".join(PYTHON)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-1000:]


@pytest.mark.parametrize("target", sorted({t for t in re.findall(r"\]\(([^)\s#]+)", TEXT) if not t.startswith(("http", "mailto:"))}))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists()
