"""Facts of the store itself: small named values that all processes agree on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from longcase.model.codec import Json
from longcase.store.kept import kept, something
from longcase.store.rows import text_of
from longcase.store.settings import check_history_format as check_format

Read = Callable[..., Awaitable[list[Any]]]

_SET: Final = """
INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""


async def read(read_rows: Read, name: str) -> Json:
    """Return a setting, None if it was never set."""
    found = await read_rows("SELECT value FROM settings WHERE name = $1", name)
    return kept(found[0][0], f"the setting {name}", something) if found else None


async def write(connection: Any, name: str, value: Json) -> None:
    """Set a setting."""
    await connection.execute(_SET, name, text_of(value, name))


async def check_history_format(connection: Any, store: str) -> None:
    """Refuse histories written in a format this release does not read.

    Raises:
        SchemaMismatch: the store's format is newer.
    """
    check_format(await connection.fetchval("SELECT value FROM settings WHERE name = 'history_format'"), store)
