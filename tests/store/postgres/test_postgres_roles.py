"""Roles with least rights: each forbidden thing is tried as the role that must not do it, and what it must do too."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.support.cases import NOON
from tests.support.cli import Cli
from tests.support.postgres import Databases
from tests.surface.claims import Claim, Note, claims, noted

from longcase.app import Longcase
from longcase.engine.tasks import Actor
from longcase.env import Env, VirtualClock
from longcase.errors import CasePurged, StoreUnavailable
from longcase.service.retention import Period
from longcase.store.postgres.migrate import migrations, script
from longcase.upkeep import roles_script

TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY relname"
VIEWS = TABLES.replace("'r'", "'v'")
CASE = """
INSERT INTO cases (
    tenant, workflow, key, uid, status, stage, kind, visit, owner, close_name, started_at, entered_at, closed_at,
    expected_by, stage_expected, seq, seen_seq, at, hash, wait_kind, wait_what, wait_whose, wait_since, wait_expected,
    wait_count, incident_count, wake_at, lease, object, state
)
VALUES (
    'main', 'w', '{key}', '{key}', '{status}', 's', 'stage', 1, 'o', '', '', '', '', '', '', 1, 1, '',
    decode(repeat('ab', 32), 'hex'), '', '', '', '', '', 0, 0, '', 0, '{{}}', '{{}}'
)
"""
EVENT = """
INSERT INTO history VALUES (
    {case_no}, 1, 0, 'case_started', 1, '', 'person:ann', '', 'api', NULL, 0, '', 0, '', '{{}}', '', '',
    decode(repeat('ab', 32), 'hex')
)
"""
INPUT = """
INSERT INTO inbox (case_no, id, type, data, actor, on_behalf, channel, accepted_at)
VALUES (1, 'i', 'signal_received', '{}', 'person:ann', '', 'api', '')
"""
EXPORT = """
INSERT INTO exports (file, digest, cases, events, at, actor)
VALUES ('f', decode(repeat('ab', 32), 'hex'), 1, 1, '', 'person:ann') RETURNING export_no
"""
EXPORTED = "INSERT INTO exported_cases SELECT case_no, 1, seq, hash FROM cases WHERE case_no = 2"
TOMBSTONE = """
INSERT INTO tombstones
SELECT case_no, tenant, workflow, key, uid, close_name, started_at, closed_at, seq, hash, parent_case, 1, '',
       'person:ann', 'x'
FROM cases WHERE case_no = {case_no}
"""
CHANGES = (
    "INSERT INTO {table} SELECT * FROM {table} WHERE false", "UPDATE {table} SET {column} = {column}",
    "DELETE FROM {table}", "TRUNCATE {table} CASCADE",
)  # fmt: skip


@pytest.fixture(scope="module")
def url(databases: Databases) -> Iterator[str]:
    """Return a database whose schema was made by hand, by the text that `migrate --sql` prints; roles too."""
    made = databases.new(empty=True)
    yield made
    databases.drop(made)


@pytest.fixture
async def owner(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Return a superuser's connection to a store of one open and one closed case."""
    connection = await asyncpg.connect(url)
    if not await connection.fetchval("SELECT to_regclass('cases') IS NOT NULL"):
        await connection.execute(script(migrations()))
        await connection.execute(CASE.format(key="open", status="open"))
        await connection.execute(CASE.format(key="closed", status="closed"))
        for number in (1, 2):
            await connection.execute(EVENT.format(case_no=number))
        await connection.execute(roles_script())
    yield connection
    await connection.close()


@pytest.fixture
def role(owner: asyncpg.Connection) -> Role:
    return Role(owner)


class Role:
    """Tries statements as a role, and takes back what they did."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection

    async def may(self, name: str, *statements: str) -> Any:
        """Run statements as a role; returns the value of the last one."""
        transaction = self.connection.transaction()
        await transaction.start()
        try:
            await self.connection.execute(f"SET LOCAL ROLE longcase_{name}")
            for statement in statements[:-1]:
                await self.connection.execute(statement)
            return await self.connection.fetchval(statements[-1])
        finally:
            await transaction.rollback()

    async def may_not(self, name: str, *statements: str, why: str = "") -> None:
        """Check that the last statement is refused: for want of a right, or by a rule of the schema."""
        wanted = asyncpg.RaiseError if why else asyncpg.InsufficientPrivilegeError
        with pytest.raises(wanted, match=why or "permission denied|must be (the )?owner"):
            await self.may(name, *statements)


async def changes(connection: asyncpg.Connection, table: str) -> list[str]:
    column = await connection.fetchval(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 ORDER BY attnum LIMIT 1", table
    )
    return [change.format(table=table, column=column) for change in CHANGES]


@pytest.mark.parametrize("name", ["worker", "api", "reader", "viewer", "retention"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE history SET actor = 'person:eve'",
        "TRUNCATE history",
        "ALTER TABLE history DISABLE TRIGGER ALL",
        "DROP TRIGGER history_is_never_changed ON history",
        "DROP TABLE history CASCADE",
        "CREATE TABLE mine (x int)",
        "CREATE OR REPLACE FUNCTION history_is_append_only() RETURNS trigger LANGUAGE plpgsql "
        "AS 'BEGIN RETURN OLD; END'",
        "ALTER TABLE cases ADD COLUMN mine int",
        "CREATE INDEX mine ON cases (owner)",
        "INSERT INTO schema_migrations VALUES (99, 'x', 'x', 'x')",
        "UPDATE settings SET value = '{}'",
        "DELETE FROM settings",
        "UPDATE tombstones SET actor = 'person:eve'",
        "DELETE FROM tombstones",
        "UPDATE exports SET file = 'x'",
        "CREATE ROLE mine",
    ],
)
async def test_no_part_but_the_owner_may(role: Role, name: str, statement: str) -> None:
    await role.may_not(name, statement)


@pytest.mark.parametrize("name", ["worker", "api"])
@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM history", "DELETE FROM cases", "DELETE FROM tasks", "DELETE FROM dedup",
        "UPDATE dedup SET body = ''", EXPORT, EXPORTED, TOMBSTONE.format(case_no=2), "DELETE FROM exported_cases",
        "UPDATE maps SET graph = '{}'",
    ],
)  # fmt: skip
async def test_neither_worker_nor_door_may_forget(role: Role, name: str, statement: str) -> None:
    await role.may_not(name, statement)


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM inbox", "DELETE FROM workers", "UPDATE workers SET lapsed = true", "DELETE FROM heartbeats"],
)
async def test_the_door_may_not_do_a_workers_work(role: Role, statement: str) -> None:
    await role.may_not("api", statement)
    await role.may("worker", statement)


async def test_a_reader_reads_every_view_and_no_table(role: Role, owner: asyncpg.Connection) -> None:
    views = [row[0] for row in await owner.fetch(VIEWS)]
    tables = [row[0] for row in await owner.fetch(TABLES)]
    assert {"case_overview", "timeline", "purged", "retention"} <= set(views)
    assert {"cases", "history", "tombstones"} <= set(tables)
    for view in views:
        await role.may("reader", f"SELECT count(*) FROM {view}")
        for right in ("INSERT", "UPDATE", "DELETE"):
            granted = await owner.fetchval("SELECT has_table_privilege('longcase_reader', $1, $2)", view, right)
            assert not granted, (view, right)
    for table in tables:
        await role.may_not("reader", f"SELECT count(*) FROM {table}")
        for change in await changes(owner, table):
            await role.may_not("reader", change)
    assert await role.may("reader", "SELECT count(*) FROM case_overview") == 2


async def test_a_viewer_reads_every_table_and_writes_none(role: Role, owner: asyncpg.Connection) -> None:
    tables = [row[0] for row in await owner.fetch(TABLES)]
    for name in [*tables, *(row[0] for row in await owner.fetch(VIEWS))]:
        await role.may("viewer", f"SELECT count(*) FROM {name}")
    for table in tables:
        for change in await changes(owner, table):
            await role.may_not("viewer", change)


async def test_retention_changes_no_case(role: Role, owner: asyncpg.Connection) -> None:
    await role.may("retention", "SELECT case_no FROM cases FOR UPDATE")
    for statement in (
        "UPDATE cases SET owner = 'eve'", "UPDATE cases SET object = '{}'", CASE.format(key="x", status="open"),
        EVENT.format(case_no=3), INPUT, "DELETE FROM inbox", "UPDATE tasks SET answer = ''", "DELETE FROM workers",
    ):  # fmt: skip
        await role.may_not("retention", statement)


async def test_inv_02_retention_deletes_only_under_a_tombstone(role: Role) -> None:
    """The right to delete is bounded by the schema's triggers: closed, exported as it is now, tombstone first."""
    await role.may_not("retention", "DELETE FROM history WHERE case_no = 2", why="only by the purge of its case")
    await role.may_not("retention", TOMBSTONE.format(case_no=2), why="only a closed case that was exported")
    await role.may_not("retention", EXPORT, TOMBSTONE.format(case_no=1), why="only a closed case that was exported")
    export = EXPORT.replace("INSERT INTO exports (", "INSERT INTO exports (export_no, ").replace("('f'", "(1, 'f'")
    stone = TOMBSTONE.format(case_no=2)
    await role.may_not(
        "retention", export, EXPORTED, stone, "DELETE FROM history WHERE case_no = 1", why="only by the purge"
    )
    gone = await role.may(
        "retention", export, EXPORTED, stone, "DELETE FROM history WHERE case_no = 2",
        "DELETE FROM exported_cases WHERE case_no = 2", "DELETE FROM cases WHERE case_no = 2",
        "SELECT count(*) FROM purged WHERE key = 'closed'",
    )  # fmt: skip
    assert gone == 1


@pytest.mark.parametrize("name", ["retention", "owner"])
async def test_inv_02_a_table_of_ones_own_is_not_taken_for_the_stores_by_its_triggers(role: Role, name: str) -> None:
    """A temporary table hides the one of its name from whatever does not say which it means."""
    await role.may_not(
        name, "CREATE TEMP TABLE tombstones AS SELECT case_no FROM cases", "DELETE FROM history",
        why="only by the purge of its case",
    )  # fmt: skip
    export = EXPORT.replace("INSERT INTO exports (", "INSERT INTO exports (export_no, ").replace("('f'", "(1, 'f'")
    claimed = "CREATE TEMP TABLE exported_cases AS SELECT case_no, 1::bigint AS export_no, hash FROM cases"
    await role.may_not(
        name, export, claimed, TOMBSTONE.format(case_no=2), why="only a closed case that was exported"
    )  # fmt: skip
    closed = "CREATE TEMP TABLE cases AS SELECT case_no, seq, hash, 'closed' AS status FROM public.cases"
    listed = EXPORTED.replace("= 2", "= 1").replace("FROM cases", "FROM public.cases")
    stone = TOMBSTONE.format(case_no=1).replace("FROM cases", "FROM public.cases")
    await role.may_not(name, export, listed, closed, stone, why="only a closed case that was exported")


async def test_even_the_owner_changes_no_event(role: Role) -> None:
    await role.may_not("owner", "UPDATE history SET actor = 'person:eve'", why="append-only")
    await role.may_not("owner", "TRUNCATE history", why="append-only")
    await role.may_not("owner", "DELETE FROM history", why="only by the purge of its case")


async def test_worker_and_door_do_what_they_must(role: Role) -> None:
    for name in ("worker", "api"):
        await role.may(name, CASE.format(key="new", status="open") + " RETURNING case_no")
        await role.may(name, EVENT.format(case_no=3))
        await role.may(name, INPUT)
        await role.may(name, "SELECT case_no FROM cases FOR UPDATE")
        await role.may(name, "UPDATE cases SET wake_at = 'x' WHERE case_no = 1 RETURNING 1")
        await role.may(name, "SELECT count(*) FROM purged")
    await role.may("worker", INPUT, "DELETE FROM inbox")


async def test_every_table_is_spoken_of_in_the_roles(owner: asyncpg.Connection) -> None:
    """Whoever adds a table decides who writes it."""
    tables = {row[0] for row in await owner.fetch(TABLES)}
    granted = set(re.findall(r"\w+", " ".join(re.findall(r"GRANT .*? TO", roles_script(), re.DOTALL))))
    owners_only = {"settings", "schema_migrations"}
    assert tables - granted - owners_only == set()


async def test_the_text_may_be_run_again(owner: asyncpg.Connection, role: Role) -> None:
    await owner.execute(roles_script())
    await role.may_not("worker", "DELETE FROM history")
    await role.may("worker", "UPDATE cases SET wake_at = '' RETURNING 1")


async def test_a_right_that_was_given_by_hand_is_taken_back(owner: asyncpg.Connection, role: Role) -> None:
    await owner.execute("GRANT DELETE ON history TO longcase_worker")
    await owner.execute(roles_script())
    await role.may_not("worker", "DELETE FROM history")


async def test_a_login_has_the_rights_of_its_part(owner: asyncpg.Connection, url: str) -> None:
    """As a process has them: a connection of its own, not a role that a superuser has taken on."""
    await owner.execute("DROP ROLE IF EXISTS worker_1")
    await owner.execute("CREATE ROLE worker_1 LOGIN IN ROLE longcase_worker")
    try:
        connection = await asyncpg.connect(url.replace("postgres@", "worker_1@", 1))
        try:
            assert await connection.fetchval("UPDATE cases SET wake_at = wake_at RETURNING 1") == 1
            for forbidden in ("DELETE FROM history", "SET ROLE longcase_owner", "SET SESSION AUTHORIZATION postgres"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(forbidden)
        finally:
            await connection.close()
    finally:
        await owner.execute("DROP ROLE worker_1")


# -- a whole life, each part under its own login ---------------------------------------------------------


@pytest.fixture
async def logins(url: str, owner: asyncpg.Connection) -> AsyncIterator[dict[str, str]]:
    """Return a URL for each part, with a login that is a member of it and of nothing else."""
    made = {}
    for part in ("worker", "api", "viewer", "retention"):
        await owner.execute(f"DROP ROLE IF EXISTS a_{part}")
        await owner.execute(f"CREATE ROLE a_{part} LOGIN IN ROLE longcase_{part}")
        made[part] = url.replace("postgres@", f"a_{part}@", 1)
    yield made
    for part in made:
        await owner.execute(f"DROP ROLE a_{part}")


async def test_worker_door_and_retention_live_a_whole_life_on_their_rights(
    logins: dict[str, str], url: str, owner: asyncpg.Connection, tmp_path: Path
) -> None:
    """The workflow of the CLI's tests: data awaited, two approvals, a vendor that fails, a repair, a purge."""
    clock = VirtualClock(NOON)
    worker = Longcase([claims], url=logins["worker"], env=Env(clock, seed=1))
    api = Longcase([claims], url=logins["api"], env=Env(clock, seed=2), actor=Actor("person:ann"))
    async with worker, api, worker.working():
        case = (await api.service.start(claims, Claim(id="C-1", amount=500))).address
        await api.service.signal(case, noted, Note(text="call back"), idempotency_key="m-1")
        await until(api, case, "data")
        await api.service.set_fields(case, {"iban": "NL1"})
        await until(api, case, "person")
        for person in ("ann", "bob"):
            await api.service.decide(case, "approved", actor=Actor(f"person:{person}"))
        await until(api, case, "incident")
        await api.service.set_result(case, "paid-1", reason="paid by hand")
        await until(api, case, "")
    clock.advance(timedelta(days=400))
    async with Longcase(url=url, env=Env(clock)) as officer:
        await officer.retention.keep("claims", Period(years=1))
    async with Longcase(url=logins["retention"], env=Env(clock), actor=Actor("service:nightly")) as keeper:
        with pytest.raises(StoreUnavailable, match="may not"):
            await keeper.retention.keep("claims", None)
        exporter = keeper.exporter
        await exporter.to_file(str(tmp_path / "old.jsonl"), await exporter.wanted(workflow="claims", due=True))
        (due,) = await keeper.retention.due("claims")
        gone = await keeper.retention.purge_some(due, "the period is over")
        assert [one.address for one in gone] == ["claims/C-1"]
        with pytest.raises(CasePurged):
            await keeper.service.show("claims/C-1")


def test_a_viewer_looks_with_the_command_line_and_changes_nothing(
    logins: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    door = Cli(tmp_path, monkeypatch, capsys, logins["api"])
    door.ok("start", "claims", '{"id": "V-1"}')
    viewer = Cli(tmp_path, monkeypatch, capsys, logins["viewer"])
    for words in (
        ("list",), ("list", "--overdue"), ("show", "claims/V-1"), ("history", "claims/V-1"), ("tasks",), ("workers",),
        ("keep",), ("migrate", "--check"),
    ):  # fmt: skip
        assert viewer(*words).status == 0, words
    assert "cases, " in viewer("verify").out
    assert "stuck: w/open in s" in viewer("doctor").out
    error = viewer.refused(6, "start", "claims", '{"id": "V-2"}').error
    assert "may not do that" in error["message"]
    assert "longcase_api" in error["hint"]
    assert viewer.refused(3, "show", "claims/V-2").error["code"] == "case_not_found"


async def until(longcase: Longcase, case: str, waiting: str) -> None:
    """Wait until a case waits for that, or with "" until it has closed."""
    async with asyncio.timeout(60):
        while True:
            view = await longcase.service.show(case)
            kinds = {wait.kind for wait in view.waits}
            if (view.state.status == "closed") if not waiting else waiting in kinds:
                return
            await asyncio.sleep(0.05)
