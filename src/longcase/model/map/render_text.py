"""The map as text: what a terminal shows, stage by stage, with its failures, ladders and expiries."""

from __future__ import annotations

from collections.abc import Iterator

from longcase.model.map.block import (
    Alt,
    Block,
    Edit,
    Exit,
    Group,
    Guard,
    Inline,
    Jump,
    Limit,
    Loop,
    Par,
    Seq,
    Spawn,
    Step,
)
from longcase.model.map.graph import Edge, Node, StageMap, WorkflowMap

_INDENT = "  "


def render_text(map: WorkflowMap) -> str:
    """Return the map as indented text; equal maps give equal text."""
    return "\n".join(_Text(map).lines()) + "\n"


class _Text:
    def __init__(self, map: WorkflowMap) -> None:
        self._map = map
        self._failures: dict[str, list[Edge]] = {}
        for edge in map.edges:
            if edge.kind == "failure":
                self._failures.setdefault(edge.source, []).append(edge)

    def lines(self) -> Iterator[str]:
        map = self._map
        expected = f", expected {map.expect}" if map.expect else ""
        yield f"{map.workflow}: {map.object} by {map.key}, owner {map.owner}{expected}"
        for stage in map.stages.values():
            yield ""
            yield self._heading(stage)
            if stage.goal:
                yield f"{_INDENT}{stage.goal}"
            yield from self._block(stage.block, 1)

    def _heading(self, stage: StageMap) -> str:
        facts = [f"owner {stage.owner}"]
        if stage.expect:
            facts.append(f"expected {stage.expect}")
        if stage.name == self._map.entry:
            facts.append("cases start here")
        if stage.kind == "stage":
            return f"stage {stage.name} ({', '.join(facts)})"
        every = set(stage.during) == {s.name for s in self._map.stages.values() if s.kind == "stage"}
        where = "any stage" if every else ", ".join(stage.during)
        if stage.kind == "handler":
            return f"on {stage.signal}, beside {where}: {stage.name} ({', '.join([*facts, 'interrupts: no'])})"
        return f"on {stage.signal or 'cancel'}, from {where}: {stage.name} ({', '.join(facts)})"

    def _block(self, block: Block, depth: int) -> Iterator[str]:
        pad = _INDENT * depth
        match block:
            case Step(node) if self._map.nodes[node].kind == "on":
                return  # its heading says it
            case Step(node):
                yield from self._node(self._map.nodes[node], depth)
            case Exit(node):
                yield f"{pad}{self._exit(self._map.nodes[node])}"
            case Jump(kind):
                yield f"{pad}{kind}"
            case Seq(items):
                for item in items:
                    yield from self._block(item, depth)
            case Alt(title, arms, by):
                if not by and title:
                    yield f"{pad}if {title}" if any(arm.label == title for arm in arms) else f"{pad}by {title}"
                for arm in arms:
                    yield from self._arm("then" if arm.label == title else arm.label, arm.block, depth)
            case Loop(title, body, _, rest):
                yield f"{pad}{title}"
                yield from self._block(body, depth + 1)
                yield from self._block(rest, depth)
            case Par(branches, each):
                yield f"{pad}{'at once, for each' if each else 'at once'}"
                for branch in branches:
                    yield from self._bulleted(branch, depth + 2)
            case Spawn(inner):
                yield f"{pad}beside what follows"
                yield from self._bulleted(inner, depth + 2)
            case Group(body):
                yield f"{pad}together, until all are done"
                yield from self._block(body, depth + 1)
            case Guard():
                yield from self._guard(block, depth)
            case Limit(node, body):
                yield f"{pad}with a timeout"
                yield from self._block(body, depth + 1)
            case Edit(node, body):
                yield from self._block(body, depth)
                yield from self._node(self._map.nodes[node], depth)
            case Inline(name, body):
                yield f"{pad}part {name}"
                yield from self._block(body, depth + 1)

    def _arm(self, label: str, block: Block, depth: int) -> Iterator[str]:
        inner = list(self._block(block, depth + 1))
        if not label and not inner:
            return
        heading = f"{_INDENT * depth}{label or 'else'}:"
        if len(inner) == 1:
            yield f"{heading} {inner[0].strip()}"
        else:
            yield heading if inner else f"{heading} go on"
            yield from inner

    def _bulleted(self, block: Block, depth: int) -> Iterator[str]:
        for number, line in enumerate(self._block(block, depth)):
            yield line if number else f"{line[: len(_INDENT * depth) - 2]}- {line.lstrip()}"

    def _guard(self, guard: Guard, depth: int) -> Iterator[str]:
        yield from self._block(guard.body, depth)
        yield from self._block(guard.rest, depth)
        for arm in guard.handlers:
            yield from self._arm(f"on {arm.label}", arm.block, depth)
        yield from self._block(guard.final, depth)

    def _node(self, node: Node, depth: int) -> Iterator[str]:
        pad = _INDENT * depth
        what = node.id.rpartition("/")[2].replace(":", " ", 1)
        facts = [f'"{node.title}"'] if node.title else []
        if node.owner != self._map.stages[node.stage].owner or node.kind in ("activity", "decision"):
            facts.append(f"by {node.owner}")
        facts += [f"on {node.system}"] if node.system else []
        facts += [f"{node.quorum} must {'approve' if node.kind == 'approval' else 'agree'}"] if node.quorum > 1 else []
        facts += (
            [f"for {node.within}" if node.kind == "pause" else f"expected within {node.within}"] if node.within else []
        )
        facts += [f"reminded every {node.remind}"] if node.remind else []
        facts += [f"undone by {node.undo}"] if node.undo else []
        yield f"{pad}{what}" + (f" ({', '.join(facts)})" if facts else "")
        for level in node.escalate:
            yield f"{pad}{_INDENT}! after {level.after}: escalated to {level.to}"
        if node.expires:
            yield f"{pad}{_INDENT}~ after {node.expires[0]}: counts as {node.expires[1]}"
        for edge in self._failures.get(node.id, ()):
            to = edge.target.replace(":", " of ", 1) if edge.target.startswith("incident:") else edge.target
            yield f"{pad}{_INDENT}x {edge.label}: {to}"

    def _exit(self, node: Node) -> str:
        how, _, name = node.name.partition(":")
        return {"to": f"-> {name}", "close": f"=> closed {name}", "again": "-> again"}[how]
