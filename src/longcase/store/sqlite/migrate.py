"""Schema migrations of a SQLite file: applied in order, in one transaction, statement by statement.

A kill at any statement leaves the schema as it was (SQLite rolls the transaction back when the file
is opened next), so a migration is resumed by running it again. `store.migrations` has the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

import apsw

from longcase.store.migrations import Migration, load, missing, refuse_older
from longcase.store.migrations import script as _script
from longcase.store.sqlite.connection import APPLICATION_ID, holds_store

__all__ = ["Migration", "check", "current", "migrate", "migrations", "newest", "plan", "script"]

_BOOK: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_at TEXT NOT NULL
) STRICT
"""


@cache
def migrations() -> tuple[Migration, ...]:
    """Return every migration this release knows, oldest first: versions 1, 2, 3 ... without a gap."""
    return load("longcase.store.sqlite", apsw.complete)


def newest() -> int:
    """Return the schema version this release works with."""
    return migrations()[-1].version


def current(connection: apsw.Connection) -> int:
    """Return the schema version of a file: 0 if it is empty.

    Raises:
        StoreCorrupt: it is somebody else's database.
    """
    if not holds_store(connection):
        return 0
    version: int = connection.execute("SELECT coalesce(max(version), 0) FROM schema_migrations").get
    return version


def _applied(connection: apsw.Connection) -> dict[int, str]:
    if not current(connection):
        return {}
    rows: list[Any] = connection.execute("SELECT version, checksum FROM schema_migrations").fetchall()
    return dict(rows)


def plan(connection: apsw.Connection) -> list[Migration]:
    """Return the migrations that `migrate` would apply, in order; changes nothing.

    Raises:
        SchemaMismatch: the file's schema is newer than this release, or an applied migration's
            text is not the one this release has.
    """
    return missing(migrations(), _applied(connection), str(connection.filename))


def check(connection: apsw.Connection) -> None:
    """Refuse a store whose schema is not this release's.

    Raises:
        SchemaMismatch: it is older or newer; the message names both versions.
    """
    refuse_older(migrations(), _applied(connection), str(connection.filename))


def migrate(
    connection: apsw.Connection, now: str, signal_point: Callable[[str], None] = lambda name: None
) -> list[Migration]:
    """Apply what is missing in one transaction; returns what was applied (nothing, if another process was first)."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        wanted = plan(connection)
        for migration in wanted:
            for statement in migration.statements():
                signal_point("migrate")
                connection.execute(statement).fetchall()
            connection.execute(_BOOK)
            connection.execute(
                "INSERT INTO schema_migrations VALUES (?, ?, ?, ?)",
                (migration.version, migration.name, migration.checksum, now),
            )
        connection.pragma("application_id", APPLICATION_ID)
        signal_point("migrate")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    signal_point("migrated")
    return wanted


def script(wanted: Sequence[Migration]) -> str:
    """Return the text that applies migrations by hand, in a SQLite shell."""
    return _script(
        wanted,
        store="SQLite",
        run="sqlite3 -bail longcase.db < FILE (SQLite 3.51.3 or newer)",
        begin="BEGIN IMMEDIATE;",
        book=_BOOK,
        now="strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')",
        end=f"PRAGMA application_id = {APPLICATION_ID};\nCOMMIT;",
    )
