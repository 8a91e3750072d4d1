"""A paper from its settings to its verdict through the command line: a small checkout of its own, one landed paper."""
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from test_cli import ROOT, call

from atomsnb.core.papers import papers


@pytest.fixture
def house(tmp_path):
    """A small checkout with one paper that has a config and a training step, run through ATOMSNB_HOME."""
    shutil.copy(ROOT / "settings.ini", tmp_path / "settings.ini")
    (tmp_path / "nbs" / "quantum").mkdir(parents=True)
    package = tmp_path / "atomsnb"
    parts = {p.part for p in papers()}
    shutil.copytree(ROOT / "atomsnb", package, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors", "kernels", "nn", *parts))
    text = (package / "papers.toml").read_text()
    (package / "papers.toml").write_text(re.sub(r'(room = "quantum.qnn".*?status = )"planned"', r'\1"landed"', text, flags=re.S))
    (package / "quantum").mkdir()
    (package / "quantum" / "__init__.py").touch()
    (package / "quantum" / "qnn.py").write_text(
        "from dataclasses import dataclass\nfrom pathlib import Path\nfrom typing import ClassVar\nfrom atomsnb.core.runtime import Config\n"
        "@dataclass(frozen=True)\nclass QNNConfig(Config):\n    steps: int = 10\n    PRESETS: ClassVar[dict] = {'cpu': {}, 'gpu': {'steps': 50}, 'full': {'steps': 99}}\n"
        "class History:\n    def __init__(self, n): self.completed = n\n"
        "def train(cfg, *, out, resume='auto'):\n    import os, time\n    f = Path(out) / 'checkpoint' / 'n'\n    n = int(f.read_text()) if f.exists() else 0\n"
        "    if n == 0 and cfg.steps == 77:\n        f.write_text('5')\n        raise KeyboardInterrupt\n    f.write_text(str(cfg.steps))\n    print('from', n, 'resume', resume)\n    return History(cfg.steps)\n")
    nbformat.write(new_notebook(cells=[new_markdown_cell("# QNN\n\n> A sentence."), new_code_cell("SCALE, SET, OUT = 'cpu', {}, None", metadata={"tags": ["parameters"]}), new_code_cell(
        "from atomsnb.quantum.qnn import QNNConfig\nfrom atomsnb.core.ledger import Ledger\ncfg = QNNConfig.preset(SCALE, **SET)\nledger = Ledger('quantum.qnn', scale=SCALE, config=cfg, out=OUT)\n"
        "ledger.claim('steps', 'It takes steps.', source='Table 1', source_certainty='ours', rule='ours >= 10', refuted_if='fewer')\nledger.measure('steps', ours=[cfg.steps], seeds=[0])\nledger.save();")]),
        tmp_path / "nbs" / "quantum" / "qnn.ipynb")
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]), "ATOMSNB_HOME": str(tmp_path)}
    return lambda *words: call(*words, cwd=tmp_path, **env)


def test_a_paper_from_settings_to_verdict(house, tmp_path):
    """run checks settings before a kernel starts; store records claims; a changed verdict has status 1; other settings are not counted."""
    status, _, err = house("run", "qnn", "--set", "stepps=3")
    assert status == 2 and "nearest: steps" in err and err.count("\n") == 1 and not (tmp_path / "runs").exists()
    assert house("run", "qnn", "--set", "steps=many")[0] == 2
    status, out, err = house("store", "quantum.qnn")
    assert status == 0 and "claims/cpu/quantum.qnn.json" in out, (out, err)
    first = json.loads((tmp_path / "claims" / "cpu" / "quantum.qnn.json").read_text())
    assert first["records"][0]["verdict"] == "holds"
    stored = nbformat.read(tmp_path / "nbs" / "quantum" / "qnn.ipynb", 4)
    assert "1 of 1 verdicts agree" in "".join(o.get("text", "") for c in stored.cells for o in c.get("outputs", []))
    status, out, err = house("run", "qnn")
    assert status == 0 and "1 holds" in out and (tmp_path / "runs" / "quantum.qnn-cpu" / "index.html").exists(), (out, err)
    assert "cpu: 1 claims: 1 holds" in house("list")[1]
    assert "It takes steps" in re.sub(r"\s+", " ", house("claims", "qnn")[1])

    status, out, _ = house("run", "qnn", "--set", "steps=3")
    assert status == 0 and "not counted" in out and "holds -> refuted" in out

    first["records"][0].update(ours=[3.0], verdict="refuted")  # the file agrees with itself
    (tmp_path / "claims" / "cpu" / "quantum.qnn.json").write_text(json.dumps(first))
    status, out, _ = house("run", "qnn", "--out", "runs/second")
    assert status == 1 and "refuted -> holds" in out

    status, _, err = house("run", "qnn", "--scale", "gpu", "--out", "runs/second")
    assert status == 2 and "another run" in err and err.count("\n") == 1


def test_store_works_where_path_is_relative(house, tmp_path):
    """As in `PATH=.venv/bin:$PATH python -m atomsnb store ...`: the interpreter knows itself by a path that holds in one folder alone."""
    place = os.path.relpath(Path(sys.executable).parent, tmp_path)
    env = {**os.environ, "PATH": os.pathsep.join([place, os.environ["PATH"]]), "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]), "ATOMSNB_HOME": str(tmp_path)}
    name = Path(sys.executable).name
    if os.path.isabs(subprocess.run([name, "-c", "import sys; print(sys.executable)"], cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout):
        pytest.skip("this Python makes the path absolute by itself")
    done = subprocess.run([name, "-m", "atomsnb", "store", "nbs/quantum/qnn.ipynb"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "claims/cpu/quantum.qnn.json" in done.stdout, done


def test_stale_code_fails_at_cpu(house, tmp_path):
    assert house("store", "qnn")[0] == 0
    module = tmp_path / "atomsnb" / "quantum" / "qnn.py"
    module.write_text(module.read_text() + "\ndef helper():\n    return 1\n")
    status, out, _ = house("run", "qnn")
    assert status == 1 and "stale" in out
    assert "stale" in house("claims", "qnn")[1]


def test_store_refuses_and_leaves_claims_alone(house, tmp_path):
    assert house("store", "qnn")[0] == 0
    claims, notebook = tmp_path / "claims" / "cpu" / "quantum.qnn.json", tmp_path / "nbs" / "quantum" / "qnn.ipynb"
    content = nbformat.read(notebook, 4)
    content.cells.append(new_code_cell("1 / 0"))
    nbformat.write(content, notebook)
    before = claims.read_bytes(), notebook.read_bytes()
    status, out, _ = house("store", "qnn")
    assert status == 1 and "NOT STORED" in out and "ZeroDivisionError" in out and (claims.read_bytes(), notebook.read_bytes()) == before


def test_train_goes_on_after_an_interruption(house, tmp_path):
    status, out, err = house("train", "qnn", "--scale", "gpu", "--set", "steps=77", "--out", "r")
    assert status == 130 and "atomsnb train qnn --scale gpu --set steps=77 --out r" in out and "Traceback" not in err
    status, out, _ = house("train", "qnn", "--scale", "gpu", "--set", "steps=77", "--out", "r")
    assert status == 0 and "from 5 resume auto" in out and "77 steps" in out
    assert house("train", "qnn", "--out", "r")[0] == 2
    assert json.loads((tmp_path / "r" / "run.json").read_text())["status"] == "trained"
    status, out, err = house("run", "qnn", "--scale", "gpu", "--set", "steps=77", "--out", "r")  # the notebook takes the folder up
    assert status == 0 and (tmp_path / "r" / "checkpoint" / "n").read_text() == "77", (out, err)


def test_train_runs_once_per_process_under_accelerate(house, tmp_path):
    """`accelerate launch … -m atomsnb train`, one command: two processes train one model over gloo, into one folder, with one voice."""
    pytest.importorskip("accelerate")
    module = tmp_path / "atomsnb" / "quantum" / "qnn.py"
    module.write_text(module.read_text().split("def train(")[0] + (
        "def train(cfg, *, out, resume='auto'):\n    import torch\n    from atomsnb.core.batches import TensorBatches\n    from atomsnb.core.train import fit\n"
        "    torch.manual_seed(0)\n    model = torch.nn.Linear(2, 1)\n"
        "    history = fit(model, lambda m, b, s: (m(b) - 1).square().mean(), TensorBatches(torch.randn(16, 2), batch_size=4), steps=cfg.steps, device='cpu', checkpoint=Path(out) / 'checkpoint')\n"
        "    import os\n    told = f'world {torch.distributed.get_world_size()} {torch.distributed.get_backend()} {round(sum(p.sum().item() for p in model.parameters()), 6)}\\n'\n"
        "    os.write(1, told.encode())  # in one piece: printed words of two processes can mix\n    return history\n"))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]), "ATOMSNB_HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # Without a GPU, --multi_gpu still starts torch's elastic launcher (the device is the library's choice); --cpu would start one process unless MPI is there.
    done = subprocess.run([sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
                           "--main_process_port", port, "-m", "atomsnb", "train", "qnn", "--out", "r"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    told = re.findall(r"world 2 gloo \S+", done.stdout)
    assert len(told) == 2 and told[0] == told[1] and done.stdout.count("10 steps") == 1, done.stdout
    assert json.loads((tmp_path / "r" / "run.json").read_text())["status"] == "trained" and any((tmp_path / "r" / "checkpoint").iterdir())
