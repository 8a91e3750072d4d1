"""R3: bad inputs for every public function. A bad argument is refused by a ValueError or TypeError that names it; nothing is silently NaN.

Twelve classes of bad input: NaN, +inf, -inf, empty, an axis of size zero, wrong rank, wrong dtype, wrong device, non-contiguous (which
is not bad: the answer must not change), a number out of range, a size that does not fit, text where a number belongs.
`python tests/reliability/r3_bad_inputs.py --json out.json` prints and stores the figure.
"""
import argparse
import contextlib
import inspect
import io
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


TENSORS = ("tensor", "sized", "sized stack", "sized rows")
"""Kinds of tensors. "sized" must fit another argument. A stack is documented to take leading axes, so that only a missing axis is a wrong rank; rows may have any
number of axes before their last one, so that only a number without axes is."""


@dataclass
class Case:
    """One public function, a call that is right, and the kind of each argument to spoil."""

    target: str  # "module:name", below atomsnb
    good: Callable[[], dict]  # fresh keyword arguments of a call that works
    kinds: "dict[str, str]" = field(default_factory=dict)  # argument -> a kind of `bad_values`
    names: "dict[str, str]" = field(default_factory=dict)  # argument -> other words under which a message may name it

    def call(self, **changed: Any) -> Any:
        """The call with some arguments replaced."""
        module, name = self.target.split(":")
        thing = import_module(f"atomsnb.{module}")
        for part in name.split("."):
            thing = getattr(thing, part)
        arguments = {**self.good(), **changed}
        first = arguments.pop("self", None)
        positional = [first] if first is not None else []
        for parameter in inspect.signature(thing).parameters.values():
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL) and parameter.name in arguments:
                positional.append(arguments.pop(parameter.name))
        return thing(*positional, **arguments)


def spoil(value: Tensor, number: float) -> Tensor:
    """A copy with its middle entry replaced."""
    out = value.clone()
    out.view(-1)[out.numel() // 2] = number
    return out


def bad_values(kind: str, good: Any) -> "Iterator[tuple[str, Any]]":
    """(class, value) pairs to try in place of a good value."""
    if kind in TENSORS:
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
    elif kind == "choice":
        yield from (("range", "no-such-option"), ("wrong dtype", 3), ("empty", ""))
    elif kind == "text":
        yield from (("wrong dtype", 3), ("wrong dtype", None), ("empty", ""))
    else:
        raise ValueError(f"kind {kind}")


def silent_nan(result: Any) -> bool:
    """Whether a result holds a NaN."""
    if isinstance(result, Tensor):
        return result.is_floating_point() and bool(torch.isnan(result).any())
    if isinstance(result, np.ndarray):
        return result.dtype.kind == "f" and bool(np.isnan(result).any())
    if isinstance(result, float):
        return math.isnan(result)
    if isinstance(result, (tuple, list)):
        return any(silent_nan(r) for r in result)
    return any(silent_nan(r) for r in vars(result).values()) if hasattr(result, "__dict__") and not isinstance(result, type) else False


def judge(case: Case, argument: str, value: Any) -> "tuple[str, str]":
    """(outcome, what was said): named | unnamed | wrong type | accepted | silent nan."""
    try:
        result = case.call(**{argument: value})
    except (ValueError, TypeError) as error:
        words = {argument, *case.names.get(argument, "").split()} - {""}
        said = str(error)
        return ("named" if any(w in said for w in words) else "unnamed"), f"{type(error).__name__}: {said[:160]}"
    except Exception as error:
        return "wrong type", f"{type(error).__name__}: {str(error)[:160]}"
    return ("silent nan" if silent_nan(result) else "accepted"), f"returned {str(result)[:80]}"


def noncontiguous_agrees(case: Case, argument: str) -> bool:
    """A strided view of the same numbers gives the same answer."""
    good = case.good()[argument]
    padded = torch.zeros((*good.shape[:-1], good.shape[-1] * 2), dtype=good.dtype)
    padded[..., ::2] = good

    def flat(result: Any) -> str:
        values = result if isinstance(result, (tuple, list)) else (result,)
        return " ".join(str(torch.round(v.detach() * 1e4)) if isinstance(v, Tensor) and v.is_floating_point() else str(v) for v in values)
    torch.manual_seed(0)
    one = flat(case.call())
    torch.manual_seed(0)
    return one == flat(case.call(**{argument: padded[..., ::2]}))


def case_rows(case: Case) -> "list[dict]":
    """Every class on every argument of one function."""
    rows = []
    case.call()  # the good call works: otherwise every refusal would count as a success
    for argument, kind in case.kinds.items():
        for label, value in bad_values(kind, case.good().get(argument)):
            outcome, said = judge(case, argument, value)
            rows.append({"function": case.target, "argument": argument, "class": label, "outcome": outcome, "said": said})
        if kind in TENSORS:
            same = noncontiguous_agrees(case, argument)
            rows.append({"function": case.target, "argument": argument, "class": "non-contiguous", "outcome": "named" if same else "changed", "said": ""})
    return rows


def measure(share: float = 1.0) -> dict:
    """Try every class on every argument of every case; `share` < 1 takes an evenly spread part of the cases."""
    from r3_cases import CASES

    start, step = time.monotonic(), max(1, round(1 / share))
    with contextlib.redirect_stdout(io.StringIO()):
        rows = [row for case in CASES[::step] for row in case_rows(case)]
    good = sum(r["outcome"] == "named" for r in rows)
    return {"id": "R3", "name": "bad inputs refused by name", "tried": len(rows), "passed": good, "failed": len(rows) - good,
            "silent_nan": sum(r["outcome"] == "silent nan" for r in rows), "functions": len({r["function"] for r in rows}),
            "target": ">= 95 %, no silent NaN", "wall_s": round(time.monotonic() - start, 1), "misses": [r for r in rows if r["outcome"] != "named"]}


def main() -> int:
    """Print the figure and its misses; store it where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the result here")
    result = measure()
    for miss in result["misses"]:
        print(f"  {miss['function']}({miss['argument']}={miss['class']}): {miss['outcome']}: {miss['said']}")
    print(f"R3: {result['passed']} of {result['tried']} refused by name over {result['functions']} functions; {result['silent_nan']} silent NaN")
    args = parser.parse_args()
    if args.json:
        args.json.write_text(json.dumps({k: v for k, v in result.items() if k != "misses"}, indent=1))
    return int(result["passed"] < 0.95 * result["tried"] or result["silent_nan"] > 0)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(main())
