"""Keeping a PostgreSQL store well: its schema, and what PostgreSQL's own tools do better than we would."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from shlex import quote
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from longcase.env import Env
from longcase.errors import UsageError
from longcase.history.event import instant_text
from longcase.store.migrations import Migration
from longcase.store.postgres import migrate as migrations
from longcase.store.postgres.connection import Address, connect, our_error


@asynccontextmanager
async def _connected(address: Address) -> AsyncIterator[Any]:
    connection = await connect(address)
    try:
        yield connection
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise our_error(error, address) from error
    finally:
        await connection.close()


async def plan(url: str) -> list[Migration]:
    """Return the migrations a database lacks, in order; changes nothing."""
    address = Address.of(url)
    async with _connected(address) as connection:
        return await migrations.plan(connection, str(address))


async def migrate(url: str, env: Env) -> list[Migration]:
    """Bring a database to this release's schema; returns what was applied."""
    address = Address.of(url)
    async with _connected(address) as connection:
        return await migrations.migrate(connection, str(address), instant_text(env.now()), env.signal_point)


async def script(url: str) -> str:
    """Return the SQL that brings a database to this release's schema by hand, "" if nothing is missing."""
    return migrations.script(await plan(url))


def refuse_backup(url: str, target: str) -> UsageError:
    """Return what to say to who wants a backup: PostgreSQL makes its own, of one instant, while it is in use."""
    shown = Address.of(url).shown
    return UsageError(
        f"{shown} is a PostgreSQL database, which has its own backup",
        hint=f"pg_dump --format=custom --file={target} {_quoted(url)}",
    )


def refuse_restore(url: str, source: str) -> UsageError:
    """Return what to say to who wants to restore."""
    shown = Address.of(url).shown
    return UsageError(
        f"{shown} is a PostgreSQL database, which has its own restore",
        hint=f"stop the workers; pg_restore --clean --if-exists --single-transaction --dbname={_quoted(url)} {source}; "
        "then longcase verify",
    )


def _quoted(url: str) -> str:
    """Return a URL for a shell and for PostgreSQL's tools: without secrets, which they ask for or find in ~/.pgpass."""
    parts = urlsplit(Address.of(url).url)
    user, at, host = parts.netloc.rpartition("@")
    options = [(name, value) for name, value in parse_qsl(parts.query) if "password" not in name]
    bare = (parts.scheme, f"{user.partition(':')[0]}{at}{host}", parts.path, urlencode(options, safe="/"), "")
    return quote(urlunsplit(bare))
