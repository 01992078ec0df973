"""I21, I22, I24: timers are never early, fire once whatever the clock does, and not after a cancel."""

from __future__ import annotations

import asyncio
import copy
from datetime import timedelta

import pytest
from tests.invariants.lives import a_case, broken, cases, facts, findings, first, happened, inserted, with_events
from tests.rules.support import Go, Order, closed, desk, do, every

from longcase import Case, Longcase, Next, Workflow, days, minutes
from longcase.history.event import instant_of
from longcase.insight import invariants as inv
from longcase.testing import Simulation

wf = Workflow("clocks", object=Order, key="id", owner=desk, expect=days(5))
go = wf.signal("go", Go)
DUE = 600.0  # seconds after the start


@wf.stage
async def waiting(case: Case[Order]) -> Next:
    await case.pause(minutes(10), because="cooling off")
    return bounded


@wf.stage
async def bounded(case: Case[Order]) -> Next:
    try:
        async with asyncio.timeout(DUE):
            await case.receive(go)
    except TimeoutError:
        return wf.close("late")
    await case.pause(days(1), because="the cancelled timer has time to fire")
    return wf.close("came")


def fired(sim: Simulation, case: str) -> int:
    return sim.types(case).count("timer_fired")


def test_inv_21_no_timer_of_the_evidence_fired_early_or_twice() -> None:
    assert findings(inv.inv_24) == []
    assert happened("timer_fired") > 40
    life, stored = a_case(with_events("timer_fired"))
    fire = first(stored, "timer_fired")
    twice = copy.deepcopy(stored)
    inserted(twice, first(twice, "timer_fired"), first(twice, "timer_fired"))
    assert [f.invariant for f in inv.inv_24(facts(life, twice))] == ["I24"]
    assert "I24" in broken(life, twice)
    armed = next(e for e in stored.events if e.type == "timer_set" and e.data["timer"] == fire.data["timer"])
    armed.data["due"] = "2027-01-01T00:00:00.000000Z"
    assert [f.invariant for f in inv.inv_24(facts(life, stored))] == ["I21"]
    assert "I21" in broken(life, stored)


JUMPS: dict[str, list[float]] = {
    "forward and back": [300, 100, 599.999999, 50, 600, 10, 900],
    "back before the start": [-7200, 0, 599, -30, 600, 599, 700],
    "far forward and back": [86_400, 0, 600, 300, 90_000],
}


@pytest.mark.parametrize("name", JUMPS)
@pytest.mark.usefixtures("each_store")
def test_inv_21_no_clock_jump_makes_a_timer_early_or_fire_twice(name: str) -> None:
    """The clock stands at these seconds after the start, one after the other, and the case may move each time."""
    with Simulation([wf]) as sim:
        case = sim.start(wf, Order(id="1"))
        began = sim.now
        reached = False
        for second in JUMPS[name]:
            sim.clock.set(began + timedelta(seconds=second))
            sim.crash()
            sim.run()
            reached = reached or second >= DUE
            first_timer = [e for e in sim.history(case) if e.type == "timer_fired" and e.data["timer"].startswith("1.")]
            assert len(first_timer) == int(reached), f"at second {second}"
        assert reached
        assert findings_of(sim, case) == []


def findings_of(sim: Simulation, case: str) -> list[str]:
    """Return what the timer check finds in one case of a simulation."""
    number = sim.show(case).case_no
    store = sim._app.store
    (stored,) = sim._do(store.stored(number - 1, 1))  # type: ignore[attr-defined]
    checked = inv.CaseFacts(stored, store.folded_row, store.folded_tasks)  # type: ignore[attr-defined]
    return [str(finding) for finding in inv.inv_24(checked)]


@pytest.mark.usefixtures("each_store")
def test_inv_22_after_an_outage_every_due_timer_fires_at_once() -> None:
    with Simulation([wf]) as sim:
        opened = [sim.start(wf, Order(id=f"{n}")) for n in range(20)]
        sim.clock.advance(timedelta(hours=3))
        sim.crash()
        sim.run()
        assert [fired(sim, case) for case in opened] == [1] * 20
        late = {every(sim, case, "timer_fired")[0].data["late_s"] for case in opened}
        assert late == {3 * 3600 - DUE}


@pytest.mark.usefixtures("each_store")
def test_inv_22_a_clock_set_back_delays_by_at_most_the_jump() -> None:
    with Simulation([wf]) as sim:
        case = sim.start(wf, Order(id="1"))
        sim.clock.advance(timedelta(seconds=-900))
        sim.advance(minutes(24))
        assert fired(sim, case) == 0
        sim.advance(minutes(1))
        assert fired(sim, case) == 1


quick = Workflow("quick", object=Order, key="id", owner=desk, expect=days(1))


@quick.stage
async def naps(case: Case[Order]) -> Next:
    await case.pause(timedelta(milliseconds=case.object.amount), because="nap")
    return quick.close("done")


async def test_inv_22_a_worker_fires_what_is_due_within_its_bound(store_url: str) -> None:
    """On the machine's own clock: late by two looks of the worker and a batch at most, and never early."""
    async with Longcase([quick], url=store_url) as longcase, longcase.working():
        for n in range(20):
            await longcase.service.start(quick, Order(id=f"{n}", amount=20 + 10 * n))
        for _ in range(400):
            left = await longcase.service.query("SELECT count(*) AS n FROM cases WHERE status = 'open'")
            if left[0]["n"] == 0:
                break
            await asyncio.sleep(0.025)  # until the worker is through, at most ten seconds
        for n in range(20):
            events = await longcase.service.history(f"quick/{n}")
            due = next(e.data["due"] for e in events if e.type == "timer_set")
            at = next(e.at for e in events if e.type == "timer_fired")
            assert at >= due
            assert (instant_of(at) - instant_of(due)).total_seconds() < 1.0


@pytest.mark.parametrize(("first_in", "ends"), [("signal", "came"), ("timer", "late")])
@pytest.mark.parametrize("live", [512, 0])
@pytest.mark.usefixtures("each_store")
def test_inv_24_of_cancel_and_fire_one_wins_and_history_says_which(first_in: str, ends: str, live: int) -> None:
    """Both are accepted before the case moves: the signal a microsecond before the due instant, or at it."""
    with Simulation([wf], live=live) as sim:
        case = sim.start(wf, Order(id="1"))
        sim.advance(minutes(10))
        timer = sim.history(case)[-2] if sim.history(case)[-2].type == "timer_set" else every(sim, case, "timer_set")[1]
        early = timedelta(microseconds=1) if first_in == "signal" else timedelta()
        sim.clock.set(instant_of(timer.data["due"]) - early)
        do(sim, sim.service.signal(case, go, Go(n=1)))
        sim.clock.set(instant_of(timer.data["due"]) + timedelta(seconds=1))
        sim.crash()
        sim.run()
        sim.advance(days(2))
        assert closed(sim, case) == ends
        fates = [
            e.type
            for e in sim.history(case)
            if e.type in ("timer_fired", "timer_cancelled") and e.data["timer"] == timer.data["timer"]
        ]
        assert fates == ["timer_cancelled" if first_in == "signal" else "timer_fired"]


def test_inv_24_a_cancelled_timer_never_fires() -> None:
    assert happened("timer_cancelled") > 10
    for _, stored in cases():
        gone = {e.data["timer"] for e in stored.events if e.type == "timer_cancelled"}
        assert not gone & {e.data["timer"] for e in stored.events if e.type == "timer_fired"}
    life, stored = a_case(with_events("timer_cancelled", "timer_fired"))
    cancelled, fire = first(stored, "timer_cancelled"), copy.deepcopy(first(stored, "timer_fired"))
    fire.data["timer"], fire.at = cancelled.data["timer"], "2030-01-01T00:00:00.000000Z"
    inserted(stored, fire, cancelled)
    assert "I24" in {f.invariant for f in inv.inv_24(facts(life, stored))}
    assert "I24" in broken(life, stored)
