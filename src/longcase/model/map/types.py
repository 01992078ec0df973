"""Declared types of expressions, as far as the map must know them: where closed answers come from.

No inference: a value has a type here if it is the object, a field of a model, or the result of
something whose result is declared.
"""

from __future__ import annotations

import ast
import typing
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from longcase.model.activity import Activity
from longcase.model.map.aio import TASK_MAKERS, asyncio_name
from longcase.model.map.atlas import FunctionReading
from longcase.model.map.calls import called
from longcase.model.map.locals import is_object
from longcase.model.signal import Signal

STEPS_LIMIT = 20
"""How many assignments a value is followed back through."""


def origins(node: ast.expr, reading: FunctionReading, steps: int = STEPS_LIMIT) -> list[ast.expr]:
    """Return the expressions a value comes from: through names, awaits and tasks, to calls and attributes."""
    inner: list[ast.expr] = []
    match node:
        case ast.Name(name):
            inner = reading.locals.every(name)
        case ast.NamedExpr(_, value) | ast.Await(value) | ast.Call(ast.Attribute(value, "result"), [], []):
            inner = [value]
        case ast.Call(func, [first, *_]) if asyncio_name(func, reading.scope) in TASK_MAKERS | {
            "wait_for",
            "shield",
        } or (isinstance(func, ast.Attribute) and func.attr == "create_task"):
            inner = [first]
        case ast.IfExp(_, body, other):
            inner = [body, other]
    if not inner or not steps:
        return [node]
    return [origin for each in inner for origin in origins(each, reading, steps - 1)]


def type_of(node: ast.expr, reading: FunctionReading) -> Any:
    """Return the declared type of an expression, or None."""
    match node:
        case ast.Attribute(base, name):
            if is_object(node, reading.case):
                return reading.workflow.object
            models = [type_of(origin, reading) for origin in origins(base, reading)]
            fields = [_field(model, name) for model in models]
            return fields[0] if fields and all(field == fields[0] for field in fields) else None
        case ast.Name(name):
            return _hints(reading.source.fn).get(name) if name in reading.source.fn.__code__.co_varnames else None
        case ast.Call():
            return _result(node, reading)
        case _:
            return None


def _result(call: ast.Call, reading: FunctionReading) -> Any:
    found = called(call, reading.scope, reading.case)
    if found is None:
        return None
    if found.what in ("activity", "part"):
        each = [returned(target.raw if isinstance(target, Activity) else target.fn) for target in found.targets]
        return each[0] if all(result == each[0] for result in each) else None
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if found.what == "ask" and "answer" in given:
        return reading.scope.value(given["answer"])
    if found.what == "receive" and (signals := [*call.args[:1], *filter(None, [given.get("signal")])]):
        signal = reading.scope.value(signals[0])
        return signal.body if isinstance(signal, Signal) else None
    return None


def returned(fn: Callable[..., Any]) -> Any:
    """Return the declared result of a function, or None."""
    return _hints(fn).get("return")


def _field(model: Any, name: str) -> Any:
    if not (isinstance(model, type) and issubclass(model, BaseModel)) or name not in model.model_fields:
        return None
    return model.model_fields[name].annotation


def _hints(fn: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(fn)
    except Exception:  # an annotation that cannot be resolved; `check` reports the declaration itself
        return {}
