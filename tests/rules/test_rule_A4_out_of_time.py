"""A4: a call that ran out of its time is settled at the end of the attempt that was still running."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.rules.support import Order, banking, closed, desk, every, first, in_both, incident

from longcase import ActivityFailed, Case, Next, Retry, Workflow, activity, days, injected, seconds
from longcase.history.state import fold
from longcase.insight.verify import verify
from longcase.testing import Simulation

alone = Retry(max_attempts=1)


@activity(owner=banking, effect="repeatable", retry=alone, schedule_to_close=seconds(30))
async def reserve(order: str, *, idempotency_key: str = injected()) -> str:
    return f"place-{order}"


@reserve.undo
async def release(place: str, order: str, *, idempotency_key: str = injected()) -> None:
    return None


@activity(owner=banking, effect="repeatable", retry=alone, schedule_to_close=seconds(30))
async def announce(order: str) -> str:
    return "told"


wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))


@wf.stage(expect=days(5))
async def reserving(case: Case[Order]) -> Next:
    try:
        await reserve(case.key)
    except ActivityFailed:
        if case.object.note == "unhandled":
            raise
        await case.undo()
        return wf.close("given-up")
    return wf.close("done")


notices = Workflow("notice", object=Order, key="id", owner=desk, expect=days(5))


@notices.stage(expect=days(5))
async def announcing(case: Case[Order]) -> Next:
    try:
        await announce(case.key)
    except ActivityFailed as lost:
        if case.object.note == "stay":
            await case.pause(days(1), because="somebody may look")
        return notices.close("untold", reason=str(lost))
    return notices.close("done")


class Late:
    """What the outside does 40 s after it was asked: the call's 30 s are over before the attempt has ended."""

    def __init__(self, sim: Simulation, answer: Any) -> None:
        self.sim, self.answer = sim, answer

    async def answers(self, order: str) -> Any:
        self.sim.clock.advance(seconds(40))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def released(sim: Simulation) -> list[str]:
    gone: list[str] = []
    sim.fake(release, lambda place, order: gone.append(place))
    return gone


async def _findings(sim: Simulation) -> list[str]:
    return [str(finding) async for finding in verify(sim._app.store)]  # type: ignore[arg-type]


def test_rule_A4_what_comes_after_the_calls_time_is_recorded_as_late_and_undone() -> None:
    def scenario(sim: Simulation) -> None:
        gone = released(sim)
        sim.fake(reserve, Late(sim, "place-7").answers)
        case = sim.start(wf, Order(id="1"))
        assert closed(sim, case) == "given-up"
        assert every(sim, case, "result_late")[0].data["result"] == "place-7"
        assert gone == ["place-7"]
        assert not {"attempt_refused", "incident_opened"} & set(sim.types(case))
        ends = sim.query("SELECT activity, outcome FROM attempts")
        assert {(row["activity"], row["outcome"]) for row in ends} == {("reserve", "late"), ("release", "undone")}
        assert sim._do(_findings(sim)) == []

    in_both(scenario, wf)


def test_rule_A4_an_attempt_that_fails_after_the_calls_time_leaves_nothing_to_undo() -> None:
    def scenario(sim: Simulation) -> None:
        gone = released(sim)
        sim.fake(reserve, Late(sim, ConnectionError("down")).answers)
        case = sim.start(wf, Order(id="1"))
        assert closed(sim, case) == "given-up"
        assert first(sim, case, "attempt_failed").data["final"]
        assert gone == []
        assert sim.state(case).calls == {}

    in_both(scenario, wf)


def test_rule_A4_an_effect_after_the_calls_time_without_an_undo_is_shown_to_its_owner() -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(announce, Late(sim, "told").answers)
        case = sim.start(notices, Order(id="1", note="stay"))
        opened = incident(sim, case)
        assert (opened["kind"], opened["owner"], opened["blocks"]) == ("late_effect", "banking", False)
        sim.advance(days(2))
        assert closed(sim, case) == "untold"

    in_both(scenario, notices)


def test_rule_A4_a_stage_that_was_told_may_close_on_a_call_that_has_no_undo() -> None:
    """What the attempt comes to stands in the closed case's history."""

    def scenario(sim: Simulation) -> None:
        sim.fake(announce, Late(sim, "told").answers)
        case = sim.start(notices, Order(id="1"))
        assert closed(sim, case) == "untold"
        assert "failed after 1 attempt: ScheduleToClose: not done by" in (sim.state(case).close or {})["reason"]
        assert first(sim, case, "result_late").data["result"] == "told"

    in_both(scenario, notices)


def test_rule_A4_a_case_cancelled_after_its_call_ran_out_of_time_asks_whether_it_happened() -> None:
    """The stage did not handle it, so the case stands at the failed call: that is no word of the outside."""

    def scenario(sim: Simulation) -> None:
        gone = released(sim)
        sim.fake(reserve, Late(sim, "place-7").answers)
        case = sim.start(wf, Order(id="1", note="unhandled"))
        assert incident(sim, case)["kind"] == "activity_failed"
        sim.cancel(case)
        assert incident(sim, case)["kind"] == "outcome_unknown"
        sim.set_result(case, "place-7", reason="the shelf says so")
        assert closed(sim, case) == "cancelled"
        assert gone == ["place-7"]

    in_both(scenario, wf)


def test_rule_A4_a_history_written_before_the_field_folds_as_it_did() -> None:
    """There the call's end was final whatever still ran: with an undo its outcome is unknown, else it is gone."""
    with Simulation([wf]) as sim:
        sim.fake(reserve, Late(sim, "place-7").answers)
        sim.fake(release, lambda place, order: None)
        case = sim.start(wf, Order(id="1"))
        events = sim.history(case)
        failed = next(n for n, event in enumerate(events) if event.type == "activity_failed")
        new = fold(events[: failed + 1]).calls["1.c1"]
        assert (new["status"], new["awaited"]) == ("running", False)
        data = dict(events[failed].data)
        data["attempt"] = data.pop("runs")
        old = fold([*events[:failed], replace(events[failed], data=data)])
        assert (old.calls["1.c1"]["status"], old.calls["1.c1"]["awaited"]) == ("unknown", False)
        assert old.undo["1.c1"]["status"] == "open"
