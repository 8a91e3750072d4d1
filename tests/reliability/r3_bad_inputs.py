"""R3: bad inputs for every public function. A bad argument is refused by a ValueError or TypeError that names it; nothing is silently NaN.

The modules r3_cases*.py of this folder hold the calls. Twelve classes of bad input: NaN, +inf, -inf, empty, an axis of size zero, wrong rank, wrong dtype, wrong device, non-contiguous (which
is not bad: the answer must not change), a number out of range, a size that does not fit, text where a number belongs.
`python tests/reliability/r3_bad_inputs.py --json out.json` prints and stores the figure.
"""
import argparse
import contextlib
import inspect
import io
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


TENSORS = ("tensor", "stack", "rows", "sized", "sized stack", "sized rows")
"""Kinds of tensors. "sized" must fit another argument. A stack is documented to take leading axes, so that only a missing axis is a wrong rank; rows may have any
number of axes before their last one, so that only a number without axes is."""


@dataclass
class Case:
    """One public function, a call that is right, and the kind of each argument to spoil."""

    target: str  # "module:name", below atomsnb
    good: Callable[[], dict]  # fresh keyword arguments of a call that works
    kinds: "dict[str, str]" = field(default_factory=dict)  # argument -> a kind of `bad_values`
    names: "dict[str, str]" = field(default_factory=dict)  # argument -> other words under which a message may name it
    allowed: "dict[str, dict[str, str]]" = field(default_factory=dict)  # argument -> class -> why the documentation allows it: not tried as a bad input, and must be accepted

    @property
    def thing(self) -> Any:
        """The function itself."""
        module, name = self.target.split(":")
        thing = import_module(f"atomsnb.{module}")
        for part in name.split("."):
            thing = getattr(thing, part)
        return thing

    def call(self, **changed: Any) -> Any:
        """The call with some arguments replaced."""
        thing = self.thing
        arguments = {**self.good(), **changed}
        first = arguments.pop("self", None)
        positional = [first] if first is not None else []
        for parameter in inspect.signature(thing).parameters.values():
            if parameter.kind == parameter.VAR_POSITIONAL and isinstance(arguments.get(parameter.name), tuple):
                positional += arguments.pop(parameter.name)
            elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL) and parameter.name in arguments:
                positional.append(arguments.pop(parameter.name))
        return thing(*positional, **arguments)


def spoil(value: Tensor, number: float) -> Tensor:
    """A copy with its middle entry replaced."""
    out = value.clone()
    out.view(-1)[out.numel() // 2] = number
    return out


def bad_whole(kind: str, good: Tensor) -> "Iterator[tuple[str, Any]]":
    """Bad tensors in place of whole numbers or truth values."""
    yield "empty", good[:0]
    yield "zero axis", good[..., :0]
    yield "wrong rank", good[0] if kind == "mask of several shapes" else good[None, None] if kind in ("token rows", "places", "bits of runs") else good[None]
    yield "wrong device", good.to("meta")
    yield "text", "a tensor"
    yield "wrong dtype", good.to(torch.complex64) if "bits" in kind else good.float()
    if kind in ("token ids", "token rows"):
        yield from (("range", good * 0 - 1), ("range", good * 0 + 10**6))
    elif kind in ("places", "parents"):  # places count from either end; a parent of -1 is a root
        yield from (("range", good * 0 + 10**6), ("range", good * 0 - 10**6))
    elif kind == "naturals":
        yield "range", good * 0 - 1
    elif kind in ("labels", "bits", "bits of runs"):
        yield from (("range", good * 0 + 2), ("range", good * 0 if "labels" in kind else good * 0 - 1), ("nan", spoil(good.float(), math.nan)), ("+inf", spoil(good.float(), math.inf)))
    if kind in ("mask", "mask of several shapes", "labels", "bits", "bits of runs"):
        yield "size", torch.cat([good, good[..., :1]], dim=-1)


def bad_sequences(kind: str, good: Any) -> "Iterator[tuple[str, Any]]":
    """Bad sequences and mappings."""
    if kind in ("whole numbers", "qubits"):
        yield from (("empty", ()), ("wrong rank", good[0]), ("text", "three"))
        yield from ((label, (*good[:-1], bad)) for label, bad in (("range", -1), ("wrong dtype", 2.5), ("nan", math.nan), ("text", "three")))
        if kind == "qubits":
            yield from (("range", (*good[:-1], 10**6)), ("size", (*good, good[-1])))
    elif kind in ("texts", "words"):
        yield from (("empty", []), ("wrong dtype", 3), ("wrong dtype", [3]))
        if kind == "words":
            yield from (("range", ["no-such-word"]), ("wrong rank", good[0]))
        else:
            yield "wrong rank", "one text"
    elif kind == "triples":  # flip mask, sign mask and number of Ys of Pauli strings
        yield from (("empty", []), ("range", [(-1, 0, 0)]), ("range", [(1, 1, 0)]), ("wrong dtype", [(1, 0, 2.5)]), ("size", [(1, 0)]), ("wrong rank", good[0]), ("text", "three"))
    else:  # named tensors or named naturals
        name = next(iter(good))
        yield from (("empty", {}), ("text", "three"))
        yield from ((label, {**good, name: bad}) for label, bad in bad_values("tensor" if kind == "named tensors" else "naturals", good[name]))


NAN_PASSES = "documented NaN: values are not looked at, since that would wait for a GPU"
"""A reason in `Case.allowed` for NaN and infinities: what comes out may be NaN, if the docstring says "NaN in, NaN out". Such rows count neither as passed nor as tried."""
NAN_DOCUMENTED = dict.fromkeys(("nan", "+inf", "-inf"), NAN_PASSES)


WHOLE = ("token ids", "token rows", "naturals", "places", "parents", "labels", "bits", "bits of runs", "mask", "mask of several shapes")
"""Tensors of whole numbers or truth values. Token ids have an upper limit; naturals have none that the function could know. Token rows and places are documented as (n,) or (B, n),
bits of runs as (B, n) or (R, B, n)."""
SEQUENCES = ("whole numbers", "qubits", "texts", "words", "triples", "named tensors", "named naturals")


def parts(kind: str) -> "list[str]":
    """The kinds that an argument is spoiled by: "sized + negative" is two."""
    return kind.removeprefix("optional ").split(" + ")


def bad_values(kind: str, good: Any) -> "Iterator[tuple[str, Any]]":
    """(class, value) pairs to try in place of a good value; "optional" in front of a kind: None is no bad value."""
    if " + " in kind:
        for part in kind.split(" + "):
            yield from bad_values(part, good)
    elif kind in ("beyond one", "negative", "too large"):
        yield "range", good + 2 if kind == "beyond one" else -1 - good if kind == "negative" else 10**6
    elif kind in ("array", "array rows"):  # of numpy: what the kinds of tensors say, apart from devices
        spoiled = bad_values("rows" if "rows" in kind else "tensor", torch.from_numpy(good))
        yield from ((label, bad.numpy() if isinstance(bad, Tensor) else bad) for label, bad in spoiled if label != "wrong device")
    elif kind == "array of counts":
        yield from (("empty", good[:0]), ("wrong rank", good[None]), ("wrong dtype", good + 0.5), ("range", good * 0), ("range", -good), ("text", "three"))
    elif kind == "mapping":
        yield from (("empty", {}), ("wrong dtype", 3), ("text", "three"))
    elif kind == "record of tensors":  # a dataclass: the numbers of its fields are spoiled, one field at a time
        for name in (f.name for f in fields(good) if isinstance(getattr(good, f.name), Tensor)):
            yield from ((label, replace(good, **{name: bad})) for label, bad in bad_values("tensor", getattr(good, name)) if label in ("nan", "+inf", "-inf"))
    elif kind.startswith("optional "):
        yield from ((label, bad) for label, bad in bad_values(kind.removeprefix("optional "), good) if bad is not None)
    elif kind in WHOLE:
        yield from bad_whole(kind, good)
    elif kind in SEQUENCES:
        yield from bad_sequences(kind, good)
    elif kind in ("states", "amplitudes"):  # complex (..., 2**n); states are unit vectors
        yield from (("nan", spoil(good, math.nan)), ("+inf", spoil(good, math.inf)), ("-inf", spoil(good, -math.inf)), ("empty", good[:0]), ("zero axis", good[..., :0]))
        yield from (("wrong rank", good[0]), ("wrong dtype", good.real), ("wrong device", good.to("meta")), ("text", "a tensor"), ("size", torch.cat([good, good[..., :1]], dim=-1)))
        if kind == "states":
            yield "range", 2 * good
    elif kind in TENSORS:
        yield from (("nan", spoil(good, math.nan)), ("+inf", spoil(good, math.inf)), ("-inf", spoil(good, -math.inf)))
        yield "empty", good[:0]
        yield "zero axis", good[..., :0]
        yield "wrong rank", good.sum() if "rows" in kind else good[0] if "stack" in kind else good[None]
        yield "wrong dtype", (good * 10).long()
        yield "wrong device", good.to("meta")
        yield "text", "a tensor"
        if "sized" in kind:
            yield "size", torch.cat([good, good[..., :1]], dim=-1)
    elif kind in ("numbers", "numbers of any shape"):  # a list, one number per seed or per point
        if isinstance(good, tuple):
            yield from ((label, tuple(bad)) for label, bad in bad_values(kind, list(good)))
            return
        flat = good if isinstance(good, list) and not isinstance(good[0], list) else [0.5, 0.6]
        yield from (("nan", [math.nan, *flat[1:]]), ("+inf", [math.inf, *flat[1:]]), ("-inf", [*flat[:-1], -math.inf]), ("empty", []), ("text", ["three"] * len(flat)))
        if kind == "numbers":
            yield "wrong rank", [[flat]]
    elif kind == "integers":
        yield from (("empty", good[:0]), ("wrong rank", good[None]), ("range", good * 0 - 1), ("text", "a tensor"))
    elif kind == "count":
        yield from (("range", 0), ("range", -1), ("wrong dtype", 2.5), ("text", "three"), ("nan", math.nan), ("wrong dtype", None))
    elif kind == "natural":
        yield from (("range", -1), ("wrong dtype", 2.5), ("text", "three"), ("nan", math.nan))
    elif kind == "positive":
        yield from (("nan", math.nan), ("+inf", math.inf), ("-inf", -math.inf), ("range", -1.0), ("range", 0.0), ("text", "three"))
    elif kind == "nonnegative":
        yield from (("nan", math.nan), ("+inf", math.inf), ("range", -1.0), ("text", "three"))
    elif kind == "finite":
        yield from (("nan", math.nan), ("+inf", math.inf), ("text", "three"))
    elif kind == "share":
        yield from (("nan", math.nan), ("+inf", math.inf), ("range", -0.5), ("range", 1.5), ("text", "three"))
    elif kind == "above one":
        yield from (("nan", math.nan), ("+inf", math.inf), ("range", 1.0), ("range", -2.0), ("text", "three"))
    elif kind == "index":
        yield from (("range", 10**6), ("range", -(10**6)), ("wrong dtype", 2.5), ("text", "three"), ("nan", math.nan))
    elif kind == "token":
        yield from (("range", 10**6), ("range", -1), ("wrong dtype", 2.5), ("text", "three"), ("nan", math.nan))
    elif kind == "floating dtype":
        yield from (("wrong dtype", torch.int64), ("text", "float32"))
    elif kind == "device":
        yield "text", "no-such-device"
    elif kind == "path":  # a file that is not there has an exception of its own
        yield from (("wrong dtype", 3), ("wrong dtype", None))
    elif kind == "choice":
        yield from (("range", "no-such-option"), ("wrong dtype", 3), ("empty", ""))
    elif kind == "text":
        yield from (("wrong dtype", 3), ("wrong dtype", None), ("empty", ""))
    else:
        raise ValueError(f"kind {kind}")


def silent_nan(result: Any, depth: int = 4) -> bool:
    """Whether a result holds a NaN, so many containers deep."""
    if isinstance(result, Tensor):
        return (result.is_floating_point() or result.is_complex()) and not result.is_meta and bool(torch.isnan(result).any())
    if isinstance(result, np.ndarray):
        return result.dtype.kind in "fc" and bool(np.isnan(result).any())
    if isinstance(result, float):
        return math.isnan(result)
    if depth == 0:
        return False
    if isinstance(result, (tuple, list)):
        return any(silent_nan(r, depth - 1) for r in result)
    if isinstance(result, Mapping):
        return any(silent_nan(r, depth - 1) for r in result.values())
    return any(silent_nan(r, depth - 1) for r in vars(result).values()) if hasattr(result, "__dict__") and not isinstance(result, type) else False


def judge(case: Case, argument: str, value: Any) -> "tuple[str, str]":
    """(outcome, what was said): named | unnamed | wrong type | accepted | silent nan."""
    try:
        result = case.call(**{argument: value})
    except (ValueError, TypeError) as error:
        words = {argument, *case.names.get(argument, "").split()} - {""}
        said = str(error)
        named = any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", said) for word in words)  # as a word: an "n" inside another is no name
        return ("named" if named else "unnamed"), f"{type(error).__name__}: {said[:160]}"
    except Exception as error:
        return "wrong type", f"{type(error).__name__}: {str(error)[:160]}"
    return ("silent nan" if silent_nan(result) else "accepted"), f"returned {str(result)[:80]}"


def strided(good: Tensor) -> Tensor:
    """A view of the same numbers that is not contiguous."""
    padded = torch.zeros((*good.shape[:-1], good.shape[-1] * 2), dtype=good.dtype)
    padded[..., ::2] = good
    return padded[..., ::2]


def noncontiguous(case: Case, argument: str) -> "tuple[str, str]":
    """A strided view of the same numbers gives the same answer ("named", as nothing is missed), or is refused by name where the documentation says so."""
    other = strided(case.good()[argument])
    if "non-contiguous" in case.allowed.get(argument, {}):
        return judge(case, argument, other)

    def flat(result: Any) -> "list[str]":
        values = result if isinstance(result, (tuple, list)) else (result,)
        tensors = [part for value in values for part in ((*value.parameters(), *value.buffers()) if isinstance(value, torch.nn.Module) else (value,))]
        real = [torch.view_as_real(v.detach().resolve_conj()) if isinstance(v, Tensor) and v.is_complex() else v for v in tensors]
        return [str(torch.round(v.detach() * 1e4) + 0.0) if isinstance(v, Tensor) and v.is_floating_point() else re.sub("0x[0-9a-f]+", "", str(v)) for v in real]

    def seeded(**changed: Any) -> "list[str]":
        torch.manual_seed(0)
        return flat(case.call(**changed))
    try:
        one, two = seeded(), seeded(**{argument: other})
        if one != two and len(one) == len(two):  # what differs between two equal calls, such as times, says nothing
            same = [x == y for x, y in zip(one, seeded())]
            one, two = [[x for x, keep in zip(parts, same) if keep] for parts in (one, two)]
        return ("named" if one == two and one else "changed"), ""
    except Exception as error:
        return "changed", f"{type(error).__name__}: {str(error)[:160]}"


def case_rows(case: Case) -> "list[dict]":
    """Every class on every argument of one function."""
    rows = []
    case.call()  # the good call works: otherwise every refusal would count as a success
    for argument, kind in case.kinds.items():
        allowed = case.allowed.get(argument, {})
        for label, value in bad_values(kind, case.good().get(argument)):
            outcome, said = judge(case, argument, value)
            if label == "wrong device" and outcome == "silent nan":
                outcome = "accepted"  # what comes back is memory that nothing was written to: whether there is a NaN in it is chance
            if label not in allowed:
                rows.append({"function": case.target, "argument": argument, "class": label, "outcome": outcome, "said": said})
            elif allowed[label] == NAN_PASSES and outcome in ("accepted", "silent nan") and "NaN in, NaN out" in (inspect.getdoc(case.thing) or ""):
                rows.append({"function": case.target, "argument": argument, "class": label, "outcome": "documented NaN", "said": said})
            elif outcome != "accepted":  # an allowance that is not kept is a miss
                rows.append({"function": case.target, "argument": argument, "class": label, "outcome": "not allowed", "said": f"{allowed[label]}; but {said}"})
        if parts(kind)[0] in (*TENSORS, *WHOLE, "states", "amplitudes"):
            outcome, said = noncontiguous(case, argument)
            rows.append({"function": case.target, "argument": argument, "class": "non-contiguous", "outcome": outcome, "said": said})
    return rows


def all_cases() -> "list[Case]":
    """The `CASES` of every module r3_cases*.py of this folder, the modules in the order of their names."""
    return [case for path in sorted(Path(__file__).parent.glob("r3_cases*.py")) for case in import_module(path.stem).CASES]


def measure(share: float = 1.0) -> dict:
    """Try every class on every argument of every case; `share` < 1 takes an evenly spread part of the cases."""
    start, step = time.monotonic(), max(1, round(1 / share))
    with contextlib.redirect_stdout(io.StringIO()):
        every = [row for case in all_cases()[::step] for row in case_rows(case)]
    rows = [row for row in every if row["outcome"] != "documented NaN"]
    good = sum(r["outcome"] == "named" for r in rows)
    return {"id": "R3", "name": "bad inputs refused by name", "tried": len(rows), "passed": good, "failed": len(rows) - good,
            "silent_nan": sum(r["outcome"] == "silent nan" for r in rows), "documented_nan": len(every) - len(rows), "functions": len({r["function"] for r in rows}),
            "target": ">= 95 %, no silent NaN", "wall_s": round(time.monotonic() - start, 1), "misses": [r for r in rows if r["outcome"] != "named"]}


def main() -> int:
    """Print the figure and its misses; store it where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the result here")
    result = measure()
    for miss in result["misses"]:
        print(f"  {miss['function']}({miss['argument']}={miss['class']}): {miss['outcome']}: {miss['said']}")
    print(f"R3: {result['passed']} of {result['tried']} refused by name over {result['functions']} functions; {result['silent_nan']} silent NaN, {result['documented_nan']} documented (not counted)")
    args = parser.parse_args()
    if args.json:
        args.json.write_text(json.dumps({k: v for k, v in result.items() if k != "misses"}, indent=1))
    return int(result["passed"] < 0.95 * result["tried"] or result["silent_nan"] > 0)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(main())
