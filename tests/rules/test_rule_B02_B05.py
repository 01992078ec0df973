"""B2 to B5: what replay starts from, what a stage may leave behind, and what a cancelled call means."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, Literal

import pytest
from tests.rules.redone import hangs
from tests.rules.support import Go, Order, banking, closed, credit, desk, every, in_both, incident

from longcase import ActivityFailed, Case, Next, Retry, Stage, Workflow, activity, days, decision, hours, seconds
from longcase.engine.turn import Resident
from longcase.history.state import CaseState
from longcase.testing import Simulation

wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))
go = wf.signal("go", Go)


@activity(owner=banking, effect="repeatable", once_per="case")
async def book(amount: int) -> int:
    return amount


@book.undo
async def unbook(booked: int, amount: int) -> None:
    return None


@activity(owner=banking, retry=Retry(max_attempts=1))
async def fail(amount: int) -> int:
    raise ValueError("no")


@decision(owner=credit, question="Big?", policy="v1")
def big(amount: int) -> Literal["yes", "no"]:
    return "yes" if amount > 3 else "no"


@wf.stage
async def one(case: Case[Order]) -> Next:
    await book(case.object.amount)
    case.update(note=f"{case.random().random():.6f}", extra=str(case.uuid()))
    await case.pause(hours(1), because="cooling off")
    return two


@wf.stage
async def two(case: Case[Order]) -> Next:
    verdict = await case.approval("Sign?", label="sign", of=credit, within=days(1))
    if big(case.object.amount) == "yes" and verdict.answer == "returned":
        return one
    got = await case.receive(go)
    await case.undo()
    return wf.close("done", result=got.n)


def run_all(sim: Simulation) -> str:
    case = sim.start(wf, Order(id="1", amount=5))
    sim.signal(case, go, Go(n=8))
    sim.advance(hours(1))
    sim.decide(case, "returned", by="ann")
    sim.advance(hours(1))
    sim.decide(case, "approved", by="ann")
    assert closed(sim, case) == "done"
    return case


def test_rule_B2_each_visit_replays_without_older_history() -> None:
    """Every visit is rebuilt from its own events alone and ends in the state the whole fold has there."""

    def scenario(sim: Simulation) -> None:
        case = run_all(sim)
        history = sim.history(case)
        visits = sorted({event.visit for event in history if event.visit})
        assert len(visits) == 4
        for visit in visits[:-1]:
            events = [event for event in history if event.visit == visit]
            entered = events[0]
            assert entered.type == "stage_entered"
            following = next(event for event in history if event.type == "stage_entered" and event.visit == visit + 1)
            # The last turn of a visit is the one that left it: replay everything before it.
            recorded = [event for event in events if event.seq < (following.cause or 0)]
            row = CaseState.from_json({**entered.data["snapshot"]})
            resident = Resident(1, sim._app.codes["order"], row, lambda activity, granted=False: 0)
            resident.rebuild(recorded)
            assert resident.state.seq == recorded[-1].seq
            assert resident.visit is not None
            resident.discard()
        snapshot = [e for e in history if e.type == "stage_entered"][2].data["snapshot"]
        assert [entry["activity"] for entry in snapshot["undo"].values()] == ["book"]
        assert [kept["signal"] for kept in snapshot["signals"]] == ["go"]
        assert next(iter(snapshot["once"].values()))["result"] == 5

    in_both(scenario, wf)


def test_rule_B2_older_history_deleted_the_case_goes_on(tmp_path: Any) -> None:
    """Delete everything before the current visit from the store: the case does not miss it."""
    import apsw

    path = tmp_path / "cases.db"
    with Simulation([wf], path=path, live=0) as sim:
        case = sim.start(wf, Order(id="1", amount=5))
        sim.signal(case, go, Go(n=8))
        sim.advance(hours(1))
        now, keep = sim.now, every(sim, case, "stage_entered")[-1].seq
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA foreign_keys = OFF")
    for (name,) in list(connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")):
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute(
        "DELETE FROM history WHERE seq < ? AND type NOT IN ('activity_scheduled', 'activity_completed')", (keep,)
    )
    connection.close()
    with Simulation([wf], path=path, live=0, now=now) as sim:
        sim.decide("order/1", "approved", by="ann")
        assert closed(sim, "order/1") == "done"
        assert "unbook" in [name for _, name, _ in sim.performed]


loose = Workflow("loose", object=Order, key="id", owner=desk, expect=days(5))


@loose.stage
async def begin(case: Case[Order]) -> Next:
    await case.pause(hours(1), because="begin")
    return loose.close("done")


@loose.stage
async def leaves_a_task(case: Case[Order]) -> Next:
    asyncio.create_task(case.pause(days(1), because="forgotten"))  # noqa: RUF006 - that is the mistake
    await case.pause(seconds(1), because="short")
    return loose.close("done")


@loose.stage
async def leaves_a_failure(case: Case[Order]) -> Next:
    asyncio.create_task(fail(1))  # noqa: RUF006 - that is the mistake
    await case.pause(seconds(1), because="short")
    return loose.close("done")


@loose.stage
async def gathers_and_returns(case: Case[Order]) -> Next:
    try:
        await asyncio.gather(fail(1), case.pause(days(1), because="sibling"))
    except ActivityFailed:
        return loose.close("handled")
    return loose.close("done")


@loose.stage
async def gathers_and_awaits(case: Case[Order]) -> Next:
    sibling = asyncio.create_task(case.pause(hours(1), because="sibling"))
    try:
        await asyncio.gather(fail(1), sibling)
    except ActivityFailed:
        await sibling
        return loose.close("handled")
    return loose.close("done")


@loose.stage
async def cancels_itself(case: Case[Order]) -> Next:
    await case.pause(seconds(1), because="short")
    raise asyncio.CancelledError


@loose.stage
async def leaves_waits(case: Case[Order]) -> Next:
    asked = asyncio.create_task(case.approval("Sign?", label="sign", of=credit, within=days(1)))
    await case.pause(seconds(1), because="short")
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    return begin


def moved(sim: Simulation, stage: Stage[Order]) -> str:
    case = sim.start(loose, Order(id="1"))
    sim.move(case, stage)
    return case


@pytest.mark.parametrize(
    ("stage", "says"),
    [(leaves_a_task, "still running"), (leaves_a_failure, "nobody awaited"), (gathers_and_returns, "still running")],
    ids=lambda value: getattr(value, "name", ""),
)
def test_rule_B3_a_stage_returns_with_no_live_task_and_no_unheard_exception(stage: Stage[Order], says: str) -> None:
    def scenario(sim: Simulation) -> None:
        case = moved(sim, stage)
        sim.advance(seconds(2))
        opened = incident(sim, case)
        assert opened["kind"] == "dangling_work"
        assert says in opened["message"]
        assert "Case.pause" in opened["message"] or "ActivityFailed" in opened["message"]

    in_both(scenario, loose)


def test_rule_B3_a_stage_that_cancels_itself_has_returned_nothing() -> None:
    def scenario(sim: Simulation) -> None:
        case = moved(sim, cancels_itself)
        sim.advance(seconds(2))
        opened = incident(sim, case)
        assert (opened["kind"], opened["message"]) == ("stage_failed", "cancels_itself cancelled itself")

    in_both(scenario, loose)


def test_rule_B3_waits_of_a_visit_are_withdrawn_when_it_is_over() -> None:
    def scenario(sim: Simulation) -> None:
        case = moved(sim, leaves_waits)
        sim.advance(seconds(1))
        state = sim.state(case)
        assert (state.stage, state.tasks, len(state.timers)) == ("begin", {}, 1)
        assert every(sim, case, "task_withdrawn")

    in_both(scenario, loose)


def test_rule_B5_a_handled_failure_of_gather_must_await_its_siblings() -> None:
    def scenario(sim: Simulation) -> None:
        case = moved(sim, gathers_and_awaits)
        sim.advance(hours(2))
        assert closed(sim, case) == "handled"

    in_both(scenario, loose)


stopping = Workflow("stopping", object=Order, key="id", owner=desk, expect=days(5))


@activity(owner=banking, cancel="wait", retry=Retry(max_attempts=1))
async def slow(amount: int) -> int:
    return amount


@activity(owner=banking, retry=Retry(max_attempts=3, initial=seconds(60), jitter="none"))
async def flaky(amount: int) -> int:
    raise ConnectionError("down")


@activity(owner=banking, cancel="wait", retry=Retry(max_attempts=3, initial=seconds(60), jitter="none"))
async def stubborn(amount: int) -> int:
    raise ConnectionError("down")


@stopping.stage
async def gives_up(case: Case[Order]) -> Next:
    try:
        async with asyncio.timeout(10):
            await flaky(1)
    except TimeoutError:
        case.update(note="gave up")
    await case.pause(hours(1), because="later")
    return stopping.close("done", result=case.object.note)


@stopping.stage
async def waits_for_the_end(case: Case[Order]) -> Next:
    try:
        async with asyncio.timeout(10):
            await slow(1)
    except TimeoutError:
        case.update(note="ended")
    return stopping.close("done", result=case.object.note)


@stopping.stage
async def waits_for_one_end(case: Case[Order]) -> Next:
    try:
        async with asyncio.timeout(10):
            await stubborn(case.object.amount)
    except TimeoutError:
        case.update(note="ended")
    await case.pause(hours(1), because="later")
    return stopping.close("done", result=case.object.note)


def test_rule_B4_a_cancelled_await_ends_at_once_and_its_result_never_comes_back() -> None:
    def scenario(sim: Simulation) -> None:
        async def answers_late(amount: int) -> int:
            sim.clock.advance(timedelta(seconds=30))
            return 99

        sim.fake(flaky, answers_late)
        case = sim.start(stopping, Order(id="1"))
        types = sim.types(case)
        assert types.index("activity_cancelled") < types.index("result_late")
        assert sim.state(case).object["note"] == "gave up"
        sim.advance(hours(1))
        assert (sim.state(case).close or {})["result"] == "gave up"
        assert "activity_completed" not in sim.types(case)

    in_both(scenario, stopping)


def test_rule_B4_a_cancelled_call_is_not_tried_again() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(stopping, Order(id="1"))
        sim.advance(hours(2))
        assert closed(sim, case) == "done"
        assert [name for _, name, _ in sim.performed] == ["flaky"]

    in_both(scenario, stopping)


def test_rule_B4_cancel_wait_waits_for_the_attempts_end() -> None:
    def scenario(sim: Simulation) -> None:
        async def takes_long(amount: int) -> int:
            sim.clock.advance(timedelta(seconds=30))
            return 99

        sim.fake(slow, takes_long)
        case = sim.start(stopping, Order(id="1"))
        sim.move(case, waits_for_the_end)
        assert closed(sim, case) == "done"
        cancelled = [e for e in every(sim, case, "activity_cancelled") if e.data["waits"]]
        ended = every(sim, case, "activity_completed")[0]
        written = [e for e in every(sim, case, "object_changed") if e.data["patch"] == {"note": "ended"}]
        assert cancelled[0].seq < ended.seq < written[0].seq

    in_both(scenario, stopping)


def test_rule_B4_a_cancelled_call_that_nothing_undoes_leaves_nothing_behind_whatever_it_came_to() -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(flaky, hangs)
        case = sim.start(stopping, Order(id="1"))
        sim.advance(seconds(10))
        assert (sim.state(case).object["note"], sim.state(case).calls) == ("gave up", {})
        sim.advance(hours(1))
        assert closed(sim, case) == "done"

    in_both(scenario, stopping)


@pytest.mark.parametrize("fails_after", [30, 0], ids=["running", "waits for its next try"])
def test_rule_B4_cancel_wait_waits_for_no_further_attempt(fails_after: int) -> None:
    def scenario(sim: Simulation) -> None:
        async def breaks(amount: int) -> int:
            sim.clock.advance(timedelta(seconds=fails_after))
            raise ConnectionError("down")

        sim.fake(stubborn, breaks)
        case = sim.start(stopping, Order(id="1"))
        sim.move(case, waits_for_one_end)
        sim.advance(seconds(10))
        assert every(sim, case, "activity_cancelled")[-1].data["waits"] is (fails_after > 10)
        assert sim.state(case).object["note"] == "ended"
        sim.advance(hours(2))
        assert closed(sim, case) == "done"
        assert [name for _, name, _ in sim.performed if name == "stubborn"] == ["stubborn"]

    in_both(scenario, stopping)
