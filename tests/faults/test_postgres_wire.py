"""What the line to PostgreSQL does: lost COMMIT answers, cut sessions, silence, partitions, delay, contention."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import LEASE_SECONDS
from tests.crash import program
from tests.crash.inspection import Inspection
from tests.faults.frame import FaultReport, by_length
from tests.faults.life import BOUND, Life, check_orders, living
from tests.faults.ships import TRIES, Ships, door, fleet, fresh_orders, nothing, sail, sent
from tests.support.postgres import run_sql
from tests.support.wire_proxy import Harm, Plan, Request, WireProxy

ORDERS = by_length(8, 60)
KEYS = [f"o{number}" for number in range(ORDERS)]
RECOVERY = 30.0  # seconds within which a line that says nothing must be found out (F20)

pytestmark = pytest.mark.timeout(by_length(600, 1_800))


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(program, "LEDGER", str(tmp_path / "ledger"))
    return tmp_path / "ledger"


@pytest.fixture
def wire(postgres_url: str) -> Iterator[WireProxy]:
    with WireProxy(postgres_url) as proxy:
        yield proxy


async def all_ordered(wire: WireProxy, plan: Plan) -> dict[str, int]:
    """Let one worker move orders over a line; returns how often the client had to ask again, and why."""
    async with living(wire.url) as life:
        wire.plan = plan  # a worker that only begins would end with an error, for its service manager to start it again
        for key in KEYS:
            await life.order(key)
        await life.all_closed()
        return dict(life.refused)


def one_in(number: int, harm: Harm, most: int = by_length(12, 200)) -> Plan:
    """Return a plan that does harm to one in so many requests that commit, until it was done `most` times.

    Drawn by lot: every so-many-th may fall into step with a worker that tries again the same way. How many
    commits an order takes differs with the load, so that the harm must end by itself.
    """
    draw = random.Random(number)
    left = [most]

    def plan(request: Request) -> Harm:
        if not request.commits or not left[0] or draw.random() * number >= 1:
            return "pass"
        left[0] -= 1
        return harm

    return plan


@pytest.mark.parametrize("number", by_length([7], [3, 5, 7, 11]))
def test_fault_F19_the_answer_to_a_commit_is_lost(
    postgres_url: str, wire: WireProxy, ledger: Path, report: FaultReport, number: int
) -> None:
    """What was unknown is there once or not at all; the client repeats under its keys and gets one answer."""
    refused = asyncio.run(all_ordered(wire, one_in(number, "lose")))
    assert wire.done["lose"] >= ORDERS // 2, "hardly any harm was done: the test would prove nothing"
    effects = check_orders(postgres_url, ledger, KEYS)
    report(
        injected={"COMMIT answers lost": wire.done["lose"]},
        useful={"orders closed": ORDERS, "effects": effects},
        found=f"nothing lost, nothing twice; the client asked again {sum(refused.values())} times",
    )


def test_fault_F19_a_commit_that_never_reached_the_server(
    postgres_url: str, wire: WireProxy, ledger: Path, report: FaultReport
) -> None:
    asyncio.run(all_ordered(wire, one_in(6, "cut")))
    assert wire.done["cut"] >= ORDERS // 2, "hardly any harm was done: the test would prove nothing"
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

    async def terminate(ships: Ships) -> None:
        for worker in ships.workers:  # one that only begins ends with an error, and is started again
            await asyncio.to_thread(ships.until_ready, worker)
        rows = await asyncio.to_thread(
            run_sql, postgres_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )  # fmt: skip
        terminated[0] += len(rows)

    async def run(ships: Ships) -> None:
        async with door(postgres_url) as life:
            await sail(life, ships, KEYS, lambda: terminate(ships), every=0.5, harms=by_length(3, 20))

    with fleet(postgres_url, tmp_path, 2) as ships:
        asyncio.run(run(ships))
        assert ships.ended == [], f"a worker outlives its connections:\n{ships.said()[-3000:]}"
        assert "Traceback" not in ships.said(), ships.said()[-3000:]
    effects = check_orders(postgres_url, ledger, KEYS)
    report(
        injected={"backends terminated": terminated[0]},
        useful={"orders closed": ORDERS, "effects": effects},
        found="workers reconnected; none ended",
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
    past = seconds > float(LEASE_SECONDS)
    forgotten = "was forgotten by the store"

    async def run(ships: Ships) -> tuple[int, int, list[str]]:
        cut_off = ships.start_one(wire.url)
        await asyncio.to_thread(ships.until_ready, cut_off)
        orders = fresh_orders()
        async with door(postgres_url) as life:
            number = held = 0
            for _ in range(TRIES):
                _, number = await ships.at_work(life, orders, cut_off)
                wire.refusing = True
                cut = await asyncio.to_thread(wire.cut_all)
                (row,) = await life.longcase.service.query("SELECT count(*) AS n FROM cases WHERE lease = ?", [number])
                if held := int(row["n"]):
                    break
                wire.refusing = False
            assert held, "it was cut off when it had nothing to do: the test would prove nothing"
            heal_at = time.monotonic() + seconds

            async def heal() -> None:
                wire.refusing = wire.refusing and time.monotonic() < heal_at

            await sail(life, ships, KEYS, heal, every=0.1)
            while wire.refusing:
                await heal()
                await asyncio.sleep(0.05)
            if past:
                await asyncio.to_thread(ships.until_said, forgotten, 1)
            (row,) = await came_back(life, cut_off.pid)
            assert not past or int(row["no"]) > number, "past its lease it is another incarnation"
        assert cut_off.poll() is None, "it waited for its database"
        return cut, held, sent(life)

    async def came_back(life: Life, process: int) -> list[dict[str, Any]]:
        """Wait until the process that was cut off gives signs of life again."""
        query = (
            "SELECT no FROM workers WHERE pid = ? AND NOT lapsed AND beat + lease >= clock_timestamp() ORDER BY no DESC"
        )
        async with asyncio.timeout(BOUND):
            while not (rows := await life.longcase.service.query(query, [process])):
                await asyncio.sleep(0.05)
        return rows[:1]

    with fleet(postgres_url, tmp_path, 1) as ships:
        cut, held, keys = asyncio.run(run(ships))
        assert ships.stop() == [0] * len(ships.workers)
        times = ships.said().count(forgotten)
    effects = check_orders(postgres_url, ledger, keys, zombies=True)
    report(
        injected={"connections cut": cut, "cases held by who was cut off": held, "seconds of partition": int(seconds)},
        useful={"orders closed": len(keys), "effects": effects},
        found=f"it came back, {f'{times} times ' if times else 'never '}as another incarnation",
    )


def test_fault_F11_slow_commits_cost_no_lease(
    postgres_url: str,
    wire: WireProxy,
    tmp_path: Path,
    ledger: Path,
    report: FaultReport,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A commit takes up to a third of a lease: beats are given in time all the same, and no attempt is taken away."""
    lease = 6.0  # long enough for a machine under load, as long as beats keep their pace
    monkeypatch.setenv("LONGCASE_LEASE_SECONDS", str(lease))
    draw = random.Random(3)
    wire.plan = lambda request: draw.uniform(0, lease / 3) if request.commits else "pass"

    async def run(ships: Ships) -> None:
        async with door(postgres_url) as life:
            await sail(life, ships, KEYS, nothing)

    with fleet(wire.url, tmp_path, 2) as ships:
        asyncio.run(run(ships))
        assert ships.stop() == [0] * len(ships.workers)
        assert "was forgotten" not in ships.said(), ships.said()[-3000:]
    effects = check_orders(postgres_url, ledger, KEYS)
    inspection = Inspection(postgres_url)
    lost = sum(inspection.count(f"orders/{key}", "attempt_lost") for key in KEYS)
    assert lost == 0, "a slow commit cost an attempt"
    report(
        injected={"commits delayed": wire.done["delay"]},
        useful={"orders closed": ORDERS, "effects": effects},
        found="no lease lapsed, no attempt lost",
    )


def test_fault_F22_rows_locked_by_somebody_else_delay_and_deadlock_nothing(
    postgres_url: str, tmp_path: Path, ledger: Path, report: FaultReport
) -> None:
    """A side session locks rows in the wrong order, until PostgreSQL ends a transaction of ours for the deadlock.

    Its own patience is longer than ours, so that it is never the side session that has to give way.
    """
    import asyncpg

    held = [0]
    before = deadlocks(postgres_url)

    async def hold() -> None:
        side = await asyncpg.connect(postgres_url, server_settings={"deadlock_timeout": "60s"})
        try:
            async with side.transaction():
                rows = await side.fetch("SELECT case_no FROM cases WHERE status = 'open' ORDER BY case_no DESC")
                for place, row in enumerate(rows):
                    await side.execute("SELECT 1 FROM cases WHERE case_no = $1 FOR UPDATE", row["case_no"])
                    held[0] += 1
                    if not place:  # the highest number: whoever waits for it holds the rows of his batch before it
                        await somebody_waits(side)
        finally:
            await side.close()

    async def somebody_waits(side: Any) -> None:
        for _ in range(20):
            if await side.fetchval("SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid))",
                                   side.get_server_pid()):  # fmt: skip
                return
            await asyncio.sleep(0.02)

    async def run(ships: Ships) -> list[str]:
        orders = fresh_orders()
        async with door(postgres_url) as life:
            for _ in range(TRIES):
                await asyncio.gather(*(life.order(next(orders)) for _ in range(ORDERS)))
                await sail(life, ships, [], hold, every=0.02)
                if await asyncio.to_thread(deadlocks, postgres_url) > before:
                    break
            return sent(life)

    with fleet(postgres_url, tmp_path, 2) as ships:
        keys = asyncio.run(run(ships))
        assert ships.stop() == [0] * len(ships.workers)
        assert "unavailable" not in ships.said(), f"a deadlock is nobody's business but ours:\n{ships.said()[-3000:]}"
    met = deadlocks(postgres_url) - before
    assert met, "no transaction of ours was ended for a deadlock: the test would prove nothing"
    effects = check_orders(postgres_url, ledger, keys)
    report(
        injected={"rows locked": held[0], "deadlocks": met},
        useful={"orders closed": len(keys), "effects": effects},
        found="turns waited or were written again, none was lost",
    )


def deadlocks(url: str) -> int:
    """Return how many transactions PostgreSQL has ended in a database for a deadlock."""
    rows = run_sql(url, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    return int(rows[0]["deadlocks"])


# Who holds a snapshot that is as old as any.
_HORIZON = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND age(backend_xmin) = (
    SELECT max(age(backend_xmin)) FROM pg_stat_activity WHERE datname = current_database()
) AND state = 'idle in transaction'
"""


def test_fault_F24_a_long_foreign_transaction_stalls_nobody(
    postgres_url: str, tmp_path: Path, ledger: Path, report: FaultReport
) -> None:
    """A snapshot is held all the time, as by a dump: what is claimed and written meanwhile goes on."""
    import asyncpg

    async def run(ships: Ships) -> int:
        dump = await asyncpg.connect(postgres_url)
        try:
            async with dump.transaction(isolation="repeatable_read"):
                assert await dump.fetchval("SELECT count(*) FROM history") == 0
                async with door(postgres_url) as life:
                    await sail(life, ships, KEYS, nothing)
                    holding = await asyncio.to_thread(run_sql, postgres_url, _HORIZON)
                    assert [row["pid"] for row in holding] == [dump.get_server_pid()], "nobody held back the horizon"
                    (row,) = await life.longcase.service.query("SELECT count(*) AS n FROM history")
                    return int(row["n"])
        finally:
            await dump.close()

    with fleet(postgres_url, tmp_path, 2) as ships:
        written = asyncio.run(run(ships))
    effects = check_orders(postgres_url, ledger, KEYS)
    report(
        injected={"snapshots held": 1, "versions it keeps from being cleared": written},
        useful={"orders closed": ORDERS, "effects": effects},
        found=f"all orders were through, {written} events, while it stood",
    )
