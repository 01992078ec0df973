"""Schema migrations of a PostgreSQL database: applied in order, in one transaction, under an advisory lock.

DDL is transactional here, so a kill at any statement leaves the schema as it was, and a migration is
resumed by running it again. `store.migrations` has the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

from longcase.errors import StoreCorrupt, UsageError
from longcase.store.migrations import Migration, load, missing, refuse_older
from longcase.store.migrations import script as _script
from longcase.store.postgres.connection import OLDEST

PATIENCE: Final = 86_400.0  # seconds a statement may take: an index over a large table takes its time
LOCK: Final = 0x4C43_4153  # "LCAS": two processes that migrate one database take turns

_BOOK: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version bigint PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, applied_at text NOT NULL
)
"""
_HAS_BOOK: Final = """
SELECT count(*) > 0, coalesce(bool_or(attname = 'checksum'), false) FROM pg_attribute
WHERE attrelid = to_regclass('schema_migrations') AND attnum > 0 AND NOT attisdropped
"""
_IS_TAKEN: Final = "SELECT to_regclass('cases') IS NOT NULL OR to_regclass('history') IS NOT NULL"


def _complete(statement: str) -> bool:
    """Tell whether a statement is over: no body of a function ($$) is open."""
    return statement.count("$$") % 2 == 0


@cache
def migrations() -> tuple[Migration, ...]:
    """Return every migration this release knows, oldest first: versions 1, 2, 3 ... without a gap."""
    return load("longcase.store.postgres", _complete)


def newest() -> int:
    """Return the schema version this release works with."""
    return migrations()[-1].version


async def applied(connection: Any) -> dict[int, str]:
    """Return the checksums of what was applied, by version; {} for a database without a store.

    Raises:
        StoreCorrupt: tables of our names are there that no migration made.
    """
    there, ours = await connection.fetchrow(_HAS_BOOK)
    if there and not ours:
        raise StoreCorrupt(
            "the database has a table named schema_migrations that is not Longcase's",
            hint="give the store a database of its own",
        )
    if not there:
        if await connection.fetchval(_IS_TAKEN):
            raise StoreCorrupt(
                "the database has tables named cases or history that are not Longcase's",
                hint="give the store a database of its own",
            )
        return {}
    return dict(await connection.fetch("SELECT version, checksum FROM schema_migrations"))


async def check_server(connection: Any) -> None:
    """Refuse a server that cannot hold a store.

    Raises:
        UsageError: it is too old, or the database's encoding is not UTF8.
    """
    major = connection.get_server_version().major
    if major < OLDEST:
        raise UsageError(f"PostgreSQL {major}, expected {OLDEST} or newer", hint="upgrade the server")
    encoding = await connection.fetchval("SELECT current_setting('server_encoding')")
    if encoding != "UTF8":
        raise UsageError(
            f"the database's encoding is {encoding}, expected UTF8",
            hint="createdb --encoding=UTF8 --template=template0 NAME",
        )


async def plan(connection: Any, store: str) -> list[Migration]:
    """Return the migrations that `migrate` would apply, in order; changes nothing.

    Raises:
        SchemaMismatch: the schema is newer than this release, or an applied migration's text is not the
            one this release has.
    """
    return missing(migrations(), await applied(connection), store)


async def check(connection: Any, store: str) -> None:
    """Refuse a database whose schema is not this release's.

    Raises:
        SchemaMismatch: it is older or newer; the message names both versions.
    """
    refuse_older(migrations(), await applied(connection), store)


async def migrate(
    connection: Any, store: str, now: str, signal_point: Callable[[str], None] = lambda name: None
) -> list[Migration]:
    """Apply what is missing in one transaction; returns what was applied (nothing, if another process was first)."""
    await check_server(connection)
    async with connection.transaction():
        await connection.execute("SET LOCAL statement_timeout = 0")
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK, timeout=PATIENCE)
        wanted = await plan(connection, store)
        for migration in wanted:
            for statement in migration.statements():
                signal_point("migrate")
                await connection.execute(statement, timeout=PATIENCE)
            await connection.execute(_BOOK)
            await connection.execute(
                "INSERT INTO schema_migrations VALUES ($1, $2, $3, $4)",
                migration.version, migration.name, migration.checksum, now,
            )  # fmt: skip
        signal_point("migrate")
    signal_point("migrated")
    return wanted


def script(wanted: Sequence[Migration]) -> str:
    """Return the text that applies migrations by hand, in psql."""
    return _script(
        wanted,
        store="PostgreSQL",
        run="psql -v ON_ERROR_STOP=1 -f FILE",
        begin=f"BEGIN;\nSELECT pg_advisory_xact_lock({LOCK});",
        book=_BOOK,
        now="""to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')""",
        end="COMMIT;",
    )
