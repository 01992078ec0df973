"""B8, A3, B3: what goes wrong in a handler is an incident of its owner, as what goes wrong in a stage is."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.rules.support import (
    Go,
    Order,
    closed,
    desk,
    every,
    first,
    in_both,
    incident,
)
from tests.rules.test_rule_B08 import tell

from longcase import Case, Next, Team, Workflow, days, hours
from longcase.testing import Simulation

bad = Workflow("bad", object=Order, key="id", owner=desk, expect=days(5))
knock = bad.signal("knock", Go)
clerk = Team("clerk")


@bad.stage
async def open_shop(case: Case[Order]) -> Next:
    await case.pause(days(1), because="open")
    if case.object.note == "poison":
        raise ValueError("the stage, too")
    return bad.close("shut", result=case.object.extra)


@bad.stage
async def leaves_a_task(case: Case[Order]) -> Next:
    left = asyncio.create_task(case.pause(days(9), because="left behind"))
    await case.pause(hours(1), because="short")
    return bad.close("left") if not left.done() else bad.close("shut")


@bad.stage
async def back_room(case: Case[Order]) -> Next:
    await case.pause(days(1), because="back room")
    return bad.close("shut")


@bad.on(knock, interrupts=False, owner=clerk, during=(open_shop, leaves_a_task))
async def knocked(case: Case[Order], body: Go) -> Any:
    match body.n:
        case 1:
            await tell("one")
            case.update(extra="told")
        case 2:
            raise KeyError("nobody there")
        case 3:
            return back_room
        case 4:
            asyncio.create_task(case.pause(days(9), because="forgotten"))  # noqa: RUF006 - just that is the test
        case 5:
            await asyncio.create_task(case.pause(hours(1), because="kept"))
            case.update(extra="waited")
        case 6:
            await case.pause(hours(2), because="while the stage goes")
        case 7:
            await asyncio.Event().wait()
        case 8:
            await asyncio.gather(tell("a"), tell.labelled("b")("b"))
    return None


def test_rule_B8_a_handler_that_raises_is_an_incident_of_its_owner_and_the_turn_is_discarded() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(bad, Order(id="1"))
        sim.signal(case, knock, Go(n=2))
        opened = incident(sim, case)
        assert (opened["kind"], opened["owner"]) == ("stage_failed", "clerk")
        assert "KeyError" in opened["message"]
        assert opened["details"]["handler"] == "knocked"
        assert sim.show(case).pending == 1, "the signal is where it was"
        assert "handler_started" not in sim.types(case)
        sim.retry(case)
        assert len(every(sim, case, "incident_opened")) == 2, "a retry tries it again"

    in_both(scenario, bad)


def test_rule_B8_a_move_passes_a_signal_whose_handler_cannot_begin_and_a_restart_does_not() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(bad, Order(id="1"))
        sim.signal(case, knock, Go(n=2))
        sim.restart(case)
        assert incident(sim, case)["details"]["handler"] == "knocked"
        assert "signal_unhandled" not in sim.types(case)
        sim.move(case, back_room)
        assert (sim.state(case).stage, sim.state(case).incidents) == ("back_room", {})
        assert "handler knocked could not begin" in first(sim, case, "signal_unhandled").data["why"]

    in_both(scenario, bad)


def test_rule_B8_a_call_that_finally_fails_in_a_handler_is_retried_where_it_stands() -> None:
    def scenario(sim: Simulation) -> None:
        down = [True]

        def fake(text: str, idempotency_key: str) -> str:
            if down[0]:
                raise ConnectionError("down")
            return text

        sim.fake(tell, fake)
        case = sim.start(bad, Order(id="1"))
        sim.signal(case, knock, Go(n=1))
        opened = incident(sim, case)
        assert (opened["kind"], opened["owner"], opened["blocks"]) == ("activity_failed", "banking", False)
        assert opened["node"] == "knocked/activity:tell"
        sim.advance(days(1))
        state = sim.state(case)
        assert (state.stage, (state.returned or {})["exit"]) == ("open_shop", "close:shut"), "the stage went on"
        down[0] = False
        sim.retry(case)
        assert closed(sim, case) == "shut"
        assert sim.state(case).object["extra"] == "told"

    in_both(scenario, bad)


def test_rule_B8_two_calls_that_fail_in_a_handler_are_two_incidents() -> None:
    def scenario(sim: Simulation) -> None:
        def fake(**_: Any) -> str:
            raise ConnectionError("down")

        sim.fake(tell, fake)
        case = sim.start(bad, Order(id="1"))
        sim.signal(case, knock, Go(n=8))
        nodes = sorted(opened["node"] for opened in sim.state(case).incidents.values())
        assert nodes == ["knocked/activity:tell", "knocked/activity:tell:b"]

    in_both(scenario, bad)


def test_rule_B8_a_handler_that_returns_a_stage_is_an_incident() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(bad, Order(id="1"))
        sim.signal(case, knock, Go(n=3))
        opened = incident(sim, case)
        assert (opened["kind"], opened["owner"]) == ("stage_failed", "clerk")
        assert "handler knocked returned <stage bad/back_room>, expected nothing" in opened["message"]
        assert sim.state(case).stage == "open_shop"

    in_both(scenario, bad)


def test_rule_B8_a_handler_that_leaves_a_task_behind_is_an_incident() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(bad, Order(id="1"))
        sim.signal(case, knock, Go(n=4))
        opened = incident(sim, case)
        assert (opened["kind"], opened["owner"]) == ("dangling_work", "clerk")
        assert "handler knocked returned while a task is still running" in opened["message"]

    in_both(scenario, bad)


def test_rule_B8_a_handler_may_make_tasks_that_it_awaits() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(bad, Order(id="1"))
        sim.signal(case, knock, Go(n=5))
        assert first(sim, case, "handler_started").strand == "h1"
        assert every(sim, case, "timer_set")[-1].strand == "h1.0"
        sim.advance(days(1))
        assert closed(sim, case) == "shut"
        assert (sim.state(case).close or {})["result"] == "waited"

    in_both(scenario, bad)


def test_rule_B8_a_stage_may_leave_no_task_behind_although_a_handler_still_runs() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(bad, Order(id="1"))
        sim.move(case, leaves_a_task)
        sim.signal(case, knock, Go(n=6))
        sim.advance(hours(1))
        assert incident(sim, case)["kind"] == "dangling_work"
        assert "stage_returned" not in sim.types(case)

    in_both(scenario, bad)


def test_rule_B8_a_stage_that_raises_beside_its_handler_is_an_incident_at_once() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(bad, Order(id="1", note="poison"))
        sim.advance(hours(23))
        sim.signal(case, knock, Go(n=6))
        sim.advance(hours(1))
        assert "the stage, too" in incident(sim, case)["message"]

    in_both(scenario, bad)


def test_rule_B8_a_handler_that_waits_for_nothing_is_a_deadlock_once_its_stage_has_returned() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(bad, Order(id="1"))
        sim.signal(case, knock, Go(n=7))
        assert sim.state(case).incidents == {}, "the stage's pause may still move the case"
        sim.advance(days(1))
        opened = incident(sim, case)
        assert opened["kind"] == "deadlock"
        assert "in knocked" in opened["message"]

    in_both(scenario, bad)
