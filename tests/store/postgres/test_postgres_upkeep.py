"""Keeping a PostgreSQL store well, as an operator types it: schema by both roads, check-up, advice for backups."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import pytest
from tests.support.cases import entered, new_case, new_env, receive, turn
from tests.support.cli import Cli
from tests.support.postgres import Databases, run_sql

from longcase.env import Env
from longcase.errors import SchemaMismatch, StoreCorrupt, UsageError
from longcase.opening import open_store
from longcase.store.postgres import maintenance
from longcase.store.postgres.migrate import migrations, newest, script
from longcase.upkeep import backup_store, examine_store, missing_migrations, restore_store


@pytest.fixture
def cli(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], postgres_url: str) -> Cli:
    """A command line whose store is a PostgreSQL database."""
    typed = Cli(tmp_path, monkeypatch, capsys)
    monkeypatch.setenv("LONGCASE_DATABASE_URL", postgres_url)
    return typed


@pytest.fixture
def empty(databases: Databases) -> Iterator[str]:
    url = databases.new(empty=True)
    yield url
    databases.drop(url)


def by_hand(url: str, text: str) -> None:
    """Run a text of many statements, as psql does."""

    async def work() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(text)
        finally:
            await connection.close()

    asyncio.run(work())


def first_release(url: str) -> None:
    """Make a store with the first schema only, as an earlier release left it."""
    by_hand(url, script(migrations()[:1]))


# -- schema ------------------------------------------------------------------------------------------


def test_what_a_dba_runs_by_hand_is_accepted_by_the_store(cli: Cli, empty: str, databases: Databases) -> None:
    text = cli.ok("migrate", "--sql", "--store", empty).out
    assert cli("migrate", "--check", "--store", empty).status == 6
    planned = cli.ok("migrate", "--plan", "--json", "--store", empty).json["missing"]
    assert [one["version"] for one in planned] == list(range(1, newest() + 1))
    assert all(one["sha256"] in text for one in planned)
    by_hand(empty, text)
    assert cli.ok("migrate", "--check", "--store", empty).out == "the schema is this release's; nothing to do\n"
    assert cli.ok("migrate", "--sql", "--store", empty).out == "-- the schema is this release's; nothing to do\n"
    assert cli.ok("list", "--store", empty).out == "no open case\n"
    other = databases.new(empty=True)
    try:
        assert cli.ok("migrate", "--store", other).out.startswith("migrated: 0001 first, 0002 views")
        assert described(other) == described(empty)
    finally:
        databases.drop(other)


def described(url: str) -> Any:
    """Return every table, column, index, constraint, view, function and trigger, and what is recorded of them."""
    return [
        run_sql(url, question)
        for question in (
            "SELECT table_name, column_name, data_type, is_nullable, column_default, collation_name "
            "FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, ordinal_position",
            "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1",
            "SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2",
            "SELECT viewname, definition FROM pg_views WHERE schemaname = 'public' ORDER BY 1",
            "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1",
            "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1",
            "SELECT version, name, checksum FROM schema_migrations ORDER BY 1",
        )
    ]


def test_an_older_schema_is_refused_and_then_migrated(empty: str) -> None:
    first_release(empty)
    with pytest.raises(SchemaMismatch, match=f"schema version 1, this release needs {newest()}"):
        asyncio.run(open_and_close(empty))
    assert [one.version for one in missing_migrations(empty)] == list(range(2, newest() + 1))
    done = asyncio.run(maintenance.migrate(empty, Env()))
    assert [one.version for one in done] == list(range(2, newest() + 1))
    assert asyncio.run(maintenance.migrate(empty, Env())) == []
    asyncio.run(open_and_close(empty))


async def open_and_close(url: str) -> None:
    store = await open_store(url, Env())
    await store.close()


def test_inv_36_a_newer_schema_is_not_migrated(cli: Cli, postgres_url: str) -> None:
    run_sql(postgres_url, "INSERT INTO schema_migrations VALUES (99, 'later', 'x', 'then')")
    for words in ((), ("--check",), ("--plan",), ("--sql",)):
        told = cli.refused(6, "migrate", *words).error
        assert f"schema version 99, this release knows up to {newest()}" in told["message"]


# One process that forks, so that every attempt costs a connection and not a new interpreter.
KILL = """
import asyncio, os, sys
from longcase.env import Env
from longcase.store.postgres import maintenance

def attempt(fault):
    child = os.fork()
    if child == 0:
        os.environ["LONGCASE_FAULT"] = fault
        asyncio.run(maintenance.migrate(sys.argv[1], Env()))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

for fault in sys.argv[2:]:
    assert attempt(fault) == 137, fault
    print(len(asyncio.run(maintenance.plan(sys.argv[1]))))
"""


def test_inv_36_a_migration_is_resumed_after_a_kill_at_any_statement(empty: str) -> None:
    """DDL is transactional: until the commit nothing is there, after it everything."""
    first_release(empty)
    before = described(empty)
    statements = sum(len(list(one.statements())) for one in migrations()[1:])
    points = [f"migrate:{hit}" for hit in [*range(1, statements, 6), statements, statements + 1]]
    ended = subprocess.run([sys.executable, "-c", KILL, empty, *points], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == [str(newest() - 1)] * len(points), "nothing of it is there"
    assert described(empty) == before
    ended = subprocess.run(
        [sys.executable, "-c", KILL, empty, "migrated:1"], capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == ["0"], "killed after the commit: it is all there"


def test_a_database_of_somebody_else_is_refused(empty: str) -> None:
    run_sql(empty, "CREATE TABLE cases (theirs int)")
    assert "tables named cases or history that are not Longcase's" in bad(empty)["schema"]
    with pytest.raises(StoreCorrupt, match="not Longcase's"):
        missing_migrations(empty)


# -- check-up ------------------------------------------------------------------------------------------


def bad(url: str, env: Env | None = None) -> dict[str, str]:
    """Return the symptoms that are not well, by name."""
    return {one.name: one.message for one in examine_store(url, env or Env()) if one.level != "ok"}


def test_a_store_that_is_well(cli: Cli, postgres_url: str) -> None:
    told = cli.ok("doctor", "--json").json
    assert {one["name"] for one in told if one["level"] == "ok"} >= {
        "server", "durability", "connections", "schema", "clock", "stuck",
    }  # fmt: skip
    assert bad(postgres_url) == {"role": "postgres is a superuser; a worker needs far less"}


@pytest.mark.parametrize(
    ("statements", "name", "message"),
    [
        (["INSERT INTO schema_migrations VALUES (99, 'later', 'x', 'then')"], "schema", "has schema version 99"),
        (["ALTER DATABASE {name} SET synchronous_commit = off"], "durability", "synchronous_commit is off"),
        (
            [
                "UPDATE cases SET wake_at = '', wait_count = 0, state = '{{}}'",
            ],
            "stuck",
            "onboarding/k1 in intake since",
        ),
        (["UPDATE cases SET at = '2999-01-01T00:00:00.000000Z'"], "clock", "the newest event is of 2999"),
        (
            ["UPDATE cases SET wake_at = '2026-01-01T00:00:00.000000Z'"],
            "worker",
            "1 case of onboarding waits for a worker",
        ),
        (
            [
                "INSERT INTO workers (host, pid, started_at, beat_at, beat, lease, codes, queues) VALUES "
                "('far', 7, '', '', clock_timestamp() - interval '40 s', interval '60 s', '{{}}', '[]')"
            ],
            "worker",
            "(pid 7 on far) has been silent for 40 s and holds 0 cases",
        ),
    ],
    ids=["newer", "not durable", "stuck", "clock", "unserved", "silent"],
)
def test_what_may_hurt_is_found(postgres_url: str, statements: list[str], name: str, message: str) -> None:
    asyncio.run(fill(postgres_url))
    assert name not in bad(postgres_url)
    for statement in statements:
        run_sql(postgres_url, statement.format(name=postgres_url.split("?")[0].rpartition("/")[2]))
    assert message in bad(postgres_url)[name]


async def fill(url: str) -> None:
    store = await open_store(url, new_env())
    (base,) = await store.start([new_case("k1")])
    await store.write([turn(base, entered(), receive())])
    await store.close()


def test_a_transaction_that_is_open_for_long_is_named(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from longcase.store.postgres import doctor

    monkeypatch.setattr(doctor, "OLD_TRANSACTION_SECONDS", 0.0)

    async def looked() -> list[str]:
        forgotten = await asyncpg.connect(postgres_url, server_settings={"application_name": "report"})
        try:
            await forgotten.execute("BEGIN; SELECT 1")
            found = await doctor.doctor(postgres_url, Env())
            return [one.message for one in found if one.name == "transaction"]
        finally:
            await forgotten.close()

    (told,) = asyncio.run(looked())
    assert "report of postgres, idle in transaction" in told


def test_a_server_that_is_not_there(cli: Cli) -> None:
    nowhere = "postgresql://postgres:secret@127.0.0.1:1/none"
    gone = cli("doctor", "--store", nowhere)
    assert gone.status == 6
    assert "does not answer" in gone.out
    assert "secret" not in gone.out + gone.err
    refused = cli.refused(6, "migrate", "--check", "--store", nowhere)
    assert "secret" not in refused.err


# -- backup ----------------------------------------------------------------------------------------------


def test_backup_and_restore_are_postgresqls_own(cli: Cli, postgres_url: str) -> None:
    told = cli.refused(2, "backup", "monday.dump").error
    assert "has its own backup" in told["message"]
    assert told["hint"] == f"pg_dump --format=custom --file=monday.dump {shlex.quote(postgres_url)}"
    told = cli.refused(2, "restore", "monday.dump", "--force").error
    assert "pg_restore --clean --if-exists --single-transaction --dbname=" in told["hint"]
    assert shlex.quote(postgres_url) in told["hint"]
    assert not os.path.exists("monday.dump")
    offices: list[Callable[[], object]] = [
        lambda: backup_store("postgresql://ann:secret@h/d?password=secret", "f"),
        lambda: restore_store("postgresql://ann:secret@h/d", "f", Env()),
    ]
    for office in offices:
        with pytest.raises(UsageError) as refused:
            office()
        assert "secret" not in str(refused.value)


def test_verify_finds_on_postgresql_what_it_finds_on_sqlite(cli: Cli, postgres_url: str) -> None:
    asyncio.run(fill(postgres_url))
    assert cli.ok("verify").out == "1 case, 0 findings\n"
    run_sql(postgres_url, "UPDATE cases SET owner = 'mallory'")
    found = cli("verify")
    assert found.status == 6
    assert "I3: onboarding/k1 (case 1): column owner holds mallory" in found.out
    assert cli.ok("rebuild").out == "onboarding/k1: rebuilt from its history\n"
    assert cli.ok("verify").out == "1 case, 0 findings\n"


def test_the_roles_are_printed(cli: Cli) -> None:
    text = cli.ok("migrate", "--roles").out
    assert "GRANT INSERT ON history" in text
    by_hand(os.environ["LONGCASE_DATABASE_URL"], text)


def test_the_server_is_named_by_the_version_it_says_it_has(postgres_url: str) -> None:
    said = run_sql(postgres_url, "SHOW server_version")[0]["server_version"].split()[0]
    (server,) = [one for one in examine_store(postgres_url, Env()) if one.name == "server"]
    assert server.message == f"PostgreSQL {said}"
