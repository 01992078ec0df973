"""F27 on PostgreSQL: the clock of the database's machine is set while a fleet works."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.crash.inspection import Inspection
from tests.faults.database_clock import set_clock
from tests.faults.frame import FaultReport, by_length
from tests.faults.life import check_orders
from tests.faults.ships import Ships, door, fleet, fresh_orders, nothing, sail, sent

from longcase.history.event import Event, instant_of

KEYS = [f"o{number}" for number in range(by_length(6, 60))]
JUMPS = by_length(["1 hour", "-1 hour"], ["1 hour", "-1 hour", "10 years", "-50 years"])

pytestmark = pytest.mark.timeout(by_length(600, 1_800))


@pytest.mark.parametrize("jump", JUMPS)
def test_fault_F27_the_databases_clock_jumps_under_a_fleet(
    clock_url: str, tmp_path: Path, ledger: Path, report: FaultReport, jump: str
) -> None:
    """No timer is early and nothing is lost; where the clock went back, all goes on when it is set right."""

    async def run(ships: Ships) -> tuple[int, list[str]]:
        orders = fresh_orders()
        async with door(clock_url) as life:
            for worker in ships.workers:
                await asyncio.to_thread(ships.until_ready, worker)
            await ships.at_work(life, orders)
            caught = await life.open_orders()
            await asyncio.to_thread(set_clock, clock_url, jump)
            for key in KEYS:
                await life.order(key)
            await asyncio.to_thread(ships.until_said, "clock_jump", 2)
            if jump.startswith("-"):  # timers that were set before wait, for as long as the jump was
                await asyncio.to_thread(set_clock, clock_url, "0")
                await asyncio.to_thread(ships.until_said, "clock_jump", 4)
            await sail(life, ships, [], nothing)
            return caught, sent(life)

    with fleet(clock_url, tmp_path, 2) as ships:
        caught, keys = asyncio.run(run(ships))
        assert ships.ended == [], ships.said()[-3000:]
        assert ships.stop() == [0, 0]
        assert "Traceback" not in ships.said(), ships.said()[-3000:]
        forgotten = ships.said().count("was forgotten")
    assert caught, "all was done when the clock was set: the test would prove nothing"
    effects = check_orders(clock_url, ledger, keys)
    inspection = Inspection(clock_url)
    fired = [fires(inspection.events(f"orders/{key}")) for key in keys]
    assert [times for times in fired if times != 1] == []
    lost = sum(inspection.count(f"orders/{key}", "attempt_lost") for key in keys)
    report(
        injected={f"clock set {jump}": 1, "cases open then": caught},
        useful={"orders closed": len(keys), "effects": effects, "timers fired": len(fired)},
        found=f"no timer early or twice; {forgotten} workers joined anew, {lost} attempts taken for lost and settled",
    )


def fires(events: list[Event]) -> int:
    """Return how often the timer of an order fired; it may not be before it was due."""
    (due,) = [event.data["due"] for event in events if event.type == "timer_set"]
    fired = [event.at for event in events if event.type == "timer_fired"]
    assert all(instant_of(at) >= instant_of(due) for at in fired), f"fired at {fired}, due {due}"
    return len(fired)
