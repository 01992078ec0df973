"""Interrupts: what may not stand in a finally or behind a caught CancelledError (SEMANTICS A7)."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Iterator, Sequence

from longcase.model.finding import Finding
from longcase.model.map.atlas import FunctionReading
from longcase.model.map.flow import kind_of
from longcase.model.map.scope import own_nodes
from longcase.model.map.source import shown
from longcase.model.map.statements import caught

_CLEANUP = "compensate with @activity.undo and `await case.undo()`, or in the exception path"


def cancel_findings(reading: FunctionReading) -> Iterator[Finding]:
    """Yield every try that would go on working while an interrupt ends the visit."""
    for node in own_nodes(reading.source.tree):
        if not isinstance(node, ast.Try | ast.TryStar):
            continue
        if _waits(node.body) and _leaves(node.finalbody):
            yield reading.finding(
                "cancel_swallowed",
                node.finalbody[0],
                "a finally that leaves by itself keeps an interrupt from ending the visit",
                "leave after the try",
            )
        for place in _durable(reading, node.finalbody):
            yield reading.finding(
                "durable_in_finally",
                node.finalbody[0],
                f"{place} in a finally: an interrupt would start it in the middle of its own end",
                _CLEANUP,
            )
        for handler in node.handlers:
            if any(issubclass(asyncio.CancelledError, kind) for kind in caught(handler, reading.scope.value)):
                yield from _handler(reading, node, handler)


def _handler(reading: FunctionReading, node: ast.Try | ast.TryStar, handler: ast.ExceptHandler) -> Iterator[Finding]:
    what = f"except {shown(handler.type)}" if handler.type else "except:"
    for place in _durable(reading, handler.body):
        yield reading.finding(
            "durable_after_cancel",
            handler,
            f"{place} in `{what}`: an interrupt would start it in the middle of its own end",
            _CLEANUP,
        )
    if _waits(node.body) and not _raises(handler.body):
        yield reading.finding(
            "cancel_swallowed",
            handler,
            f"`{what}` around an await keeps an interrupt from ending the visit",
            "except Exception: ...   (it lets an interrupt through), or end the handler with `raise`",
        )


def _durable(reading: FunctionReading, body: Sequence[ast.stmt]) -> list[str]:
    return sorted(place for place in reading.nodes_within(*body) if kind_of(place) != "exit")


def _leaves(body: Sequence[ast.stmt]) -> bool:
    leaving = ast.Return | ast.Break | ast.Continue
    return any(isinstance(node, leaving) for statement in body for node in (statement, *own_nodes(statement)))


def _waits(body: Sequence[ast.stmt]) -> bool:
    waits = ast.Await | ast.AsyncFor | ast.AsyncWith
    return any(isinstance(node, waits) for statement in body for node in (statement, *own_nodes(statement)))


def _raises(body: Sequence[ast.stmt]) -> bool:
    """Tell whether a handler ends with a raise on every way, and leaves on none before."""
    if _leaves(body):
        return False
    match body[-1]:
        case ast.Raise():
            return True
        case ast.If(_, body, rest):
            return bool(rest) and _raises(body) and _raises(rest)
        case ast.With(_, body):
            return _raises(body)
        case _:
            return False
