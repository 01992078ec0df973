# ruff: noqa: S102 - it swaps code on purpose
"""Planting a bug: code is swapped in place while the simulation runs, and put back.

A function's code object is replaced, so that whoever imported the function by name has the bug too.
"""

from __future__ import annotations

import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

BOUND = 500  # seeds within which a planted bug must be found


@dataclass(frozen=True)
class Change:
    """One replaced piece of code: `module:qualified.name`, what stands there, what shall, or what stands in."""

    where: str
    old: str = ""
    new: str = ""
    stand_in: Callable[..., Any] | None = None


def plant(where: str, old: str, new: str) -> Change:
    """Replace a piece of a function's text."""
    return Change(_full(where), old, new)


def constant(where: str, old: str, new: str) -> Change:
    """Replace a piece of a text constant, an SQL statement say."""
    return Change(_full(where), old, new)


def instead(where: str, stand_in: Callable[..., Any]) -> Change:
    """Let a function of the list stand in; it is given the real one, then the arguments."""
    return Change(_full(where), stand_in=stand_in)


def _full(where: str) -> str:
    return where.replace("tests:", "tests.simulation.") if where.startswith("tests:") else f"longcase.{where}"


@contextmanager
def planted(changes: Sequence[Change]) -> Iterator[None]:
    """Run the body with one bug."""
    with ExitStack() as stack:
        for change in changes:
            stack.enter_context(_changed(change))
        yield


@contextmanager
def _changed(change: Change) -> Iterator[None]:
    module_name, _, path = change.where.partition(":")
    found: Any = importlib.import_module(module_name)
    holder = found
    for part in path.split("."):
        holder, found = found, getattr(found, part)
    if isinstance(found, str):
        if change.old not in found:
            raise LookupError(_gone(change))
        setattr(holder, path, found.replace(change.old, change.new))
        try:
            yield
        finally:
            setattr(holder, path, found)
        return
    assert isinstance(found, FunctionType), change.where
    before = found.__code__
    found.__code__ = _standing_in(found, change) if change.stand_in is not None else _edited(found, change)
    try:
        yield
    finally:
        found.__code__ = before


def _gone(change: Change) -> str:
    return f"{change.where} no longer holds {change.old!r}: the planted bug must be mended"


def _edited(found: FunctionType, change: Change) -> Any:
    source = textwrap.dedent(inspect.getsource(found))
    # Decorators have done their work; what counts is the function's code.
    source = source[source.index("async def " if inspect.iscoroutinefunction(found) else "def ") :]
    if change.old not in source:
        raise LookupError(_gone(change))
    place = source.index(change.old)
    line = source[:place].rsplit("\n", 1)[-1]
    new = change.new.replace("\n    ", "\n" + " " * max(len(line) - len(line.lstrip()), 4))
    return _compiled(found, source.replace(change.old, new), change.where)


def _standing_in(found: FunctionType, change: Change) -> Any:
    real = FunctionType(found.__code__, found.__globals__, found.__name__, found.__defaults__, found.__closure__)
    real.__kwdefaults__ = found.__kwdefaults__
    name = f"_planted_in_{found.__name__}"
    found.__globals__[name] = (change.stand_in, real)
    call = f"{name}[0]({name}[1], *args, **kwargs)"
    if inspect.iscoroutinefunction(found):
        return _compiled(found, f"async def {found.__name__}(*args, **kwargs): return await {call}", change.where)
    return _compiled(found, f"def {found.__name__}(*args, **kwargs): return {call}", change.where)


def _compiled(found: FunctionType, source: str, where: str) -> Any:
    made: dict[str, Any] = {}
    exec(compile("from __future__ import annotations\n" + source, where, "exec"), found.__globals__, made)
    return made[found.__name__].__code__
