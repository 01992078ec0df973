"""What the line to PostgreSQL does: lost COMMIT answers, cut sessions, silence, partitions, delay, contention."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import LEASE_SECONDS
from tests.crash import program
from tests.crash.inspection import Inspection
from tests.faults.frame import FaultReport, by_length
from tests.faults.life import check_orders, living
from tests.faults.ships import Ships, door, fleet, sail
from tests.support.postgres import run_sql
from tests.support.wire_proxy import Harm, Plan, Request, WireProxy

ORDERS = by_length(8, 60)
KEYS = [f"o{number}" for number in range(ORDERS)]
RECOVERY = 30.0  # seconds within which a line that says nothing must be found out (F20)

pytestmark = pytest.mark.timeout(by_length(180, 900))


@pytest.fixture
def report(fault_report: FaultReport) -> FaultReport:
    fault_report.store = "postgres"
    return fault_report


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(program, "LEDGER", str(tmp_path / "ledger"))
    return tmp_path / "ledger"


@pytest.fixture
def wire(postgres_url: str) -> Iterator[WireProxy]:
    with WireProxy(postgres_url) as proxy:
        yield proxy


async def all_ordered(url: str) -> dict[str, int]:
    """Let one worker move orders over a line; returns how often the client had to ask again, and why."""
    async with living(url) as life:
        for key in KEYS:
            await life.order(key)
        await life.all_closed()
        return dict(life.refused)


def every(number: int, harm: Harm) -> Plan:
    """Return a plan that does harm to every so-many-th request that commits."""
    seen = [0]

    def plan(request: Request) -> Harm:
        if not request.commits:
            return "pass"
        seen[0] += 1
        return harm if seen[0] % number == 0 else "pass"

    return plan


@pytest.mark.parametrize("number", by_length([7], [3, 5, 7, 11]))
def test_fault_F19_the_answer_to_a_commit_is_lost(
    postgres_url: str, wire: WireProxy, ledger: Path, report: FaultReport, number: int
) -> None:
    """What was unknown is there once or not at all; the client repeats under its keys and gets one answer."""
    wire.plan = every(number, "lose")
    refused = asyncio.run(all_ordered(wire.url))
    effects = check_orders(postgres_url, ledger, KEYS)
    report(
        injected={"COMMIT answers lost": wire.done["lose"]},
        useful={"orders closed": ORDERS, "effects": effects},
        found=f"nothing lost, nothing twice; the client asked again {sum(refused.values())} times",
    )


def test_fault_F19_a_commit_that_never_reached_the_server(
    postgres_url: str, wire: WireProxy, ledger: Path, report: FaultReport
) -> None:
    wire.plan = every(6, "cut")
    asyncio.run(all_ordered(wire.url))
    effects = check_orders(postgres_url, ledger, KEYS)
    report(
        injected={"connections cut before a COMMIT": wire.done["cut"]},
        useful={"orders closed": ORDERS, "effects": effects},
        found="what was not committed was done again",
    )


def test_fault_F18_every_connection_is_ended_again_and_again(
    postgres_url: str, tmp_path: Path, ledger: Path, report: FaultReport
) -> None:
    terminated = [0]

    async def terminate() -> None:
        rows = await asyncio.to_thread(
            run_sql, postgres_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )  # fmt: skip
        terminated[0] += len(rows)

    async def run(ships: Ships) -> None:
        async with door(postgres_url) as life:
            await sail(life, ships, KEYS, terminate, every=0.5, harms=by_length(3, 20))

    with fleet(postgres_url, tmp_path, 2) as ships:
        asyncio.run(run(ships))
        assert "Traceback" not in ships.said(), ships.said()[-3000:]
    effects = check_orders(postgres_url, ledger, KEYS)
    report(
        injected={"backends terminated": terminated[0]},
        useful={"orders closed": ORDERS, "effects": effects},
        found=f"workers reconnected; {len(ships.ended)} processes ended",
    )


def test_fault_F20_a_line_that_says_nothing_any_more_is_found_out(
    postgres_url: str, wire: WireProxy, ledger: Path, report: FaultReport
) -> None:
    """Half open: no FIN, no bytes. Later connections work; the old ones must be given up."""

    async def run() -> float:
        async with living(wire.url) as life:
            for key in KEYS[: ORDERS // 2]:
                await life.order(key)
            hung = await asyncio.to_thread(wire.hang_all)
            assert hung >= 1
            began = time.monotonic()
            await life.order(KEYS[ORDERS // 2])
            took = time.monotonic() - began
            for key in KEYS[ORDERS // 2 + 1 :]:
                await life.order(key)
            await life.all_closed()
            return took

    took = asyncio.run(run())
    effects = check_orders(postgres_url, ledger, KEYS)
    assert took < RECOVERY, f"the client was served again after {took:.1f} s"
    report(
        injected={"connections half open": wire.done["hang"]},
        useful={"orders closed": ORDERS, "effects": effects},
        found=f"served again after {took:.1f} s, bound {RECOVERY:g} s",
    )


@pytest.mark.parametrize("seconds", by_length([4.0], [1.0, 10.0, 60.0]))
def test_fault_F21_a_worker_cut_off_past_its_lease_comes_back_and_breaks_nothing(
    postgres_url: str, wire: WireProxy, tmp_path: Path, ledger: Path, report: FaultReport, seconds: float
) -> None:
    """One of two workers loses the database for a while; the other takes over what it held."""
    assert seconds > float(LEASE_SECONDS) or seconds == 1.0

    async def nothing() -> None:
        return None

    async def run(ships: Ships) -> int:
        cut_off = ships.start_one(wire.url)
        async with door(postgres_url) as life:
            await sail(life, ships, KEYS[: ORDERS // 2], nothing)
            wire.refusing = True
            cut = await asyncio.to_thread(wire.cut_all)
            heal_at = time.monotonic() + seconds

            async def heal() -> None:
                wire.refusing = wire.refusing and time.monotonic() < heal_at

            await sail(life, ships, KEYS[ORDERS // 2 :], heal, every=0.1)
            while wire.refusing:
                await heal()
                await asyncio.sleep(0.05)
            came_back = time.monotonic() + RECOVERY
            while wire.connections == 0:
                assert time.monotonic() < came_back, f"the worker did not come back:\n{ships.said()[-3000:]}"
                await asyncio.sleep(0.05)
        assert cut_off.poll() is None, "it waited for its database"
        return cut

    with fleet(postgres_url, tmp_path, 1) as ships:
        cut = asyncio.run(run(ships))
        assert ships.stop() == [0] * len(ships.workers)
    effects = check_orders(postgres_url, ledger, KEYS)
    report(
        injected={"connections cut": cut, "seconds of partition": int(seconds)},
        useful={"orders closed": ORDERS, "effects": effects},
        found="the worker came back as another incarnation",
    )


def test_fault_F11_slow_commits_cost_no_lease(
    postgres_url: str, wire: WireProxy, tmp_path: Path, ledger: Path, report: FaultReport
) -> None:
    """Every commit takes a third of a lease: beats are renewed in time, and no attempt is taken away."""
    draw = random.Random(3)
    delay = float(LEASE_SECONDS) / 3
    wire.plan = lambda request: draw.uniform(0, delay) if request.commits else "pass"

    async def nothing() -> None:
        return None

    async def run(ships: Ships) -> None:
        ships.start_one(wire.url)
        async with door(postgres_url) as life:
            await sail(life, ships, KEYS, nothing)

    with fleet(wire.url, tmp_path, 2) as ships:
        asyncio.run(run(ships))
        assert ships.stop() == [0] * len(ships.workers)
    effects = check_orders(postgres_url, ledger, KEYS)
    inspection = Inspection(postgres_url)
    lost = sum(inspection.count(f"orders/{key}", "attempt_lost") for key in KEYS)
    assert lost == 0, "a slow commit cost an attempt"
    report(
        injected={"commits delayed": wire.done["delay"]},
        useful={"orders closed": ORDERS, "effects": effects},
        found="no attempt lost",
    )


def test_fault_F22_rows_locked_by_somebody_else_delay_and_deadlock_nothing(
    postgres_url: str, tmp_path: Path, ledger: Path, report: FaultReport
) -> None:
    """A side session locks rows in the wrong order, for as long as PostgreSQL takes to see a deadlock."""
    import asyncpg

    held = [0]

    async def hold() -> None:
        side = await asyncpg.connect(postgres_url)
        try:
            async with side.transaction():
                for row in await side.fetch("SELECT case_no FROM cases WHERE status = 'open' ORDER BY case_no DESC"):
                    await side.execute("SELECT 1 FROM cases WHERE case_no = $1 FOR UPDATE", row["case_no"])
                    held[0] += 1
                await asyncio.sleep(0.2)
        except asyncpg.DeadlockDetectedError:
            pass  # it was the side session that had to give way
        finally:
            await side.close()

    async def run(ships: Ships) -> None:
        async with door(postgres_url) as life:
            await sail(life, ships, KEYS, hold, every=0.3, harms=by_length(3, 30))

    with fleet(postgres_url, tmp_path, 2) as ships:
        asyncio.run(run(ships))
        assert ships.stop() == [0] * len(ships.workers)
    effects = check_orders(postgres_url, ledger, KEYS)
    report(
        injected={"rows locked": held[0]},
        useful={"orders closed": ORDERS, "effects": effects},
        found="turns waited, none was lost",
    )


def test_fault_F24_a_long_foreign_transaction_stalls_nobody(
    postgres_url: str, tmp_path: Path, ledger: Path, report: FaultReport
) -> None:
    """A snapshot is held all the time, as by a dump: what is claimed and written meanwhile goes on."""
    import asyncpg

    async def nothing() -> None:
        return None

    async def run(ships: Ships) -> int:
        dump = await asyncpg.connect(postgres_url)
        try:
            async with dump.transaction(isolation="repeatable_read"):
                before: int = await dump.fetchval("SELECT count(*) FROM history")
                async with door(postgres_url) as life:
                    await sail(life, ships, KEYS, nothing)
                assert await dump.fetchval("SELECT count(*) FROM history") == before
        finally:
            await dump.close()
        after: int = run_sql(postgres_url, "SELECT count(*) AS n FROM history")[0]["n"]
        return after - before

    with fleet(postgres_url, tmp_path, 2) as ships:
        written = asyncio.run(run(ships))
    effects = check_orders(postgres_url, ledger, KEYS)
    report(
        injected={"snapshots held": 1},
        useful={"orders closed": ORDERS, "effects": effects, "events written meanwhile": written},
        found="the snapshot saw none of it, and held up nothing",
    )
