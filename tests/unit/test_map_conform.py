"""Events against the map: what stages do when they run lies on it, in an order it allows."""

from __future__ import annotations

import asyncio
import contextlib
import textwrap
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

from tests.definitions import load, stage_source
from tests.typing import face

from longcase.errors import ActivityFailed
from longcase.model.case import Case
from longcase.model.host import current_host
from longcase.model.map import WorkflowMap, compile_map, node_known, order_findings
from longcase.model.places import node_id, slug
from longcase.model.workflow import Workflow

RUNS_LIMIT = 500
_strand: ContextVar[list[Any]] = ContextVar("strand")
_parts: ContextVar[tuple[str, ...]] = ContextVar("parts", default=())


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

    def __init__(self, stage: str, start: Mapping[str, Any], outcomes: Outcomes) -> None:
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


def every_run(
    map: WorkflowMap, workflow: Workflow[Any], stage: str, start: Mapping[str, Any]
) -> list[list[tuple[str, int, str]]]:
    """Run a stage over every sequence of outcomes and return the arrivals of each run."""
    outcomes = Outcomes()
    runs = []
    while len(runs) < RUNS_LIMIT:
        world = World(stage, start, outcomes)

        async def visit(world: World = world) -> None:
            asyncio.get_running_loop().set_task_factory(strands)
            current_host.set(world)
            case: Case[Any] = Case(world, workflow)

            async def root() -> Any:
                return await workflow.stages[stage].fn(case)

            await asyncio.create_task(root())

        with contextlib.suppress(ActivityFailed, ExceptionGroup):  # an incident: nothing more of the turn
            asyncio.run(visit())
        runs.append(world.events)
        if not outcomes.advance():
            return runs
    raise AssertionError("too many runs")


EVERYTHING = """
try:
    async with asyncio.TaskGroup() as group:
        group.create_task(sign(case))
        for item in case.object.items:
            group.create_task(reserve(item))
        await notify("group")
except* ActivityFailed:
    case.update(amount=1)
rating = await case.require(lambda order: order.rating, asked_of=sales, within=days(2))
while (body := await case.receive(paid, within=days(1))).amount:
    with case.change() as order:
        order.amount = order.amount + 1
    if order.amount > 2:
        break
    if is_big(case.object) == "yes":
        continue
    await case.pause(days(1), because="x")
else:
    case.spawn(wf, case.object)
try:
    names = await asyncio.gather(*[reserve.labelled("again")(item) for item in case.object.items])
except ActivityFailed:
    return wf.close("lost")
finally:
    case.update(route="slow")
return last if await asyncio.wait_for(charge(1), 60) and body.amount else wf.close("done")
"""
SIGN = """
@wf.part
async def sign(case: Case[Order]) -> str:
    go = await case.approval("Go?", of=sales, shows=[lambda order: order.amount], within=days(1))
    if go.answer == "approved":
        return await charge(1)
    return go.answer
"""


def test_row_A5_all_that_the_tutorial_does_lies_on_its_map() -> None:
    map, _ = compile_map(face.onboarding)
    start = {"id": "C-1", "name": "Acme", "legal_entity": None, "rating": None}
    visited = set()
    for stage in face.onboarding.stages:
        for events in every_run(map, face.onboarding, stage, start):
            visited |= {node for node, _, _ in events}
            assert [node for node, _, _ in events if not node_known(map, node)] == []
            assert order_findings(map, events) == []
    waits = {node.id for node in map.nodes.values() if node.kind != "exit" and node.stage in face.onboarding.stages}
    assert visited == waits


def test_row_A5_all_that_a_stage_of_every_construct_does_lies_on_its_map(tmp_path: Path) -> None:
    module = load(tmp_path, stage_source(textwrap.dedent(EVERYTHING).strip(), SIGN))
    map, findings = compile_map(module.wf)
    assert findings == []
    start = {"id": "C-1", "amount": 0, "rating": None, "route": "fast", "tags": [], "items": ["a"]}
    visited = set()
    for events in every_run(map, module.wf, "first", start):
        visited |= {node for node, _, _ in events}
        assert [node for node, _, _ in events if not node_known(map, node)] == []
        assert order_findings(map, events) == []
    timers = {"first/timeout"}  # armed by the engine's loop, which this world has not
    assert visited | timers == {node.id for node in map.nodes.values() if node.stage == "first" and node.kind != "exit"}


def test_an_order_the_map_does_not_allow_is_found() -> None:
    map, _ = compile_map(face.onboarding)
    events = [("intake/activity:check_registry", 1, "0"), ("intake/require:legal_entity", 1, "0")]
    (found,) = order_findings(map, events)
    assert (found.node, found.after) == ("intake/require:legal_entity", "intake/activity:check_registry")
    assert str(found) == "intake/require:legal_entity#1 in strand 0 after intake/activity:check_registry"


def test_a_stage_that_begins_in_the_middle_is_found() -> None:
    map, _ = compile_map(face.onboarding)
    (found,) = order_findings(map, [("review/approval:sign-off", 1, "0")])
    assert found.after == ""


def test_further_events_at_one_arrival_change_nothing() -> None:
    map, _ = compile_map(face.onboarding)
    events = [
        ("intake/require:legal_entity", 1, "0"),
        ("intake/activity:check_registry", 1, "0"),
        ("intake/require:legal_entity", 1, "0"),
        ("intake/change", 1, "0"),
        ("intake/exit:to:review", 1, "0"),
    ]
    assert order_findings(map, events) == []


def test_a_visit_may_begin_with_the_exit_that_led_to_it() -> None:
    map, _ = compile_map(face.onboarding)
    assert order_findings(map, [("intake/exit:to:review", 1, "0"), ("review/decision:needs_sign_off", 1, "0")]) == []


def test_strands_are_ordered_each_by_itself(tmp_path: Path) -> None:
    body = 'await asyncio.gather(sign(case), reserve("a"))\nawait notify("x")\nreturn last'
    map, _ = compile_map(load(tmp_path, stage_source(body, SIGN)).wf)
    sign = ("first/sign/approval:go", 1, "0.0")
    charge = ("first/sign/activity:charge", 1, "0.0")
    reserve = ("first/activity:reserve", 1, "0.1")
    notify = ("first/activity:notify", 1, "0")
    assert order_findings(map, [sign, reserve, charge, notify]) == []
    assert order_findings(map, [reserve, sign, charge, notify]) == []
    assert [found.node for found in order_findings(map, [charge, sign])] == [charge[0], sign[0]]


def test_stages_and_earlier_ids_are_known_and_others_are_not() -> None:
    map, _ = compile_map(face.onboarding)
    assert node_known(map, "review")
    assert node_known(map, "review/approval:sign-off")
    assert not node_known(map, "review/approval:something-else")
    assert not node_known(map, "")
