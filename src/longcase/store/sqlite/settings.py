"""Facts of the store itself: small named values that all processes agree on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import apsw

from longcase.model.codec import Json
from longcase.store.kept import kept, something
from longcase.store.rows import text_of
from longcase.store.settings import check_history_format as check_format
from longcase.store.sqlite.transaction import Transaction

Read = Callable[[str, Sequence[Any]], list[Any]]


def read(read_rows: Read, name: str) -> Json:
    """Return a setting, None if it was never set."""
    found = read_rows("SELECT CAST(value AS BLOB) FROM settings WHERE name = ?", (name,))
    return kept(found[0][0], f"the setting {name}", something) if found else None


def write(tx: Transaction, name: str, value: Json) -> None:
    """Set a setting."""
    tx.execute(
        "INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, text_of(value, name)),
    )


def check_history_format(connection: apsw.Connection) -> None:
    """Refuse histories written in a format this release does not read.

    Raises:
        SchemaMismatch: the store's format is newer.
    """
    text: Any = connection.execute("SELECT CAST(value AS BLOB) FROM settings WHERE name = 'history_format'").get
    check_format(text, str(connection.filename))
