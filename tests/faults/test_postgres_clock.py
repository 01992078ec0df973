"""F27 on PostgreSQL: the clock of the database's machine is set while a fleet works, and those of other machines."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.crash.inspection import Inspection
from tests.faults.database_clock import set_clock
from tests.faults.frame import FaultReport, by_length
from tests.faults.life import BOUND, check_orders
from tests.faults.ships import Ships, door, fleet, fresh_orders, nothing, sail, sent
from tests.faults.test_clocks import Thing, Word, go, things, timers_early_or_doubled
from tests.invariants.program import Paper, signing
from tests.support.postgres import run_sql

from longcase import Longcase
from longcase.engine.tasks import Actor
from longcase.env import Env, RealClock
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


class Machine(RealClock):
    """The clock of a machine that somebody sets."""

    ahead = timedelta(0)

    def uncorrected(self) -> datetime:
        return super().uncorrected() + self.ahead


MACHINES = {
    "+11h": timedelta(hours=11),
    "-1h": timedelta(hours=-1),
    "+10y": timedelta(days=3650),
    "-50y": timedelta(days=-18250),
}
EARLY = "SELECT type FROM history WHERE type IN ('timer_fired', 'task_reminded', 'task_escalated', 'task_expired')"


@pytest.mark.parametrize("jump", by_length(["+11h", "-50y"], list(MACHINES)))
async def test_fault_F27_a_machines_clock_jumps_under_its_worker_and_under_a_door(
    clock_url: str, report: FaultReport, jump: str
) -> None:
    """Nothing comes of it: timers, expiries and what is recorded go by the database's clock all the time."""
    count = by_length(4, 40)
    signed, left = [f"signed{n}" for n in range(count)], [f"left{n}" for n in range(count)]
    keys = [f"t{n}" for n in range(count)]
    machines = Machine(), Machine()
    both = [things, signing]
    async with (
        Longcase(both, url=clock_url, env=Env(machines[0])) as mover,
        mover.working(),
        Longcase(both, url=clock_url, env=Env(machines[1])) as longcase,
    ):

        async def until(where: str, cases: int) -> None:
            async with asyncio.timeout(BOUND):
                while (await longcase.service.query(f"SELECT count(*) AS n FROM cases WHERE {where}"))[0]["n"] < cases:
                    await asyncio.sleep(0.01)

        for key in keys:
            await longcase.service.start(things, Thing(id=key))
        for key in (*signed, *left):
            await longcase.service.start(signing, Paper(id=key))
        await until("wait_kind = 'timer'", count)
        await until("wait_kind = 'person'", 2 * count)
        for machine in machines:
            machine.ahead = MACHINES[jump]
        for key in signed:
            await longcase.service.decide(f"signing/{key}", "approved", actor=Actor("person:ann"))
        await until("close_name = 'signed'", count)
        for key in keys:
            await longcase.service.signal(f"things/{key}", go, Word())
        assert await asyncio.to_thread(run_sql, clock_url, EARLY) == []
        (newest,) = await asyncio.to_thread(run_sql, clock_url, "SELECT max(at) AS at FROM history")
        off = datetime.now(UTC) - instant_of(newest["at"])
        assert timedelta(0) <= off < timedelta(seconds=BOUND), f"recorded {off} before the database's clock"
        await asyncio.to_thread(set_clock, clock_url, "12 hours")
        await until("status = 'closed'", 3 * count)
        refused = await longcase.service.query("SELECT count(*) AS n FROM cases WHERE close_name = 'refused'")
        assert refused[0]["n"] == count, "nobody answered in ten hours"
    assert await asyncio.to_thread(timers_early_or_doubled, clock_url, keys) == []
    report(
        injected={f"machines set {jump}": 2},
        useful={"cases closed": 3 * count, "decisions accepted": count},
        found="no timer early, no decision refused; all fired when the database's clock was there",
    )
