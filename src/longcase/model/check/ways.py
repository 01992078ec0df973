"""Ways through a workflow: what can be reached, what never ends, and loops that retry by hand."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence

from longcase.model.finding import Finding
from longcase.model.map.aio import asyncio_name
from longcase.model.map.atlas import FunctionReading
from longcase.model.map.compile import Reading
from longcase.model.map.flow import kind_of
from longcase.model.map.graph import WAITING, StageMap
from longcase.model.map.locals import reads_object
from longcase.model.map.scope import own_nodes
from longcase.model.map.source import shown
from longcase.model.places import CANCEL_PATH

_PEOPLE = frozenset({"approval", "choice", "task", "require", "receive", "child"})
"""Kinds of node that make a loop a matter of the business: somebody answers in each round."""


# -- between the stages ------------------------------------------------------------------------------------


def way_findings(reading: Reading) -> Iterator[Finding]:
    """Yield stages that are never reached, never closed from, or go in circles without a wait."""
    stages = reading.map.stages
    if not reading.workflow.stages:
        return
    exits: dict[str, set[str]] = {name: set() for name in stages}
    interrupts: dict[str, set[str]] = {name: set() for name in stages}
    for edge in reading.map.edges:
        if edge.kind == "exit":
            exits[reading.map.nodes[edge.source].stage].add(edge.target)
        elif edge.kind in ("exception", "handler") and edge.target != _built_in(reading):
            interrupts[edge.source].add(edge.target)
    ways = {name: exits[name] | interrupts[name] for name in stages}
    reached = _reach({reading.map.entry}, ways)
    # Behind an exit that cannot be read there may be any stage, so nothing is known to be out of reach.
    known = not any(finding.code in ("exit_not_readable", "source_not_found") for finding in reading.findings)
    for stage in stages.values() if known else ():
        if stage.name not in reached and stage.name != _built_in(reading):
            yield _at(
                stage,
                "unreachable_stage",
                f"{stage.kind} {stage.name} is never reached from {reading.map.entry}",
                f"return {stage.name} from another stage, or remove it"
                if stage.kind == "stage"
                else f"cover a stage that is reached: during=({reading.map.entry},), or remove it",
            )
        elif stage.kind == "stage" and not any(way.startswith("close:") for way in _reach({stage.name}, ways)):
            yield _at(
                stage,
                "never_closes",
                f"no close can be reached from {stage.name}",
                f'return {reading.workflow.variable}.close("name")',
            )
    yield from _cycles(reading, {name: exits[name] for name in reached if name in stages})


def _built_in(reading: Reading) -> str:
    return "" if "" in reading.workflow.paths else CANCEL_PATH


def _reach(start: Iterable[str], ways: dict[str, set[str]]) -> set[str]:
    found = set(start)
    fresh = set(found)
    while fresh:
        fresh = {way for name in fresh for way in ways.get(name, ())} - found
        found |= fresh
    return found


def _cycles(reading: Reading, exits: dict[str, set[str]]) -> Iterator[Finding]:
    """Yield each ring of stages in which no stage waits on its way to the next."""
    instant: dict[str, set[str]] = {name: set() for name in exits}
    for edge in reading.map.edges:
        if edge.kind != "exit" or edge.target not in exits:
            continue
        stage = reading.map.nodes[edge.source].stage
        if stage in instant and not any(kind_of(n) in WAITING for n in reading.map.flows[stage].before(edge.source)):
            instant[stage].add(edge.target)
    seen: set[str] = set()
    for name in instant:
        ring = {other for other in _reach(instant[name], instant) if name in _reach(instant[other], instant)}
        if name in ring and name not in seen:
            seen |= ring
            way = " -> ".join([*sorted(ring, key=list(instant).index), name])
            yield _at(
                reading.map.stages[name],
                "cycle_without_wait",
                f"{way} goes round without waiting for anything",
                'wait for what should change, or await case.pause(days(1), because="...") between the rounds',
            )


def _at(stage: StageMap, code: str, message: str, hint: str) -> Finding:
    return Finding(stage.file, stage.line, code, message, hint)


# -- loops inside a stage ----------------------------------------------------------------------------------


def loop_findings(reading: FunctionReading) -> Iterator[Finding]:
    """Yield loops that never wait, and loops that retry an activity by hand."""
    for node in own_nodes(reading.source.tree):
        if isinstance(node, ast.While):
            yield from _endless(reading, node)
        if isinstance(node, ast.While | ast.For | ast.AsyncFor):
            yield from _retries(reading, node)


def _endless(reading: FunctionReading, node: ast.While) -> Iterator[Finding]:
    inside = list(_own(node.body))
    if any(isinstance(inner, ast.Await | ast.AsyncFor | ast.AsyncWith) for inner in (*inside, *ast.walk(node.test))):
        return
    always = isinstance(node.test, ast.Constant) and bool(node.test.value)
    left = any(isinstance(inner, ast.Return | ast.Raise) for inner in inside) or _jumps(node.body, ast.Break)
    changes = any(kind_of(place) == "change" for place in reading.nodes_within(*node.body))
    waits_for_object = not changes and any(
        isinstance(inner, ast.expr) and reads_object(inner, reading.case, reading.locals)
        for inner in ast.walk(node.test)
    )
    if (always and not left) or (waits_for_object and not left and not _assigns(inside, node.test)):
        yield reading.finding(
            "loop_without_wait",
            node,
            f"`while {shown(node.test)}` waits for nothing: within a turn nothing changes, so it never ends",
            "await what should change: case.require(...), case.receive(...), case.pause(...)",
        )


def _assigns(inside: list[ast.AST], test: ast.expr) -> bool:
    stored = {node.id for node in inside if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return any(isinstance(node, ast.Name) and node.id in stored for node in ast.walk(test))


def _retries(reading: FunctionReading, loop: ast.While | ast.For | ast.AsyncFor) -> Iterator[Finding]:
    for node in _own(loop.body, into_loops=False):
        if not isinstance(node, ast.Try | ast.TryStar):
            continue
        tried = sorted(place for place in reading.nodes_within(*node.body) if kind_of(place) == "activity")
        again = [handler for handler in node.handlers if not _leaves(handler.body)]
        if not tried or not again:
            continue
        kinds = {kind_of(place) for place in reading.nodes_within(*loop.body)}
        by_people = any({kind_of(n) for n in reading.nodes_within(*handler.body)} & _PEOPLE for handler in again)
        sleeps = "pause" in kinds or any(_is_sleep(inner, reading) for inner in _own(loop.body))
        ends = _jumps(node.body, ast.Break) or _returns([*node.body, *node.orelse]) or _jumps(node.orelse, ast.Break)
        ends = ends or (node in loop.body and _leaves(loop.body[loop.body.index(node) + 1 :]))
        if not by_people and (sleeps or ends):
            activity = tried[0].rpartition("/")[2].split(":")[1]
            yield reading.finding(
                "retry_loop",
                loop,
                f"this loop tries {activity} again by hand: no policy, no bound, no attempts in the history",
                f"@activity(retry=Retry(max_attempts=8, initial=seconds(2), factor=2)) on {activity}, and one await",
            )


def _is_sleep(node: ast.AST, reading: FunctionReading) -> bool:
    if not isinstance(node, ast.Call):
        return False
    return asyncio_name(node.func, reading.scope) == "sleep" or reading.scope.dotted(node.func) == "time.sleep"


def _leaves(body: Sequence[ast.stmt]) -> bool:
    """Tell whether the statements leave the loop on every way."""
    if not body:
        return False
    match body[-1]:
        case ast.Return() | ast.Raise() | ast.Break():
            return True
        case ast.If(_, body, rest):
            return _leaves(body) and _leaves(rest)
        case ast.With(_, body) | ast.AsyncWith(_, body):
            return _leaves(body)
        case ast.Match(_, cases):
            return all(_leaves(case.body) for case in cases)
        case _:
            return False


def _returns(body: Sequence[ast.stmt]) -> bool:
    return any(isinstance(node, ast.Return) for node in _own(body))


def _jumps(body: Sequence[ast.stmt], kind: type[ast.stmt]) -> bool:
    return any(isinstance(node, kind) for node in _own(body, into_loops=False))


def _own(body: Sequence[ast.stmt], *, into_loops: bool = True) -> Iterator[ast.AST]:
    """Yield the nodes of the statements, without nested functions and, if asked, without inner loops."""
    todo: list[ast.AST] = list(body)
    while todo:
        node = todo.pop(0)
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if not into_loops and isinstance(node, ast.While | ast.For | ast.AsyncFor):
            continue
        todo[:0] = ast.iter_child_nodes(node)
