"""A world for stage code: answers every request at once, in every way there is, and notes each arrival.

It stands in for the engine where a test is about the map alone: no store, no turns, no replay.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from random import Random
from typing import Any, Protocol
from uuid import UUID

from longcase.errors import ActivityFailed
from longcase.model.case import Case
from longcase.model.exits import Again, Close
from longcase.model.host import current_host
from longcase.model.places import node_id, slug
from longcase.model.workflow import Workflow

RUNS_LIMIT = 500
_strand: ContextVar[list[Any]] = ContextVar("strand")
_parts: ContextVar[tuple[str, ...]] = ContextVar("parts", default=())


Arrivals = list[tuple[str, int, str]]


class Choices(Protocol):
    """Where a world takes its outcomes from."""

    def choose(self, count: int) -> int:
        """Return one of 0..count-1."""
        ...


class Outcomes:
    """Hands out one of n outcomes at a time, and over many runs every sequence of them."""

    def __init__(self) -> None:
        self.sequence: list[list[int]] = []  # [chosen, of how many]
        self._next = 0

    def choose(self, count: int) -> int:
        if self._next == len(self.sequence):
            self.sequence.append([0, count])
        chosen = self.sequence[self._next][0]
        self._next += 1
        return chosen

    def advance(self) -> bool:
        """Go to the next sequence; False when all were had."""
        self._next = 0
        while self.sequence:
            self.sequence[-1][0] += 1
            if self.sequence[-1][0] < self.sequence[-1][1]:
                return True
            self.sequence.pop()
        return False


class World:
    """A host that answers at once, in every way there is, and notes each arrival at a node."""

    def __init__(self, stage: str, start: Mapping[str, Any], outcomes: Choices) -> None:
        self.stage = stage
        self.data = dict(start)
        self.outcomes = outcomes
        self.events: list[tuple[str, int, str]] = []

    def arrive(self, kind: Any, name: str = "", label: str | None = None) -> None:
        node = node_id(self.stage, _parts.get(), kind, name, label)
        n = 1 + sum(known == node for known, _, _ in self.events)
        self.events.append((node, n, _strand.get()[0]))

    def now(self) -> datetime:
        return datetime(2026, 1, 5, tzinfo=UTC)

    def random(self) -> Random:
        return Random(1)

    def uuid(self) -> UUID:
        return UUID(int=1)

    def key(self) -> str:
        return "K-1"

    def visit(self) -> int:
        return 1

    def object(self) -> Any:
        return self.data

    def log(self, message: str, fields: Mapping[str, Any]) -> None:
        return None

    def change(self, patch: Mapping[str, Any]) -> None:
        self.arrive("change")
        self.data = {**self.data, **patch}

    def rule(self, decision: Any, inputs: Any, decide: Callable[[], Any], again: bool) -> Any:
        self.arrive("decision", decision.name, decision.label)
        answer = decision.answers[self.outcomes.choose(len(decision.answers))]
        return {"answer": answer, "rule": "", "because": ""}

    def enter_part(self, name: str) -> Callable[[], None]:
        token = _parts.set((*_parts.get(), name))
        return lambda: _parts.reset(token)

    async def perform(self, activity: Any, label: str | None, arguments: Any) -> Any:
        self.arrive("activity", activity.name, label)
        await asyncio.sleep(0)
        if self.outcomes.choose(2):
            raise ActivityFailed(activity.name, "Lost", "lost", attempts=1)
        sample = {"check_registry": {"rating": "A"}}
        return sample.get(activity.name, None if "None" in str(activity.signature.return_annotation) else "x")

    async def pause(self, span: Any, because: str, label: str | None) -> None:
        self.arrive("pause", label or slug(because))
        await asyncio.sleep(0)

    async def receive(self, signal: Any, within: Any, label: str | None) -> Any:
        self.arrive("receive", signal.name, label)
        await asyncio.sleep(0)
        return {"amount": self.outcomes.choose(2)}

    async def ask(self, request: Any) -> Any:
        self.arrive(request.kind, request.label or slug(request.question))
        await asyncio.sleep(0)
        answers = request.answers or ({"amount": 1},)
        return {"answer": answers[self.outcomes.choose(len(answers))]}

    async def require(self, request: Any) -> Any:
        if self.data.get(request.field) is None:
            self.arrive("require", request.field)
            self.data = {**self.data, request.field: "given"}

    async def child(self, workflow: Any, body: Any, within: Any, on_close: str, label: str | None) -> Any:
        self.arrive("child", workflow.name, label)
        return {"key": "K-2", "name": "done"}

    def spawn(self, workflow: Any, body: Any, on_close: str, label: str | None) -> str:
        self.arrive("spawn", workflow.name, label)
        return "K-2"

    async def undo(self, since: Any) -> None:
        self.arrive("undo")


def strands(loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
    """Make a task and give it its place in the tree of tasks, as the engine's loop does."""
    parent = _strand.get(None)
    name = "0"
    if parent is not None:
        name = f"{parent[0]}.{parent[1]}"
        parent[1] += 1

    async def run() -> Any:
        _strand.set([name, 0])
        return await coro

    return asyncio.Task(run(), loop=loop, **kwargs)


def run(workflow: Workflow[Any], stage: str, start: Mapping[str, Any], choices: Choices) -> Arrivals:
    """Run a stage once and return its arrivals, the exit included."""
    world = World(stage, start, choices)

    async def visit() -> None:
        asyncio.get_running_loop().set_task_factory(strands)
        current_host.set(world)
        case: Case[Any] = Case(world, workflow)

        async def root() -> None:
            left = await workflow.stages[stage].fn(case)
            kind = f"close:{left.name}" if isinstance(left, Close) else "again" if isinstance(left, Again) else ""
            world.arrive("exit", kind or f"to:{left.name}")

        await asyncio.create_task(root())

    with contextlib.suppress(ActivityFailed, ExceptionGroup):  # an incident: nothing more of the turn
        asyncio.run(visit())
    return world.events


def every_run(workflow: Workflow[Any], stage: str, start: Mapping[str, Any]) -> list[Arrivals]:
    """Run a stage over every sequence of outcomes and return the arrivals of each run."""
    outcomes = Outcomes()
    runs: list[Arrivals] = []
    while len(runs) < RUNS_LIMIT:
        runs.append(run(workflow, stage, start, outcomes))
        if not outcomes.advance():
            return runs
    raise AssertionError("too many runs")
