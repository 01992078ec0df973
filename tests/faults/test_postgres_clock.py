"""F27 on PostgreSQL: the clock of the database's machine is set while a fleet works."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import LEASE_SECONDS
from tests.crash.inspection import Inspection
from tests.faults.frame import FaultReport, by_length
from tests.faults.life import check_orders
from tests.faults.ships import Ships, door, fleet, fresh_orders, nothing, sail, sent
from tests.support.postgres import Databases, migrate, run_sql

from longcase.history.event import Event, instant_of

# A clock that can be set stands before PostgreSQL's own in the search path; the schema is made under it.
_CLOCK = (
    "CREATE SCHEMA machine",
    "CREATE TABLE machine.clock (ahead interval NOT NULL)",
    "INSERT INTO machine.clock VALUES ('0')",
    """
    CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql
    AS 'SELECT pg_catalog.clock_timestamp() + ahead FROM machine.clock'
    """,
    """
    DO $$ BEGIN
        EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog', current_database());
    END $$
    """,
)
KEYS = [f"o{number}" for number in range(by_length(6, 60))]
JUMPS = by_length(["1 hour", "-1 hour"], ["1 hour", "-1 hour", "10 years", "-50 years"])

pytestmark = pytest.mark.timeout(by_length(600, 1_800))


@pytest.fixture
def clock_url(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the URL of an empty store whose database's clock can be set."""
    monkeypatch.setenv("LONGCASE_LEASE_SECONDS", LEASE_SECONDS)
    url = databases.new(empty=True)
    run_sql(url, *_CLOCK)
    migrate(url)
    yield url
    databases.drop(url)


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


def set_clock(url: str, ahead: str) -> None:
    run_sql(url, f"UPDATE machine.clock SET ahead = '{ahead}'")


def fires(events: list[Event]) -> int:
    """Return how often the timer of an order fired; it may not be before it was due."""
    (due,) = [event.data["due"] for event in events if event.type == "timer_set"]
    fired = [event.at for event in events if event.type == "timer_fired"]
    assert all(instant_of(at) >= instant_of(due) for at in fired), f"fired at {fired}, due {due}"
    return len(fired)
