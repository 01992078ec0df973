"""The schema: made, checked, resumed after a kill, refused when it is not ours."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.support.cases import new_case
from tests.support.postgres import Databases, run_sql

from longcase.env import Env
from longcase.errors import SchemaMismatch, StoreCorrupt
from longcase.store.postgres import open_postgres
from longcase.store.postgres.connection import Address, connect
from longcase.store.postgres.migrate import migrate, migrations, newest, plan

# Each process dies at a later statement; the last one gets through.
KILL_AT_EVERY_STATEMENT = """
import asyncio, os, subprocess, sys
from longcase.env import Env
from longcase.store.postgres import open_postgres

async def main():
    store = await open_postgres(sys.argv[1], Env())
    await store.close()

if len(sys.argv) > 2:
    asyncio.run(main())
else:
    for n in sys.stdin.read().split():
        env = {**os.environ, "LONGCASE_FAULT": f"migrate:{n}"}
        print(subprocess.run([sys.executable, __file__, sys.argv[1], "x"], env=env).returncode)
"""


@pytest.fixture
def empty_url(databases: Databases) -> Iterator[str]:
    url = databases.new(empty=True)
    yield url
    databases.drop(url)


async def create(url: str, env: Env) -> None:
    store = await open_postgres(url, env)
    await store.close()


async def test_an_empty_database_becomes_a_store_and_what_was_applied_is_recorded(empty_url: str, env: Env) -> None:
    await create(empty_url, env)
    applied = "SELECT version, name, checksum FROM schema_migrations ORDER BY version"
    found = await asyncio.to_thread(run_sql, empty_url, applied)
    assert [tuple(row) for row in found] == [(one.version, one.name, one.checksum) for one in migrations()]


async def test_inv_36_creation_is_resumed_after_a_kill(empty_url: str, env: Env, tmp_path: object) -> None:
    program = f"{tmp_path}/program.py"
    with open(program, "w") as file:  # noqa: ASYNC230 - a small file
        file.write(KILL_AT_EVERY_STATEMENT)
    statements = sum(len(list(one.statements())) for one in migrations())
    points = f"1 2 {statements // 2} {statements} {statements + 1}"
    ended = await asyncio.to_thread(
        subprocess.run, [sys.executable, program, empty_url], input=points, capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == ["137"] * 5
    left = await asyncio.to_thread(run_sql, empty_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    assert left == []  # nothing is half-made
    await create(empty_url, env)


async def test_many_processes_that_open_an_empty_database_make_one_store(empty_url: str, env: Env) -> None:
    stores = await asyncio.gather(*(open_postgres(empty_url, env) for _ in range(4)))
    for store in stores:
        await store.close()


async def test_inv_36_a_newer_schema_is_refused_naming_both_versions(postgres_url: str, env: Env) -> None:
    later = "INSERT INTO schema_migrations VALUES (99, 'later', 'x', 'then')"
    await asyncio.to_thread(run_sql, postgres_url, later)
    with pytest.raises(SchemaMismatch, match=f"schema version 99, this release knows up to {newest()}"):
        await open_postgres(postgres_url, env)


async def test_an_older_schema_is_refused_with_the_command(postgres_url: str, env: Env) -> None:
    gone = f"DELETE FROM schema_migrations WHERE version = {newest()}"
    await asyncio.to_thread(run_sql, postgres_url, gone)
    with pytest.raises(SchemaMismatch, match=f"has schema version {newest() - 1}") as refused:
        await open_postgres(postgres_url, env)
    assert "longcase migrate" in refused.value.hint
    connection = await connect(Address.of(postgres_url))
    assert [one.version for one in await plan(connection, "here")] == [newest()]
    await connection.close()


async def test_cases_of_one_key_that_were_there_before_are_numbered_in_their_order(postgres_url: str, env: Env) -> None:
    store = await open_postgres(postgres_url, env)
    close = "UPDATE cases SET status = 'closed', revision = revision + 1"
    for key in ("K", "L", "K", "K"):
        await store.start([new_case(key, again=True)])
        await asyncio.to_thread(run_sql, postgres_url, close)
    await store.close()
    before = (
        "ALTER TABLE queued DROP COLUMN claim", "ALTER TABLE workers DROP COLUMN fence",
        "ALTER TABLE cases DROP COLUMN nth", "CREATE INDEX cases_by_key ON cases (tenant, workflow, key)",
    )  # fmt: skip
    await asyncio.to_thread(run_sql, postgres_url, *before, "DELETE FROM schema_migrations WHERE version >= 5")
    connection = await connect(Address.of(postgres_url))
    await migrate(connection, "here", "now")
    found = await connection.fetch("SELECT key, nth FROM cases ORDER BY case_no")
    await connection.close()
    assert [tuple(row) for row in found] == [("K", 1), ("L", 1), ("K", 2), ("K", 3)]


async def test_a_migration_with_another_text_is_refused(postgres_url: str, env: Env) -> None:
    await asyncio.to_thread(run_sql, postgres_url, "UPDATE schema_migrations SET checksum = 'edited' WHERE version = 1")
    with pytest.raises(SchemaMismatch, match="another text"):
        await open_postgres(postgres_url, env)


@pytest.mark.parametrize("theirs", ["cases (n int)", "schema_migrations (version text)"])  # Rails has the latter
async def test_somebody_elses_tables_are_left_alone(empty_url: str, env: Env, theirs: str) -> None:
    await asyncio.to_thread(run_sql, empty_url, f"CREATE TABLE {theirs}")
    with pytest.raises(StoreCorrupt, match="not Longcase's"):
        await open_postgres(empty_url, env)


async def test_migrating_again_does_nothing(postgres_url: str) -> None:
    connection = await connect(Address.of(postgres_url))
    assert await migrate(connection, "here", "2026-01-01T00:00:00.000000Z") == []
    await connection.close()


async def test_history_is_never_changed_nor_emptied(postgres_url: str, env: Env) -> None:
    from tests.support.cases import new_case

    store = await open_postgres(postgres_url, env)
    await store.start([new_case("k1")])
    await store.close()
    for sql in ("UPDATE history SET actor = 'x'", "DELETE FROM history", "TRUNCATE history"):
        with pytest.raises(Exception, match="append-only"):
            await asyncio.to_thread(run_sql, postgres_url, sql)
