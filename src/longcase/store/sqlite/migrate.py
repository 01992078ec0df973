"""Schema migrations: numbered SQL files, applied in order, in one transaction, statement by statement.

A kill at any statement leaves the schema as it was (SQLite rolls the transaction back when the file
is opened next), so a migration is resumed by running it again. What was applied is recorded with the
checksum of its text: a file edited after its release is found, never applied twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any, Final

import apsw

from longcase.errors import BugError, SchemaMismatch, StoreCorrupt
from longcase.store.sqlite.connection import APPLICATION_ID

_BOOK: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_at TEXT NOT NULL
) STRICT
"""
_NAME: Final = re.compile(r"(\d{4})_(\w+)\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file of SQL."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return sha256(self.sql.encode()).hexdigest()

    def statements(self) -> Iterator[str]:
        """Yield the statements in order; a trigger's body is one statement."""
        statement = ""
        for line in self.sql.splitlines(keepends=True):
            statement += line
            if line.rstrip().endswith(";") and apsw.complete(statement):
                yield statement.strip()
                statement = ""
        rest = "".join(line for line in statement.splitlines() if not line.lstrip().startswith("--")).strip()
        if rest:
            raise BugError(f"migration {self.version} ends in the middle of a statement: {rest[:60]}")


@cache
def migrations() -> tuple[Migration, ...]:
    """Return every migration this release knows, oldest first: versions 1, 2, 3 ... without a gap."""
    found = []
    for file in files("longcase.store.sqlite").joinpath("migrations").iterdir():
        if match := _NAME.fullmatch(file.name):
            found.append(Migration(int(match[1]), match[2], file.read_text("utf-8")))
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise BugError(f"migrations are not numbered 1, 2, 3 ...: {[migration.version for migration in found]}")
    return tuple(found)


def newest() -> int:
    """Return the schema version this release works with."""
    return migrations()[-1].version


def current(connection: apsw.Connection) -> int:
    """Return the schema version of a file: 0 if it is empty.

    Raises:
        StoreCorrupt: it is somebody else's database.
    """
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").get
    if not tables:
        return 0
    if not connection.table_exists(None, "schema_migrations"):
        raise StoreCorrupt(
            f"{connection.filename} is a SQLite database, but not a Longcase store",
            hint="give the store a file of its own",
        )
    version: int = connection.execute("SELECT coalesce(max(version), 0) FROM schema_migrations").get
    return version


def plan(connection: apsw.Connection) -> list[Migration]:
    """Return the migrations that `migrate` would apply, in order; changes nothing.

    Raises:
        SchemaMismatch: the file's schema is newer than this release, or an applied migration's
            text is not the one this release has.
    """
    version = current(connection)
    _refuse_newer(connection, version)
    known = {migration.version: migration for migration in migrations()}
    applied: list[Any] = (
        connection.execute("SELECT version, checksum FROM schema_migrations").fetchall() if version else []
    )
    for number, checksum in applied:
        if known[number].checksum != checksum:
            raise SchemaMismatch(
                f"{connection.filename}: migration {number} ({known[number].name}) was applied with another text than "
                "this release has",
                hint="install the release that made this store, then upgrade step by step",
            )
    return [migration for migration in migrations() if migration.version > version]


def check(connection: apsw.Connection) -> None:
    """Refuse a store whose schema is not this release's.

    Raises:
        SchemaMismatch: it is older or newer; the message names both versions.
    """
    version = current(connection)
    _refuse_newer(connection, version)
    if plan(connection):
        raise SchemaMismatch(
            f"the store {connection.filename} has schema version {version}, this release needs {newest()}",
            hint=f"longcase backup, then: longcase migrate --store {connection.filename}",
            found=version,
            needed=newest(),
        )


def migrate(
    connection: apsw.Connection, now: str, signal_point: Callable[[str], None] = lambda name: None
) -> list[Migration]:
    """Apply what is missing in one transaction; returns what was applied (nothing, if another process was first)."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        missing = plan(connection)
        for migration in missing:
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
    return missing


def _refuse_newer(connection: apsw.Connection, version: int) -> None:
    if version > newest():
        raise SchemaMismatch(
            f"the store {connection.filename} has schema version {version}, this release knows up to {newest()}",
            hint="upgrade Longcase to the release that ran `longcase migrate` on it, or restore the backup made before",
            found=version,
            needed=newest(),
        )
