"""Completeness: whatever the readers made of a function, a second, plain walk finds what they missed.

Every `await`, `async for` and `async with` is claimed by one node or by asyncio structure, every
durable call is claimed, and activities and parts are named only where they are called.
"""

from __future__ import annotations

import ast

from longcase.model.activity import Activity
from longcase.model.finding import Finding
from longcase.model.map.atlas import FunctionReading
from longcase.model.map.calls import Called, called
from longcase.model.map.scope import own_nodes, walk_body
from longcase.model.map.source import shown
from longcase.model.part import Part


def complete(reading: FunctionReading) -> list[Finding]:
    """Return a finding for everything in the function that no reader claimed."""
    tree = reading.source.tree
    own = {id(node) for node in own_nodes(tree)}
    found: list[Finding] = []
    reported: set[int] = set()  # calls whose await was reported already
    for node, scope in walk_body(tree, reading.scope):
        if isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith) or _is_async_comprehension(node):
            if id(node) not in reading.awaits:
                reported.update(id(inner) for inner in ast.iter_child_nodes(node))
                found.append(_unclaimed_await(reading, node, id(node) in own))
        elif isinstance(node, ast.Call):
            durable = called(node, scope, reading.case)
            if durable is not None and id(node) not in reading.nodes_at:
                if id(node) not in reported:
                    found.append(_unclaimed_call(reading, durable))
                reading.references.update(map(id, durable.refs))
        elif isinstance(node, ast.Name | ast.Attribute) and id(node) not in reading.references:
            target = scope.value(node)
            if isinstance(target, Activity | Part) and isinstance(node.ctx, ast.Load):
                found.append(_as_value(reading, node, target))
    return found


def _is_async_comprehension(node: ast.AST) -> bool:
    comprehensions = ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp
    return isinstance(node, comprehensions) and any(generator.is_async for generator in node.generators)


def _unclaimed_await(reading: FunctionReading, node: ast.AST, own: bool) -> Finding:
    if not own:
        return reading.finding(
            "helper_not_a_part",
            node,
            f"a function inside {reading.source.tree.name} awaits: it has no place on the map",
            "move it to the module, as a part of the workflow",
        )
    return reading.finding("await_not_claimed", node, f"{shown(node)} has no place on the map")


def _unclaimed_call(reading: FunctionReading, durable: Called) -> Finding:
    call = shown(durable.call)
    if not durable.awaited:
        return reading.finding(
            "helper_not_a_part",
            durable.call,
            f"{call} inside another function has no place on the map",
            "call it in the stage",
        )
    return reading.finding(
        "durable_call_not_awaited",
        durable.call,
        f"{call} is not awaited where it is written",
        f"await {call}, or hand it to asyncio.gather(...) or a TaskGroup right here",
    )


def _as_value(reading: FunctionReading, node: ast.Name | ast.Attribute, target: object) -> Finding:
    name = shown(node)
    if isinstance(target, Activity):
        return reading.finding(
            "activity_as_value",
            node,
            f"{name} is named here but not called: which call of it runs cannot be read",
            f'await {name}(...), or choose from a literal table: await one_of({{"a": {name}, "b": ...}})[key](...)',
        )
    return reading.finding(
        "activity_as_value", node, f"part {name} is named here but not called", f"await {name}({reading.case}, ...)"
    )
