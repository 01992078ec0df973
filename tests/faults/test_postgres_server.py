"""What happens to the PostgreSQL server itself: restarted, crashed, away for long, out of connections or of disk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.conftest import LEASE_SECONDS
from tests.crash.inspection import Inspection
from tests.faults.frame import FaultReport, by_length
from tests.faults.life import BOUND, Life, check_orders
from tests.faults.ships import Ships, door, fleet, fresh_orders, nothing, sail, sent
from tests.support.postgres import Server, StopMode, migrate, own_server, run_sql
from tests.support.wire_proxy import Harm, Request, WireProxy

from longcase.errors import LongcaseError, StoreUnavailable

ORDERS = by_length(8, 60)
KEYS = [f"o{number}" for number in range(ORDERS)]
AWAY = by_length(4.0, 30.0)  # seconds the database is stopped (ACCEPTANCE D4)

pytestmark = pytest.mark.timeout(by_length(600, 1_800))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("LONGCASE_LEASE_SECONDS", LEASE_SECONDS)
    with own_server() as server:
        migrate(server.url())
        yield server


def amcheck(url: str) -> list[str]:
    """Return what PostgreSQL's own check finds wrong with the tables and indexes of a store."""
    run_sql(url, "CREATE EXTENSION IF NOT EXISTS amcheck")
    ours = "c.relnamespace = 'public'::regnamespace"
    heaps = run_sql(
        url, f"SELECT c.relname, v.msg FROM pg_class c, LATERAL verify_heapam(c.oid) v WHERE c.relkind = 'r' AND {ours}"
    )
    run_sql(
        url,
        "SELECT bt_index_check(c.oid, true) FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid "
        f"JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND {ours}",
    )
    return [f"{row['relname']}: {row['msg']}" for row in heaps]


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_fault_F17_the_server_is_restarted_under_load(
    server: Server, tmp_path: Path, ledger: Path, report: FaultReport, mode: StopMode
) -> None:
    """Workers and clients reconnect; what was acknowledged is there after the server's own recovery."""

    async def run(ships: Ships) -> tuple[int, int, list[str]]:
        orders, caught = fresh_orders(), 0
        async with door(server.url()) as life:
            for _ in range(by_length(3, 25)):
                for _ in range(2):
                    await life.order(next(orders))
                await ships.at_work(life, orders)
                caught += await life.open_orders()
                asking = (life.order(next(orders)) for _ in range(2))
                await asyncio.gather(asyncio.to_thread(server.restart, mode), *asking)
            await sail(life, ships, [], nothing)
            return caught, sum(life.refused.values()), sent(life)

    with fleet(server.url(), tmp_path, 2) as ships:
        for worker in ships.workers:
            ships.until_ready(worker)  # opening a store that is away is an error; losing it is not
        caught, refused, keys = asyncio.run(run(ships))
        assert ships.ended == [], f"a worker outlives its server's restart:\n{ships.said()[-3000:]}"
        assert ships.stop() == [0, 0]
        assert "Traceback" not in ships.said(), ships.said()[-3000:]
        assert "store unavailable" in ships.said(), "no worker noticed: the test would prove nothing"
    assert caught, "all was done at each restart: the test would prove nothing"
    effects = check_orders(server.url(), ledger, keys)
    assert amcheck(server.url()) == []
    report(
        injected={f"{mode} restarts": by_length(3, 25), "cases open at a restart": caught},
        useful={"orders closed": len(keys), "effects": effects},
        found=f"nothing acknowledged was lost; the client asked again {refused} times; amcheck finds nothing",
    )


def test_fault_F17_the_server_crashes_while_a_dead_workers_cases_are_taken_over(
    server: Server, tmp_path: Path, ledger: Path, report: FaultReport
) -> None:
    crashes = by_length(2, 10)

    async def run(ships: Ships) -> tuple[int, list[str]]:
        orders, held = fresh_orders(), 0
        async with door(server.url()) as life:
            for _ in range(crashes):
                held += await ships.kill_at_work(life, orders)
                await asyncio.sleep(float(LEASE_SECONDS))  # the fault's instant: about when the lease lapses
                await asyncio.to_thread(server.restart, "immediate")
            await sail(life, ships, [], nothing)
            return held, sent(life)

    with fleet(server.url(), tmp_path, 2) as ships:
        held, keys = asyncio.run(run(ships))
    effects = check_orders(server.url(), ledger, keys)
    inspection = Inspection(server.url())
    lost = sum(inspection.count(f"orders/{key}", "attempt_lost") for key in keys)
    left = run_sql(server.url(), "SELECT count(*) AS n FROM cases WHERE lease <> 0")[0]["n"]
    assert left == 0, "a dead worker's lease outlived the crash"
    report(
        injected={"SIGKILL": ships.killed, "cases held by the dead": held, "immediate restarts": crashes},
        useful={"orders closed": len(keys), "effects": effects},
        found=f"all {held} taken over; {lost} attempts lost and done again, no lease is left",
    )


def test_fault_F17_row_D4_the_database_is_away_for_long_and_everything_goes_on(
    server: Server, tmp_path: Path, ledger: Path, report: FaultReport
) -> None:
    """Longer than a lease: nobody is declared dead while nobody could beat, or else it joins anew."""

    async def run(ships: Ships) -> tuple[float, int, list[str]]:
        orders = fresh_orders()
        async with door(server.url()) as life:
            await sail(life, ships, KEYS, nothing)
            await ships.at_work(life, orders)
            caught = await life.open_orders()
            server.stop("fast")
            asking = asyncio.ensure_future(life.order(next(orders)))
            await asyncio.sleep(AWAY)  # the outage
            assert not asking.done()
            server.start()
            back = time.monotonic()
            await asking
            took = time.monotonic() - back
            await sail(life, ships, [], nothing)
            return took, caught, sent(life)

    with fleet(server.url(), tmp_path, 2) as ships:
        for worker in ships.workers:
            ships.until_ready(worker)
        took, caught, keys = asyncio.run(run(ships))
        assert ships.ended == [], ships.said()[-3000:]
        assert ships.stop() == [0, 0]
        assert "Traceback" not in ships.said(), ships.said()[-3000:]
    assert caught, "all was done before the outage: the test would prove nothing"
    effects = check_orders(server.url(), ledger, keys)
    report(
        injected={"seconds without a database": int(AWAY), "cases open when it went": caught},
        useful={"orders closed": len(keys), "effects": effects},
        found=f"the client was served {took:.1f} s after it came back",
    )


def test_fault_F23_when_connections_run_out_callers_are_told_and_leases_are_kept(
    tmp_path: Path, ledger: Path, report: FaultReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strangers take every connection that is left; the fleet keeps those it has and goes on when they leave."""
    import asyncpg

    monkeypatch.setenv("LONGCASE_LEASE_SECONDS", LEASE_SECONDS)

    async def run(ships: Ships, url: str) -> tuple[int, str]:
        taken: list[asyncpg.Connection] = []
        refused = False
        async with door(url) as life:
            for worker in ships.workers:
                await asyncio.to_thread(ships.until_ready, worker)
            await sail(life, ships, KEYS[:2], nothing)
            before = await lives(life, beyond=0.0)

            await life.order(KEYS[2])
            try:
                while len(taken) < 100:
                    taken.append(await asyncpg.connect(url))
            except asyncpg.TooManyConnectionsError:
                refused = True
            for key in KEYS[3:5]:  # accepted now; a worker that has no line to move them waits for one with them
                await life.order(key)
            assert refused, "there was still room: the test would prove nothing"
            with pytest.raises(StoreUnavailable, match="takes no more connections") as told:
                async with door(url):
                    pass
            # Longer than a lease; every sign of life that is looked for here was given while there was no room.
            assert await lives(life, beyond=float(LEASE_SECONDS) + 0.5) == before, "a worker was forgotten"
            for connection in taken:
                await connection.close()
            await sail(life, ships, KEYS[5:], nothing)
            assert await lives(life, beyond=0.0) == before
            return len(taken), told.value.message

    async def lives(life: Life, beyond: float) -> list[int]:
        """Return the incarnations that live once each has given a sign of life so many seconds from now."""
        query = life.longcase.service.query
        (row,) = await query("SELECT clock_timestamp()::text AS at")
        async with asyncio.timeout(BOUND):
            while True:
                rows = await query(
                    "SELECT no FROM workers WHERE NOT lapsed "
                    "AND beat > ?::text::timestamptz + make_interval(secs => ?) ORDER BY no", [row["at"], beyond],
                )  # fmt: skip
                if len(rows) == 2:
                    return [found["no"] for found in rows]
                await asyncio.sleep(0.05)

    with own_server(max_connections="24", superuser_reserved_connections="0") as server:
        migrate(server.url())
        with fleet(server.url(), tmp_path, 2) as ships:
            taken, told = asyncio.run(run(ships, server.url()))
            assert ships.ended == [], ships.said()[-3000:]
            assert ships.stop() == [0, 0]
            assert "Traceback" not in ships.said(), ships.said()[-3000:]
            assert "was forgotten" not in ships.said(), ships.said()[-3000:]
        effects = check_orders(server.url(), ledger, KEYS)
    report(
        injected={"connections taken away, to the last": taken},
        useful={"orders closed": ORDERS, "effects": effects},
        found=f"no worker was forgotten; who came then was told: {told[-60:]}",
    )


def fill(file: Path) -> int:
    """Write until the disk is full; returns how much that was."""
    with file.open("wb", buffering=0) as ballast:
        try:
            while ballast.write(bytes(1 << 16)) == 1 << 16:
                pass
        except OSError:
            pass
        return ballast.tell()


def test_fault_F7_the_servers_disk_is_full_and_all_goes_on_when_there_is_space(
    small_disk: Path, tmp_path: Path, ledger: Path, report: FaultReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers are refused; the server may even stop. With space again, and the server up, everything goes on."""
    monkeypatch.setenv("LONGCASE_LEASE_SECONDS", LEASE_SECONDS)
    ballast = small_disk / "ballast"
    server = Server(small_disk / "pg", max_wal_size="32MB", min_wal_size="32MB")

    async def run(ships: Ships, url: str) -> dict[str, int]:
        async with door(url) as life:
            await sail(life, ships, KEYS[: ORDERS // 2], nothing)
            refused = asyncio.Event()
            life.on_error = refused.set
            assert fill(ballast) > 1 << 20
            sending = asyncio.ensure_future(send(life))
            async with asyncio.timeout(BOUND):
                await refused.wait()
            ballast.unlink()
            if not server.answers():
                await asyncio.to_thread(server.start)
            await sending
            await sail(life, ships, [], nothing)
            return dict(life.refused)

    async def send(life: Life) -> None:
        """Send orders, and many words besides: those are what fills the log."""
        service = life.longcase.service
        for number, key in enumerate(KEYS[ORDERS // 2 :]):
            await life.order(key)
            for again in range(0 if life.refused else 4_000):
                body = {"text": key * 400}
                word = f"more-{number}-{again}"
                await life.insist(partial(service.signal, f"orders/{key}", "word", body, idempotency_key=word))
                if life.refused:
                    break

    server.start()
    try:
        migrate(server.url())
        with fleet(server.url(), tmp_path, 2) as ships:
            refused = asyncio.run(run(ships, server.url()))
            assert ships.stop() == [0, 0]
        effects = check_orders(server.url(), ledger, KEYS)
        assert amcheck(server.url()) == []
    finally:
        server.stop("immediate")
    report(
        injected={"disk full": 1},
        useful={"orders closed": ORDERS, "effects": effects},
        found=f"went on when there was space; the client was told {refused}",
    )


def test_fault_F36_a_migration_is_cut_at_every_statement_and_run_again(databases: object, report: FaultReport) -> None:
    """The line breaks at the n-th request, for every n; the next attempt ends with the whole schema."""
    from tests.support.postgres import Databases

    assert isinstance(databases, Databases)
    cuts, statements = 0, 1
    step = by_length(7, 1)
    whole = schema_of(url := databases.new())
    databases.drop(url)
    while True:
        url = databases.new(empty=True)
        try:
            with WireProxy(url) as proxy:
                seen = [0]

                def plan(request: Request, seen: list[int] = seen, last: int = statements) -> Harm:
                    seen[0] += 1
                    return "cut" if seen[0] == last else "pass"

                proxy.plan = plan
                try:
                    migrate(proxy.url)
                except LongcaseError:
                    cuts += 1
                if not proxy.done["cut"]:
                    break
            migrate(url)
            assert schema_of(url) == whole, f"cut at request {statements}"
        finally:
            databases.drop(url)
        statements += step
    assert cuts >= 2
    report(
        injected={"migrations cut": cuts},
        useful={"migrations ended": cuts},
        found=f"the same schema after a cut at every {step}. of {statements} requests",
    )


def schema_of(url: str) -> list[tuple[str, ...]]:
    """Return the columns, indexes, triggers and constraints of a database."""
    rows = run_sql(
        url,
        """
        SELECT 'column' AS kind, table_name || '.' || column_name AS name, data_type AS what
        FROM information_schema.columns WHERE table_schema = 'public'
        UNION ALL SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL SELECT 'trigger', tgname, tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint
            WHERE connamespace = 'public'::regnamespace
        ORDER BY 1, 2, 3
        """,
    )
    return [tuple(row.values()) for row in rows]
