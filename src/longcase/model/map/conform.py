"""Conformance: do events lie on the map (membership), and did they come in an order it allows?

Pure helpers over `(node, n, strand)`; who reads them from a store passes them in. Membership must
hold for every event. Order is a finding, not an alarm: mostly the code has changed meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from longcase.model.map.flow import START, STRAND
from longcase.model.map.graph import WorkflowMap
from longcase.record import record

Arrival: TypeAlias = tuple[str, int, str]
"""A node's id, the n-th arrival there in the visit, and the strand it happened in."""


@record
class OrderFinding:
    """An arrival that the map does not allow after the one before it in its strand ("" is the stage's start)."""

    node: str
    n: int
    strand: str
    after: str

    def __str__(self) -> str:
        return f"{self.node}#{self.n} in strand {self.strand} after {self.after or 'the start'}"


def node_known(map: WorkflowMap, node: str) -> bool:
    """Tell whether an event may carry this place: a node, a node's earlier id, or a stage."""
    return map.place(node) is not None or node in map.stages


def order_findings(map: WorkflowMap, events: Iterable[Arrival]) -> list[OrderFinding]:
    """Return the arrivals of one visit that no way through the map explains; [] if all are explained.

    Args:
        events: the places of the events that the visit's stage code emitted, in order. Further
            events at the same arrival (an attempt, a result, a vote) change nothing and may be
            among them. Places off the map are passed over: `node_known` is about those.
    """
    found: list[OrderFinding] = []
    arrived: set[tuple[str, int]] = set()
    last: dict[str, str] = {}
    for id, n, strand in events:
        node = map.place(id)
        if node is None or (node.id, n) in arrived:
            continue
        arrived.add((node.id, n))
        before = last.get(strand, START)
        if node.kind == "exit":
            # A visit's first event may carry the exit that led to it, from the visit before.
            allowed = before == START or _follows(map, node.stage, before, node.id)
            last.pop(strand, None)
        else:
            allowed = _follows(map, node.stage, before, node.id)
            last[strand] = node.id
        if not allowed:
            found.append(OrderFinding(node.id, n, strand, before))
    return found


def _follows(map: WorkflowMap, stage: str, before: str, after: str) -> bool:
    flow = map.flows[stage]
    if before == START:
        return flow.follows(START, after) or flow.follows(STRAND, after)
    return flow.follows(before, after)
