"""Facts of the store itself: small named values that all processes agree on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import apsw

from longcase.env import ScaledClock
from longcase.errors import SchemaMismatch
from longcase.history.event import HISTORY_FORMAT, instant_of, instant_text
from longcase.model.codec import Json
from longcase.store.sqlite.rows import text_of
from longcase.store.sqlite.transaction import Transaction

Read = Callable[[str, Sequence[Any]], list[Any]]


def read(read_rows: Read, name: str) -> Json:
    """Return a setting, None if it was never set."""
    found = read_rows("SELECT value FROM settings WHERE name = ?", (name,))
    return json.loads(found[0][0]) if found else None


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
    text = connection.execute("SELECT value FROM settings WHERE name = 'history_format'").get
    found = json.loads(str(text)) if text is not None else HISTORY_FORMAT
    if found > HISTORY_FORMAT:
        raise SchemaMismatch(
            f"the store {connection.filename} has history format {found}, this release reads up to {HISTORY_FORMAT}",
            hint="upgrade Longcase to the release that wrote it",
            found=found,
            needed=HISTORY_FORMAT,
        )


def clock_setting(epoch_real: float, epoch: datetime, factor: float) -> Json:
    """Return the value of the setting `clock`: a scaled clock that several processes share."""
    return {"epoch_real": epoch_real, "epoch": instant_text(epoch), "factor": factor}


def clock_from(setting: Json) -> ScaledClock | None:
    """Return the clock the setting `clock` stands for, None if the store runs on real time."""
    if setting is None:
        return None
    return ScaledClock(setting["epoch_real"], instant_of(setting["epoch"]), setting["factor"])
