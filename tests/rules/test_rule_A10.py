"""A10: the clock stands still inside a turn; ties between timers go by their creation."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from tests.rules.support import Go, Order, closed, desk, every, in_both

from longcase import Case, Next, Workflow, activity, days, seconds
from longcase.testing import Simulation

wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))
go = wf.signal("go", Go)
running: list[Simulation] = []


@activity(owner=desk)
async def fetch() -> int:
    return 1


def tick() -> None:
    """Let the wall clock move on in the middle of a turn, as the machine's own does."""
    running[0].clock.advance(timedelta(milliseconds=300))


@wf.stage
async def work(case: Case[Order]) -> Next:
    await fetch()
    before, loop_before = case.now(), asyncio.get_running_loop().time()
    tick()
    same = (before, loop_before) == (case.now(), asyncio.get_running_loop().time())
    case.update(note="frozen" if same else "moving")
    try:
        async with asyncio.timeout(10):
            await case.receive(go)
    except TimeoutError:
        pass
    case.update(extra=f"{(case.now() - before).total_seconds():.3f}")
    return wf.close("done")


def test_rule_A10_the_clock_inside_a_turn_is_frozen() -> None:
    """A timeout armed after the clock has moved is armed for the same instant on replay."""

    def scenario(sim: Simulation) -> None:
        running[:] = [sim]
        case = sim.start(wf, Order(id="1"))
        assert sim.state(case).object["note"] == "frozen"
        armed = every(sim, case, "timer_set")[0]
        assert armed.data["span"] == "10 s" or "10" in armed.data["span"]
        sim.advance(seconds(20))
        assert closed(sim, case) == "done"
        assert "incident_opened" not in sim.types(case)
        assert float(sim.state(case).object["extra"]) >= 10

    # The clock moves with every replay too, so only each run by itself is exact, not both alike.
    for live in (512, 0):
        with Simulation([wf], live=live) as sim:
            scenario(sim)


ties = Workflow("ties", object=Order, key="id", owner=desk, expect=days(5))


@ties.stage
async def tied(case: Case[Order]) -> Next:
    order: list[int] = []

    async def wait(n: int) -> None:
        await case.pause(seconds(10), because=f"wait {n}", label="tie")
        order.append(n)

    await asyncio.gather(*[wait(n) for n in range(5)])
    case.update(note="".join(map(str, order)))
    return ties.close("done")


def test_rule_A10_ties_between_timers_go_by_creation() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(ties, Order(id="1"))
        sim.advance(seconds(10))
        assert closed(sim, case) == "done"
        assert sim.state(case).object["note"] == "01234"
        assert len(every(sim, case, "timer_fired")) == 5

    in_both(scenario, ties)


def test_rule_A10_a_clock_that_goes_back_is_never_seen() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(ties, Order(id="1"))
        sim.clock.advance(timedelta(hours=-2))
        sim.correct(case, extra="back")
        instants = [e.at for e in sim.history(case)]
        assert instants == sorted(instants)
        sim.advance(timedelta(hours=3))
        assert closed(sim, case) == "done"

    in_both(scenario, ties)


waiting = Workflow("waiting", object=Order, key="id", owner=desk, expect=days(5))
came = waiting.signal("came", Go)


@waiting.stage
async def waits(case: Case[Order]) -> Next:
    receiving = asyncio.create_task(case.receive(came))
    await asyncio.wait({receiving}, timeout=10)  # cancels its timer in any case, also the fired one
    await receiving
    return waiting.close("done")


def test_rule_A10_a_fired_timer_is_not_cancelled() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(ties, Order(id="1"))
        waits_on = sim.start(waiting, Order(id="1"))
        in_time = sim.start(waiting, Order(id="2"))
        sim.signal(in_time, came, Go())
        sim.advance(seconds(10))
        sim.signal(waits_on, came, Go())
        assert [closed(sim, one) for one in (case, waits_on, in_time)] == ["done"] * 3
        cancelled = [sim.types(one).count("timer_cancelled") for one in (case, waits_on, in_time)]
        assert cancelled == [0, 0, 1]

    in_both(scenario, ties, waiting)
