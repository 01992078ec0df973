"""Which node may follow which: the follow relation of a stage, derived from its block tree.

A stage is a regular expression over its nodes. Walking the tree with the set of nodes that may
have come last (the tips) gives first, last and follow sets at once: a parallel strand begins
anew, a handler may follow every node of its try, `break`, `continue` and `return` carry their
tips to where they land, through every `finally` on the way.

The relation is a superset of what can happen, so that a check of real events against it raises
no false alarm. Each pair says why it is there: "next" is drawn; "skip" passes over a node that
may leave no trace (an empty change, a timeout of None); "failure" leads to a handler; "order" is
possible in one strand but says nothing to a reader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import field, replace
from operator import attrgetter
from typing import Literal, TypeAlias

from longcase.model.map.block import (
    Alt,
    Arm,
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
from longcase.record import record

START = ""
"""Stands before the first node of a stage."""
STRAND = "|"
"""Stands before the first node of a parallel strand."""
ROUNDS_LIMIT = 1000
"""How often a loop's body is walked at most; each round must add a tip, so that real code needs few."""

PairKind = Literal["next", "skip", "failure", "order"]


@record
class Tip:
    """A node that may have come last, why, and the answer that led on from it."""

    source: str
    kind: PairKind = "next"
    label: str = ""


Tips: TypeAlias = frozenset[Tip]
Jumps: TypeAlias = dict[str, Tips]
_NONE: Tips = frozenset()


@record(frozen=False)
class Flow:
    """The follow relation of one stage, and whether its end can be reached without an exit."""

    pairs: dict[tuple[str, str], set[tuple[PairKind, str]]] = field(default_factory=dict)
    falls_off: bool = False

    def follows(self, before: str, after: str) -> bool:
        """Tell whether `after` may come right after `before` in one strand."""
        return (before, after) in self.pairs

    def before(self, node: str) -> set[str]:
        """Return every node that may come somewhere before `node`."""
        found: set[str] = set()
        fresh = {node}
        while fresh:
            fresh = {a for a, b in self.pairs if b in fresh and a not in (START, STRAND)} - found
            found |= fresh
        return found


def flow_of(block: Block) -> Flow:
    """Return the follow relation of a stage's block tree."""
    walker = _Walker()
    tips, jumps = walker.walk(block, frozenset({Tip(START)}))
    for key, leaving in jumps.items():
        if key not in ("break", "continue", "return"):
            walker.step(key, leaving)
    walker.flow.falls_off = bool(tips)
    return walker.flow


def completes(block: Block) -> bool:
    """Tell whether what stands after the block can be reached."""
    tips, _ = _Walker().walk(block, frozenset({Tip(START)}))
    return bool(tips)


def kind_of(node: str) -> str:
    """Return the kind of a node, as its id says it."""
    return node.rpartition("/")[2].partition(":")[0]


class _Walker:
    def __init__(self) -> None:
        self.flow = Flow()
        self._seen: list[set[str]] = [set()]  # the nodes of each try being walked, innermost last
        self._joins: list[set[Tip]] = []  # the ends of the strands of each group being walked

    def step(self, node: str, tips: Tips) -> Tips:
        """Note that `node` may follow each tip, and return it as the only tip."""
        # A set has another order in another process, and edges are fingerprinted.
        for tip in sorted(tips, key=attrgetter("source", "kind", "label")):
            self.flow.pairs.setdefault((tip.source, node), set()).add((tip.kind, tip.label))
        if not tips:
            return _NONE
        self._seen[-1].add(node)
        return frozenset({Tip(node)})

    def walk(self, block: Block, tips: Tips) -> tuple[Tips, Jumps]:
        """Return the tips after the block, and those that left it by a jump or an exit."""
        match block:
            case Step(node):
                after = self.step(node, tips)
                # What is required may be there already; then nothing is asked and nothing recorded.
                return (after | _as("skip", tips) if kind_of(node) == "require" else after), {}
            case Seq(items):
                return self._sequence(items, tips)
            case Alt(_, arms, by):
                return self._alternatives(arms, by, tips)
            case Loop():
                return self._loop(block, tips)
            case Par(branches):
                return self._parallel(branches, tips), {}
            case Spawn(inner):
                return self._spawn(inner, tips), {}
            case Group(body):
                return self._group(body, tips)
            case Guard():
                return self._guard(block, tips)
            case Limit(node, body):
                return self.walk(body, self.step(node, tips) | _as("skip", tips))
            case Edit(node, body):
                return self._through(body, tips, lambda ends: self.step(node, ends) | _as("skip", ends))
            case Inline(_, body):
                after, jumps = self.walk(body, tips)
                return after | jumps.pop("return", _NONE), jumps
            case Exit(node):
                return _NONE, {node: tips} if tips else {}
            case Jump("raise"):
                return _NONE, {}
            case Jump(kind):
                return _NONE, {kind: tips}

    def _sequence(self, items: Iterable[Block], tips: Tips) -> tuple[Tips, Jumps]:
        jumps: Jumps = {}
        for item in items:
            tips, leaving = self.walk(item, tips)
            _merge(jumps, leaving)
        return tips, jumps

    def _alternatives(self, arms: tuple[Arm, ...], by: str, tips: Tips) -> tuple[Tips, Jumps]:
        jumps: Jumps = {}
        ends: list[Tips] = []
        for arm in arms:
            after, leaving = self.walk(arm.block, _labelled(arm.label, by, tips))
            ends.append(after)
            _merge(jumps, leaving)
        # Where several arms pass without a node, which one was taken says nothing about what follows.
        sources = {tip.source for tip in tips}
        passing = [end for end in ends if any(tip.source in sources for tip in end)]
        if len(passing) < 2:
            return _NONE.union(*ends), jumps
        return tips | {tip for end in ends for tip in end if tip.source not in sources}, jumps

    def _loop(self, loop: Loop, tips: Tips) -> tuple[Tips, Jumps]:
        entering, jumps = tips, Jumps()
        for _ in range(ROUNDS_LIMIT):
            after, leaving = self.walk(loop.body, entering)
            again = entering | _unlabelled(after | leaving.pop("continue", _NONE))
            _merge(jumps, leaving)
            if again == entering:
                break
            entering = again
        broken = jumps.pop("break", _NONE)
        if loop.endless:
            return broken, jumps
        rest, leaving = self.walk(loop.rest, entering)
        _merge(jumps, leaving)
        return rest | broken, jumps

    def _strand(self, block: Block, tips: Tips) -> Tips:
        # wait_for runs its coroutine in the caller's strand or in a new one, as the Python version has it.
        after, _ = self.walk(block, tips | {Tip(STRAND)})
        return frozenset(tip for tip in after if tip.source != STRAND)

    def _parallel(self, branches: tuple[Block, ...], tips: Tips) -> Tips:
        if not tips:
            return _NONE
        ends = _NONE.union(*(self._strand(branch, tips) for branch in branches)) - tips
        return _as("order", tips) | ends if ends else tips

    def _spawn(self, block: Block, tips: Tips) -> Tips:
        if not tips:
            return _NONE
        ends = self._strand(block, tips) - tips
        if self._joins:
            self._joins[-1] |= ends
            return tips
        return tips | _as("order", ends)

    def _group(self, body: Block, tips: Tips) -> tuple[Tips, Jumps]:
        self._joins.append(set())
        after, jumps = self.walk(body, tips)
        joined = frozenset(self._joins.pop())
        if not after or not joined:
            return after, jumps
        return _as("order", after) | joined, jumps

    def _guard(self, guard: Guard, tips: Tips) -> tuple[Tips, Jumps]:
        if guard.final != Seq():
            inner = replace(guard, final=Seq())
            return self._through(inner, tips, lambda ends: self.walk(guard.final, ends)[0], also_raised=True)
        self._seen.append(set())
        after, jumps = self.walk(guard.body, tips)
        inside = self._seen.pop()
        self._seen[-1] |= inside
        ends, leaving = self.walk(guard.rest, after)
        _merge(jumps, leaving)
        for arm in guard.handlers:
            raised = {Tip(n, "failure" if kind_of(n) in arm.catches else "order", arm.label) for n in inside}
            handled, leaving = self.walk(arm.block, _as("order", tips) | raised)
            ends |= handled
            _merge(jumps, leaving)
        return ends, jumps

    def _through(
        self, block: Block, tips: Tips, last: Callable[[Tips], Tips], *, also_raised: bool = False
    ) -> tuple[Tips, Jumps]:
        """Walk the block, then `last`, whichever way the block is left."""
        self._seen.append(set())
        after, jumps = self.walk(block, tips)
        inside = self._seen.pop()
        self._seen[-1] |= inside
        if also_raised and tips:
            last(_as("order", tips) | {Tip(node, "order") for node in inside})
        return (last(after) if after else _NONE), {key: last(ends) for key, ends in jumps.items() if ends}


def _merge(jumps: Jumps, more: Jumps) -> None:
    for key, tips in more.items():
        jumps[key] = jumps.get(key, _NONE) | tips


def _as(kind: PairKind, tips: Tips) -> Tips:
    # What is possible in the order only stays so, whatever may be skipped besides.
    return frozenset(tip if tip.kind == "order" else replace(tip, kind=kind) for tip in tips)


def _labelled(label: str, by: str, tips: Tips) -> Tips:
    if not label:
        return tips
    # What is left of one node's answers says all that earlier branches on them said.
    return frozenset(
        replace(tip, label=f"{tip.label}, {label}" if tip.label and tip.source != by else label) for tip in tips
    )


def _unlabelled(tips: Tips) -> Tips:
    return frozenset(replace(tip, label="") for tip in tips)
