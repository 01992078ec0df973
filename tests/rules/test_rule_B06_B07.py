"""B6 and B7: signals are consumed when code resumes with them; exception paths queue, and win over incidents."""

from __future__ import annotations

import asyncio

from tests.rules.support import Go, Order, closed, credit, desk, do, every, fails, in_both, incident, later

from longcase import Case, Next, Retry, Workflow, activity, days, hours, minutes
from longcase.testing import Simulation

wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))
go = wf.signal("go", Go)
other = wf.signal("other", Go)


@wf.stage
async def cancels_its_receiver(case: Case[Order]) -> Next:
    receiving = asyncio.create_task(case.receive(go))
    await case.receive(other)
    receiving.cancel()
    await asyncio.gather(receiving, return_exceptions=True)
    return collects


@wf.stage
async def collects(case: Case[Order]) -> Next:
    got = [(await case.receive(go)).n for _ in range(3)]
    return wf.close("done", result=got)


@wf.stage
async def gives_up(case: Case[Order]) -> Next:
    got = []
    try:
        async with asyncio.timeout(60):
            got.append((await case.receive(go)).n)
    except TimeoutError:
        case.update(note="gave up")
    await case.receive(other)
    got.append((await case.receive(go)).n)
    await case.pause(hours(1), because="winding up")
    return wf.close("done", result=got)


@wf.stage
async def two_receivers(case: Case[Order]) -> Next:
    a = asyncio.create_task(case.receive(go, label="a"))
    b = asyncio.create_task(case.receive(go, label="b"))
    first, second = await asyncio.gather(a, b)
    return wf.close("done", result=[first.n, second.n])


@wf.stage
async def sibling_cancels(case: Case[Order]) -> Next:
    receiver = asyncio.create_task(case.receive(go, label="first"))

    async def canceller() -> None:
        await case.receive(go, label="second")
        receiver.cancel()

    async with asyncio.TaskGroup() as group:
        group.create_task(canceller())
        group.create_task(asyncio.wait({receiver}))
    return collects


def test_rule_B6_a_cancelled_receive_puts_the_signal_back_at_its_old_place() -> None:
    """The stage gives up receiving before anything came: early and later signals stay FIFO."""

    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.signal(case, other, Go())
        for n in (1, 2, 3):
            sim.signal(case, go, Go(n=n))
        assert (sim.state(case).close or {})["result"] == [1, 2, 3]
        assert [e.data["id"] for e in every(sim, case, "signal_consumed")][1:] == [
            e.data["id"] for e in every(sim, case, "signal_received")
        ][1:]

    in_both(scenario, wf)


def test_rule_B6_early_signals_are_kept_in_order() -> None:
    def scenario(sim: Simulation) -> None:
        do(sim, sim.service.start(wf, Order(id="1")))
        for n in (4, 5, 6):
            do(sim, sim.service.signal("order/1", go, Go(n=n)))
        do(sim, sim.service.signal("order/1", other, Go()))
        sim.run()
        # The first one was consumed by the receiver that was then cancelled after it had resumed.
        consumed = [e.data for e in every(sim, "order/1", "signal_consumed")]
        assert [data["signal"] for data in consumed][:2] == ["go", "other"]
        sim.signal("order/1", go, Go(n=7))
        assert (sim.state("order/1").close or {})["result"] == [5, 6, 7]

    in_both(scenario, wf)


def test_rule_B6_two_receivers_are_served_first_come_first_served() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.move(case, two_receivers)
        sim.signal(case, go, Go(n=1))
        sim.signal(case, go, Go(n=2))
        assert (sim.state(case).close or {})["result"] == [1, 2]

    in_both(scenario, wf)


def test_rule_B6_a_receiver_cancelled_in_the_turn_of_its_signal_loses_nothing() -> None:
    """A sibling cancels the receiver in the very turn that resolved it."""

    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.move(case, sibling_cancels)
        for n in range(1, 6):
            sim.signal(case, go, Go(n=n))
        consumed = [e.data["id"] for e in every(sim, case, "signal_consumed")]
        assert len(consumed) == len(set(consumed)) == 5
        assert closed(sim, case) == "done"
        assert (sim.state(case).close or {})["result"] == [3, 4, 5]

    in_both(scenario, wf)


def test_rule_B6_restarting_a_visit_returns_its_consumed_signals() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.move(case, collects)
        sim.signal(case, go, Go(n=1))
        sim.signal(case, go, Go(n=2))
        sim.restart(case)
        sim.signal(case, go, Go(n=3))
        assert closed(sim, case) == "done"
        assert (sim.state(case).close or {})["result"] == [1, 2, 3]

    in_both(scenario, wf)


def test_rule_B6_a_restart_returns_what_had_come_before_its_visit_too() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        for n in (1, 2, 3):
            sim.signal(case, go, Go(n=n))
        sim.signal(case, other, Go())
        assert sim.state(case).signals == [], "the second and third came before the visit that consumed them"
        sim.restart(case)
        sim.signal(case, go, Go(n=4))
        assert (sim.state(case).close or {})["result"] == [2, 3, 4]

    in_both(scenario, wf)


def test_rule_B6_a_restart_puts_what_was_consumed_before_what_is_kept() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.move(case, gives_up)
        for n in (1, 2):
            sim.signal(case, go, Go(n=n))
        assert [kept["body"]["n"] for kept in sim.state(case).signals] == [2]
        sim.restart(case)
        sim.signal(case, other, Go())
        sim.advance(hours(1))
        assert (sim.state(case).close or {})["result"] == [1, 2]

    in_both(scenario, wf)


def test_rule_B6_a_receive_that_has_ended_is_no_wait_any_more() -> None:
    def scenario(sim: Simulation) -> None:
        def waits() -> list[str]:
            return [wait.what for wait in sim.waits(case)]

        case = sim.start(wf, Order(id="1"))
        sim.move(case, gives_up)
        assert waits() == ["signal go"]
        sim.advance(minutes(2))
        assert waits() == ["signal other"], "given up"
        sim.signal(case, other, Go())
        assert waits() == ["signal go"], "consumed"
        sim.signal(case, go, Go())
        assert waits() == ["winding up"]

    in_both(scenario, wf)


paths = Workflow("paths", object=Order, key="id", owner=desk, expect=days(5))
stop = paths.signal("stop", Go)
pause = paths.signal("pause", Go)
narrow = paths.signal("narrow", Go)


@activity(owner=credit, retry=Retry(max_attempts=1))
async def rate() -> int:
    return 1


@paths.stage
async def begin(case: Case[Order]) -> Next:
    await case.pause(days(1), because="begin")
    return later_on


@paths.stage
async def later_on(case: Case[Order]) -> Next:
    await rate()
    await case.pause(days(1), because="later on")
    return paths.close("done")


@paths.on(stop, owner=desk)
async def stopped(case: Case[Order], why: Go) -> Next:
    await case.pause(hours(1), because="winding down")
    return paths.close("stopped", result=why.n)


@paths.on(pause, owner=desk)
async def paused(case: Case[Order], why: Go) -> Next:
    await case.pause(hours(1), because="pausing")
    return begin


@paths.on(narrow, during=(later_on,), owner=desk)
async def narrowed(case: Case[Order], why: Go) -> Next:
    return paths.close("narrowed")


def test_rule_B7_handlers_are_not_interruptible_and_exceptions_queue_in_input_order() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(paths, Order(id="1"))
        sim.signal(case, pause, Go(n=1))
        sim.signal(case, stop, Go(n=2))
        assert sim.state(case).stage == "paused"
        assert sim.show(case).pending == 1
        sim.advance(hours(1))
        assert sim.state(case).stage == "stopped", "it fires when the first handler has returned a stage"
        sim.advance(hours(1))
        assert closed(sim, case) == "stopped"

    in_both(scenario, paths)


def test_rule_B7_an_exception_that_waited_for_a_handler_which_closed_is_listed() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(paths, Order(id="1"))
        sim.signal(case, stop, Go(n=1))
        sim.signal(case, stop, Go(n=2))
        sim.advance(hours(1))
        assert closed(sim, case) == "stopped"
        assert (sim.state(case).close or {})["result"] == 1
        listed = every(sim, case, "signal_unhandled")
        assert [(e.data["body"], e.data["why"]) for e in listed] == [({"n": 2}, "case closed: stopped")]
        assert sim.show(case).pending == 0

    in_both(scenario, paths)


def test_rule_B7_the_first_in_input_order_wins() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(paths, Order(id="1"))
        do(sim, sim.service.signal(case, stop, Go(n=1)))
        do(sim, sim.service.signal(case, pause, Go(n=2)))
        sim.run()
        assert sim.state(case).stage == "stopped"

    in_both(scenario, paths)


def test_rule_B7_an_open_incident_does_not_protect_a_case_from_its_exception_path() -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(rate, fails(9))
        case = sim.start(paths, Order(id="1"))
        sim.advance(days(1))
        assert incident(sim, case)["kind"] == "activity_failed"
        sim.signal(case, stop, Go(n=1))
        assert sim.state(case).stage == "stopped"
        assert sim.state(case).incidents == {}
        assert every(sim, case, "incident_closed")[0].data["how"] == "superseded"
        sim.advance(hours(1))
        assert closed(sim, case) == "stopped"

    in_both(scenario, paths)


def test_rule_B7_outside_its_scope_an_exception_is_listed_with_the_reason() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(paths, Order(id="1"))
        sim.signal(case, narrow, Go())
        assert sim.state(case).stage == "begin"
        assert "during begin" in every(sim, case, "signal_unhandled")[0].data["why"]
        sim.advance(days(1))
        sim.signal(case, narrow, Go())
        assert closed(sim, case) == "narrowed"

    in_both(scenario, paths)


def test_rule_B7_cancel_waits_for_a_running_handler_too() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(paths, Order(id="1"))
        sim.signal(case, pause, Go())
        sim.cancel(case, reason="changed our mind")
        assert sim.cancel(case, reason="really").did == "already asked"
        assert (sim.state(case).stage, sim.show(case).pending) == ("paused", 1)
        sim.advance(hours(1))
        assert closed(sim, case) == "cancelled"
        later(sim, 1)

    in_both(scenario, paths)
