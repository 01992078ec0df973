"""The map as a Mermaid flowchart: a subgraph per stage, its failure, escalation, expiry and exception edges."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from longcase.model.map.graph import Edge, EdgeKind, Node, WorkflowMap

_WORDS: Final[dict[EdgeKind, str]] = {
    "failure": "failed:",
    "escalation": "escalated",
    "expiry": "expires",
    "exception": "on",
    "handler": "beside, on",
    "undo": "undoes by",
}
"""What is said on the dotted arrows; the others are drawn through."""
_SHAPES: Final[dict[str, tuple[str, str]]] = {
    "activity": ("[", "]"),
    "decision": ("{", "}"),
    "approval": ("[/", "/]"),
    "choice": ("[/", "/]"),
    "task": ("[/", "/]"),
    "require": ("[/", "/]"),
    "receive": (">", "]"),
    "on": (">", "]"),
    "pause": ("([", "])"),
    "timeout": ("([", "])"),
    "child": ("[[", "]]"),
    "spawn": ("[[", "]]"),
    "exit": ("((", "))"),
}
_CLASSES: Final = {
    "incident": "fill:#fde8e8,stroke:#c0392b",
    "owner": "fill:#fff4de,stroke:#b9770e",
    "close": "fill:#e8f0fe,stroke:#1a5fb4",
}


def render_mermaid(map: WorkflowMap) -> str:
    """Return the map as the text of a Mermaid flowchart; equal maps give equal text."""
    return "\n".join(_Mermaid(map).lines()) + "\n"


class _Mermaid:
    def __init__(self, map: WorkflowMap) -> None:
        self._map = map
        outside = [end for edge in map.edges for end in (edge.source, edge.target) if end and end not in map.stages]
        self._ids = {place: f"n{number}" for number, place in enumerate(dict.fromkeys([*map.nodes, *outside]))}
        self._subgraphs = {stage: f"s{number}" for number, stage in enumerate(map.stages)}
        # An edge may not end at a subgraph that holds its start, so each stage has a node to enter by.
        self._ids |= {stage: f"{subgraph}in" for stage, subgraph in self._subgraphs.items()}

    def lines(self) -> Iterator[str]:
        map = self._map
        yield "flowchart TB"
        yield f"    start(({_text(map.workflow)}))"
        for stage in map.stages.values():
            name = f"on {stage.signal or 'cancel'}: {stage.name}" if stage.kind != "stage" else stage.name
            name += ", interrupts: no" if stage.kind == "handler" else ""
            yield f"    subgraph {self._subgraphs[stage.name]}[{_text(f'{name} ({stage.owner})')}]"
            yield f"        {self._ids[stage.name]}([{_text(stage.name)}])"
            for node in map.nodes.values():
                if node.stage == stage.name:
                    yield f"        {self._node(node)}"
            yield "    end"
        for name, style in _CLASSES.items():
            members = [place for place in self._ids if place.startswith(f"{name}:")]
            for place in members:
                yield f"    {self._ids[place]}({_text(place.replace(':', ' ', 1))})"
            if members:
                yield f"    classDef {name} {style}"
                yield f"    class {','.join(self._ids[place] for place in members)} {name}"
        for edge in map.edges:
            yield f"    {self._edge(edge)}"

    def _node(self, node: Node) -> str:
        left, right = _SHAPES.get(node.kind, ("[", "]"))
        what = node.id.rpartition("/")[2]
        path = "/".join((*node.parts, what))
        lines = [path, *([node.title] if node.title else []), *([node.owner] if node.kind == "activity" else [])]
        return f"{self._ids[node.id]}{left}{_text('<br/>'.join(lines))}{right}"

    def _edge(self, edge: Edge) -> str:
        sources = self._subgraphs if edge.kind in ("exception", "handler") else self._ids
        source, target = sources[edge.source] if edge.source else "start", self._ids[edge.target]
        label = " ".join(filter(None, (_WORDS.get(edge.kind), edge.label)))
        arrow = "-.->" if edge.kind in _WORDS else "==>" if edge.kind == "exit" else "-->"
        return f"{source} {arrow}{f'|{_text(label)}|' if label else ''} {target}"


def _text(text: str) -> str:
    """Quote a label: quotes and what Mermaid would read as syntax are written as entities."""
    escaped = text.replace("|", "/").replace("&", "#amp;").replace('"', "#quot;").replace("<br/>", "\0")
    return '"' + escaped.replace("<", "#lt;").replace(">", "#gt;").replace("\0", "<br/>") + '"'
