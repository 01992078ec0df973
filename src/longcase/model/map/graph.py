"""The map of a workflow as data: stages, nodes, edges, and a fingerprint over all of them.

A map is a value. It is stored under its fingerprint, and every event carries the map it was made
under, so that an old event lies on its old map for ever (MAP.md). File and line help a reader
and are no part of the fingerprint; neither are the objects (activities, decisions, workflows)
that a freshly compiled map holds for the worker and a stored one does not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

from longcase.model.codec import Json, canonical_json
from longcase.model.map.block import Block, block_from_json, block_to_json
from longcase.model.map.flow import Flow, flow_of
from longcase.model.places import NodeKind
from longcase.record import record

if TYPE_CHECKING:
    from longcase.model.activity import Activity
    from longcase.model.decision import Decision
    from longcase.model.workflow import Workflow

MAP_FORMAT = 1
"""The version of the JSON form."""

WAITING: frozenset[str] = frozenset(
    {"activity", "approval", "choice", "task", "require", "receive", "pause", "child", "undo"}
)
"""The kinds of node at which a case waits."""

EdgeKind = Literal["entry", "next", "exit", "failure", "escalation", "expiry", "exception", "undo"]


@record
class Level:
    """One level of an escalation ladder, in words."""

    after: str
    to: str
    reassign: bool = False


@record
class Node:
    """One place of the map.

    `title` is the question or the reason; `answers` the closed set it is answered from; `within`,
    `remind`, `escalate` and `expires` are the wait's expectation in words; `undo` names the
    compensation. `was` are earlier ids. `target` is the object behind it, if the map was compiled.
    """

    id: str
    kind: NodeKind
    name: str
    label: str | None
    stage: str
    parts: tuple[str, ...]
    owner: str
    title: str = ""
    answers: tuple[str, ...] = ()
    within: str = ""
    remind: str = ""
    escalate: tuple[Level, ...] = ()
    expires: tuple[str, str] | None = None
    quorum: int = 1
    system: str = ""
    undo: str = ""
    was: tuple[str, ...] = ()
    file: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)
    target: Any = field(default=None, compare=False, repr=False)


@record
class Edge:
    """One arrow. Ends are node ids, stage names, "close:NAME", "owner:TEAM" or "incident:TEAM"."""

    source: str
    target: str
    kind: EdgeKind
    label: str = ""


@record
class StageMap:
    """One stage or exception path, with its block tree.

    For an exception path `signal` is what it reacts to ("" is a cancel) and `during` the stages it covers.
    """

    name: str
    kind: Literal["stage", "path"]
    owner: str
    expect: str
    block: Block
    was: tuple[str, ...] = ()
    goal: str = ""
    signal: str = ""
    during: tuple[str, ...] = ()
    file: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)


def _nothing() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True)
class WorkflowMap:
    """The map of one workflow. Made by `compile_map`, or read back by `from_json`.

    `activities`, `decisions` and `children` find the objects by the names the history knows,
    earlier names and undo activities included; they are empty on a map that was read back.
    """

    workflow: str
    was: tuple[str, ...]
    object: str
    key: str
    owner: str
    expect: str
    entry: str
    stages: Mapping[str, StageMap]
    nodes: Mapping[str, Node]
    edges: tuple[Edge, ...]
    activities: Mapping[str, Activity[Any, Any]] = field(default_factory=_nothing, compare=False, repr=False)
    decisions: Mapping[str, Decision[Any, Any]] = field(default_factory=_nothing, compare=False, repr=False)
    children: Mapping[str, Workflow[Any]] = field(default_factory=_nothing, compare=False, repr=False)

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits over the graph: equal maps, whatever their line numbers, have equal ones."""
        return hashlib.sha256(canonical_json(self.to_json(places=False)).encode()).hexdigest()

    @cached_property
    def flows(self) -> Mapping[str, Flow]:
        """The follow relation of each stage, by its name."""
        return {name: flow_of(stage.block) for name, stage in self.stages.items()}

    @cached_property
    def earlier(self) -> Mapping[str, str]:
        """The present id of each earlier one: what `was=` on stages and activities declares."""
        return {old: node.id for node in self.nodes.values() for old in node.was if old not in self.nodes}

    @property
    def closes(self) -> tuple[str, ...]:
        """The names of all closes, in order."""
        return tuple(sorted({e.target.partition(":")[2] for e in self.edges if e.target.startswith("close:")}))

    def place(self, node: str) -> Node | None:
        """Return the node of that id, or of that earlier id, if there is one."""
        return self.nodes.get(node) or self.nodes.get(self.earlier.get(node, ""))

    def to_json(self, *, places: bool = True) -> dict[str, Json]:
        """Return the map as plain JSON data; without `places` files and lines are left out."""
        return {
            "format": MAP_FORMAT,
            "workflow": self.workflow,
            "was": list(self.was),
            "object": self.object,
            "key": self.key,
            "owner": self.owner,
            "expect": self.expect,
            "entry": self.entry,
            "stages": [_stage_to_json(stage, places) for stage in self.stages.values()],
            "nodes": [_node_to_json(self.nodes[node], places) for node in sorted(self.nodes)],
            "edges": [[e.source, e.target, e.kind, e.label] for e in self.edges],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> WorkflowMap:
        """Return the map that `to_json` wrote, without the objects behind it."""
        if data.get("format") != MAP_FORMAT:
            raise ValueError(f"map format {data.get('format')!r}, expected {MAP_FORMAT}")
        stages = [_stage_from_json(stage) for stage in data["stages"]]
        nodes = [_node_from_json(node) for node in data["nodes"]]
        return cls(
            workflow=data["workflow"],
            was=tuple(data["was"]),
            object=data["object"],
            key=data["key"],
            owner=data["owner"],
            expect=data["expect"],
            entry=data["entry"],
            stages={stage.name: stage for stage in stages},
            nodes={node.id: node for node in nodes},
            edges=tuple(Edge(*edge) for edge in data["edges"]),
        )


_PLACES = ("file", "line")
_NODE_DEFAULTS: dict[str, Callable[[], Json]] = {
    "title": str,
    "answers": list,
    "within": str,
    "remind": str,
    "escalate": list,
    "expires": lambda: None,
    "quorum": lambda: 1,
    "system": str,
    "undo": str,
    "was": list,
}


def _node_to_json(node: Node, places: bool) -> Json:
    data: dict[str, Json] = {
        "id": node.id,
        "kind": node.kind,
        "name": node.name,
        "label": node.label,
        "stage": node.stage,
        "parts": list(node.parts),
        "owner": node.owner,
        "title": node.title,
        "answers": list(node.answers),
        "within": node.within,
        "remind": node.remind,
        "escalate": [[level.after, level.to, level.reassign] for level in node.escalate],
        "expires": list(node.expires) if node.expires else None,
        "quorum": node.quorum,
        "system": node.system,
        "undo": node.undo,
        "was": list(node.was),
    }
    shown = {
        name: value for name, value in data.items() if name not in _NODE_DEFAULTS or value != _NODE_DEFAULTS[name]()
    }
    return {**shown, "file": node.file, "line": node.line} if places else shown


def _node_from_json(data: Mapping[str, Any]) -> Node:
    full = {**{name: default() for name, default in _NODE_DEFAULTS.items()}, **data}
    assert full["kind"] in get_args(NodeKind), full["kind"]
    full["escalate"] = tuple(Level(*level) for level in full["escalate"])
    full["expires"] = tuple(full["expires"]) if full["expires"] else None
    for name in ("parts", "answers", "was"):
        full[name] = tuple(full[name])
    return Node(**full)


def _stage_to_json(stage: StageMap, places: bool) -> Json:
    data: dict[str, Json] = {
        "name": stage.name,
        "kind": stage.kind,
        "owner": stage.owner,
        "expect": stage.expect,
        "was": list(stage.was),
        "goal": stage.goal,
        "signal": stage.signal,
        "during": list(stage.during),
        "block": block_to_json(stage.block),
    }
    return {**data, "file": stage.file, "line": stage.line} if places else data


def _stage_from_json(data: Mapping[str, Any]) -> StageMap:
    full = {**data, "block": block_from_json(data["block"]), "was": tuple(data["was"]), "during": tuple(data["during"])}
    return StageMap(**full)
