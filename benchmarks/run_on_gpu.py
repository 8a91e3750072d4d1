"""A paper's notebook without Jupyter: its code cells in order, in this process, on a machine that has torch and little else.

    python benchmarks/run_on_gpu.py nbs/representation/atoms.ipynb --out runs/gpu --scale gpu --set activations=minilm.safetensors

`atomsnb run` needs papermill and a kernel, which a bare GPU machine lacks. This needs neither, nor IPython: `display` prints. The ledger
(`claims.json`), saved figures of benchmarks and the log of all cells land in --out. Besides torch, triton, numpy, scipy, scikit-learn, matplotlib, rich,
tqdm, jaxtyping and safetensors, the library needs platformdirs and jsonschema (with attrs, referencing, jsonschema-specifications, rpds-py and
typing-extensions). Wheels of a machine without a package index can travel in a folder and be installed beside it, here for Python 3.12 on x86-64:

    pip download -d wheels --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_17_x86_64 platformdirs jsonschema attrs \\
        referencing jsonschema-specifications rpds-py typing-extensions                                               # where there is an index
    pip install --no-index --no-deps --target /tmp/site wheels/*.whl && export PYTHONPATH=/tmp/site                    # where there is none

The whole for the atoms notebook, whose transformer need not travel: `--activations FILE` here writes the arrays that `activations=` reads there.

    python benchmarks/run_on_gpu.py nbs/representation/atoms.ipynb --scale gpu --activations minilm.safetensors       # on a CPU, minutes
    python benchmarks/run_on_gpu.py nbs/representation/atoms.ipynb --scale gpu --set activations=minilm.safetensors --out runs/gpu
    cp runs/gpu/claims.json claims/gpu/representation.atoms.json && cp runs/gpu/atoms_capacity.json benchmarks/results/

Run the second from a checkout whose commit is the one to be named (or set ATOMSNB_COMMIT to it where git is absent): a ledger of a tree with
uncommitted changes says so. --time prints the CPU seconds of the slowest cells, whatever else the machine is doing. A run that fails, or that is ended
by Ctrl-C or a limit of time (`timeout`), leaves what it had measured in claims-cut.json; `--merge FILE` puts those records, each with the code and commit that
measured it, in the place of the committed ones and leaves the others as they are.
"""
import argparse
import ast
import importlib.util
import json
import os
import signal
import sys
import time
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def shown(*things, **_) -> None:
    """What `display` does here: text as it is, pictures by what they show."""
    for thing in things:
        print(getattr(thing, "alt", thing))


def without_jupyter() -> None:
    """Let `IPython.display` print, whether IPython is installed or not."""
    if importlib.util.find_spec("IPython") is None:
        home, module = types.ModuleType("IPython"), types.ModuleType("IPython.display")
        home.display, home.get_ipython, home.version_info = module, lambda: None, (9, 0)  # matplotlib asks for the version
        sys.modules.update({"IPython": home, "IPython.display": module})
    else:
        import IPython.display as module
    module.display, module.Markdown, module.HTML = shown, str, str


def value(text: str):
    """A Python literal, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def write_activations(scale: str, changes: dict, path: Path) -> None:
    """The rows that a scale of the atoms notebook reads, as float16 arrays fit, train, heldout."""
    import torch
    from safetensors.torch import save_file

    from atomsnb.representation.atoms import AtomsConfig, activations_of

    data = activations_of(AtomsConfig.preset(scale, **changes))
    save_file({name: getattr(data, name).to(torch.float16).contiguous() for name in ("fit", "train", "heldout")}, path, {"source": data.source, "sha256": data.sha256})
    print(f"{path.name}: {data.source}, {path.stat().st_size / 1e6:.0f} MB")


def execute(notebook: Path, parameters: dict) -> list:
    """Run the code cells of a notebook in one namespace, parameters set after the cell that declares them; CPU seconds of each."""
    module = sys.modules["notebook_page"] = types.ModuleType("notebook_page")  # a module that can be found by its name, which torch.compile asks for
    names, spent = module.__dict__, []
    for number, cell in enumerate(json.loads(notebook.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] != "code":
            continue
        started, source = time.process_time(), "".join(cell["source"])
        try:
            exec(compile(source, f"{notebook.stem}, cell {number}", "exec"), names)
        except BaseException:
            if parameters["OUT"] is not None and "ledger" in names:
                names["ledger"].save(Path(parameters["OUT"], "claims-cut.json"))
            raise
        if "parameters" in cell["metadata"].get("tags", []):
            names |= parameters
        spent.append((time.process_time() - started, number, next((line for line in source.splitlines() if line and not line.startswith("#")), "")[:80]))
    return spent


def merge(cut: Path) -> None:
    """Put the records of a ledger into the committed one of the same paper and scale."""
    from atomsnb.core.ledger import committed, load_ledger

    new = load_ledger(cut)
    target = committed(new.paper, new.scale)
    old = load_ledger(target) if target.exists() else new
    old.claims |= {key: new.claims[key] for key in new.records}
    old.records |= new.records
    old.save(target)
    print(f"{target.name}: {len(new.records)} of {len(old.records)} records from {cut.name}")


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("notebook", type=Path, nargs="?", help="without it nothing runs")
    ap.add_argument("--scale", default="gpu")
    ap.add_argument("--out", type=Path, default=None, help="folder of the ledger and of saved results; without it nothing is written")
    ap.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change one setting; may be repeated")
    ap.add_argument("--activations", type=Path, default=None, help="write the activations that the atoms notebook would read to this file, and stop")
    ap.add_argument("--merge", type=Path, metavar="FILE", help="put the records of a claims.json or claims-cut.json into the committed ledger, and stop")
    ap.add_argument("--time", action="store_true", help="print the CPU seconds of the slowest cells")
    a = ap.parse_args()
    if a.merge is not None:
        sys.path.insert(0, str(ROOT))
        return merge(a.merge)
    if a.notebook is None:
        return ap.print_help()
    for pair in a.set:
        if "=" not in pair:
            ap.error(f"--set takes NAME=VALUE, got {pair!r}")
    changes = {name: value(text) for name, text in (pair.split("=", 1) for pair in a.set)}
    if "activations" in changes:
        changes["activations"] = str(Path(changes["activations"]).resolve())
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("MPLBACKEND", "agg")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
    without_jupyter()
    if a.activations is not None:
        return write_activations(a.scale, changes, a.activations)
    if a.out is not None:
        a.out.mkdir(parents=True, exist_ok=True)
    out, notebook = None if a.out is None else str(a.out.resolve()), a.notebook.resolve()
    os.chdir(notebook.parent)
    spent = execute(notebook, {"SCALE": a.scale, "SET": changes, "OUT": out})
    print(f"{len(spent)} code cells, {sum(s for s, *_ in spent):.0f} s of CPU time")
    for seconds, number, line in sorted(spent, reverse=True)[: 12 if a.time else 0]:
        print(f"{seconds:8.1f} s  cell {number:3}  {line}")


if __name__ == "__main__":
    main()
