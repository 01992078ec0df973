"""I35: what earlier releases wrote is read by this one, on every schema they wrote it to.

`kept/schema_2.json` holds the rows of ten cases of `letters`, as a release wrote them that knew schema 2
of the SQLite store: histories with their payloads, salts and hashes, folded states, tasks, an input that
waits. They are put into stores of each earlier schema, made by the numbered migrations up to that one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest
from tests.invariants.letters import Reply, letters, replied
from tests.rules.support import closed, every, incident
from tests.support.older import older_database, older_file
from tests.support.postgres import Databases, run_sql

from longcase import days, hours
from longcase.env import Env
from longcase.history.event import instant_of
from longcase.insight.verify import verify
from longcase.store.migrations import Migration
from longcase.store.postgres import migrate as on_postgres
from longcase.store.sqlite import migrate as on_sqlite
from longcase.testing import Simulation
from longcase.upkeep import migrate_store, missing_migrations

KEPT: dict[str, Any] = json.loads((Path(__file__).parent / "kept" / "schema_2.json").read_text())
TABLES = ("maps", "map_nodes", "cases", "history", "inbox", "tasks", "dedup")
OLDEST = 2  # the schema that the rows were written to

Rows = tuple[list[str], list[list[Any]]]


def rows(table: str, there: list[str]) -> Rows:
    """Return the kept rows of a table, for the columns that it has on the store they are put into."""
    kept = KEPT[table]
    at = [(name, kept["columns"].index(name)) for name in there if name in kept["columns"]]
    values = [[_stored(row[n]) for _, n in at] for row in kept["rows"]]
    assert values, table
    return [name for name, _ in at], values


def _stored(value: Any) -> Any:
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value


def old_file(path: str, known: Sequence[Migration]) -> None:
    """Make a SQLite store of an earlier schema that holds the kept rows."""
    with older_file(path, known) as connection:
        for table in TABLES:
            names, values_ = rows(table, [str(row[1]) for row in connection.execute(f"PRAGMA table_info({table})")])
            marks = ", ".join("?" * len(names))
            connection.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", values_)


async def old_database(url: str, known: Sequence[Migration]) -> None:
    """Make a PostgreSQL store of an earlier schema that holds the kept rows."""
    async with older_database(url, known) as connection:
        for table in TABLES:
            columns = await connection.fetch(
                "SELECT column_name, is_identity FROM information_schema.columns WHERE table_name = $1", table
            )
            names, values_ = rows(table, [row["column_name"] for row in columns])
            marks = ", ".join(f"${n}" for n in range(1, len(names) + 1))
            await connection.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", values_)
            for name in (row["column_name"] for row in columns if row["is_identity"] == "YES"):
                await connection.execute(
                    f"SELECT setval(pg_get_serial_sequence('{table}', '{name}'), max({name})) FROM {table}"
                )


@pytest.fixture
def old_stores(store_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[int, str]]:
    """Return stores with the kept rows in them, by schema version: every one before this release's."""
    if store_kind == "sqlite":
        made = {version: str(tmp_path / f"{version}.db") for version in range(OLDEST, on_sqlite.newest())}
        for version, path in made.items():
            old_file(path, on_sqlite.migrations()[:version])
        yield {version: f"sqlite:///{path}" for version, path in made.items()}
        return
    databases: Databases = request.getfixturevalue("databases")
    urls = {version: databases.new(empty=True) for version in range(OLDEST, on_postgres.newest())}
    for version, url in urls.items():
        asyncio.run(old_database(url, on_postgres.migrations()[:version]))
    yield urls
    for url in urls.values():
        databases.drop(url)


def test_inv_35_what_an_earlier_release_wrote_is_read_and_goes_on(old_stores: dict[int, str]) -> None:
    for version, url in old_stores.items():
        assert missing_migrations(url)[0].version == version + 1
        migrate_store(url, Env())
        with Simulation([letters], url=url, now=instant_of(KEPT["now"]), live=0) as sim:
            assert sim._do(_findings(sim)) == [], "chains are whole, and every fold equals its row"
            _go_on(sim)
            assert sim._do(_findings(sim)) == []


def test_inv_35_a_wait_of_people_who_disagree_says_after_the_upgrade_how_they_stand(old_stores: dict[int, str]) -> None:
    """The sentence stands in the row and in the view; both are brought to what the fold says."""
    url = old_stores[max(old_stores)]
    (state, what) = _sql(url, "SELECT CAST(state AS text), wait_what FROM cases WHERE key = 'voted'")
    changed = json.loads(state)
    (task,) = changed["tasks"].values()
    task["votes"] = [task["votes"][0] | {"by": by, "answer": way} for by, way in (("a", "road"), ("b", "rail"))]
    assert what == "Send it? (1 of 2)"
    _sql(url, f"UPDATE cases SET state = '{json.dumps(changed)}', wait_what = 'Send it? (2 of 2)' WHERE key = 'voted'")
    migrate_store(url, Env())
    for column, table in (("wait_what", "cases"), ("what", "waiting")):
        told = _sql(url, f"SELECT {column} FROM {table} WHERE key = 'voted'")
        assert told == ("Send it? (rail 1, road 1; 2 needed)",)
        assert _sql(url, f"SELECT {column} FROM {table} WHERE key = 'asked'") == ("Send it? (0 of 2)",)


def _sql(url: str, statement: str) -> tuple[Any, ...]:
    """Run a statement on a store of any schema; returns the first row."""
    if url.startswith("postgres"):
        return next((tuple(row) for row in run_sql(url, statement)), ())
    with closing(apsw.Connection(url.removeprefix("sqlite:///"))) as connection:
        return connection.execute(statement).fetchone() or ()


async def _findings(sim: Simulation) -> list[str]:
    return [str(finding) async for finding in verify(sim._app.store)]  # type: ignore[arg-type]


def _go_on(sim: Simulation) -> None:
    """Move every case from where the earlier release had left it to its end."""
    failed, late = "letters/failed", "letters/late"
    assert incident(sim, failed)["kind"] == "activity_failed"
    assert incident(sim, late)["kind"] == "outcome_unknown", "as that release took a call that ran out of its time"
    sim.set_result(late, "place", reason="the book says so")
    assert closed(sim, late) == "given-up"
    assert every(sim, late, "undone")
    sim.retry(failed)
    for who in ("ann", "ben"):
        for case in ("asked", "retried", "failed"):
            sim.decide(f"letters/{case}", "approved", by=who)
    assert sim.decide("letters/voted", "approved", by="ann").duplicate, "the vote that was kept counts"
    sim.decide("letters/voted", "approved", by="ben")
    sim.advance(hours(3))
    assert closed(sim, "letters/early") == "answered"
    assert (sim.state("letters/posted").close or {})["result"] == "in the inbox"
    assert sim.signal("letters/posted", replied, Reply(text="in the inbox"), idempotency_key="k2").duplicate
    for case in ("asked", "retried", "failed", "voted", "waits"):
        sim.signal(f"letters/{case}", replied, Reply(text="thanks"))
        assert closed(sim, f"letters/{case}") == "answered"
    sim.advance(days(1))
    open_ones = sim.query("SELECT key FROM cases WHERE status = 'open'")
    assert open_ones == []
    kinds = {event.data["kind"] for case in ("asked", "voted", "late") for event in sim.history(f"letters/{case}")
             if event.type == "incident_opened"}  # fmt: skip
    assert kinds <= {"outcome_unknown"}, "no visit was taken for changed code"
