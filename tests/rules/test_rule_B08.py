"""B8: a handler runs beside the stage as a task of its visit, one at a time; the stage's return waits for it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.rules.support import (
    Go,
    Order,
    banking,
    closed,
    credit,
    declare,
    desk,
    every,
    first,
    in_both,
)

from longcase import Case, Next, Retry, Workflow, activity, days, hours, injected, minutes
from longcase.errors import DefinitionError
from longcase.history.event import Event, later_text
from longcase.insight.wording import headline
from longcase.testing import Simulation

once = Retry(max_attempts=1)
wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))
note = wf.signal("note", Go)
ring = wf.signal("ring", Go)
stop = wf.signal("stop", Go)
hint = wf.signal("hint", Go)
alien = Workflow("other", object=Order, key="id", owner=desk, expect=days(5)).signal("alien", Go)


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
        ]
        assert sim.state(case).handlers["noted"]["whose"] == "banking", "where it waits too"

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
        ("reacts", {"signal": alien}, "signal alien belongs to other, not order"),
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
