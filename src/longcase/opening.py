"""Which store a URL names, and opening it: a SQLite file, or a PostgreSQL database where its driver is installed."""

from __future__ import annotations

import os
import re
from importlib import import_module
from typing import Any, Final

from longcase.env import Env, RealClock
from longcase.errors import UsageError
from longcase.model.names import printable
from longcase.store.port import Store
from longcase.store.settings import clock_from
from longcase.store.sqlite import open_sqlite
from longcase.store.sqlite.connection import MEMORY

DEFAULT_URL = "sqlite:///longcase.db"
_SECRET_OPTIONS: Final = re.compile(r"([?&](?:ssl)?password=)[^&]*")


async def open_store(
    url: str, env: Env, *, inline: bool = False, create: bool = True, synchronous: str = "FULL"
) -> Store:
    """Open the store a URL names: a SQLite file, or a PostgreSQL database (where `inline` means nothing).

    Raises:
        UsageError: it names neither, or the driver of PostgreSQL is not installed.
    """
    if is_postgres(url):
        opened: Store = await postgres_office("store").open_postgres(url, env, create=create)
        return opened
    return await open_sqlite(store_path(url), env, inline=inline, create=create, synchronous=synchronous)


def is_postgres(url: str) -> bool:
    """Tell whether a store's URL names a PostgreSQL database."""
    return url.startswith(("postgresql://", "postgres://"))


def postgres_office(name: str) -> Any:
    """Return a module of the PostgreSQL store, which only its users need to have a driver for."""
    try:
        return import_module(f"longcase.store.postgres.{name}")
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise UsageError(
            "PostgreSQL needs a driver that is not installed: asyncpg", hint="pip install 'longcase[postgres]'"
        ) from error


def store_url(url: str | None = None) -> str:
    """Return the URL of the store: the one given, else LONGCASE_DATABASE_URL, else the default."""
    if url is not None and not isinstance(url, str):
        raise UsageError(f"{printable(url)} is given as the store's URL, expected a text", hint=f'url="{DEFAULT_URL}"')
    return url or os.environ.get("LONGCASE_DATABASE_URL") or DEFAULT_URL


def store_path(url: str | None = None) -> str:
    """Return the file of the store that a URL (or LONGCASE_DATABASE_URL, or the default) names."""
    url = store_url(url)
    if url.removeprefix("sqlite:///").lower().startswith("postgres") and "@" in url:  # shown in no part
        raise UsageError(
            "the store's URL begins like a PostgreSQL database's and is none",
            hint="LONGCASE_DATABASE_URL=postgresql://user:password@host/database",
        )
    scheme, separator, path = url.partition(":///")
    if not separator or scheme != "sqlite" or not path:
        raise UsageError(
            f"the store's URL is {mask(url)!r}, expected sqlite:///path or postgresql://user@host/database",
            hint=f"sqlite:///{'longcase.db' if ':' in url else url}",
        )
    path, mark, options = path.partition("?")
    if mark:
        raise UsageError(
            f"the store's URL {mask(url)!r} ends in options (?{options}), it takes none", hint=f"sqlite:///{path}"
        )
    return path


def shared_store(url: str | None) -> str | None:
    """Return the URL, refusing a store in memory: of several processes, each would have one of its own."""
    named = store_url(url)
    if not is_postgres(named) and store_path(named) == MEMORY:
        raise UsageError(
            "a store in memory ends with this command: commands and workers share a file",
            hint="LONGCASE_DATABASE_URL=sqlite:///longcase.db",
        )
    return url


async def share_clock(store: Store, env: Env) -> None:
    """Take over the scaled clock that the store keeps, unless the caller brought a clock of his own."""
    if isinstance(env.clock, RealClock):
        shared = clock_from(await store.setting("clock"))
        if shared is not None:
            env.clock = shared


def mask(url: str) -> str:
    """Return a URL without the secrets in its user part and its options."""
    url = _SECRET_OPTIONS.sub(r"\1***", url)
    head, at, tail = url.rpartition("@")
    if not at:
        return url
    scheme, slashes, user = head.partition("://")
    name, colon, _ = user.partition(":")
    return f"{scheme}{slashes}{name}{':***' if colon else ''}@{tail}" if slashes else f"***@{tail}"
