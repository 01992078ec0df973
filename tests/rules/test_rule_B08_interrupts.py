"""B8, A7, B6: interrupts, restarts and undo, where handlers run; and the map that they lie on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.rules.support import (
    Go,
    Order,
    closed,
    credit,
    declare,
    desk,
    do,
    every,
    fails,
    in_both,
    incident,
)
from tests.rules.test_rule_B08 import begun, hold, kept, note, release, stop, tell, unbook, wf

from longcase import Case, Next, Workflow, days, hours, minutes
from longcase.insight.conform import conform
from longcase.insight.verify import verify
from longcase.testing import Simulation

ended: list[str] = []
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


def test_rule_B6_a_visit_that_is_restarted_twice_before_it_moves_gets_its_signals_back_once() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        for n in (1, 2):
            sim.signal(case, note, Go(n=n))
        sim.advance(hours(2))
        for _ in range(2):
            do(sim, sim.service.restart(case, reason="again"))
        sim.run()
        assert begun(sim, case) == [("noted", 1, 1), ("noted", 2, 1), ("noted", 1, 2)]
        sim.signal(case, stop, Go())
        sim.advance(hours(1))
        assert closed(sim, case) == "stopped"
        assert [e.data["body"]["n"] for e in every(sim, case, "signal_unhandled")] == [2]

    in_both(scenario, wf)


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
