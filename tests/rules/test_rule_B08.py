"""B8: a handler runs beside the stage as a task of its visit, one at a time; the stage's return waits for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.rules.support import Go, Order, banking, closed, credit, declare, desk, every, fails, first, in_both, incident

from longcase import Case, Next, Retry, Team, Workflow, activity, days, hours, injected, minutes
from longcase.errors import DefinitionError
from longcase.history.event import Event, later_text
from longcase.insight.conform import conform
from longcase.insight.verify import verify
from longcase.insight.wording import headline
from longcase.testing import Simulation

once = Retry(max_attempts=1)
wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))
note = wf.signal("note", Go)
ring = wf.signal("ring", Go)
stop = wf.signal("stop", Go)
hint = wf.signal("hint", Go)
go = wf.signal("go", Go)


@activity(owner=banking, retry=once)
async def tell(text: str, *, idempotency_key: str = injected()) -> str:
    return text


@activity(owner=banking, retry=once)
async def book(text: str, *, idempotency_key: str = injected()) -> str:
    return text


@book.undo
async def unbook(booked: str, text: str) -> None:
    return None


@activity(owner=banking, retry=Retry(max_attempts=3, initial=minutes(90), cap=minutes(90), jitter="none"))
async def hold(text: str) -> str:
    return text


@hold.undo
async def release(held: str, text: str) -> None:
    return None


@wf.stage(owner=credit)
async def work(case: Case[Order]) -> Next:
    await case.pause(days(1), because="work")
    return finish


@wf.stage
async def finish(case: Case[Order]) -> Next:
    await case.pause(days(1), because="finish")
    return wf.close("done", result=case.object.amount)


@wf.stage
async def aside(case: Case[Order]) -> Next:
    await case.pause(days(1), because="aside")
    return work


@wf.stage
async def rounds(case: Case[Order]) -> Next:
    if case.object.amount >= 6:
        return wf.close("counted", result=case.object.amount)
    await case.pause(hours(1), because="a round")
    return case.again()


@wf.stage
async def at_once(case: Case[Order]) -> Next:
    return work


@wf.on(note, interrupts=False, during=(work, finish, rounds, at_once), owner=banking, expect=hours(3))
async def noted(case: Case[Order], body: Go) -> None:
    await tell(f"noted {body.n}")
    await case.pause(hours(2), because="let it sink in")
    case.update(amount=case.object.amount * 10 + body.n)


@wf.on(ring, interrupts=False)
async def rang(case: Case[Order], body: Go) -> None:
    case.update(note=f"{case.object.note or ''}{body.n}")


@wf.on(stop)
async def stopped(case: Case[Order], body: Go) -> Next:
    await case.pause(hours(1), because="winding down")
    return finish if body.n else wf.close("stopped")


def begun(sim: Simulation, case: str) -> list[tuple[str, int, int]]:
    """Return what each run of a handler was given, and in which visit: handler, body, visit."""
    bodies = {e.data["id"]: e.data["body"]["n"] for e in every(sim, case, "signal_received")}
    return [(e.data["handler"], bodies[e.data["id"]], e.visit) for e in every(sim, case, "handler_started")]


def types(events: list[Event], *kinds: str) -> list[str]:
    return [event.type for event in events if event.type in kinds]


def kept(sim: Simulation, case: str) -> list[str]:
    return [signal["signal"] for signal in sim.state(case).signals]


# -- beside the stage ------------------------------------------------------------------------------------


def test_rule_B8_a_handler_runs_beside_its_stage_one_at_a_time_in_the_order_of_the_signals() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        for n in (1, 2, 3):
            sim.signal(case, note, Go(n=n))
        assert begun(sim, case) == [("noted", 1, 1)]
        assert kept(sim, case) == ["note", "note"], "the others wait their turn, for everybody to see"
        assert (sim.state(case).stage, sim.state(case).visit) == ("work", 1)
        sim.advance(hours(2))
        assert begun(sim, case) == [("noted", 1, 1), ("noted", 2, 1)]
        sim.advance(hours(4))
        assert sim.state(case).object["amount"] == 123
        assert types(sim.history(case), "handler_started", "handler_ended") == ["handler_started", "handler_ended"] * 3
        sim.advance(days(2))
        assert closed(sim, case) == "done"
        assert (sim.state(case).close or {})["result"] == 123
        assert [e.visit for e in every(sim, case, "stage_entered")] == [1, 2], "nothing was interrupted"

    in_both(scenario, wf)


def test_rule_B8_handlers_of_different_signals_run_beside_each_other() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.signal(case, note, Go(n=1))
        sim.signal(case, ring, Go(n=7))
        sim.signal(case, ring, Go(n=8))
        assert begun(sim, case) == [("noted", 1, 1), ("rang", 7, 1), ("rang", 8, 1)]
        assert sim.state(case).object["note"] == "78"
        assert list(sim.state(case).handlers) == ["noted"]

    in_both(scenario, wf)


def test_rule_B8_its_work_has_a_place_of_its_own_and_is_its_owners() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.signal(case, note, Go(n=1))
        sim.advance(hours(2))
        sim.signal(case, note, Go(n=2))
        places = [(e.type, e.node, e.n, e.strand) for e in sim.history(case) if e.node.startswith("noted/")]
        assert places[:6] == [
            ("handler_started", "noted/on:note", 1, "h1"),
            ("activity_scheduled", "noted/activity:tell", 1, "h1"),
            ("activity_completed", "noted/activity:tell", 1, "h1"),
            ("timer_set", "noted/pause:let-it-sink-in", 1, "h1"),
            ("timer_fired", "noted/pause:let-it-sink-in", 1, "h1"),
            ("object_changed", "noted/change", 1, "h1"),
        ]
        assert ("handler_started", "noted/on:note", 2, "h2") in places
        assert [(w.what, w.whose) for w in sim.waits(case)] == [
            ("let it sink in", "banking"),
            ("work", "credit"),
        ], "whose move it is says the handler's owner, where the handler waits"

    in_both(scenario, wf)


def test_rule_B8_a_signal_sent_twice_under_one_key_is_handled_once() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.signal(case, ring, Go(n=1), idempotency_key="m-1")
        sim.signal(case, ring, Go(n=1), idempotency_key="m-1")
        assert begun(sim, case) == [("rang", 1, 1)]

    in_both(scenario, wf)


# -- the stage's return ----------------------------------------------------------------------------------


def test_rule_B8_the_stages_return_waits_for_its_handler_and_says_so() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.advance(hours(23))
        sim.signal(case, note, Go(n=1))
        sim.advance(hours(1))
        state = sim.state(case)
        assert (state.stage, (state.returned or {})["exit"]) == ("work", "to:finish")
        assert [(wait.what, wait.whose) for wait in sim.waits(case)] == [("let it sink in", "banking")]
        sentence = headline(state, state.at, lambda instant: instant[11:16])
        assert sentence.startswith("Stage work is done, waits for handler noted. Pausing: let it sink in, since ")
        started = state.handlers["noted"]["since"]
        assert state.handlers["noted"]["expected"] == later_text(started, hours(3)), "as it is declared"
        returned = first(sim, case, "stage_returned")
        assert (returned.node, returned.data["handlers"]) == ("work/exit:to:finish", ["noted"])
        sim.advance(hours(1))
        state = sim.state(case)
        assert (state.stage, state.returned, state.handlers) == ("finish", None, {})
        after = types(sim.history(case), "stage_returned", "handler_ended", "stage_entered")
        assert after == ["stage_entered", "stage_returned", "handler_ended", "stage_entered"]
        sim.advance(days(1))
        assert (sim.state(case).close or {})["result"] == 1, "what the handler wrote is there for the next stage"

    in_both(scenario, wf)


def test_rule_B8_what_comes_after_the_stages_return_waits_for_the_next_visit_that_is_covered() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.advance(hours(23))
        sim.signal(case, note, Go(n=1))
        sim.signal(case, note, Go(n=2))
        sim.advance(hours(1))
        sim.signal(case, ring, Go(n=3))
        assert begun(sim, case) == [("noted", 1, 1)], "no handler begins once the stage has returned"
        assert kept(sim, case) == ["note", "ring"]
        sim.advance(hours(1))
        assert begun(sim, case) == [("noted", 1, 1), ("noted", 2, 2), ("rang", 3, 2)]

    in_both(scenario, wf)


def test_rule_B8_what_is_still_kept_at_the_close_is_listed_as_unhandled() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.advance(hours(47))
        sim.signal(case, note, Go(n=1))
        sim.advance(hours(1))
        sim.signal(case, note, Go(n=2))
        sim.signal(case, ring, Go(n=3))
        sim.advance(hours(1))
        assert closed(sim, case) == "done"
        listed = [(e.data["signal"], e.data["body"], e.data["why"]) for e in every(sim, case, "signal_unhandled")]
        assert listed == [("note", {"n": 2}, "case closed: done"), ("ring", {"n": 3}, "case closed: done")]
        assert (sim.state(case).close or {})["result"] == 0, "the close is what the stage returned, not what came after"

    in_both(scenario, wf)


def test_rule_B8_a_stage_that_goes_round_takes_the_next_signal_in_its_next_visit() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.move(case, rounds)
        sim.signal(case, note, Go(n=1))
        sim.signal(case, note, Go(n=2))
        sim.advance(hours(1))
        assert (sim.state(case).returned or {})["exit"] == "again"
        sim.advance(hours(5))
        assert closed(sim, case) == "counted"
        assert (sim.state(case).close or {})["result"] == 12
        assert begun(sim, case) == [("noted", 1, 2), ("noted", 2, 3)]

    in_both(scenario, wf)


def test_rule_B8_a_stage_that_does_not_wait_takes_no_signal() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.move(case, aside)
        sim.signal(case, note, Go(n=1))
        sim.move(case, at_once)
        assert begun(sim, case) == [("noted", 1, 4)], "it begins where its stage waits, not in one that passes on"

    in_both(scenario, wf)


# -- which stages ----------------------------------------------------------------------------------------


def test_rule_B8_an_early_signal_is_kept_for_the_next_stage_that_is_covered() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.move(case, aside)
        sim.signal(case, note, Go(n=1))
        assert kept(sim, case) == ["note"]
        assert "handler_started" not in sim.types(case)
        sim.advance(days(1))
        assert sim.state(case).stage == "work"
        assert begun(sim, case) == [("noted", 1, 3)]

    in_both(scenario, wf)


def test_rule_B8_no_handler_runs_beside_an_exception_path() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.signal(case, stop, Go(n=1))
        sim.signal(case, ring, Go(n=2))
        assert sim.state(case).stage == "stopped"
        assert kept(sim, case) == ["ring"]
        sim.advance(hours(1))
        assert begun(sim, case) == [("rang", 2, 3)], "it begins when the path has returned a stage"

    in_both(scenario, wf)


def test_rule_B8_a_signal_with_a_handler_is_never_received_too() -> None:
    module = declare("""
    note = wf.signal("note", Go)

    @wf.stage
    async def only(case: Case[Order]) -> Next:
        async with asyncio.TaskGroup() as group:
            group.create_task(case.receive(note))
            group.create_task(case.pause(days(1), because="only"))
        return wf.close("done")

    @wf.on(note, interrupts=False)
    async def noted(case: Case[Order], body: Go) -> None:
        case.update(amount=body.n)
    """)

    def scenario(sim: Simulation) -> None:
        case = sim.start(module.wf, Order(id="1"))
        sim.signal(case, module.note, Go(n=5))
        assert sim.state(case).object["amount"] == 5
        assert "signal_consumed" not in sim.types(case)

    in_both(scenario, module.wf)


# -- failures --------------------------------------------------------------------------------------------

bad = Workflow("bad", object=Order, key="id", owner=desk, expect=days(5))
knock = bad.signal("knock", Go)
clerk = Team("clerk")
ended: list[str] = []


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


# -- interrupts and repairs --------------------------------------------------------------------------------

cut = Workflow("cut", object=Order, key="id", owner=desk, expect=days(5))
halt = cut.signal("halt", Go)
ping = cut.signal("ping", Go)
pong = cut.signal("pong", Go)
reply = cut.signal("reply", Go)


@cut.stage
async def runs(case: Case[Order]) -> Next:
    try:
        await tell("stage")
        await case.pause(days(1), because="runs")
    except asyncio.CancelledError:
        ended.append("stage")
        raise
    await tell.labelled("again")("stage")
    return cut.close("ran")


@cut.on(ping, interrupts=False)
async def pinged(case: Case[Order], body: Go) -> None:
    try:
        await tell("stage")
        asked = await case.approval("Go on?", of=credit, within=days(1))
        case.log("told", answer=asked.answer)
    except asyncio.CancelledError:
        ended.append("pinged")
        raise


@cut.on(pong, interrupts=False)
async def ponged(case: Case[Order], body: Go) -> None:
    try:
        async with asyncio.timeout(minutes(30).total_seconds()):
            await case.receive(reply, within=days(1))
    except TimeoutError:
        case.update(note="no reply")
    except asyncio.CancelledError:
        ended.append("ponged")
        raise


@cut.on(halt)
async def halted(case: Case[Order], body: Go) -> Next:
    await case.pause(hours(1), because="halted")
    return cut.close("halted")


@pytest.mark.parametrize("by", ["path", "cancel", "move"])
def test_rule_B8_an_interrupt_ends_the_stage_and_then_its_handlers_as_they_began(by: str) -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(cut, Order(id="1"))
        sim.signal(case, pong, Go())
        sim.signal(case, ping, Go())
        sim.signal(case, ping, Go(n=2))
        ended.clear()
        if by == "path":
            sim.signal(case, halt, Go())
        elif by == "cancel":
            sim.cancel(case)
        else:
            sim.move(case, runs)
        if by != "move":
            assert ended == ["stage", "ponged", "pinged"]
        events = sim.history(case)
        at = next(number for number, event in enumerate(events) if event.type == "interrupted")
        after = [e.type for e in events[at:] if e.visit == 1]
        assert "task_withdrawn" in after
        assert not {"handler_ended", "receive_closed", "timer_cancelled", "object_changed"} & set(after)
        state = sim.state(case)
        if by == "path":
            assert (state.stage, state.handlers) == ("halted", {})
            assert kept(sim, case) == ["ping"], "what no handler had taken is kept"
        elif by == "cancel":
            assert closed(sim, case) == "cancelled"
        else:
            assert [(e.data["handler"], e.visit) for e in every(sim, case, "handler_started")][2:] == [("pinged", 2)]

    in_both(scenario, cut)


def test_rule_B8_an_interrupt_voids_the_exit_of_a_stage_that_waits_for_its_handler() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(cut, Order(id="1"))
        sim.signal(case, ping, Go())
        sim.advance(days(1))
        assert (sim.state(case).returned or {})["exit"] == "close:ran"
        sim.signal(case, halt, Go())
        assert (sim.state(case).stage, sim.state(case).returned) == ("halted", None)
        sim.advance(hours(1))
        assert closed(sim, case) == "halted"

    in_both(scenario, cut)


def test_rule_B8_timeouts_tasks_and_signals_work_inside_a_handler() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(cut, Order(id="1"))
        sim.signal(case, pong, Go())
        sim.signal(case, ping, Go())
        sim.advance(minutes(30))
        assert sim.state(case).object["note"] == "no reply"
        assert list(sim.state(case).handlers) == ["pinged"]
        sim.decide(case, "approved", by="ann")
        assert sim.state(case).handlers == {}
        sim.signal(case, pong, Go())
        sim.signal(case, reply, Go())
        assert sim.state(case).handlers == {}
        places = {e.node for e in sim.history(case) if e.strand.startswith("h")}
        assert places == {
            "ponged/on:pong", "ponged/timeout", "ponged/receive:reply", "ponged/change",
            "pinged/on:ping", "pinged/activity:tell", "pinged/approval:go-on",
        }  # fmt: skip

    in_both(scenario, cut)


def test_rule_B8_a_restart_returns_its_signals_and_finds_the_calls_of_each_again() -> None:
    """B6 and A5: in the new visit the handler comes to its call before the stage does, and still no key changes."""

    def scenario(sim: Simulation) -> None:
        keys: list[str] = []

        def fake(text: str, idempotency_key: str) -> str:
            keys.append(idempotency_key)
            return text

        sim.fake(tell, fake)
        case = sim.start(cut, Order(id="1"))
        for n in (1, 2):
            sim.signal(case, ping, Go(n=n))
        sim.decide(case, "approved", by="ann")
        assert len(keys) == len(set(keys)) == 3, "stage and both runs of the handler have keys of their own"
        sim.restart(case)
        assert len(keys) == 3, "nothing is done twice"
        reused = [(e.node, e.data["key"]) for e in every(sim, case, "activity_reused")]
        assert sorted(key for _, key in reused) == sorted([keys[0], keys[1]])
        sim.decide(case, "approved", by="ann")
        assert [e.data["id"] for e in every(sim, case, "handler_started")][2:] == [
            e.data["id"] for e in every(sim, case, "signal_received")
        ], "in their old order"
        assert len(keys) == 3
        sim.decide(case, "approved", by="ann")
        sim.advance(days(1))
        assert closed(sim, case) == "ran"
        assert len(keys) == 4

    in_both(scenario, cut)


chance = Workflow("chance", object=Order, key="id", owner=desk, expect=days(5))
draw = chance.signal("draw", Go)


@chance.stage
async def waits(case: Case[Order]) -> Next:
    await case.pause(days(1), because="waits")
    case.update(note=f"{case.uuid()} {case.random().random()}")
    await case.pause(days(1), because="and on")
    return chance.close("done")


@chance.on(draw, interrupts=False)
async def drawn(case: Case[Order], body: Go) -> None:
    case.update(extra=f"{case.uuid()} {case.random().random()}")


def test_rule_B8_chance_and_ids_of_a_stage_do_not_hang_on_its_handlers() -> None:
    """B24: a restarted visit draws the same although its handlers run at other times than before."""

    def scenario(sim: Simulation) -> None:
        case = sim.start(chance, Order(id="1"))
        sim.advance(days(1))
        sim.signal(case, draw, Go())
        before = sim.state(case).object
        assert before["note"] != before["extra"]
        sim.restart(case)
        sim.advance(days(1))
        assert sim.state(case).object == before

    in_both(scenario, chance)


def test_rule_B8_a_handler_and_its_stage_may_both_undo() -> None:
    module = declare("""
    from tests.rules.test_rule_B08 import book
    note = wf.signal("note", Go)

    @wf.stage
    async def only(case: Case[Order]) -> Next:
        await book("stage")
        await case.pause(days(1), because="only")
        await case.undo()
        return wf.close("done")

    @wf.on(note, interrupts=False)
    async def noted(case: Case[Order], body: Go) -> None:
        await book("handler")
        await case.pause(days(1), because="meanwhile")
        await case.undo()
        case.update(note="undone")
    """)

    def scenario(sim: Simulation) -> None:
        undone: list[str] = []
        sim.fake(unbook, lambda booked, text: undone.append(text))
        case = sim.start(module.wf, Order(id="1"))
        sim.signal(case, module.note, Go())
        sim.advance(days(1))
        assert closed(sim, case) == "done"
        assert undone == ["handler", "stage"]
        assert sim.state(case).object["note"] == "undone"
        assert [e.data["undo"] for e in every(sim, case, "undo_finished")] == [
            e.data["undo"] for e in every(sim, case, "undo_requested")
        ]
        assert len(every(sim, case, "undo_finished")) == 2

    in_both(scenario, module.wf)


def test_rule_B8_an_undo_waits_for_a_call_that_is_awaited_beside_it() -> None:
    """It must not be taken away from who waits for it, although no attempt of it runs just then."""
    module = declare("""
    note = wf.signal("note", Go)
    from tests.rules.test_rule_B08 import hold

    @wf.stage
    async def only(case: Case[Order]) -> Next:
        await case.pause(hours(1), because="only")
        await case.undo()
        return wf.close("done")

    @wf.on(note, interrupts=False)
    async def noted(case: Case[Order], body: Go) -> None:
        case.update(note=await hold("handler"))
    """)

    def scenario(sim: Simulation) -> None:
        released: list[str] = []
        sim.fake(hold, fails(1, "held"))
        sim.fake(release, lambda held, text: released.append(text))
        case = sim.start(module.wf, Order(id="1"))
        sim.signal(case, module.note, Go())
        sim.advance(hours(1))
        assert every(sim, case, "undo_requested")
        assert released == []
        sim.advance(hours(1))
        assert closed(sim, case) == "done"
        assert sim.state(case).object["note"] == "held"
        assert released == ["handler"]

    in_both(scenario, module.wf)


def test_rule_B8_a_handler_that_had_begun_begins_again_in_a_restarted_visit_that_no_longer_waits() -> None:
    """Its call may be under way: were it not made again, nobody could ever settle it, and the case not close."""
    module = declare("""
    note = wf.signal("note", Go)
    from tests.rules.test_rule_B08 import hold, tell

    @wf.stage
    async def only(case: Case[Order]) -> Next:
        await tell("stage")
        return wf.close("done")

    @wf.on(note, interrupts=False)
    async def noted(case: Case[Order], body: Go) -> None:
        await case.pause(hours(1), because="first")
        await hold(f"handler {body.n}")
    """)

    def scenario(sim: Simulation) -> None:
        waits = [True]

        def slow(text: str, idempotency_key: str) -> str:
            if waits[0]:
                raise ConnectionError("not yet")
            return text

        sim.fake(tell, slow)
        sim.fake(hold, fails(1, "held"))
        case = sim.start(module.wf, Order(id="1"))
        for n in (1, 2):
            sim.signal(case, module.note, Go(n=n))
        waits[0] = False
        sim.retry(case)
        sim.advance(hours(1))
        assert (sim.state(case).returned or {})["exit"] == "close:done"
        sim.restart(case)
        assert begun(sim, case) == [("noted", 1, 1), ("noted", 1, 2)], "the second had not begun: the stage is done"
        sim.advance(hours(3))
        assert closed(sim, case) == "done"
        assert [e.data["body"]["n"] for e in every(sim, case, "signal_unhandled")] == [2]
        assert len({e.data["key"] for e in every(sim, case, "activity_scheduled") if e.data["activity"] == "hold"}) == 1

    in_both(scenario, module.wf)


# -- code that has changed ---------------------------------------------------------------------------------

BEFORE = """
note = wf.signal("note", Go)

@wf.stage
async def only(case: Case[Order]) -> Next:
    await case.pause(days(1), because="only")
    return wf.close("done")

@wf.on(note, interrupts=False)
async def noted(case: Case[Order], body: Go) -> None:
    await case.pause(hours(1), because="first")
    await case.pause(hours(1), because="second")
"""


@pytest.mark.parametrize(
    ("old", "new", "recorded"),
    [
        ("async def noted(", "async def written_down(", "handler_started noted/on:note#1"),
        ("interrupts=False", "interrupts=False, during=()", ""),
        ('because="first"', 'because="other"', "timer_set noted/pause:first#1"),
        ('because="second"', 'because="other"', ""),
    ],
)
def test_rule_B8_a_handler_that_changed_under_a_running_case_is_found_by_replay(
    old: str, new: str, recorded: str
) -> None:
    before, after = declare(BEFORE), declare(BEFORE.replace(old, new))
    with Simulation([before.wf], live=0, seed=3) as sim:
        case = sim.start(before.wf, Order(id="1"))
        sim.signal(case, before.note, Go())
        sim._turns.codes = {"order": _code(after.wf)}  # type: ignore[assignment]
        sim.advance(hours(1))
        if recorded:
            opened = incident(sim, case)
            assert opened["kind"] == "code_changed"
            assert recorded in opened["details"]["recorded"]
        else:
            assert sim.state(case).incidents == {}


def _code(workflow: Any) -> Any:
    from longcase.app import compiled, load_code

    code = load_code(workflow)
    code.nodes = frozenset(compiled(workflow)[0].nodes)
    return code


# -- the map -----------------------------------------------------------------------------------------------


def test_rule_B8_whatever_a_handler_does_lies_on_the_map_in_an_order_it_allows() -> None:
    with Simulation([wf, cut], live=0, seed=5) as sim:
        case = sim.start(cut, Order(id="1"))
        for signal in (pong, ping, pong, reply, ping):
            sim.signal(case, signal, Go())
        sim.decide(case, "approved", by="ann")
        sim.advance(minutes(30))
        sim.decide(case, "approved", by="ann")
        other = sim.start(wf, Order(id="1"))
        for n in (1, 2):
            sim.signal(other, note, Go(n=n))
        sim.advance(days(1))
        sim.signal(other, note, Go(n=3))
        sim.restart(other)
        sim.advance(days(1))
        assert [closed(sim, one) for one in (case, other)] == ["ran", "done"]
        found = sim._at_once(conform(sim._app.store))
        assert (found.off, found.order) == ([], [])
        assert found.placed > 50
        assert sim._at_once(_findings(sim)) == []


async def _findings(sim: Simulation) -> list[str]:
    return [str(finding) async for finding in verify(sim._app.store)]


# -- declarations ------------------------------------------------------------------------------------------


def _fn(kind: str) -> Any:
    async def reacts(case: Any, body: Any) -> None:
        return None

    async def work(case: Any, body: Any) -> None:
        return None

    def plain(case: Any, body: Any) -> None:
        return None

    return {"reacts": reacts, "work": work, "plain": plain}[kind]


@pytest.mark.parametrize(
    ("fn", "options", "says"),
    [
        ("reacts", {"signal": note}, "two reactions on signal note"),
        ("reacts", {"signal": stop}, "two reactions on signal stop"),
        ("work", {"signal": hint}, "two stages named work"),
        ("plain", {"signal": hint}, "handler plain of order: declared def"),
        ("reacts", {"signal": knock}, "signal knock belongs to bad, not order"),
        ("reacts", {"signal": hint, "interrupts": "no"}, "interrupts='no', expected True or False"),
    ],
)
def test_rule_B8_a_handler_that_cannot_be_is_refused_where_it_is_declared(
    fn: str, options: dict[str, Any], says: str
) -> None:
    given = {"interrupts": False, **options}
    signal = given.pop("signal")
    with pytest.raises(DefinitionError, match=says) as refused:
        wf.on(signal, **given)(_fn(fn))
    assert refused.value.hint
