"""Interrupts: what may not stand in a finally or behind a caught CancelledError (SEMANTICS A7)."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Iterator, Sequence

from longcase.model.finding import Finding
from longcase.model.map.atlas import FunctionReading
from longcase.model.map.scope import own_nodes
from longcase.model.map.source import shown
from longcase.model.map.statements import caught

_CLEANUP = "compensate with @activity.undo and `await case.undo()`, or in the exception path"


def cancel_findings(reading: FunctionReading) -> Iterator[Finding]:
    """Yield every try that would go on working while an interrupt ends the visit."""
    for node in own_nodes(reading.source.tree):
        if not isinstance(node, ast.Try | ast.TryStar):
            continue
        for place in sorted(reading.nodes_within(*node.finalbody)):
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
    for place in sorted(reading.nodes_within(*handler.body)):
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


def _waits(body: Sequence[ast.stmt]) -> bool:
    waits = ast.Await | ast.AsyncFor | ast.AsyncWith
    return any(isinstance(node, waits) for statement in body for node in (statement, *own_nodes(statement)))


def _raises(body: Sequence[ast.stmt]) -> bool:
    """Tell whether a handler ends with a raise on every way, and leaves on none before."""
    leaving = ast.Return | ast.Break | ast.Continue
    if any(isinstance(node, leaving) for statement in body for node in (statement, *own_nodes(statement))):
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
