"""Tasks: what may outlive its stage (SEMANTICS B3), and what is written beside a question that shows it (A11)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from longcase.model.finding import Finding
from longcase.model.map.aio import TASK_MAKERS, asyncio_name
from longcase.model.map.atlas import FunctionReading
from longcase.model.map.block import Block, Edit, Exit, Group, Limit, Par, Spawn, Step, children, walk
from longcase.model.map.flow import kind_of
from longcase.model.map.scope import own_nodes
from longcase.model.map.source import shown

_HANDED_TO = frozenset({"gather", "wait", "wait_for", "shield"})


# -- B3: no task outlives its stage ----------------------------------------------------------------------


def task_findings(reading: FunctionReading) -> Iterator[Finding]:
    """Yield every durable task outside a TaskGroup that nobody is sure to wait for."""
    tree = reading.source.tree
    parents = {id(child): node for node in (tree, *own_nodes(tree)) for child in ast.iter_child_nodes(node)}
    awaited = _awaited_names(reading)
    for node in own_nodes(tree):
        if (
            not isinstance(node, ast.Call)
            or not _makes_bare_task(node, reading)
            or not reading.nodes_within(*node.args)
        ):
            continue
        kept = _kept_under(node, parents, reading)
        if kept is None or (kept in awaited and reading.locals.stores[kept] <= 1):
            continue
        reason = f"{kept} is assigned more than once" if kept in awaited else "nobody is sure to await it"
        yield reading.finding(
            "task_outside_group",
            node,
            f"{shown(node)} outside a TaskGroup: {reason}, and no task outlives its stage",
            "async with asyncio.TaskGroup() as group:\n    group.create_task(...)",
        )


def _makes_bare_task(node: ast.Call, reading: FunctionReading) -> bool:
    name = asyncio_name(node.func, reading.scope)
    if name in TASK_MAKERS or name == "gather":
        return True
    if isinstance(node.func, ast.Attribute) and node.func.attr == "create_task":
        return reading.locals.kind(node.func.value) != "group"
    return False


def _kept_under(call: ast.Call, parents: dict[int, ast.AST], reading: FunctionReading) -> str | None:
    """Return the name a task is kept under, "" if it has none; None if it is awaited where it is made."""
    node: ast.AST | None = parents.get(id(call))
    while node is not None and not isinstance(node, ast.stmt):
        if isinstance(node, ast.Await):
            return None
        if isinstance(node, ast.Call) and asyncio_name(node.func, reading.scope) in _HANDED_TO | TASK_MAKERS:
            return None  # judged there
        if isinstance(node, ast.NamedExpr) and isinstance(node.target, ast.Name):
            return node.target.id
        node = parents.get(id(node))
    match node:
        case ast.Assign([ast.Name(name)]) | ast.AnnAssign(ast.Name(name)):
            return name
        case ast.Assign([ast.Subscript(ast.Name(name))]):
            return name
        case ast.Expr(ast.Call(ast.Attribute(ast.Name(name), "append" | "add"))):
            return name
        case ast.AsyncFor():
            return None
        case _:
            return ""


def _awaited_names(reading: FunctionReading) -> set[str]:
    """Return the names that stand in an await, or are looped over by one that does."""
    found: set[str] = set()
    nodes = list(own_nodes(reading.source.tree))
    for node in nodes:
        if isinstance(node, ast.Await):
            found |= _names(node)
        elif isinstance(node, ast.AsyncFor):
            found |= _names(node.iter)
    for node in nodes:
        if isinstance(node, ast.For | ast.comprehension) and _names(node.target) & found:
            found |= _names(node.iter)
    return found


def _names(node: ast.AST) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


# -- A11: a question that shows what is written beside it --------------------------------------------------


def shown_while_written(readings: list[FunctionReading], beside: bool = False) -> Iterator[Finding]:
    """Yield every question of one stage that shows the whole object while a parallel strand writes it.

    `beside` says that a handler that runs beside the stage does, or a stage beside this handler.
    """
    whole = {site.node: (reading, site) for reading in readings for site in reading.sites if site.shows_all}
    if not whole:
        return
    stage = next(reading for reading in readings if not reading.is_part)
    for place in sorted(whole if beside else _beside_a_change(stage.block) & set(whole)):
        reading, site = whole[place]
        yield reading.finding(
            "shows_while_written",
            site.call,
            f"{place} shows the whole object while a parallel strand writes to it: every write makes its answers stale",
            "show what the decision rests on: shows=[lambda client: client.rating]",
        )


def _beside_a_change(stage: Block) -> set[str]:
    """Return the nodes that stand in one strand while another one holds a change."""
    found: set[str] = set()
    for block in (Group(stage), *walk(stage)):
        match block:
            case Par(branches, each):
                strands = [_nodes(branch) for branch in branches]
                found |= _crossed(strands)
                if each:
                    found |= _crossed([strand for strand in strands for _ in range(2)])
            case Group(body):
                spawned = [inner.block for inner in walk(body) if isinstance(inner, Spawn)]
                found |= _crossed([_nodes(body), *map(_nodes, spawned)])
            case _:
                pass
    return found


def _crossed(strands: list[set[str]]) -> set[str]:
    return {
        node
        for number, strand in enumerate(strands)
        for other, beside in enumerate(strands)
        if other != number and any(kind_of(place) == "change" for place in beside)
        for node in strand
    }


def _nodes(block: Block) -> set[str]:
    """Return the nodes of one strand, without those of the strands it spawns."""
    match block:
        case Step(node) | Exit(node):
            return {node}
        case Spawn():
            return set()
        case Limit(node, inner) | Edit(node, inner):
            return {node} | _nodes(inner)
        case _:
            return set().union(*map(_nodes, children(block)))
