"""R7: too little memory. Every landed paper ends with one line that says what was asked for, what there was and which setting to lower; exit status 1, nothing half-written, and the process goes on.

Four kinds of cases, all under a cap on the address space (`RLIMIT_AS`, which child processes inherit):

- *raised*: `atomsnb run PAPER --set SETTING=<a zero too many>`, the way in which memory runs out for a user, for every paper and study with a ledger; the line must name that setting and the size that was asked for;
- *tight*: the same command without a setting, under a cap that lets the kernel import and the experiment fail. Where Python itself raises a bare `MemoryError`, a shared library cannot be mapped, or native code ends the kernel because it could not get its few kilobytes, no size is known, and the line must say
  so in words: counted as passed, and counted in `without_size`, with the names of the cases in `unsized`. Which of them end so varies from run to run: at the rim of a cap whoever comes last is refused;
- *training*: `atomsnb train PAPER` for the papers that have a training step: one line on standard error;
- *inside*: library functions of every room, called with sizes that cannot be met and then with small ones: the message has the size, the result afterwards is bit for bit that of before, and the memory is given back. One more case: a kernel that is ended by signal 9, as the system ends it; it has no size either, and is counted in `without_size` like the others.

Not covered: a GPU (its allocator's message is read in the tests of `core.memory`, none was provoked), the system's own killer (its signal is sent by hand), and limits of containers (read from made-up files in the notebook of `core.memory`).
`python tests/reliability/r7_out_of_memory.py` prints the figure and its misses; Linux only.
"""
import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
GIB, LIMIT = 2**30, 240.0
"Seconds that a run may take: the cells before the fault are the paper's own."

RAISED = {"representation.atoms": ("batch", 10**9), "models.training": ("batch", 10**9), "quantum.qnn": ("parity_runs", 10**9), "quantum.entanglement": ("batch", 10**8), "operators.deeponet": ("n_triples", 10**9), "operators.nns2nos": ("samples", 10**9)}
"Room: a setting, and what it is raised to, under a cap of four gibibytes."
TIGHT = {"representation.atoms": 2000, "models.training": 1700, "quantum.qnn": 2950, "quantum.entanglement": 1700, "operators.deeponet": 1900, "operators.nns2nos": 1900}
"Room: the cap in MiB; a kernel takes 1.4 to 2.9 GiB of addresses for its imports and threads alone."
UNSIZED = ("does not say how much was asked for", "how much it asked for is not known")
"How a line says that no size is known."
TRAINED = {"representation.atoms": ("n_atoms", 10**8), "quantum.entanglement": ("batch", 10**8)}
ENDED = re.compile(r"the process (?:was ended|ended itself) .+?, most likely for want of memory, (?P<asked>how much it asked for is not known), .+? \((?P<bound>.+?)\); lower (?P<advice>.+)")
SAID = re.compile(r"out of memory: (?P<asked>.+?) (?:were|was) asked for.*?, (?P<free>.+?) are available of (?P<limit>.+?) \((?P<bound>.+?)\).*; lower (?P<advice>.+)")


def capped(words: "list[str]", cap: int, cwd: Path) -> "tuple[int, str, str, float]":
    """Run this interpreter with `words` under a cap in bytes; (exit status, stdout, stderr, seconds). A hang is status 124."""
    start, env = time.monotonic(), {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "ATOMSNB_PROGRESS": "0", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)}
    process = subprocess.Popen([sys.executable, *words], cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (cap, cap)))
    try:
        out, err = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.terminate()  # passes the end on to the kernel
        try:
            out, err = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        return 124, out, err, time.monotonic() - start
    return process.returncode, out, err, time.monotonic() - start


def wrong_message(text: str, knobs: "tuple[str, ...]", sized: bool) -> "list[str]":
    """What is wrong with the line that a user sees: it must be one line, say the three things, and name one of `knobs` to lower."""
    lines, wrong = [line for line in text.splitlines() if "out of memory" in line or "for want of memory" in line], []
    found = (SAID.search(lines[0]) or (None if sized else ENDED.search(lines[0]))) if lines else None
    if len(lines) != 1 or found is None:
        return [f"no single line that says what was asked for, what there is and what to lower: {' | '.join(text.split(chr(10)))[:200]!r}"]
    if not any(f"--set {knob}=" in found["advice"] for knob in knobs):
        wrong.append(f"names none of {knobs} to lower: {found['advice'][:80]}")
    size = re.match(r"[\d.]+ [KMGTPE]?i?B$|more than", found["asked"])
    if not size and (sized or not any(words in lines[0] for words in UNSIZED)):
        wrong.append(f"does not say how much was asked for: {found['asked']}")
    if "Traceback" in text:
        wrong.append("a traceback")
    return wrong


def wrong_folder(folder: Path) -> "list[str]":
    """What is half-written in the folder of a run."""
    from atomsnb.core.ledger import LedgerError, load_ledger

    wrong = [f"{p.name} was left behind" for p in folder.rglob("*") if p.name.endswith(".tmp") or p.name == ".lock"]
    try:
        told = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        wrong += [f"run.json says {told['status']}"] * (told["status"] != "failed")
        if (folder / "claims.json").exists():
            load_ledger(folder / "claims.json")
        for notebook in folder.glob("*.ipynb"):
            json.loads(notebook.read_text(encoding="utf-8"))
        from atomsnb.core.folder import RunFolder

        with RunFolder(folder, told["identity"]).claimed():
            pass
    except (OSError, ValueError, KeyError, LedgerError) as error:
        wrong.append(f"the folder cannot be taken up again: {error}")
    return wrong


def wrong_end(status: int, text: str, folder: Path, knobs: "tuple[str, ...]", sized: bool) -> "list[str]":
    """Everything that is wrong with the end of a run."""
    if status == 124:
        return [f"no end within {LIMIT:.0f} s"]
    return [f"exit status {status}"] * (status != 1) + wrong_message(text, knobs, sized) + wrong_folder(folder)


# --- inside one process ---

def inside_cases() -> "list[tuple[str, str, Callable[[], Any], Callable[[], Any]]]":
    """(room, what, a call that asks for a gibibyte or more, a small call whose result is compared)."""
    import torch

    from atomsnb.models import training
    from atomsnb.nn import frames
    from atomsnb.operators import deeponet, nns2nos
    from atomsnb.quantum import entanglement, qnn
    from atomsnb.representation import atoms

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(0))

    def trained(**options: Any) -> torch.Tensor:
        recipe = training.ModelRecipe.preset("cpu", **{"vocab_size": 16, "d_model": 8, "n_layers": 1, "n_heads": 1, "d_ff": 8, "window": 8, "batch": 2, "steps": 3, "warmup": 1} | options)
        model, _ = training.train(recipe, torch.arange(400) % 13, end_id=0, mask_id=1, device="cpu", progress=False)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(1)

    return [
        ("representation.atoms", "the metric of 40,000 dimensions", lambda: atoms.AtomicInnerProduct.fit(torch.ones(2, 40_000)), lambda: atoms.AtomicInnerProduct.fit(draw(50, 6)).metric),
        ("representation.atoms", "a million atoms", lambda: atoms.ThresholdSAE(768, 10**6), lambda: atoms.ThresholdSAE(8, 16).w_enc.detach()),
        ("representation.atoms", "all cosines of two large dictionaries", lambda: atoms.best_cosines(torch.ones(4, 30_000), torch.ones(4, 30_000)), lambda: atoms.best_cosines(draw(4, 6), draw(4, 6))),
        ("representation.atoms", "a hundred million planted samples", lambda: frames.planted_atoms(48, 96, 3, 10**8, seed=0), lambda: frames.planted_atoms(8, 16, 2, 20, seed=0).acts),
        ("models.training", "a batch of a hundred million windows", lambda: trained(batch=10**8), trained),
        ("models.training", "a hidden layer of a hundred million", lambda: trained(d_ff=10**8), trained),
        ("quantum.qnn", "a circuit on 28 qubits", lambda: qnn.QNN(28, ["ZX"])(torch.ones(1, 28, dtype=torch.int64)), lambda: qnn.QNN(3, ["ZX"], generator=seeded())(torch.tensor([[1, 0, 1]])).detach()),
        ("quantum.qnn", "ten million inputs at once", lambda: qnn.QNN(12, ["ZX"])(torch.ones(10**6, 12, dtype=torch.int64)), lambda: qnn.QNN(3, ["ZX", "XX"], generator=seeded())(torch.tensor([[1, 0, 1]])).detach()),
        ("quantum.entanglement", "attention over 30,000 tokens", lambda: entanglement.random_attention(30_000, 1.0, generator=seeded()), lambda: entanglement.random_attention(8, 1.0, generator=seeded())),
        ("quantum.entanglement", "a million attention matrices", lambda: entanglement.random_attention(32, 1.0, samples=10**6, generator=seeded()), lambda: entanglement.random_attention(8, 1.0, samples=2, generator=seeded())),
        ("operators.deeponet", "a grid of 30,000 functions and places", lambda: deeponet.DeepONet(4).grid(torch.ones(30_000, 4), torch.ones(30_000, 1)), lambda: deeponet.DeepONet(4).grid(draw(3, 4), draw(5, 1)).detach()),
        ("operators.deeponet", "a layer of 40,000 by 40,000", lambda: deeponet.DeepONet(40_000, branch=(40_000,)), lambda: deeponet.DeepONet(4, branch=(6,)).coeffs(draw(2, 4)).detach()),
        ("operators.nns2nos", "a Fourier layer on 4096 x 4096 points", lambda: nns2nos.FNO(1, 1, 2, 64)(torch.ones(1, 1, 4096, 4096)), lambda: nns2nos.FNO(1, 1, 2, 4)(draw(1, 1, 8, 8)).detach()),
        ("operators.nns2nos", "ten thousand layers' worth of channels", lambda: nns2nos.FNO(1, 1, 64, 1024), lambda: nns2nos.FNO(1, 1, 2, 4)(draw(1, 1, 8, 8)).detach()),
    ]


def judge_inside(cases: "list[tuple[str, str, Callable[[], Any], Callable[[], Any]]]", spare: int = GIB // 2, keep: int = GIB // 8) -> "list[list[str]]":
    """What is wrong with each case, in this process, with `spare` bytes of addresses left; a case may keep at most `keep` of them."""
    import gc

    import torch

    from atomsnb.core.memory import MemoryShortageError, explained, headroom

    before = [small() for _, _, _, small in cases]
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + spare, resource.getrlimit(resource.RLIMIT_AS)[1]))
    rows = []
    for (room, _, large, small), expected in zip(cases, before):
        wrong, there, start = [], headroom().free or 0, time.monotonic()
        try:
            with explained(room):
                large()
            wrong.append("there was enough memory")
        except MemoryShortageError as error:
            from atomsnb.core.papers import memory_settings

            wrong += wrong_message(str(error), memory_settings(room), sized=True)
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {' '.join(str(error).split())[:120]}")
        wrong += [f"took {time.monotonic() - start:.0f} s"] * (time.monotonic() - start > 20)
        gc.collect()
        lost = there - (headroom().free or 0)
        wrong += [f"kept {lost / 2**20:.0f} MiB"] * (lost > keep)
        try:
            wrong += ["another result afterwards"] * (not torch.equal(small(), expected))
        except Exception as error:
            wrong.append(f"afterwards {type(error).__name__}: {' '.join(str(error).split())[:120]}")
        rows.append(wrong)
    return rows


def inside() -> "dict[str, list[str]]":
    """The cases inside one process, in a fresh interpreter; {name: what is wrong}."""
    status, out, err, _ = capped([__file__, "--inside"], 16 * GIB, ROOT)
    if status != 0 or not out.strip():
        return {"inside: the process": [f"ended with status {status}: {err.strip()[-200:]}"]}
    return json.loads(out.splitlines()[-1])


# --- from outside ---

def killed(place: Path) -> "dict[str, list[str]]":
    """A notebook whose kernel is ended by signal 9: the likely reason is named, and the run ends as for any failing cell."""
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    nbformat.write(new_notebook(cells=[new_code_cell("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")]), place / "trial.ipynb")
    status, out, err, _ = capped(["-m", "atomsnb", "run", str(place / "trial.ipynb"), "--out", str(place / "killed")], 4 * GIB, place)
    said = re.search(r"FAILED in cell 0: the process was ended by signal 9, most likely for want of memory, how much it asked for is not known, .+ \(.+\); lower .+", out)
    return {"a killed kernel": ([f"exit status {status}"] * (status != 1)) + ([] if said else [f"says {out[-200:]!r}"]) + ["a traceback"] * ("Traceback" in out + err) + wrong_folder(place / "killed")}


def measure(share: float = 1.0) -> dict:
    """Every case; `share` < 1 takes those inside one process and the killed kernel, which last seconds."""
    from atomsnb.core.papers import ledger_rooms, memory_settings, papers

    start, unsized, slowest = time.monotonic(), ["a killed kernel"], 0.0
    found = inside()
    with tempfile.TemporaryDirectory() as base:
        place = Path(base)
        found |= killed(place)

        def end(kind: str, room: str, words: "list[str]", cap: int, knobs: "tuple[str, ...]") -> "tuple[str, list[str], str, float]":
            status, out, err, seconds = capped(["-m", "atomsnb", *words, "--out", str(place / f"{kind}-{room}")], cap, place)
            return f"{kind}: {room}", wrong_end(status, out + err, place / f"{kind}-{room}", knobs, kind != "tight"), out + err, seconds

        tasks: list[tuple[str, str, list[str], int, tuple[str, ...]]] = []
        if share >= 1:
            landed = {paper.room for paper in papers() if paper.status == "landed"}
            rooms = [room for room in ledger_rooms() if room in landed or room not in {paper.room for paper in papers()}]
            for room in rooms:
                if room not in RAISED or room not in TIGHT:
                    found[f"raised: {room}"] = ["a paper without a case of this suite"]
                    continue
                key, value = RAISED[room]
                tasks.append(("raised", room, ["run", room, "--set", f"{key}={value}"], 4 * GIB, (key,)))
                tasks.append(("tight", room, ["run", room], TIGHT[room] * 2**20, memory_settings(room)))
            tasks += [("training", room, ["train", room, "--set", f"{key}={value}"], 4 * GIB, (key,)) for room, (key, value) in TRAINED.items()]
        with ThreadPoolExecutor(2) as pool:
            for name, wrong, said, seconds in pool.map(lambda task: end(*task), tasks):
                found[name] = wrong
                unsized += [name] * any(words in said for words in UNSIZED)
                slowest = max(slowest, seconds)
    misses = [f"{name}: {'; '.join(wrong)}" for name, wrong in found.items() if wrong]
    return {"id": "R7", "name": "too little memory: one line with what was asked for, what there is and what to lower; the process usable after", "tried": len(found), "passed": len(found) - len(misses), "failed": len(misses), "ok": not misses,
            "target": "every landed paper, by a setting and by a cap", "wall_s": round(time.monotonic() - start, 1), "slowest_s": round(slowest, 1), "without_size": len(unsized), "unsized": unsized, "gpu": "not measured",
            "missed": [m.split(":")[0] + ":" + m.split(":")[1] for m in misses], "misses": misses}


def main() -> int:
    """Print the figure and its misses; with `--inside`, judge the cases in this process and print them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--inside", action="store_true")
    args = parser.parse_args()
    if args.inside:
        import torch

        torch.set_num_threads(1)
        cases = inside_cases()
        print(json.dumps({f"inside: {room}, {what}": wrong for (room, what, _, _), wrong in zip(cases, judge_inside(cases))}))
        return 0
    figure = measure(args.share)
    print(*figure["misses"], f"R7: {figure['passed']} of {figure['tried']} in {figure['wall_s']} s, the slowest run in {figure['slowest_s']} s; {figure['without_size']} without a size ({', '.join(figure['unsized'])})", sep="\n")
    return int(not figure["ok"])


if __name__ == "__main__":
    sys.exit(main())
