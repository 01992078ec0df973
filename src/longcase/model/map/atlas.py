"""What is gathered while the source is read: nodes, findings, and the facts that `check` asks about.

An atlas belongs to one workflow and one reading of it. A `Site` is one durable call in the source
and a `FunctionReading` one function with all that was claimed in it; both refer to syntax trees
and stay here, the map that comes out of them is plain data.
"""

from __future__ import annotations

import ast
from dataclasses import field
from typing import TYPE_CHECKING, Any

from longcase.model.activity import Activity
from longcase.model.decision import Decision
from longcase.model.finding import Finding
from longcase.model.map.block import NOTHING, Block
from longcase.model.map.graph import Node
from longcase.model.map.locals import Locals
from longcase.model.map.scope import Scope, Unknown
from longcase.model.map.source import Source
from longcase.model.people import Owner
from longcase.model.places import NodeKind, node_id
from longcase.model.span import Span
from longcase.record import record

if TYPE_CHECKING:
    from longcase.model.workflow import Stage, Workflow

SHARED_KINDS = frozenset({"timeout", "change", "undo", "require", "exit"})
"""Kinds without a label: several calls in one stage or part are one place."""
NODES_LIMIT = 10_000
"""The most nodes a map may have."""


@record
class Wait:
    """The expectation of one wait, as far as it can be read; UNKNOWN stands for a value made at run time."""

    of: tuple[Owner, ...] = ()
    within: Span | Unknown | None = None
    remind: Span | Unknown | None = None
    escalate: tuple[tuple[Span | Unknown, tuple[Owner, ...]], ...] = ()
    expires: tuple[Span | Unknown, str] | None = None


@record(eq=False)
class Site:
    """One durable call in the source and the node it claims."""

    node: str
    kind: NodeKind
    call: ast.Call
    target: Any = None
    wait: Wait = Wait()
    bounded: bool = False  # within an asyncio.timeout or wait_for
    shows_all: bool = False


@record(frozen=False, eq=False)
class FunctionReading:
    """One stage, exception path or part as it was read, and what of its tree has been claimed.

    The maps by `id()` hold for the trees of `source`, which live as long as the reading.
    """

    workflow: Workflow[Any]
    stage: Stage[Any]
    parts: tuple[str, ...]
    source: Source
    scope: Scope
    locals: Locals
    case: str
    is_part: bool
    block: Block = NOTHING
    sites: list[Site] = field(default_factory=list)
    nodes_at: dict[int, list[str]] = field(default_factory=dict)  # by the call's syntax node
    exits_at: dict[int, list[str]] = field(default_factory=dict)  # by the return statement's
    awaits: set[int] = field(default_factory=set)  # claimed, or found to be unreadable
    references: set[int] = field(default_factory=set)  # names of activities and parts that were understood

    def nodes_within(self, *trees: ast.AST) -> set[str]:
        """Return the nodes claimed by calls inside the given syntax nodes."""
        return {place for tree in trees for node in ast.walk(tree) for place in self.nodes_at.get(id(node), ())}

    def exits_within(self, *trees: ast.AST) -> set[str]:
        """Return the exits taken by returns inside the given syntax nodes."""
        return {exit for tree in trees for node in ast.walk(tree) for exit in self.exits_at.get(id(node), ())}

    def finding(self, code: str, node: ast.AST, message: str, hint: str = "") -> Finding:
        """Return a finding at a syntax node of this function."""
        return Finding(self.source.file, getattr(node, "lineno", self.source.tree.lineno), code, message, hint)


class Atlas:
    """Everything that one reading of a workflow gathers."""

    def __init__(self, workflow: Workflow[Any]) -> None:
        self.workflow = workflow
        self.nodes: dict[str, Node] = {}
        self.findings: list[Finding] = []
        self.functions: list[FunctionReading] = []
        self.activities: dict[str, Activity[Any, Any]] = {}
        self.decisions: dict[str, Decision[Any, Any]] = {}
        self.children: dict[str, Workflow[Any]] = {}
        self.part_paths: set[tuple[str, ...]] = set()

    def claim(self, reading: FunctionReading, call: ast.AST, node: Node, *, again: bool = False) -> str:
        """Give a node to a syntax node; a second claim is a finding where the kind has labels."""
        taken = self.nodes.get(node.id)
        if taken is None and len(self.nodes) >= NODES_LIMIT:
            self.findings.append(reading.finding("too_large", call, f"the map has more than {NODES_LIMIT:,} nodes"))
            return node.id
        if taken is None:
            self.nodes[node.id] = node
        elif node.kind not in SHARED_KINDS and not again:
            self.findings.append(
                reading.finding(
                    "same_place_twice",
                    call,
                    f"{node.id} is also at line {taken.line}: two calls in one stage, and no event says which",
                    _label_hint(node),
                )
            )
        reading.nodes_at.setdefault(id(call), []).append(node.id)
        return node.id

    def node(self, reading: FunctionReading, call: ast.AST, kind: NodeKind, name: str = "", **facts: Any) -> Node:
        """Return a node of the reading's stage and part, at the call's line."""
        label = facts.pop("label", None)
        return Node(
            id=node_id(reading.stage.name, reading.parts, kind, name, label),
            kind=kind,
            name=name,
            label=label,
            stage=reading.stage.name,
            parts=reading.parts,
            owner=facts.pop("owner", reading.stage.owner.name),
            file=reading.source.file,
            line=getattr(call, "lineno", reading.source.tree.lineno),
            **facts,
        )


def _label_hint(node: Node) -> str:
    if node.kind in ("approval", "choice", "task"):
        return f'label="second {node.kind}"'.replace(" ", "-", 1)
    if node.kind in ("activity", "decision"):
        return f'{node.name}.labelled("after-correction")(...)'
    return 'label="second"'
