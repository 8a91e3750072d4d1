"""The command line, mostly from outside: exit status, one-line refusals, width, colour, speed."""
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atomsnb import __version__
from atomsnb.cli import COMMANDS, EXAMPLES, help_text, main, overview
from atomsnb.core.papers import papers

ROOT = Path(__file__).resolve().parents[1]
PLANNED = next((p.room for p in reversed(papers()) if p.status == "planned"), "no.such.paper planned")  # "unknown paper … planned" once every paper has landed


def call(*words, cwd=None, **env):
    """`python -m atomsnb …` as a process; (status, stdout, stderr)."""
    full = {k: v for k, v in {**os.environ, **env}.items() if v is not None}
    done = subprocess.run([sys.executable, "-m", "atomsnb", *words], cwd=cwd, env=full, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def test_version_and_help_need_less_than_a_second():
    """Median of five; torch alone would take longer."""
    took = []
    for _ in range(5):
        start = time.perf_counter()
        assert call("--help")[0] == 0
        took.append(time.perf_counter() - start)
    assert sorted(took)[2] < 1.0, took
    assert call("--version")[:2] == (0, f"atomsnb {__version__}\n")


def test_help_imports_nothing_heavy():
    code = "import sys\nfrom atomsnb.cli import main\nmain(['--help']); main(['run', '--help'])\nbad = {'torch', 'numpy', 'nbformat', 'IPython', 'matplotlib'} & set(sys.modules)\nassert not bad, bad"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_within_80_columns(name):
    text = help_text(name)
    assert all(line in text for line in EXAMPLES[name]) and text.startswith(f"usage: atomsnb {name}")
    assert max(map(len, text.splitlines())) <= 80
    assert name in overview() and "\x1b" not in text


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_name_commands_and_options_that_exist(name):
    for example in EXAMPLES[name]:
        assert f"atomsnb {name}" in example
        for option in re.findall(r"--[a-z]+", example):
            assert option in help_text(name)


@pytest.mark.parametrize("words, near", [
    (["rum"], "run"), (["run", "atomz"], "atoms"), (["run", "represention.atoms"], "representation.atoms"), (["claims", "qn"], "qnn"), (["claims", "atoms", "--scale", "gppu"], "gpu"),
    (["run", "core.papers", "--scale", "ful"], "full"), (["data", "digit"], "digits"), (["train", PLANNED], "planned"), (["run", PLANNED], "planned"), (["run", "nowhere.ipynb"], "nowhere.ipynb"),
    (["run", "atoms", "--set", "steps"], "key=value"), (["run", "atoms", "--set", "a=1", "--set", "a=2"], "twice"), (["store"], "--all"), (["store", "atoms", "--all"], "--all"),
])
def test_bad_usage_is_one_line_with_the_nearest_name(words, near, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and err.startswith("atomsnb: ") and near in err and not out


@pytest.mark.parametrize("words", [["run"], ["run", "atoms", "--nosuch"], ["list", "surplus"], ["run", "atoms", "--timeout", "soon"]])
def test_what_the_parser_refuses_has_status_2(words):
    status, out, err = call(*words)
    assert status == 2 and "Traceback" not in out + err


def test_no_command_shows_what_there_is(capsys):
    assert main([]) == 0
    assert capsys.readouterr().out.strip() == overview()


@pytest.mark.parametrize("words", [["list"], ["models"], ["data"], ["claims"]])
def test_output_is_80_columns_wide_and_plain_in_a_pipe(words):
    status, out, err = call(*words, COLUMNS=None, FORCE_COLOR=None)
    assert status == 0, err
    assert max(map(len, out.splitlines())) <= 80 and "\x1b" not in out


def test_colour_only_in_a_terminal_and_never_under_no_color():
    pty = pytest.importorskip("pty")
    for extra, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        primary, secondary = pty.openpty()
        env = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm-256color", "COLUMNS": "80"} | extra
        process = subprocess.Popen([sys.executable, "-m", "atomsnb", "list"], stdout=secondary, stderr=secondary, env=env)
        os.close(secondary)
        said = b""
        try:
            while chunk := os.read(primary, 65536):
                said += chunk
        except OSError:
            pass
        assert process.wait() == 0
        colours = [c for c in re.findall(rb"\x1b\[([0-9;]*)m", said) if re.search(rb"(^|;)(3[0-7]|9[0-7]|38)", c)]
        assert (b"\x1b[" in said) == coloured or not colours, said[:200]


def test_list_counts_the_committed_verdicts(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert out.count("planned") + out.count("  landed") >= 33 and "33 papers" in out
    for file in (ROOT / "claims").glob("*/*.json"):
        records = json.loads(file.read_text())["records"]
        assert re.search(rf"{file.parent.name}: {len(records)} claims: ", out)


def test_a_pipe_that_closes_early_is_no_error():
    done = subprocess.run(f"{sys.executable} -m atomsnb list | head -1", shell=True, capture_output=True, text=True)
    assert done.stdout.count("\n") == 1 and "Traceback" not in done.stderr


def test_without_a_checkout_the_error_says_what_to_do(tmp_path):
    """The package alone, as a wheel installs it."""
    shutil.copytree(ROOT / "atomsnb", tmp_path / "site" / "atomsnb", ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]), "ATOMSNB_HOME": None}
    status, out, err = call("run", "atoms", cwd=tmp_path, **env)
    assert status == 2 and "git clone" in err and "ATOMSNB_HOME" in err and err.count("\n") == 1, err
    assert call("list", cwd=tmp_path, **env)[0] == 0
    status, _, err = call("run", "atoms", cwd=tmp_path, **{**env, "ATOMSNB_HOME": str(tmp_path)})
    assert status == 2 and "ATOMSNB_HOME" in err
