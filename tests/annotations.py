"""Annotations are checked while tests run: every function of the library, its arguments, its return value, and the shapes in both.

The checks are jaxtyping's, with beartype. They come with one rule of our own. A function may be given what its annotation forbids, if it
refuses it: bad input must meet the library's own message and not the checker's. What it must not do is take it and return. So an argument
that does not fit is passed on; an exception is the function's answer, and a normal return is an annotation that is not true. The same goes
for a value returned that is not what was announced.
"""
import functools
import importlib.util
import inspect
import random
import sys
from types import FunctionType, ModuleType
from typing import Any, TypeVar

import torch
from jaxtyping import TypeCheckError, jaxtyped

_shared, random.getrandbits = random.getrandbits, random.Random(0).getrandbits  # beartype looks at one random item of a list; not with the generator of the code under test
try:
    from beartype import BeartypeConf, beartype
finally:
    random.getrandbits = _shared

CHECKER = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as in PEP 484
FOUND: "list[str]" = []  # violations since the last look, for those that an `except Exception` of the library swallows
WATCHED: "set[str]" = set()
F = TypeVar("F")


class UntrueAnnotation(Exception):
    """A function took or gave what its annotation forbids. Not a TypeError: no test that waits for one may take it for ours."""


def watched(function: F) -> F:
    """The function, under watch; what cannot be watched comes back as it is."""
    if not isinstance(function, FunctionType) or not function.__annotations__ or hasattr(function, "__no_type_check__"):
        return function
    if "tl" in function.__code__.co_names or any(getattr(hint, "__name__", "") == "constexpr" for hint in function.__annotations__.values()):
        return function  # the source of a Triton kernel, which Triton reads and never calls
    wrapped = inspect.unwrap(function)
    if wrapped is not function or inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
        return function  # decorated elsewhere (a context manager, a jit): what it gives is not what it announces
    try:
        checked = jaxtyped(function, typechecker=CHECKER)
    except Exception as error:
        raise UntrueAnnotation(f"{function.__module__}.{function.__qualname__}: {error}") from error

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        try:
            return checked(*args, **kwargs)
        except TypeCheckError as error:
            violation = str(error)
        if violation.startswith("Type-check error whilst checking the parameters"):
            function(*args, **kwargs)  # refuses, or else the annotation is untrue
        FOUND.append(f"{function.__module__}.{function.__qualname__}")
        raise UntrueAnnotation(violation)

    WATCHED.add(f"{function.__module__}.{function.__qualname__}")
    return call  # type: ignore[return-value]


def _watch_class(cls: type) -> None:
    """Watch the methods written in a class, and the fields of a dataclass."""
    for name, member in list(vars(cls).items()):
        if name.startswith("__") and name not in ("__init__", "__call__", "__new__", "__post_init__", "__getitem__"):
            continue
        if name == "__new__" and not hasattr(cls, "_fields"):
            continue
        if isinstance(member, (classmethod, staticmethod)):
            new: Any = type(member)(watched(member.__func__))
        elif isinstance(member, property):
            new = property(watched(member.fget), member.fset, member.fdel, member.__doc__)
        else:
            new = watched(member)
        if new is not member:
            setattr(cls, name, new)


def watch(module: ModuleType) -> None:
    """Put every function and class that a module defines under watch, in place."""
    for name, thing in list(vars(module).items()):
        if getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(thing):
            _watch_class(thing)
        elif isinstance(thing, FunctionType):
            setattr(module, name, watched(thing))


class _Finder:
    """Finds the library's modules as the others do, and watches each as soon as it has run."""

    def __init__(self, package: str) -> None:
        self.package, self.busy = package, False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if self.busy or not (name == self.package or name.startswith(self.package + ".")):
            return None
        self.busy = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.busy = False
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            watch(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def install(package: str = "atomsnb") -> None:
    """Watch every module of the package from its import on; twice is once."""
    if any(isinstance(f, _Finder) and f.package == package for f in sys.meta_path):
        return
    loaded = [m for m in sys.modules if m.startswith(package + ".")]
    if loaded:
        raise RuntimeError(f"already imported, and so not watched: {', '.join(loaded)}")
    sys.meta_path.insert(0, _Finder(package))
