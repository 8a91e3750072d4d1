"""R11: do the checks notice? Small faults are planted in the exported formulas of a module, one at a time, and the module's tests and its notebook's fast cells are run on each.

    python tests/mutation.py                      # every landed paper, 40 faults each: `make mutation`
    python tests/mutation.py quantum.qnn --faults 100

A fault is a flipped sign, a dropped term, a lost transpose, an off-by-one, a wrong constant or a moved boundary. Argument checks, messages, configs and annotations are left alone: they have figures
of their own. A fault is *killed* when a test or an assertion of the notebook fails, errs, or takes four times as long as on the sound module. Survivors are printed with their line, and with the
reason where mutation_reasons.toml gives one (a fault that changes no result cannot be noticed); they count as survivors all the same.
"""
import argparse
import ast
import copy
import json
import os
import random
import re
import select
import signal
import sys
import time
import traceback
import types
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
FLIPS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
BOUNDS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
HARNESS = ("device", "progress", "dtype", "seed", "maxsize", "indent", "timeout", "chunk", "block", "desc", "stacklevel")


def is_formula(node: ast.AST) -> bool:
    """Whether the inside of a node may hold a formula: not a check, a message, an annotation or a setting of the harness."""
    if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Assert, ast.Import, ast.ImportFrom)):
        return False
    if isinstance(node, ast.If) and any(isinstance(inner, ast.Raise) for inner in node.body):
        return False
    if isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr if isinstance(node.func, ast.Attribute) else ""
        return not name.startswith(("check_", "require", "print", "warn", "tqdm", "lru_cache"))
    if isinstance(node, ast.keyword):
        return node.arg not in HARNESS
    return not (isinstance(node, ast.ClassDef) and any("Config" in ast.unparse(base) for base in node.bases))


def formula_nodes(tree: ast.Module) -> "Iterator[ast.AST]":
    """The nodes of function bodies at which a fault may be planted."""
    def walk(node: ast.AST, inside: bool) -> "Iterator[ast.AST]":
        if not is_formula(node):
            return
        if inside:
            yield node
        function = isinstance(node, (ast.FunctionDef, ast.Lambda))
        for name, value in ast.iter_fields(node):
            if name in ("decorator_list", "returns", "annotation", "slice" if not inside else "", "args" if function else ""):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from walk(child, inside or function)
    yield from walk(tree, False)


def faults_at(node: ast.AST) -> "Iterator[tuple[str, ast.AST]]":
    """(kind, replacement) for every fault that a node can take."""
    if isinstance(node, ast.BinOp):
        if type(node.op) in FLIPS:
            yield "flipped sign" if isinstance(node.op, (ast.Add, ast.Sub)) else "product for quotient", ast.BinOp(node.left, FLIPS[type(node.op)](), node.right)
        if isinstance(node.op, (ast.Add, ast.Sub)):
            yield "dropped term", node.left
        if isinstance(node.op, (ast.Mult, ast.Pow)):
            yield "dropped factor", node.left
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
        yield "flipped sign", node.operand
    elif isinstance(node, ast.Attribute) and node.attr in ("T", "mT", "mH", "H"):
        yield "lost transpose", node.value
    elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in BOUNDS:
        yield "moved boundary", ast.Compare(node.left, [BOUNDS[type(node.ops[0])]()], node.comparators)
    elif isinstance(node, ast.Constant) and type(node.value) is int and 1 < node.value <= 64:
        yield "off by one", ast.Constant(node.value + 1)
    elif isinstance(node, ast.Constant) and type(node.value) is float and node.value not in (0.0, 1e-12):
        yield "wrong constant", ast.Constant(node.value * 1.5)


class Replace(ast.NodeTransformer):
    """Replaces one node, found by its number in a walk."""

    def __init__(self, target: ast.AST, new: ast.AST) -> None:
        self.target, self.new = target, new

    def visit(self, node: ast.AST) -> ast.AST:
        return ast.copy_location(self.new, node) if node is self.target else self.generic_visit(node)


def mutants(source: str) -> "list[tuple[str, int, str, str]]":
    """(kind, line, line as it would read, whole mutated source) of every fault that can be planted."""
    tree, out = ast.parse(source), []
    places = [(i, kind) for i, node in enumerate(formula_nodes(tree)) for kind, _ in faults_at(node)]
    for i, kind in places:
        fresh = copy.deepcopy(tree)
        node = list(formula_nodes(fresh))[i]
        new = next(n for k, n in faults_at(node) if k == kind)
        said = f"{ast.unparse(node)[:60]} -> {ast.unparse(new)[:60]}"
        out.append((kind, node.lineno, said, ast.unparse(ast.fix_missing_locations(Replace(node, new).visit(fresh)))))
    return out


def install(room: str, source: str) -> types.ModuleType:
    """The module `atomsnb.room`, made from a source that is not the file's."""
    name = f"atomsnb.{room}"
    module = types.ModuleType(name)
    module.__file__ = str(ROOT / "atomsnb" / f"{room.replace('.', '/')}.py")
    module.__package__ = name.rpartition(".")[0]
    package = import_module(module.__package__)
    sys.modules[name] = module
    exec(compile(source, module.__file__, "exec"), module.__dict__)
    setattr(package, room.rpartition(".")[2], module)
    return module


def notebook_passes(room: str, module: types.ModuleType) -> bool:
    """Run the notebook's code cells but the slow ones; what is exported is taken from the module."""
    cells = json.loads((ROOT / "nbs" / f"{room.replace('.', '/')}.ipynb").read_text(encoding="utf-8"))["cells"]
    space: dict = {"__name__": "notebook", "display": lambda *a, **k: None}
    for cell in cells:
        text = "".join(cell["source"])
        if cell["cell_type"] != "code" or re.search(r"^#\|\s*(slow|eval:\s*false)", text, re.M):
            continue
        exec(compile("\n".join(line for line in text.splitlines() if not line.startswith(("%", "!"))), "cell", "exec"), space)
        if re.search(r"^#\|\s*export", text, re.M):
            space.update({k: v for k, v in vars(module).items() if k in space and getattr(v, "__module__", None) == module.__name__})
    return True


def judge(room: str, source: str, limit: float) -> "tuple[str, float]":
    """What killed a module made from `source` (test, notebook, time, import), or nothing; and the seconds it took. Runs in a forked child."""
    read, write = os.pipe()
    start, child = time.monotonic(), os.fork()
    if child == 0:
        os.setsid()
        with open(os.environ.get("ATOMSNB_MUTATION_LOG", os.devnull), "a") as log:  # a file to read when the sound module fails
            os.dup2(log.fileno(), 1), os.dup2(log.fileno(), 2)
        verdict = b"import"
        try:
            module = install(room, source)
            import pytest
            verdict = b"test"
            tests = HERE / f"test_{room.rpartition('.')[2]}.py"
            if pytest.main(["-x", "-q", "-p", "no:cacheprovider", str(tests)]) == 0:
                verdict = b"notebook"
                os.chdir(ROOT / "nbs" / room.split(".")[0])
                if notebook_passes(room, module):
                    verdict = b"-"
        except BaseException:  # whatever it is, the check that was running has noticed
            traceback.print_exc()
        sys.stdout.flush()
        os.write(write, verdict)
        os._exit(0)
    os.close(write)
    ready, _, _ = select.select([read], [], [], limit)
    verdict = os.read(read, 20).decode() if ready else "time"
    os.close(read)
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    os.waitpid(child, 0)
    return verdict, time.monotonic() - start


def reasons(room: str) -> "dict[str, str]":
    """{the fault as it is printed: why no check can notice it}, for one room."""
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    return tomllib.loads((HERE / "mutation_reasons.toml").read_text(encoding="utf-8")).get(room, {})


def score(room: str, count: int, seed: int = 0) -> dict:
    """Plant `count` of the possible faults, drawn by `seed`, and judge each."""
    source = (ROOT / "atomsnb" / f"{room.replace('.', '/')}.py").read_text(encoding="utf-8")
    sound, seconds = judge(room, source, 1800)
    if sound != "-":
        raise SystemExit(f"the sound module {room} fails its own checks ({sound or 'no verdict'}): nothing can be said about faults")
    possible = mutants(source)
    drawn = sorted(random.Random(seed).sample(range(len(possible)), min(count, len(possible))))
    print(f"{room}: {len(possible)} possible faults, {len(drawn)} planted; the sound module takes {seconds:.0f} s", flush=True)
    killers, survivors, why = {}, [], reasons(room)
    for number, i in enumerate(drawn, 1):
        kind, line, said, text = possible[i]
        verdict, took = judge(room, text, max(60.0, 4 * seconds))
        if verdict == "-":
            survivors.append(f"{room}, line {line}: {kind}: {said}" + (f" ({why[said]})" if said in why else ""))
        else:
            killers[verdict or "crash"] = killers.get(verdict or "crash", 0) + 1
        print(f"  {number}/{len(drawn)} {took:5.1f} s {'SURVIVED' if verdict == '-' else verdict}: line {line}: {kind}: {said}", flush=True)
    return {"room": room, "possible": len(possible), "tried": len(drawn), "killed": len(drawn) - len(survivors), "killers": killers, "survivors": survivors}


def main() -> int:
    """Judge the named rooms (every landed paper by default) and write R11; 1 if a room stays below nine in ten."""
    from atomsnb.core.papers import papers
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", nargs="*", help="part.name; default: every landed paper")
    parser.add_argument("--faults", type=int, default=40, help="faults planted in each room (default 40)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "reliability")
    args = parser.parse_args()
    import platform
    from datetime import datetime, timezone

    import hypothesis  # noqa: F401  (loaded once, before the forks)
    import matplotlib  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import torch
    from run_all import machine
    start, rooms = time.monotonic(), [score(room, args.faults) for room in args.rooms or [p.room for p in papers() if p.status == "landed"]]
    tried, killed = sum(r["tried"] for r in rooms), sum(r["killed"] for r in rooms)
    result = {"id": "R11", "name": "faults planted in exported formulas, found by tests or notebook", "tried": tried, "passed": killed, "failed": tried - killed, "target": "≥ 90 % in each paper", "rooms": rooms,
              "wall_s": round(time.monotonic() - start, 1), "machine": machine(), "date": datetime.now(timezone.utc).date().isoformat(), "python": platform.python_version(), "torch": torch.__version__}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "R11.json").write_text(json.dumps(result, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    for r in rooms:
        print(f"{r['room']}: {r['killed']} of {r['tried']} killed ({', '.join(f'{n} by {k}' for k, n in sorted(r['killers'].items()))})", *(f"  survived: {s}" for s in r["survivors"]), sep="\n")
    return int(any(r["killed"] < 0.9 * r["tried"] for r in rooms))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["ATOMSNB_SHAPES"] = "0"  # annotations are watched at import, which happens before the tests here
    sys.path[:0] = [str(HERE / "reliability"), str(HERE)]
    sys.exit(main())
