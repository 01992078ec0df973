"""Which durable thing a call is: an activity, a part, a decision, or one of the waits of `case`."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any, Final

from longcase.model.activity import Activity
from longcase.model.decision import Decision
from longcase.model.map.scope import UNKNOWN, Scope, targets_of
from longcase.model.one_of import one_of
from longcase.model.part import Part
from longcase.record import record

AWAITED: Final = frozenset({"approval", "choice", "ask", "require", "receive", "pause", "child", "undo"})
"""The methods of a case that are awaited."""
AT_ONCE: Final = frozenset({"update", "spawn", "rule_again"})
"""The methods of a case that leave an event and are not awaited."""


@record(eq=False)
class Called:
    """What a call calls.

    `what` is "activity", "part", "decision", or the method of the case; `refs` are the syntax
    nodes that name the targets; `keys` tells the arms of a `one_of` table apart.
    """

    call: ast.Call
    what: str
    targets: tuple[Any, ...] = ()
    keys: tuple[str, ...] = ()
    refs: tuple[ast.expr, ...] = ()
    awaited: bool = True


def called(call: ast.Call, scope: Scope, case: str) -> Called | None:
    """Return which durable thing a call is, or None if it is none."""
    func = call.func
    if isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name) and func.value.id == case:
        if func.attr in AWAITED:
            return Called(call, func.attr)
        if func.attr == "rule_again" and call.args:
            target = scope.value(call.args[0])
            if isinstance(target, Decision):
                return Called(call, "decision", (target,), refs=(call.args[0],), awaited=False)
        return Called(call, func.attr, awaited=False) if func.attr in AT_ONCE else None
    if isinstance(func, ast.Attribute) and func.attr == "ruling":
        target = scope.value(func.value)
        return Called(call, "decision", (target,), refs=_names(func.value), awaited=False) if _is(target) else None
    target = scope.value(func)
    if isinstance(target, Activity | Part):
        what = "activity" if isinstance(target, Activity) else "part"
        return Called(call, what, (target,), refs=_names(func))
    if isinstance(target, Decision):
        return Called(call, "decision", (target,), refs=_names(func), awaited=False)
    return _one_of(call, scope)


def is_again(call: ast.Call, case: str) -> bool:
    """Tell whether a call is `case.again()`."""
    match call:
        case ast.Call(ast.Attribute(ast.Name(name), "again"), [], []):
            return name == case
        case _:
            return False


def _one_of(call: ast.Call, scope: Scope) -> Called | None:
    """Read `one_of({"a": a, "b": b})[key](...)`, the table written here or at module level."""
    if not isinstance(call.func, ast.Subscript):
        return None
    table = call.func.value
    targets = targets_of(scope.value(table))
    refs: Sequence[ast.expr] = ()
    if isinstance(table, ast.Call) and scope.value(table.func) is one_of:
        refs = [name for arg in table.args for item in _items(arg) for name in _names(item)]
    if not targets or not all(isinstance(target, Activity | Part) for target in targets.values()):
        return None
    kinds = {"activity" if isinstance(target, Activity) else "part" for target in targets.values()}
    if len(kinds) != 1:
        return None
    return Called(call, kinds.pop(), tuple(targets.values()), tuple(targets), tuple(refs))


def _items(table: ast.expr) -> list[ast.expr]:
    return table.values if isinstance(table, ast.Dict) else []


def _names(node: ast.expr) -> tuple[ast.expr, ...]:
    """Return the name nodes by which a target is called: `f`, `module.f`, `f.labelled("x")`."""
    match node:
        case ast.Call(ast.Attribute(base, "labelled")):
            return _names(base)
        case _:
            return (node,)


def _is(target: Any) -> bool:
    return target is not UNKNOWN and isinstance(target, Decision)
