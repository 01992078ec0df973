"""Stores of earlier schemas: made by the numbered migrations up to that one, and filled by whoever wants one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import apsw

from longcase.store.migrations import Migration
from longcase.store.sqlite.connection import APPLICATION_ID

THEN = "2026-01-05T12:00:00.000000Z"


@contextmanager
def older_file(path: str, known: Sequence[Migration]) -> Iterator[apsw.Connection]:
    """Make a SQLite store of an earlier schema; yields a connection to fill it."""
    connection = apsw.Connection(path)
    connection.pragma("journal_mode", "wal")
    for one in known:
        for statement in one.statements():
            connection.execute(statement)
    connection.execute(
        "CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, "
        "applied_at TEXT NOT NULL) STRICT"
    )
    for one in known:
        values = (one.version, one.name, one.checksum, THEN)
        connection.execute("INSERT INTO schema_migrations VALUES (?, ?, ?, ?)", values)
    yield connection
    connection.pragma("application_id", APPLICATION_ID)
    connection.close()


@asynccontextmanager
async def older_database(url: str, known: Sequence[Migration]) -> AsyncIterator[Any]:
    """Make a PostgreSQL store of an earlier schema; yields a connection to fill it."""
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        for one in known:
            for statement in one.statements():
                await connection.execute(statement)
        await connection.execute(
            "CREATE TABLE schema_migrations (version bigint PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, "
            "applied_at text NOT NULL)"
        )
        for one in known:
            values = (one.version, one.name, one.checksum, THEN)
            await connection.execute("INSERT INTO schema_migrations VALUES ($1, $2, $3, $4)", *values)
        yield connection
    finally:
        await connection.close()
