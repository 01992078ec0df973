"""The arrows of a map, derived from its stages, nodes and follow relations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from longcase.model.map.flow import START, STRAND, Flow, flow_of
from longcase.model.map.graph import Edge, EdgeKind, Node, StageMap


def edges_of(entry: str, stages: Mapping[str, StageMap], nodes: Mapping[str, Node]) -> tuple[Edge, ...]:
    """Return all edges, in the order of the stages, each once."""
    found: dict[Edge, None] = {Edge(START, entry, "entry"): None} if entry else {}
    for stage in stages.values():
        flow = flow_of(stage.block)
        own = {node.id: node for node in nodes.values() if node.stage == stage.name}
        for edges in (
            _order(stage.name, flow),
            _exits(stage.name, own.values()),
            _failures(own.values(), flow),
            _ladders(own.values()),
            _expiries(own.values(), flow),
        ):
            found.update(dict.fromkeys(edges))
    found.update(dict.fromkeys(_paths(stages)))
    found.update(dict.fromkeys(_undos(nodes)))
    return tuple(found)


def _order(stage: str, flow: Flow) -> Iterator[Edge]:
    for (before, after), reasons in flow.pairs.items():
        if before == STRAND:
            continue
        labels = sorted({label for kind, label in reasons if kind == "next"})
        if labels:
            yield Edge(before or stage, after, "next", " / ".join(filter(None, labels)))


def _exits(stage: str, nodes: Iterable[Node]) -> Iterator[Edge]:
    for node in nodes:
        if node.kind == "exit":
            how, _, name = node.name.partition(":")
            target = {"to": name, "close": node.name, "again": stage}[how]
            yield Edge(node.id, target, "exit", "again" if how == "again" else "")


def _failures(nodes: Iterable[Node], flow: Flow) -> Iterator[Edge]:
    for node in nodes:
        if node.kind not in ("activity", "timeout"):
            continue
        handlers = [
            Edge(node.id, after, "failure", label)
            for (before, after), reasons in flow.pairs.items()
            if before == node.id
            for kind, label in sorted(reasons)
            if kind == "failure"
        ]
        yield from handlers
        if node.kind == "activity" and not handlers:
            yield Edge(node.id, f"incident:{node.owner}", "failure", "finally lost")


def _ladders(nodes: Iterable[Node]) -> Iterator[Edge]:
    for node in nodes:
        for level in node.escalate:
            yield Edge(node.id, f"owner:{level.to}", "escalation", f"after {level.after}")


def _expiries(nodes: Iterable[Node], flow: Flow) -> Iterator[Edge]:
    for node in nodes:
        if node.expires is None:
            continue
        after, answer = node.expires
        arms = [
            target
            for (before, target), reasons in flow.pairs.items()
            if before == node.id and any(answer in _answers(label) for kind, label in reasons if kind == "next")
        ]
        every = [target for (before, target), reasons in flow.pairs.items() if before == node.id]
        for target in arms or every:
            yield Edge(node.id, target, "expiry", f"after {after}: {answer}")


def _answers(label: str) -> list[str]:
    return [answer for part in label.split(", ") for answer in part.split(" / ")]


def _paths(stages: Mapping[str, StageMap]) -> Iterator[Edge]:
    for path in stages.values():
        for covered in path.during:
            kind: EdgeKind = "handler" if path.kind == "handler" else "exception"
            yield Edge(covered, path.name, kind, path.signal or "cancel")


def _undos(nodes: Mapping[str, Node]) -> Iterator[Edge]:
    undoable = [node for node in nodes.values() if node.undo]
    for node in nodes.values():
        if node.kind == "undo":
            for done in undoable:
                yield Edge(node.id, done.id, "undo", done.undo)
