"""One suite on every mover: whoever moves the cases, what comes of them is the same (HOST.md)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from tests.conformance import orders as shop

from longcase import Longcase
from longcase.engine.tasks import Actor
from longcase.env import Env, VirtualClock
from longcase.history.event import instant_of, instant_text
from longcase.history.state import CaseState, fold
from longcase.testing.shuffled import Abandoning, Chances, ShuffledMover

ROUNDS = 30


@dataclass
class Stand:
    """A store with a mover at work, and the clock in the test's hand."""

    app: Longcase
    clock: VirtualClock
    come_to_rest: Callable[[], Awaitable[None]]

    async def state(self, case: str) -> CaseState:
        return (await self.app.service.show(case)).state

    async def until(self, case: str, reached: Callable[[CaseState], object]) -> CaseState:
        """Let the mover work, and time pass from one due instant to the next, until the case is there."""
        for _ in range(ROUNDS):
            await self.come_to_rest()
            state = await self.state(case)
            if reached(state):
                return state
            wake = await self.app.store.next_wake(instant_text(self.clock.now()))
            if wake:
                self.clock.set(instant_of(wake))
        raise AssertionError(f"{case} does not get there: {(await self.app.service.show(case)).waits}")


Scenario = Callable[[Stand], Awaitable[dict[str, Any]]]


async def _judge(stand: Stand, outcome: dict[str, Any]) -> dict[str, Any]:
    """Add what the outside saw, and check what must hold of every case."""
    rows = await stand.app.store.query("SELECT case_no FROM cases")
    for row in await asyncio.gather(*(stand.app.store.load_many([row["case_no"]]) for row in rows)):
        for case_no, stored in row.items():
            events = await stand.app.store.events(case_no)
            assert [event.seq for event in events] == list(range(1, len(events) + 1))
            assert fold(events).to_json() == stored.state.to_json()
    assert not (await stand.app.store.query("SELECT no FROM inbox"))
    return outcome | {"ledger": Counter(shop.ledger.values())}


async def on_worker(scenario: Scenario, path: Path) -> dict[str, Any]:
    """Run a scenario on the worker, on a real event loop."""
    clock = VirtualClock()
    async with Longcase([shop], url=f"sqlite:///{path}", env=Env(clock, seed=1), synchronous="NORMAL") as app:
        async with app.working() as worker:

            async def come_to_rest() -> None:
                # The worker is done when two looks in a row find nothing under way.
                quiet = 0
                for _ in range(200):
                    ready = await app.store.ready(instant_text(clock.now()), worker.number, 1) if worker.number else [0]
                    quiet = 0 if ready or worker.running_attempts or worker.agenda.busy else quiet + 1
                    if quiet == 3:
                        return
                    await asyncio.sleep(0.005)

            stand = Stand(app, clock, come_to_rest)
            outcome = await scenario(stand)
            await come_to_rest()
        return await _judge(stand, outcome)


async def on_shuffled(scenario: Scenario, seed: int) -> dict[str, Any]:
    """Run a scenario on the shuffled mover: three incarnations that forget, repeat, and die."""
    clock = VirtualClock()
    chances = Chances(lose=0.3, double=0.3, repeat=0.3, evict=0.2, crash=0.01, unknown=0.05)
    async with Longcase([shop], url="sqlite:///:memory:", env=Env(clock, seed=seed), inline=True) as app:
        mover = await ShuffledMover(cast(Abandoning, app.store), app.env, app.codes, seed=seed, chances=chances).open()
        app.service.on_change = mover.wake
        stand = Stand(app, clock, mover.come_to_rest)
        outcome = await scenario(stand)
        await mover.come_to_rest()
        return await _judge(stand, outcome)


def person(name: str) -> Actor:
    return Actor(f"person:{name}")


async def approve(stand: Stand, case: str) -> None:
    await stand.until(case, lambda state: state.tasks)
    await stand.app.service.decide(case, "approved", actor=person("ann"))
    await stand.app.service.decide(case, "approved", actor=person("bob"))


def told(state: CaseState) -> tuple[Any, Any]:
    assert state.close is not None
    return state.close["name"], state.close["result"]


def closed(state: CaseState) -> bool:
    return state.status == "closed"


async def shipped(stand: Stand) -> dict[str, Any]:
    """Retries, approval by two, an early signal twice under one key, timers, a child case."""
    await stand.app.service.start(shop.orders, shop.Order(id="A"))
    for _ in range(2):
        await stand.app.service.signal("orders/A", shop.paid, shop.Paid(amount=7), idempotency_key="p1")
    await approve(stand, "orders/A")
    state = await stand.until("orders/A", closed)
    return {"told": told(state), "visits": state.visit, "note": state.object["note"]}


async def expired(stand: Stand) -> dict[str, Any]:
    """Nobody decides: the declared answer stands, and the charge is paid back."""
    await stand.app.service.start(shop.orders, shop.Order(id="B"))
    return {"told": told(await stand.until("orders/B", closed))}


async def withdrawn(stand: Stand) -> dict[str, Any]:
    """A signal interrupts the wait, and everything is undone."""
    await stand.app.service.start(shop.orders, shop.Order(id="C"))
    await approve(stand, "orders/C")
    await stand.until("orders/C", lambda state: state.receives)
    await stand.app.service.signal("orders/C", shop.withdrawn, shop.Paid(amount=0))
    return {"told": told(await stand.until("orders/C", closed))}


async def repaired(stand: Stand) -> dict[str, Any]:
    """A vendor refuses for good: an incident; retried by an operator once it is mended."""
    shop.broken.add("D")
    await stand.app.service.start(shop.orders, shop.Order(id="D"))
    state = await stand.until("orders/D", lambda state: state.incidents)
    kinds = [opened["kind"] for opened in state.incidents.values()]
    shop.broken.clear()
    await stand.app.service.retry("orders/D", reason="mended")
    await stand.until("orders/D", lambda state: state.tasks)
    await stand.app.service.decide("orders/D", "rejected", actor=person("ann"))
    return {"told": told(await stand.until("orders/D", closed)), "kinds": kinds}


async def returned(stand: Stand) -> dict[str, Any]:
    """Work loops back: a second visit, charged under a key of its own, then cancelled."""
    await stand.app.service.start(shop.orders, shop.Order(id="E"))
    await stand.until("orders/E", lambda state: state.tasks)
    await stand.app.service.decide("orders/E", "returned", actor=person("ann"))
    await stand.until("orders/E", lambda state: state.tasks and state.visit == 4)
    await stand.app.service.cancel("orders/E", reason="enough")
    return {"told": told(await stand.until("orders/E", closed))}


async def added(stand: Stand) -> dict[str, Any]:
    """What comes meanwhile is handled beside the stages, in order, each once; the last stage waits for it."""
    await stand.app.service.start(shop.orders, shop.Order(id="F"))
    await stand.until("orders/F", lambda state: state.tasks)
    for amount in (1, 1, 2, 3):
        await stand.app.service.signal("orders/F", shop.extra, shop.Paid(amount=amount), idempotency_key=f"e{amount}")
    await stand.until("orders/F", lambda state: len(state.handlers) == 1 and len(state.signals) < 2)
    await stand.app.service.decide("orders/F", "rejected", actor=person("ann"))
    state = await stand.until("orders/F", closed)
    return {"told": told(state), "note": state.object["note"]}


async def booked(stand: Stand) -> dict[str, Any]:
    """Rows of the user's, written by transactions of which one fails: each is there once, and its undo once."""
    await stand.app.service.start(shop.books, shop.Order(id="F", note="undo"))
    state = await stand.until("books/F", closed)
    rows = await stand.app.store.query("SELECT place FROM booked ORDER BY place")
    return {"told": told(state), "rows": [row["place"] for row in rows]}


EXPECTED: dict[Scenario, dict[str, Any]] = {
    shipped: {"told": ("shipped", [7, "sent"]), "visits": 3, "note": "reserved A", "ledger": {"charge A": 1}},
    expired: {"told": ("declined", True), "ledger": {"charge B": 1, "back B": 1}},
    withdrawn: {"told": ("withdrawn", 0), "ledger": {"charge C": 1, "back C": 1}},
    repaired: {"told": ("declined", False), "kinds": ["activity_failed"], "ledger": {"charge D": 1, "back D": 1}},
    added: {
        "told": ("declined", False),
        "note": "reserved F+1+2",
        "ledger": {f"{what} {of}": 1 for what in ("charge", "back") for of in ("F", "extra 1", "extra 2")},
    },
    returned: {"told": ("cancelled", None), "ledger": {"charge E": 2, "back E": 2}},
    booked: {
        "told": ("booked", ["F:0", "F:1", "F:2"]),
        "rows": ["F:0", "F:1", "F:2", "not F:0", "not F:1", "not F:2"],
        "ledger": {},
    },
}


@pytest.fixture(autouse=True)
def fresh_shop() -> None:
    shop.ledger.clear()
    shop.asked.clear()
    shop.broken.clear()


@pytest.mark.parametrize("scenario", EXPECTED, ids=lambda scenario: scenario.__name__)
async def test_outcome_on_the_worker(scenario: Scenario, tmp_path: Path) -> None:
    assert await on_worker(scenario, tmp_path / "cases.db") == EXPECTED[scenario]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scenario", EXPECTED, ids=lambda scenario: scenario.__name__)
async def test_outcome_on_the_shuffled_mover(scenario: Scenario, seed: int) -> None:
    assert await on_shuffled(scenario, seed) == EXPECTED[scenario]
