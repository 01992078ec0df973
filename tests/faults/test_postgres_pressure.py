"""A PostgreSQL that is crowded, slow or full: leases are kept, callers are told, claims read what they take."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pydantic import BaseModel
from tests.conftest import LEASE_SECONDS
from tests.crash.inspection import Inspection
from tests.faults.frame import FaultReport, by_length
from tests.faults.life import BOUND, check_orders
from tests.faults.ships import Ships, fleet, nothing, sail
from tests.faults.ships import door as client
from tests.faults.test_postgres_server import amcheck, fill
from tests.store.postgres.test_postgres_claims import TAKEN, explained_claim, nodes, reads_cases
from tests.support.cases import NOON_TEXT, entered, new_case, new_env, receive, turn
from tests.support.postgres import migrate, own_server, run_sql
from tests.support.waiting import until, until_true
from tests.support.wire_proxy import Harm, Request, WireProxy

from longcase import Case, Longcase, Next, Team, Workflow, activity, days
from longcase.errors import StorageFull, StoreUnavailable
from longcase.service.service import Service
from longcase.store.postgres import PostgresStore, connection, open_postgres
from longcase.store.postgres.connection import Address, connect

LEASES = by_length(3, 10)  # lengths of a lease for which a fault goes on
TOLD = 0.5  # seconds until a caller is told, here

pytestmark = pytest.mark.timeout(by_length(600, 1_800))
desk = Team("desk")


class Job(BaseModel):
    id: str
    note: str = ""


class Door:
    """What attempts wait at until the test opens it."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.opened = asyncio.Event()


door = Door()
jobs = Workflow("jobs", object=Job, key="id", owner=desk, expect=days(1))
go = jobs.signal("go", Job)


@activity(owner=desk, effect="repeatable")
async def wait_at_the_door(job: str) -> str:
    door.begun.append(job)
    await door.opened.wait()
    return job


@jobs.stage(expect=days(1))
async def working(case: Case[Job]) -> Next:
    done = await wait_at_the_door(case.key)
    await case.receive(go)
    return jobs.close("done", result=done)


# -- F23 -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def exhausted(store: PostgresStore, wire: WireProxy) -> AsyncIterator[None]:
    """Lend out every connection of every pool that the store and its worker go through."""
    async with AsyncExitStack() as lent:
        for pool in (store._writers, store._readers, store._loose, store._asking):
            for _ in range(pool._size):
                await lent.enter_async_context(pool.use())
        yield


@asynccontextmanager
async def slow(store: PostgresStore, wire: WireProxy) -> AsyncIterator[None]:
    """Answer everything too late, but for what comes over the line that beats."""
    hearts: set[int] = set()

    def plan(request: Request) -> Harm:
        if "UPDATE workers SET beat" in request.sql:
            hearts.add(request.connection)
        return "pass" if request.connection in hearts else 3 * TOLD

    wire.plan = plan
    yield
    wire.plan = lambda request: "pass"


@pytest.mark.parametrize("pressure", [exhausted, slow])
async def test_fault_F23_a_worker_whose_pools_are_exhausted_or_slow_is_not_forgotten_and_callers_are_told(
    postgres_url: str,
    report: FaultReport,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    pressure: Callable[[PostgresStore, WireProxy], Any],
) -> None:
    """It beats over a line of its own, so another worker that lives beside it takes nothing from it."""
    global door
    door, count, told = Door(), 8, Counter[str]()
    monkeypatch.setattr(connection, "QUEUE_SECONDS", TOLD)
    monkeypatch.setattr(connection, "ANSWER_SECONDS", TOLD)

    async def alive() -> list[tuple[int, float]]:
        """Return who lives, and for how long there was a fault, by the database's clock."""
        sql = f"""
        SELECT no, extract(epoch FROM clock_timestamp() - '{since}'::timestamptz)::float8 AS lasted FROM workers
        WHERE NOT lapsed AND beat + lease >= clock_timestamp() ORDER BY no
        """
        return [(row["no"], row["lasted"]) for row in await asyncio.to_thread(run_sql, postgres_url, sql)]

    with WireProxy(postgres_url) as wire, caplog.at_level(logging.WARNING, "longcase.worker"):
        async with Longcase([jobs], url=wire.url) as pressed, pressed.working() as worker:
            await until_true(lambda: worker.number)
            mine = worker.number
            for number in range(count):
                await pressed.service.start(jobs, Job(id=f"j{number}"))
            await until_true(lambda: len(door.begun) == count)
            async with Longcase([jobs], url=postgres_url) as beside, beside.working() as other:
                await until_true(lambda: other.number)
                store = pressed.store
                assert isinstance(store, PostgresStore)
                (row,) = await asyncio.to_thread(run_sql, postgres_url, "SELECT clock_timestamp()::text AS at")
                since, lasted = row["at"], 0.0
                async with pressure(store, wire):
                    while lasted < LEASES * float(LEASE_SECONDS):
                        for number in range(count):
                            with pytest.raises(StoreUnavailable) as refused:
                                async with asyncio.timeout(BOUND):
                                    await pressed.service.show(f"jobs/j{number}")
                            told[refused.value.message.partition("store ")[2].split(" ")[1]] += 1
                        living = await alive()
                        assert [no for no, _ in living] == [mine, other.number], "the pressed worker was forgotten"
                        lasted = living[0][1]
                    (row,) = await beside.service.query("SELECT count(*) AS n FROM cases WHERE lease = ?", [mine])
                    assert row["n"] == count, "another took what it holds"
                door.opened.set()
                for number in range(count):
                    await beside.service.signal(f"jobs/j{number}", go, Job(id="go"))
                await until(partial(all_closed, beside, count))
                assert worker.number == mine
    assert "was forgotten" not in caplog.text
    assert len(door.begun) == count, "an attempt was made again"
    inspection = await asyncio.to_thread(Inspection, postgres_url)
    assert inspection.broken_invariants() == []
    assert sum(inspection.count(f"jobs/j{number}", "attempt_lost") for number in range(count)) == 0
    report(
        injected={f"lengths of a lease with {pressure.__name__} pools": LEASES},
        useful={"cases closed": count},
        found=f"its lease was kept, nobody took its cases, {sum(told.values())} callers were told",
    )


# -- F24 -------------------------------------------------------------------------------------------------

PARKED = by_length(4_000, 100_000)
CHUNK = 500  # cases of one write
PAGES = 100  # that a claim of TAKEN cases may look at


async def park(store: PostgresStore, cases: int, name: str) -> None:
    """Make cases that wait for a signal, and are due at no time."""
    for begin in range(0, cases, CHUNK):
        started = await store.start([new_case(f"{name}{n}") for n in range(begin, min(begin + CHUNK, cases))])
        await store.write([turn(one, entered(), receive()) for one in started])


async def claim_of_few(url: str, worker: int) -> tuple[int, int]:
    """Let TAKEN cases be claimed, and take it back; returns how many rows of cases and how many pages were read."""
    side = await connect(Address.of(url))  # with the settings of those that claim
    try:
        plan = await explained_claim(side, worker, ("onboarding",), "")
    finally:
        await side.close()
    scans = [node for node in nodes(plan) if reads_cases(node)]
    assert [node["Index Name"] for node in scans] == ["cases_to_wake", "cases_pkey"]
    rows = sum(node["Actual Rows"] * node["Actual Loops"] + node.get("Rows Removed by Filter", 0) for node in scans)
    return int(rows), sum(node["Shared Hit Blocks"] + node["Shared Read Blocks"] for node in scans)


async def test_fault_F24_a_claim_reads_what_it_takes_among_very_many_cases_and_beside_a_held_snapshot(
    postgres_url: str, report: FaultReport
) -> None:
    """By what it reads, not by how long that takes: neither cases that wait nor a foreign transaction add a row."""
    store = await open_postgres(postgres_url, new_env())
    try:
        worker = await store.join("here", 1, codes={"onboarding": "mine"})
        await park(store, PARKED, "many")
        await store.start([new_case(f"due{n}") for n in range(2 * TAKEN)])
        first, _ = await claim_of_few(postgres_url, worker)
        await asyncio.to_thread(run_sql, postgres_url, "VACUUM cases")  # as the server does now and then
        dump = await connect(Address.of(postgres_url))
        async with dump.transaction(isolation="repeatable_read"):
            seen = await dump.fetchval("SELECT count(*) FROM cases")
            await park(store, CHUNK, "beside")
            beside, pages = await claim_of_few(postgres_url, worker)
            assert await dump.fetchval("SELECT count(*) FROM cases") == seen, "no snapshot was held"
        await dump.close()
        assert (first, beside) == (2 * TAKEN, 2 * TAKEN)
        assert pages <= PAGES, "the cases that wait are in the way of those that are due"
        taken = await store.ready(NOON_TEXT, worker, PARKED, ("onboarding",))
        assert len(taken) == 2 * TAKEN
    finally:
        await store.close()
    report(
        injected={"cases that wait": PARKED + CHUNK, "snapshots held": 1},
        useful={"cases claimed": len(taken)},
        found=f"a claim of {TAKEN} read {beside} rows on {pages} pages, however many cases there are",
    )


# -- F7 --------------------------------------------------------------------------------------------------

NO_ROOM = """
CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION 'could not extend file "base/1/1": No space left on device' USING ERRCODE = 'disk_full';
END $$
"""


async def test_fault_F7_each_road_into_the_store_tells_that_the_servers_disk_is_full(
    postgres_url: str, report: FaultReport, caplog: pytest.LogCaptureFixture
) -> None:
    """By a trigger with the server's own error: starts, signals, corrections and turns; each goes on afterwards."""
    global door
    door, count, told = Door(), 4, Counter[str]()
    door.opened.set()

    async def roads(service: Service, key: str) -> None:
        for what, road in {
            "start": lambda: service.start(jobs, Job(id=f"late-{key}")),
            "signal": lambda: service.signal(f"jobs/{key}", go, Job(id="go"), idempotency_key=key),
            "correct": lambda: service.correct(f"jobs/{key}", {"note": "a"}, reason="while the disk is full"),
        }.items():
            with pytest.raises(StorageFull, match="is full; nothing was half-written"):
                await road()
            told[what] += 1
        assert (await service.show(f"jobs/{key}")).state.status == "open"

    keys = [f"j{number}" for number in range(count)]
    with caplog.at_level(logging.WARNING, "longcase.worker"):
        async with Longcase([jobs], url=postgres_url) as longcase:
            for key in keys:
                await longcase.service.start(jobs, Job(id=key))
            await asyncio.to_thread(run_sql, postgres_url, NO_ROOM, *(
                f"CREATE TRIGGER no_room BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION no_room()"
                for table in ("cases", "history", "inbox")
            ))  # fmt: skip
            async with longcase.working() as worker:
                await until_true(lambda: "is full" in caplog.text)
                number = worker.number
                for key in keys:
                    await roads(longcase.service, key)
                rows = await longcase.service.query("SELECT count(*) AS n FROM history")
                assert rows[0]["n"] == count, "something was half-written"
                await asyncio.to_thread(run_sql, postgres_url, "DROP FUNCTION no_room CASCADE")
                for key in keys:
                    await longcase.service.signal(f"jobs/{key}", go, Job(id="go"), idempotency_key=key)
                await until(partial(all_closed, longcase, count))
                assert worker.number == number, "it waited for room"
    inspection = await asyncio.to_thread(Inspection, postgres_url)
    assert inspection.broken_invariants() == []
    report(
        injected={"writes without room": sum(told.values())},
        useful={"cases closed": count},
        found="storage_full on every road; reading went on, nothing was half-written",
    )


def test_fault_F7_the_device_of_the_tables_is_full_and_the_server_says_so(
    small_disk: Path, tmp_path: Path, ledger: Path, report: FaultReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is really filled. The server's log lies elsewhere, so the server lives: only what needs room is refused."""
    monkeypatch.setenv("LONGCASE_LEASE_SECONDS", LEASE_SECONDS)
    keys, ballast, draw = [f"o{n}" for n in range(by_length(6, 40))], small_disk / "ballast", Random(7)

    async def run(ships: Ships, url: str) -> tuple[int, list[str]]:
        async with client(url) as life:
            await sail(life, ships, keys, nothing)
            assert fill(ballast) > 1 << 20

            def make_room() -> None:
                if life.refused["storage_full"] > 2:
                    ballast.unlink(missing_ok=True)

            life.on_error = make_room
            large: list[str] = []
            while ballast.exists():
                assert len(large) < 2_000, f"the device was never full: {life.refused}"
                large.append(f"large{len(large)}")
                body = {"id": large[-1], "paid": draw.randbytes(100_000).hex()}  # until it has paid
                await life.insist(partial(life.longcase.service.start, "orders", body))
            await sail(life, ships, large, nothing)
            return life.refused["storage_full"], large

    with own_server() as server:
        place = small_disk / "tables"
        place.mkdir()
        shutil.chown(place, server.data.owner(), server.data.group())
        run_sql(server.url(), f"CREATE TABLESPACE small LOCATION '{place}'")
        run_sql(server.url(), "ALTER DATABASE postgres SET default_tablespace = small")
        migrate(server.url())
        with fleet(server.url(), tmp_path, 2) as ships:
            refused, large = asyncio.run(run(ships, server.url()))
            assert ships.ended == [], ships.said()[-3000:]
            assert ships.stop() == [0, 0]
        effects = check_orders(server.url(), ledger, [*keys, *large])
        assert amcheck(server.url()) == []
    report(
        injected={"device full": 1, "writes refused with storage_full": refused},
        useful={"orders closed": len(keys) + len(large), "effects": effects},
        found="callers were told, no worker ended, all went on when there was room",
    )


async def all_closed(longcase: Longcase, count: int) -> bool:
    (row,) = await longcase.service.query("SELECT count(*) AS n FROM cases WHERE status = 'closed'")
    return int(row["n"]) == count
