"""Schema migrations: complete or not there, recorded, refused where they do not fit (I36)."""

from __future__ import annotations

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
from longcase.store.sqlite.migrate import migrations, newest

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


async def test_an_older_schema_is_refused_with_the_command_and_then_migrated(path: str, env: Env) -> None:
    await create(path, env)
    views = apsw.Connection(path).execute("SELECT name FROM sqlite_schema WHERE type = 'view'").fetchall()
    sql(path, *(f"DROP VIEW {name}" for (name,) in views), "DELETE FROM schema_migrations WHERE version = 2")
    with pytest.raises(SchemaMismatch, match="has schema version 1") as refused:
        await open_sqlite(path, env)
    assert "longcase migrate" in refused.value.hint
    assert [migration.name for migration in maintenance.plan(path)] == ["views"]
    assert [migration.version for migration in maintenance.migrate(path, env)] == [2]
    assert maintenance.migrate(path, env) == []
    await create(path, env)


async def test_a_migration_with_another_text_is_refused(path: str, env: Env) -> None:
    await create(path, env)
    sql(path, "UPDATE schema_migrations SET checksum = 'edited' WHERE version = 1")
    with pytest.raises(SchemaMismatch, match="another text"):
        await open_sqlite(path, env)


async def test_somebody_elses_database_is_refused(path: str, env: Env) -> None:
    sql(path, "CREATE TABLE theirs (x)")
    with pytest.raises(StoreCorrupt, match="not a Longcase store"):
        await open_sqlite(path, env)


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
