"""Transactional activities on a real worker: limits, refusals, races with operators, lost answers (A12)."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import apsw
import pytest
from tests.runtime.attempts import Cases, at_once, at_work, calling, giving_up_on, ms, once_only, world
from tests.runtime.common import Thing, desk
from tests.support.postgres import run_sql
from tests.support.waiting import BOUND, until_true
from tests.support.wire_proxy import Harm, Request, WireProxy

from longcase import Longcase, Transaction, activity, seconds
from longcase.errors import CaseClosed, StatementRefused, TransactionOver, UsageError
from longcase.insight.verify import verify
from longcase.store.sqlite.commit import Committer

TABLE = "CREATE TABLE IF NOT EXISTS rows (key TEXT NOT NULL)"
# A statement that computes for longer than any limit here, in either dialect.
ENDLESS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000000) SELECT max(i) FROM n"


@activity(owner=desk, transaction=True)
def prepare(tx: Transaction, key: str) -> str:
    tx.execute(TABLE)
    return "ready"


preparing = calling(prepare)


def put(tx: Transaction, key: str) -> None:
    tx.execute(f"INSERT INTO rows VALUES ('{key}')")


@activity(owner=desk, transaction=True, retry=at_once)
def write(tx: Transaction, key: str) -> str:
    put(tx, key)
    return key


writing = calling(write)


async def keys(longcase: Longcase) -> list[str]:
    """Return the user's rows."""
    return [row["key"] for row in await longcase.service.query("SELECT key FROM rows ORDER BY key")]


async def sound(longcase: Longcase) -> bool:
    """Tell whether the store is as it must be (I1, I3, I13, I15 and the rest)."""
    return [str(finding) async for finding in verify(longcase.store)] == []  # type: ignore[arg-type]


async def prepared(cases: Cases) -> None:
    await cases.start(preparing)
    await cases.closed(preparing)


# -- together or not at all ------------------------------------------------------------------------------


async def test_what_many_cases_write_is_there_once_each(url: str) -> None:
    names = [f"k{number}" for number in range(40)]
    async with at_work(url, preparing, writing) as cases:
        await prepared(cases)
        await cases.start(writing, *names)
        for name in names:
            assert (await cases.closed(writing, name))[:2] == ("done", name)
        assert await keys(cases.longcase) == sorted(names)
        assert await sound(cases.longcase)


@activity(owner=desk, transaction=True)
def binds(tx: Transaction, key: str) -> list[str]:
    one, two = ("?", "?") if world.notes["dialect"] == ["sqlite"] else ("$1", "$2")
    tx.execute("CREATE TABLE pairs (a TEXT, b TEXT)")
    tx.execute(f"INSERT INTO pairs VALUES ({one}, {two})", "it's", key)
    tx.executemany(f"INSERT INTO pairs VALUES ({one}, {two})", [("x", "1"), ("y", "2")])
    return [f"{a}{b}" for a, b in tx.execute("SELECT a, b FROM pairs ORDER BY a")]


async def test_values_are_bound_in_the_stores_own_dialect(url: str) -> None:
    flow = calling(binds)
    world.notes["dialect"].append(url.partition(":")[0])
    async with at_work(url, flow) as cases:
        await cases.start(flow)
        assert await cases.closed(flow) == ("done", ["it's1", "x1", "y2"], "")


@activity(owner=desk, transaction=True)
def binds_on_both(tx: Transaction, key: str) -> list[int]:
    ((first, second, again),) = tx.execute("SELECT $1 + 0, $2 + 0, $1 + 0", 5, 6)
    return [first, second, again]


async def test_numbered_placeholders_in_the_order_of_their_first_use_serve_both_dialects(url: str) -> None:
    flow = calling(binds_on_both)
    async with at_work(url, flow) as cases:
        await cases.start(flow)
        assert await cases.closed(flow) == ("done", [5, 6, 5], "")


@activity(owner=desk, transaction=True, retry=once_only)
def catches(tx: Transaction, key: str) -> str:
    put(tx, key)
    try:
        tx.execute("INSERT INTO rows VALUES (NULL)")
    except Exception as error:
        world.notes["caught"].append(type(error).__name__)
    return "as if nothing had been"


async def test_a_statement_that_failed_spoils_the_transaction_though_its_error_was_caught(url: str) -> None:
    flow = calling(catches)
    async with at_work(url, preparing, flow) as cases:
        await prepared(cases)
        await cases.start(flow)
        name, _, reason = await cases.closed(flow)
        assert name == "lost"
        assert len(world.notes["caught"]) == 1
        assert reason.startswith(world.notes["caught"][0])
        assert await keys(cases.longcase) == []


class Slip:
    """No JSON."""


@activity(owner=desk, transaction=True)
def misshapen(tx: Transaction, key: str) -> int:
    put(tx, key)
    return "no number"  # type: ignore[return-value]


async def test_a_result_of_the_wrong_shape_is_an_incident_and_what_was_written_is_rolled_back(url: str) -> None:
    flow = calling(misshapen)
    async with at_work(url, preparing, flow) as cases:
        await prepared(cases)
        await cases.start(flow)
        assert (await cases.incident(flow))["kind"] == "contract_changed"
        assert await keys(cases.longcase) == []


# -- what it may not do ----------------------------------------------------------------------------------


@activity(owner=desk, transaction=True)
def oversteps(tx: Transaction, key: str) -> str:
    put(tx, key)
    tx.execute(world.notes["sql"][0])
    return "done"


@pytest.mark.parametrize(
    "sql",
    [
        "COMMIT",
        "/* now */ -- or never\n rollback",
        "SAVEPOINT mine",
        "UPDATE cases SET owner = 'me'",
        "DELETE FROM settings WHERE name = 'theirs'",
        "INSERT INTO settings VALUES ('mine', 'null')",
    ],
)
async def test_ending_the_transaction_and_writing_to_longcases_tables_is_refused_and_not_tried_again(
    url: str, sql: str
) -> None:
    flow = calling(oversteps)
    world.notes["sql"].append(sql)
    async with at_work(url, preparing, flow) as cases:
        await prepared(cases)
        await cases.longcase.store.set_setting("theirs", 1)
        await cases.start(flow)
        name, _, reason = await cases.closed(flow)
        assert (name, reason.partition(":")[0]) == ("lost", StatementRefused.__name__)
        assert len(await cases.errors(flow)) == 1
        assert await keys(cases.longcase) == []
        assert await sound(cases.longcase)


@pytest.mark.only_sqlite
@pytest.mark.parametrize(
    "sql",
    [
        "PRAGMA synchronous = OFF",
        "ATTACH ':memory:' AS other",
        "CREATE TEMP TABLE mine (a)",
        "DROP VIEW case_overview",
        "CREATE TRIGGER mine AFTER INSERT ON history BEGIN SELECT 1; END",
        "CREATE INDEX mine ON cases (owner)",
        "ALTER TABLE cases ADD COLUMN mine",
        "UPDATE sqlite_sequence SET seq = 9",
    ],
)
async def test_on_sqlite_the_connection_and_the_schema_are_kept_from_it_too(url: str, sql: str) -> None:
    await test_ending_the_transaction_and_writing_to_longcases_tables_is_refused_and_not_tried_again(url, sql)


@pytest.mark.only_postgres
@pytest.mark.parametrize(
    "sql",
    [
        "TRUNCATE inbox",
        "TRUNCATE heartbeats, dedup",
        "TRUNCATE history",
        "DELETE FROM history",
        "UPDATE settings SET name = name",
        "ALTER TABLE tasks ADD COLUMN mine int",
        "CREATE INDEX mine ON cases (owner)",
        "DROP TABLE heartbeats",
        "DROP TABLE cases CASCADE",
        "DROP VIEW case_overview",
        "LOCK TABLE cases IN EXCLUSIVE MODE",
        "DO $$ BEGIN TRUNCATE inbox; END $$",
        "CREATE TEMP TABLE inbox (a int)",
        "SET search_path = elsewhere",
    ],
)
async def test_on_postgresql_the_connection_and_the_schema_are_kept_from_it_too(url: str, sql: str) -> None:
    await test_ending_the_transaction_and_writing_to_longcases_tables_is_refused_and_not_tried_again(url, sql)


@activity(owner=desk, transaction=True, retry=once_only)
def drops_what_others_need(tx: Transaction, key: str) -> None:
    tx.execute("DROP TABLE cases")


@pytest.mark.only_postgres
async def test_a_statement_of_the_users_that_the_server_refuses_is_no_bug_of_longcase(url: str) -> None:
    flow = calling(drops_what_others_need)
    async with at_work(url, flow) as cases:
        await cases.start(flow)
        name, _, reason = await cases.closed(flow)
        assert (name, reason.partition(":")[0]) == ("lost", "DependentObjectsStillExistError")


@activity(owner=desk, transaction=True)
def points_at_the_case(tx: Transaction, key: str) -> int:
    ((number,),) = tx.execute("SELECT case_no FROM cases WHERE workflow = 'points-at-the-case' FOR SHARE")
    tx.execute(f"INSERT INTO mine VALUES ({number})")
    return len(tx.execute("SELECT FROM mine"))


@pytest.mark.only_postgres
async def test_a_table_of_the_users_may_refer_to_longcases(url: str) -> None:
    flow = calling(points_at_the_case)
    async with at_work(url, flow) as cases:
        await asyncio.to_thread(run_sql, url, "CREATE TABLE mine (case_no bigint REFERENCES cases)")
        await cases.start(flow)
        assert await cases.closed(flow) == ("done", 1, "")


@activity(owner=desk, transaction=True)
def reads(tx: Transaction, key: str) -> int:
    ((count,),) = tx.execute("SELECT count(*) FROM cases WHERE status = 'open'")
    return int(count)


async def test_longcases_tables_may_be_read(url: str) -> None:
    flow = calling(reads)
    async with at_work(url, flow) as cases:
        await cases.start(flow)
        assert await cases.closed(flow) == ("done", 1, "")


@pytest.mark.only_sqlite
async def test_a_store_that_holds_no_tables_of_the_users_is_refused_at_the_start(url: str) -> None:
    async with Longcase([writing], url="sqlite:///:memory:") as longcase:
        with pytest.raises(UsageError, match="write: transaction=True writes to tables") as refused:
            longcase.new_worker()
        assert "sqlite:///cases.db" in refused.value.hint


# -- the limit -------------------------------------------------------------------------------------------


@activity(owner=desk, transaction=True, timeout=ms(300), retry=once_only)
def dawdles(tx: Transaction, key: str) -> str:
    put(tx, key)
    world.notes["inside"].append(key)
    world.door.wait(BOUND)
    try:
        put(tx, f"{key} again")
    except TransactionOver as error:
        world.notes["refused"].append(str(error))
    return "too late"


async def test_a_slow_function_is_rolled_back_at_its_limit_and_its_thread_writes_no_more(url: str) -> None:
    flow = calling(dawdles)
    async with at_work(url, preparing, writing, flow) as cases:
        await prepared(cases)
        await cases.start(flow)
        await until_true(lambda: world.notes["inside"])
        await cases.start(writing, "other")
        assert (await cases.closed(writing, "other"))[0] == "done"
        name, _, reason = await cases.closed(flow)
        assert (name, reason) == ("lost", "AttemptTimeout: not done within 0.3 s; rolled back")
        assert not world.door.is_set()  # it is still inside, and the others have gone on
        world.door.set()
        await until_true(lambda: world.notes["refused"])
        assert await keys(cases.longcase) == ["other"]
        assert await sound(cases.longcase)


@activity(owner=desk, transaction=True, timeout=ms(300), retry=once_only)
def computes(tx: Transaction, key: str) -> str:
    put(tx, key)
    try:
        tx.execute(ENDLESS)
    finally:
        world.notes["ended"].append(key)
    return "too late"


async def test_a_slow_statement_is_interrupted_at_the_limit(url: str) -> None:
    flow = calling(computes)
    async with at_work(url, preparing, writing, flow) as cases:
        await prepared(cases)
        await cases.start(flow)
        assert (await cases.closed(flow))[2] == "AttemptTimeout: not done within 0.3 s; rolled back"
        await until_true(lambda: world.notes["ended"])
        await cases.start(writing, "other")  # the connection is as good as before
        await cases.closed(writing, "other")
        assert await keys(cases.longcase) == ["other"]


# -- overtaken -------------------------------------------------------------------------------------------


@activity(owner=desk, transaction=True, timeout=seconds(5), retry=at_once)
def hesitates(tx: Transaction, key: str) -> str:
    put(tx, key)
    world.notes["inside"].append(key)
    world.door.wait(4)
    return "mine"


async def test_an_attempt_that_nobody_waits_for_any_more_does_not_commit(url: str) -> None:
    if url.startswith("sqlite"):
        pytest.skip("on SQLite nobody else writes while a transaction is open: there is no such order")
    flow = giving_up_on(hesitates)
    async with at_work(url, preparing, flow) as cases:
        await prepared(cases)
        await cases.start(flow)
        await until_true(lambda: world.notes["inside"])
        assert (await cases.closed(flow))[0] == "gave-up"
        world.door.set()
        ended = await cases.seen(flow, "attempt_failed")
        assert ended.data["error"]["message"] == "rolled back: nobody waits for it any more"
        assert await keys(cases.longcase) == []
        assert await sound(cases.longcase)


@pytest.mark.parametrize("later", [False, True])
async def test_a_restart_during_the_transaction_leaves_one_row_of_the_one_that_counts(url: str, later: bool) -> None:
    if url.startswith("sqlite") and not later:
        pytest.skip("on SQLite nobody else writes while a transaction is open: there is no such order")
    flow = calling(hesitates)
    async with at_work(url, preparing, flow) as cases:
        await prepared(cases)
        await cases.start(flow)
        await until_true(lambda: world.notes["inside"])
        restarting = asyncio.ensure_future(cases.longcase.service.restart(f"{flow.name}/1", reason="once more"))
        if not later:
            await restarting
        world.door.set()
        with suppress(UsageError, CaseClosed):  # it came too late, and was told so
            await restarting
        assert (await cases.closed(flow))[:2] == ("done", "mine")
        committed = await cases.events(flow, "attempt_committed")
        assert len(await keys(cases.longcase)) == len(committed) == 1
        assert await sound(cases.longcase)


# -- lost answers ----------------------------------------------------------------------------------------


@pytest.mark.only_sqlite
@pytest.mark.parametrize("happens", [True, False])
async def test_on_sqlite_a_commit_without_an_answer_is_looked_up(
    url: str, happens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, harmed = Committer._commit, []

    def harm(self: Committer, cursor: apsw.Cursor) -> None:
        ours = cursor.execute("SELECT count(*) FROM history WHERE type = 'attempt_committed'").get
        if ours == 2 and not harmed:  # the first was the table's
            harmed.append(ours)
            if happens:
                commit(self, cursor)
            raise apsw.IOError("disk I/O error")
        commit(self, cursor)

    monkeypatch.setattr(Committer, "_commit", harm)
    async with at_work(url, preparing, writing) as cases:
        await prepared(cases)
        await cases.start(writing)
        assert (await cases.closed(writing))[:2] == ("done", "1")
        assert harmed
        assert await keys(cases.longcase) == ["1"]
        failed = await cases.events(writing, "attempt_failed")
        assert [event.data["error"]["type"] for event in failed] == ([] if happens else ["StoreUnavailable"])
        assert await sound(cases.longcase)


@pytest.mark.parametrize("harm", ["lose", "cut"])
async def test_on_postgresql_a_commit_without_an_answer_is_looked_up(url: str, harm: Harm) -> None:
    if url.startswith("sqlite"):
        pytest.skip("there is no line to cut")
    harmed: list[str] = []
    apart: set[int] = set()

    def plan(request: Request) -> Harm:
        if "INSERT INTO rows" in request.sql:
            apart.add(request.connection)
        if request.sql.startswith("COMMIT") and request.connection in apart and len(harmed) < 3:
            harmed.append(request.sql)
            return harm
        return "pass"

    names = ["a", "b", "c", "d"]
    with WireProxy(url) as wire:
        async with at_work(wire.url, preparing, writing) as cases:
            await prepared(cases)
            wire.plan = plan
            await cases.start(writing, *names)
            for name in names:
                assert (await cases.closed(writing, name))[:2] == ("done", name)
            assert len(harmed) == 3
            assert await keys(cases.longcase) == names
            failed = [event for name in names for event in await cases.events(writing, "attempt_failed", name)]
            assert len(failed) == (0 if harm == "lose" else 3)
            assert await sound(cases.longcase)


def test_a_transaction_kept_beyond_its_activity_is_refused() -> None:
    """Asked of the plain thing: whoever keeps `tx` gets nothing by it."""
    kept: list[Any] = []

    @activity(owner=desk, transaction=True)
    def keeps(tx: Transaction, key: str) -> str:
        kept.append(tx)
        return key

    from longcase.testing import Simulation

    flow = calling(keeps)
    with Simulation([flow]) as sim:
        sim.start(flow, Thing(id="1"))
        with pytest.raises(TransactionOver):
            kept[0].execute("SELECT 1")


@activity(owner=desk, transaction=True, queue="vault")
def write_in_the_vault(tx: Transaction, key: str) -> str:
    put(tx, key)
    return key


async def test_one_that_is_bound_to_a_queue_is_run_by_a_worker_of_that_queue(url: str) -> None:
    flow = calling(write_in_the_vault)
    async with at_work(url, preparing) as cases:
        await prepared(cases)
    async with (
        Longcase([flow], url=url) as mover,
        mover.working(),
        Longcase([flow], url=url) as vault,
        vault.working(["vault"]) as serving,
    ):
        cases = Cases(mover)
        names = [f"k{number}" for number in range(5)]
        await cases.start(flow, *names)
        for name in names:
            assert (await cases.closed(flow, name))[:2] == ("done", name)
        (committed,) = await cases.events(flow, "attempt_committed", "k0")
        assert committed.actor == f"worker:{serving.number}"
        assert await keys(mover) == names
        assert await sound(mover)
