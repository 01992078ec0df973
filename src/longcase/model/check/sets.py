"""Sets iterated in stage code: their order is the hash seed's, another one in another process (SEMANTICS A9)."""

from __future__ import annotations

import ast
import typing
from collections.abc import Iterator
from typing import Any

from longcase.model.finding import Finding
from longcase.model.map.atlas import FunctionReading
from longcase.model.map.locals import is_object
from longcase.model.map.scope import Scope, walk_body
from longcase.model.map.source import shown

_ORDERLESS = frozenset({"sorted", "set", "frozenset", "sum", "min", "max", "any", "all", "len", "bool"})
_ORDERED = frozenset({"list", "tuple", "enumerate", "iter", "zip", "map", "filter", "reversed", "dict"})
_SET_METHODS = frozenset({"union", "intersection", "difference", "symmetric_difference", "copy"})


def set_findings(reading: FunctionReading) -> Iterator[Finding]:
    """Yield every place where a set's order reaches the stage."""
    indifferent: set[int] = set()  # comprehensions whose order nobody sees: in sorted(...), any(...)
    for node, scope in walk_body(reading.source.tree, reading.scope):
        match node:
            case ast.Call(ast.Name(name), args) if name in _ORDERLESS and name not in scope.local:
                indifferent.update(id(arg) for arg in args)
            case ast.For(_, over) | ast.AsyncFor(_, over):
                yield from _judge(reading, scope, over)
            case ast.ListComp() | ast.GeneratorExp() | ast.DictComp() if id(node) not in indifferent:
                for generator in node.generators:
                    yield from _judge(reading, scope, generator.iter)
            case ast.Call(ast.Name(name), args) if name in _ORDERED and name not in scope.local:
                for arg in args:
                    yield from _judge(reading, scope, arg)
            case ast.Call(ast.Attribute(_, "join"), [arg]):
                yield from _judge(reading, scope, arg)
            case ast.Call(ast.Attribute(base, "pop"), []):
                yield from _judge(reading, scope, base)
            case ast.Starred(value):
                yield from _judge(reading, scope, value)
            case ast.Assign([ast.Tuple() | ast.List()], value):
                yield from _judge(reading, scope, value)
            case _:
                pass


def _judge(reading: FunctionReading, scope: Scope, node: ast.expr) -> Iterator[Finding]:
    if _is_set(node, scope, reading):
        yield reading.finding(
            "set_order",
            node,
            f"the order of {shown(node)} is another one in another process: {reading.stage.kind} {reading.stage.name}",
            f"sorted({shown(node)})",
        )


def _is_set(node: ast.expr, scope: Scope, reading: FunctionReading) -> bool:
    match node:
        case ast.Set(items):
            # Small integers hash to themselves: their order is the same everywhere.
            return not all(isinstance(item, ast.Constant) and isinstance(item.value, int) for item in items)
        case ast.SetComp():
            return True
        case ast.Call(ast.Name("set" | "frozenset" as name)):
            return name not in scope.local and bool(node.args)
        case ast.Call(ast.Attribute(base, method)) if method in _SET_METHODS:
            return _is_set(base, scope, reading)
        case ast.BinOp(left, ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor(), right):
            return _is_set(left, scope, reading) or _is_set(right, scope, reading)
        case ast.Attribute(base, field) if is_object(base, reading.case) or reading.locals.kind(base) == "object":
            return _is_set_field(reading.workflow.object, field)
        case ast.Name(name):
            if reading.locals.kinds.get(name) == "set":
                return True
            assigned = reading.locals.once(name)
            if assigned is not None and assigned is not node:
                return isinstance(assigned, ast.Attribute) and _is_set(assigned, scope, reading)
            known = scope.value(node)
            return isinstance(known, set | frozenset) and not all(isinstance(item, int) for item in known)
        case _:
            return False


def _is_set_field(model: type[Any], name: str) -> bool:
    field = model.model_fields.get(name)
    annotation = field.annotation if field else None
    kinds = (annotation, *typing.get_args(annotation)) if typing.get_origin(annotation) not in (list, dict) else ()
    return any((typing.get_origin(kind) or kind) in (set, frozenset) for kind in kinds)
