"""I13 to I17 and I20: what a call of the world leaves, as history and the world's own log tell it."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest
from tests.invariants.lives import (
    a_case,
    broken,
    cases,
    evidence,
    facts,
    findings,
    first,
    happened,
    ids,
    inserted,
    renumbered,
    with_events,
)
from tests.rules.support import Order, desk, every, incident
from tests.simulation import checks
from tests.simulation.world import Called

from longcase import (
    NOT_HAPPENED,
    Case,
    Next,
    NotHappened,
    Retry,
    Workflow,
    activity,
    attempt,
    days,
    hours,
    injected,
    seconds,
)
from longcase.engine.attempts import CRASH_ATTEMPTS, Success
from longcase.engine.work import Ended
from longcase.errors import WorkerForgotten
from longcase.history.event import instant_text
from longcase.insight import invariants as inv
from longcase.insight.invariants import CaseFacts
from longcase.insight.wording import told
from longcase.runtime.limits import Slots
from longcase.runtime.seam import AttemptsOverTurns, Done, Go
from longcase.runtime.turns import Turns
from longcase.testing import Simulation

wf = Workflow("work", object=Order, key="id", owner=desk, expect=days(5))


@activity(owner=desk, effect="repeatable", retry=Retry(max_attempts=3, initial=seconds(5), jitter="none"))
async def ship(order: str, *, idempotency_key: str = injected()) -> str:
    return f"shipped {order}"


@wf.stage
async def shipping(case: Case[Order]) -> Next:
    said = await ship(case.key)
    await case.pause(days(1), because="the parcel is on its way")
    return wf.close("done", result=said)


def test_inv_13_a_recorded_success_is_never_replaced() -> None:
    assert findings(inv.inv_13) == []
    assert happened("activity_completed", "result_late", "undone") > 100
    life, stored = a_case(with_events("activity_completed"))
    done = first(stored, "activity_completed")
    inserted(stored, done, done)
    assert [f.invariant for f in inv.inv_13(facts(life, stored))] == ["I13"]
    assert "I13" in broken(life, stored)


@pytest.mark.usefixtures("each_store")
def test_inv_13_a_second_outcome_is_refused_and_recorded() -> None:
    with Simulation([wf]) as sim:
        case = sim.start(wf, Order(id="1"))
        before = sim.state(case).to_json()
        call = every(sim, case, "activity_scheduled")[0].data["call"]
        number = sim.show(case).case_no
        second = Ended(call, 1, Success("shipped twice"), 7, instant_text(sim.now))
        sim._do(sim._turns.advance({number: [second]}, {number}))
        (refused,) = every(sim, case, "attempt_refused")
        assert (refused.data["why"], refused.data["result"], refused.actor) == (
            "lost_lease",
            "shipped twice",
            "worker:7",
        )
        after = sim.state(case).to_json()
        assert {name: value for name, value in after.items() if before[name] != value}.keys() <= {"seq", "at", "counts"}
        sim.advance(days(1))
        assert (sim.state(case).close or {})["result"] == "shipped 1"


def dead_and_alive(sim: Simulation, case: str) -> tuple[AttemptsOverTurns, Go, AttemptsOverTurns, int]:
    """Return the attempts of an incarnation that is held for dead, what it runs, and those of its successor."""
    app = sim._app
    number = sim.show(case).case_no
    gone = app.store.abandon(sim._worker)  # type: ignore[attr-defined]
    if gone is not None:
        sim._do(gone)
    zombie = Turns(app.store, sim.env, app.codes, sim._worker, Slots(sim.env.now))
    heir = sim._do(app.store.join("heir", 2))
    turns = Turns(app.store, sim.env, app.codes, heir, Slots(sim.env.now))
    old = AttemptsOverTurns(zombie)
    call = next(iter(sim.state(case).calls))
    go = sim._do(old.begin(number, call, 1))
    assert isinstance(go, Go)
    return old, go, AttemptsOverTurns(turns), heir


@pytest.mark.usefixtures("each_store")
def test_inv_14_a_zombie_changes_nothing_and_is_recorded() -> None:
    """The worker is taken for dead while its attempt runs; another begins attempt 2; then the first one ends."""
    with Simulation([wf]) as sim:
        app = sim._app
        receipt = sim._at_once(sim.service.start(wf, Order(id="1")))
        sim._do(sim._turns.advance({receipt.case_no: []}, {receipt.case_no}))  # attempt 1 is begun, not performed
        case = receipt.address
        assert [call["status"] for call in sim.state(case).calls.values()] == ["running"]
        old, go, new, heir = dead_and_alive(sim, case)
        assert sim._do(app.store.recover(sim._worker)) == 1
        assert sim._do(app.store.ready(instant_text(sim.now), heir, 9)) == [go.case_no]
        sim._do(new._turns.advance({go.case_no: []}, {go.case_no}))
        assert every(sim, case, "attempt_lost")[0].data["attempt"] == 1
        assert [event.data["attempt"] for event in every(sim, case, "attempt_started")] == [2]
        assert isinstance(sim._do(old.begin(go.case_no, go.call, 1)), Done), "no leave for the zombie"

        before = sim.state(case).to_json()
        try:
            sim._do(old.end(go, Success("by the zombie")))
        except WorkerForgotten:  # where leases lapse by a clock: its process joins anew, and reports it as another
            sim._do(new.end(go, Success("by the zombie")))
        (refused,) = every(sim, case, "attempt_refused")
        assert (refused.data["attempt"], refused.data["why"]) == (1, "lost_lease")
        after = sim.state(case).to_json()
        assert {name for name, value in after.items() if before[name] != value} <= {"seq", "at", "counts"}
        assert "activity_completed" not in sim.types(case)

        current = sim._do(new.begin(go.case_no, go.call, 2))
        assert isinstance(current, Go)
        assert current.key == go.key, "the next attempt carries the same key (I20)"
        sim._do(new.end(current, Success("by the heir")))
        assert every(sim, case, "activity_completed")[0].data["result"] == "by the heir"


def test_inv_14_a_result_of_an_attempt_that_is_not_the_current_one_is_named() -> None:
    """The evidence holds refused ends of zombies; one that counted would be found."""
    assert happened("attempt_refused") > 10
    life, stored = a_case(lambda events: any(e.type == "activity_completed" and e.data["attempt"] > 1 for e in events))
    assert "I14" not in broken(life, stored)
    next(e for e in stored.events if e.type == "activity_completed" and e.data["attempt"] > 1).data["attempt"] -= 1
    assert "I14" in broken(life, stored)


def test_inv_15_attempts_are_numbered_upwards_and_one_runs_at_a_time() -> None:
    assert findings(inv.inv_15) == []
    assert happened("attempt_started") > 30
    life, stored = a_case(with_events("attempt_started", "attempt_failed"))
    skipped = copy.deepcopy(stored)
    begun = first(skipped, "attempt_started")
    begun.data["attempt"] -= 1
    assert "I15" in {f.invariant for f in inv.inv_15(facts(life, skipped))}
    assert "I15" in broken(life, skipped)
    failed = next(e for e in stored.events if e.type == "attempt_failed" and e.data["next_try"])
    stored.events.remove(failed)
    assert "I15" in {f.invariant for f in inv.inv_15(facts(life, renumbered(stored)))}


@pytest.mark.usefixtures("each_store")
def test_inv_15_a_running_attempt_is_not_begun_again() -> None:
    """A wake-up that comes twice begins nothing: the leave is for the attempt that runs."""
    with Simulation([wf]) as sim:
        receipt = sim._at_once(sim.service.start(wf, Order(id="1")))
        number = receipt.case_no
        for _ in range(3):
            sim._do(sim._turns.advance({number: []}, {number}))
        assert "attempt_started" not in sim.types(receipt.address)
        assert sim.types(receipt.address).count("activity_scheduled") == 1
        assert [call["attempt"] for call in sim.state(receipt.address).calls.values()] == [1]


def test_inv_16_every_attempt_of_the_world_is_in_history() -> None:
    called = 0
    for life in evidence():
        called += len(life.world.log)
        assert checks.world_checks(life.world, life.histories) == []
    assert called > 150
    life, stored = a_case(with_events("attempt_started", "activity_completed"))
    address = f"{stored.row['workflow']}/{stored.row['key']}"
    begun = first(stored, "attempt_started")
    stored.events.remove(begun)
    assert "I16" in ids(checks.world_checks(life.world, {**life.histories, address: stored.events}))
    world = copy.deepcopy(life.world)
    world.log.append(Called("check", world.log[0].key, 99, "x", True))
    assert ids(checks.world_checks(world, life.histories)) == {"I16"}


def test_inv_16_an_attempt_that_started_has_an_outcome_or_is_open() -> None:
    """Nothing of a closed case is left running, unless its close named it or asked it to stop."""
    for _, stored in cases():
        running: set[str] = set()
        for event in stored.events:
            call = event.data.get("call", "")
            if event.type in ("activity_scheduled", "undo_started", "attempt_started") and event.data["attempt"]:
                running.add(call)
            elif event.type in (
                "attempt_failed",
                "attempt_lost",
                "activity_failed",
                "activity_completed",
                "result_late",
                "undone",
                "activity_cancelled",
            ):
                running.discard(call)
        assert not running, (stored.row["key"], running)


def test_inv_17_no_more_tries_than_granted_no_later_than_the_policy_says() -> None:
    assert happened("attempt_failed") > 40
    life, stored = a_case(lambda events: any(e.type == "attempt_failed" and e.data["next_try"] for e in events))
    assert "I17" not in broken(life, stored)
    early = copy.deepcopy(stored)
    failed = next(e for e in early.events if e.type == "attempt_failed" and e.data["next_try"])
    failed.data["next_try"] = "2027-01-01T00:00:00.000000Z"
    assert "I17" in broken(life, early)
    failed = next(e for e in stored.events if e.type == "attempt_failed" and e.data["next_try"])
    failed.data["error"]["kind"] = "non_retryable"
    assert "I17" in broken(life, stored)
    life, stored = a_case(lambda events: any(e.type == "attempt_failed" and e.data["next_try"] for e in events))
    failed = next(e for e in stored.events if e.type == "attempt_failed" and e.data["next_try"])
    for _ in range(3):
        failed = first(inserted(stored, failed, failed), "attempt_failed")
        failed.data["attempt"] += 1  # the same failure told twice is one
    assert "I17" in broken(life, stored)


@pytest.mark.usefixtures("each_store")
def test_inv_17_attempts_lost_with_their_worker_are_bounded_too() -> None:
    """A call that kills its worker each time does not do so for ever: it becomes an incident of its owner."""
    with Simulation([wf]) as sim:

        async def dies(order: str) -> str:
            raise asyncio.CancelledError

        sim.fake(ship, dies)
        case = sim.start(wf, Order(id="1"))
        sim.advance(hours(3))  # the pauses between deaths, doubled each time and drawn, are an hour or so together
        opened = incident(sim, case)
        assert (opened["kind"], opened["owner"]) == ("poisoned_activity", "desk")
        allowed = 3 + CRASH_ATTEMPTS
        assert [number for _, _, number in sim.performed] == list(range(1, allowed + 1))


once = Workflow("once", object=Order, key="id", owner=desk, expect=days(5))


@activity(owner=desk, effect="once")
async def pay(order: str) -> str:
    return f"paid {order}"


@pay.verify
async def was_paid(order: str) -> str | NotHappened:
    return NOT_HAPPENED


@once.stage
async def paying(case: Case[Order]) -> Next:
    return once.close("done", result=await pay(case.key))


@pytest.mark.usefixtures("each_store")
def test_inv_17_attempts_that_verify_says_did_not_happen_are_bounded_too() -> None:
    """A call that is made again because it did not happen, and is cut off each time, does not go on for ever."""
    with Simulation([once]) as sim:

        async def dies(order: str) -> str:
            raise asyncio.CancelledError

        sim.fake(pay, dies)
        case = sim.start(once, Order(id="1"))
        sim.advance(seconds(1))
        assert len(sim.performed) < 8  # they are tried with growing pauses
        sim.advance(hours(3))
        opened = incident(sim, case)
        assert (opened["kind"], opened["owner"]) == ("poisoned_activity", "desk")
        assert opened["message"] == "pay: 11 attempts were cut off, and none of them took effect"
        assert [number for _, _, number in sim.performed] == list(range(1, 1 + CRASH_ATTEMPTS + 1))
        assert "verify says that 1.c1 did not take effect" in [told(event) for event in sim.history(case)][-2]

        sim.fake(pay, lambda order: f"paid {order}")
        sim.retry(case)
        assert sim.state(case).close["result"] == "paid 1"


def test_the_history_says_that_an_effect_was_found_by_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    async def found(order: str) -> str:
        return f"found {order}"

    async def dies(order: str) -> str:
        raise asyncio.CancelledError

    monkeypatch.setattr(pay, "verify_function", found)
    with Simulation([once], fakes={pay: dies}) as sim:
        case = sim.start(once, Order(id="1"))
        assert "verify says that 1.c1 took effect: found 1" in [told(event) for event in sim.history(case)]


class Ledger:
    """An outside world that honours the key: what it does, it does once a key."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}
        self.asked: list[tuple[str, int]] = []

    def post(self, order: str, idempotency_key: str) -> str:
        self.asked.append((idempotency_key, attempt().number))
        self.rows.setdefault(idempotency_key, order)
        if attempt().number < 3:
            raise ConnectionError("the answer was lost")
        return self.rows[idempotency_key]


@pytest.mark.parametrize("between", ["nothing", "crash", "restart"])
@pytest.mark.usefixtures("each_store")
def test_inv_20_one_key_a_call_over_all_attempts_crashes_and_repairs(between: str) -> None:
    ledger = Ledger()
    with Simulation([wf], live=0 if between == "nothing" else 512) as sim:
        sim.fake(ship, ledger.post)
        case = sim.start(wf, Order(id="1"))
        if between == "crash":
            sim.crash()
        elif between == "restart":
            sim.restart(case)
        sim.advance(days(2))
        assert (sim.state(case).close or {})["result"] == "1"
        assert len(ledger.rows) == 1
        assert [number for _, number in ledger.asked] == sorted(number for _, number in ledger.asked)
        assert len(ledger.asked) >= 3


def test_inv_20_the_world_changed_once_a_key() -> None:
    for life in evidence():
        assert life.world.doubled == []
    repeated = [(life, e.key) for life in evidence() for e in life.world.log if e.attempt > 1]
    assert len(repeated) > 20, "calls were repeated"
    life, stored = a_case(with_events("activity_scheduled", "attempt_started"))
    address = f"{stored.row['workflow']}/{stored.row['key']}"
    scheduled: Any = next(e for e in stored.events if e.type == "activity_scheduled")
    scheduled.data["key"] += "x"  # as if the key had been made anew
    assert {"I16"} <= ids(checks.world_checks(life.world, {**life.histories, address: stored.events}))
    life.world.doubled.append("k")
    try:
        assert ids(checks.world_checks(life.world, life.histories)) == {"I20"}
    finally:
        life.world.doubled.clear()


@pytest.mark.usefixtures("each_store")
def test_inv_20_other_arguments_have_another_key() -> None:
    """A call that an operator has made anew; the key of the first one in its place is found."""
    with Simulation([amounts]) as sim:
        sim.fake(book, _refused_below_three)
        case = sim.start(amounts, Order(id="1", amount=2))
        sim.correct(case, amount=3)
        sim.redo(case)
        (stored,) = sim._do(sim._app.store.stored(0, 9))
        check = CaseFacts(stored, sim._app.store.folded_row, sim._app.store.folded_tasks)
        assert list(inv.inv_20(check)) == []
        first(stored, "call_redone").data["key"] = first(stored, "activity_scheduled").data["key"]
        assert [finding.invariant for finding in inv.inv_20(check)] == ["I20"]


amounts = Workflow("amounts", object=Order, key="id", owner=desk, expect=days(5))


@activity(owner=desk, effect="repeatable", retry=Retry(max_attempts=2, initial=seconds(5), jitter="none"))
async def book(amount: int, *, idempotency_key: str = injected()) -> str:
    return f"booked {amount}"


@amounts.stage
async def booking(case: Case[Order]) -> Next:
    return amounts.close("done", result=await book(case.object.amount))


def _refused_below_three(amount: int) -> str:
    if amount < 3:
        raise ConnectionError("no such amount")
    return f"booked {amount}"
