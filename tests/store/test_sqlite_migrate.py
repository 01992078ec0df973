"""Schema migrations: complete or not there, recorded, refused where they do not fit (I36)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import apsw
import pytest
from tests.support.cases import new_case
from tests.support.processes import line, process

from longcase.env import Env
from longcase.errors import SchemaMismatch, StoreCorrupt
from longcase.store.sqlite import maintenance, open_sqlite
from longcase.store.sqlite.migrate import migrations, newest, script

# One process that forks, so that every statement costs a few milliseconds and not a new interpreter.
KILL_AT_EVERY_STATEMENT = """
import asyncio, os, sys
from longcase.store.sqlite import migrate, open_sqlite
from longcase.env import Env

def attempt(path, fault):
    child = os.fork()
    if child == 0:
        os.environ["LONGCASE_FAULT"] = fault
        asyncio.run(open_sqlite(path, Env(), inline=True))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

killed = 0
for hit in range(1, 1000):
    path = f"{sys.argv[1]}/{hit}.db"
    code = attempt(path, f"migrate:{hit}")
    if code == 0:
        break
    assert code == 137, code
    killed += 1
    assert attempt(path, "") == 0, hit
print(killed)
"""

KILL_AT_EVERY_STATEMENT_OF_AN_UPGRADE = """
import os, shutil, sys
from longcase.store.sqlite import maintenance
from longcase.env import Env

def attempt(path, fault):
    child = os.fork()
    if child == 0:
        os.environ["LONGCASE_FAULT"] = fault
        maintenance.migrate(path, Env())
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

killed = 0
for fault in sys.argv[2:]:
    path = f"{sys.argv[1]}/copy.db"
    for name in ("copy.db", "copy.db-wal", "copy.db-shm"):
        if os.path.exists(f"{sys.argv[1]}/{name}"):
            os.unlink(f"{sys.argv[1]}/{name}")
    shutil.copy(f"{sys.argv[1]}/old.db", path)
    code = attempt(path, fault)
    assert code == 137, code
    killed += 1
    before = maintenance.plan(path)
    assert len(before) in ((0,) if fault == "migrated:1" else (len(maintenance.migrations.migrations()) - 1,)), fault
    assert attempt(path, "") == 0, fault
    assert maintenance.plan(path) == []
print(killed)
"""


def sql(path: str, *statements: str) -> None:
    connection = apsw.Connection(path)
    try:
        for statement in statements:
            connection.execute(statement).fetchall()
    finally:
        connection.close()


async def create(path: str, env: Env) -> None:
    store = await open_sqlite(path, env)
    await store.close()


def test_inv_36_creation_is_resumed_after_a_kill_at_every_statement(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", KILL_AT_EVERY_STATEMENT, str(tmp_path)], capture_output=True, text=True, check=True
    )
    statements = sum(len(list(migration.statements())) for migration in migrations())
    assert int(ended.stdout) == statements + 1  # and once before the COMMIT


async def test_what_was_applied_is_recorded(path: str, env: Env) -> None:
    store = await open_sqlite(path, env)
    found = apsw.Connection(path).execute("SELECT version, name, checksum FROM schema_migrations").fetchall()
    assert found == [(migration.version, migration.name, migration.checksum) for migration in migrations()]
    await store.close()


async def test_inv_36_a_newer_schema_is_refused_naming_both_versions(path: str, env: Env) -> None:
    await create(path, env)
    sql(path, "INSERT INTO schema_migrations VALUES (99, 'later', 'x', 'then')")
    with pytest.raises(SchemaMismatch, match=f"schema version 99, this release knows up to {newest()}"):
        await open_sqlite(path, env)


def first_release(path: str) -> None:
    """Make a store with the first schema only, as an earlier release left it."""
    sql(path, script(migrations()[:1]))


async def test_an_older_schema_is_refused_with_the_command_and_then_migrated(path: str, env: Env) -> None:
    first_release(path)
    with pytest.raises(SchemaMismatch, match="has schema version 1") as refused:
        await open_sqlite(path, env)
    assert "longcase migrate" in refused.value.hint
    later = [migration.version for migration in migrations()[1:]]
    assert [migration.version for migration in maintenance.plan(path)] == later
    assert [migration.version for migration in maintenance.migrate(path, env)] == later
    assert maintenance.migrate(path, env) == []
    await create(path, env)


def test_inv_36_a_migration_of_an_old_store_is_resumed_after_a_kill_at_every_statement(tmp_path: Path) -> None:
    first_release(str(tmp_path / "old.db"))
    statements = sum(len(list(migration.statements())) for migration in migrations()[1:])
    points = [*(f"migrate:{hit}" for hit in range(1, statements + 2)), "migrated:1"]  # before and after the COMMIT too
    ended = subprocess.run(
        [sys.executable, "-c", KILL_AT_EVERY_STATEMENT_OF_AN_UPGRADE, str(tmp_path), *points],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(ended.stdout) == len(points)


async def test_what_a_dba_runs_by_hand_is_accepted_by_the_store(path: str, tmp_path: Path, env: Env) -> None:
    """Both roads end in the same schema and the same records; only the instant differs."""
    byhand = str(tmp_path / "by-hand.db")
    assert maintenance.script(byhand) == script(migrations())
    sql(byhand, maintenance.script(byhand))
    await create(path, env)
    assert described(byhand) == described(path)
    assert maintenance.script(byhand) == ""
    store = await open_sqlite(byhand, env, create=False)
    await store.start([new_case("k1")])
    await store.close()


async def test_an_upgrade_by_hand_is_accepted_by_the_store(path: str, tmp_path: Path, env: Env) -> None:
    old = str(tmp_path / "old.db")
    first_release(old)
    text = maintenance.script(old)
    for migration in migrations():
        assert (migration.checksum in text) == (migration.version > 1)
    sql(old, text)
    await create(path, env)
    assert described(old) == described(path)
    await create(old, env)


def described(path: str) -> tuple[object, ...]:
    """Return the schema of a store, what is recorded of it, and its mark."""
    connection = apsw.Connection(path)
    try:
        found = connection.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_schema ORDER BY type, name")
        schema = [(kind, name, " ".join(str(text).split())) for kind, name, text in found.fetchall()]
        applied = connection.execute("SELECT version, name, checksum FROM schema_migrations").fetchall()
        instants = connection.execute("SELECT applied_at FROM schema_migrations").fetchall()
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", str(at)) for (at,) in instants)
        return schema, applied, connection.pragma("application_id")
    finally:
        connection.close()


async def test_a_migration_with_another_text_is_refused(path: str, env: Env) -> None:
    await create(path, env)
    sql(path, "UPDATE schema_migrations SET checksum = 'edited' WHERE version = 1")
    with pytest.raises(SchemaMismatch, match="another text"):
        await open_sqlite(path, env)


async def test_somebody_elses_database_is_refused(path: str, env: Env) -> None:
    sql(path, "CREATE TABLE theirs (x)")
    with pytest.raises(StoreCorrupt, match="not a Longcase store"):
        await open_sqlite(path, env)


@pytest.mark.parametrize(
    "theirs", ["theirs (x)", "schema_migrations (version TEXT)"]
)  # Rails and others have the latter
async def test_somebody_elses_database_is_left_as_it_was(path: str, env: Env, theirs: str) -> None:
    connection = apsw.Connection(path)
    connection.execute(f"CREATE TABLE {theirs}")
    connection.close()
    before = Path(path).read_bytes()
    with pytest.raises(StoreCorrupt, match="not a Longcase store"):
        await open_sqlite(path, env)
    with pytest.raises(StoreCorrupt, match="not a Longcase store"):
        maintenance.migrate(path, env)
    assert Path(path).read_bytes() == before


async def test_a_file_that_is_no_database_is_refused(path: str, env: Env) -> None:
    Path(path).write_bytes(b"this is no database " * 100)
    with pytest.raises(StoreCorrupt, match="not a SQLite database"):
        await open_sqlite(path, env)


def test_two_processes_may_create_one_store_at_once(path: str) -> None:
    body = """
store = await open_sqlite(path, Env())
started, = await store.start([new_case("k" + arg1)])
await store.close()
say("done", started.existing)
"""
    with process(body, path, "1") as first, process(body, path, "2") as second:
        assert (line(first), line(second)) == ("done False", "done False")


async def test_history_cannot_be_changed_by_sql(path: str, env: Env) -> None:
    store = await open_sqlite(path, env)
    await store.start([new_case("k1")])
    await store.close()
    for statement in ("UPDATE history SET actor = 'person:eve'", "DELETE FROM history"):
        with pytest.raises(apsw.ConstraintError, match="append-only"):
            sql(path, statement)


async def test_a_newer_history_format_is_refused(path: str, env: Env) -> None:
    await create(path, env)
    sql(path, "UPDATE settings SET value = '2' WHERE name = 'history_format'")
    with pytest.raises(SchemaMismatch, match="history format 2, this release reads up to 1"):
        await open_sqlite(path, env)
