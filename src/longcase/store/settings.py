"""Facts of the store itself that every store keeps alike: the history's format, a clock several processes share."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from longcase.env import ScaledClock
from longcase.errors import SchemaMismatch
from longcase.history.event import HISTORY_FORMAT, instant_of, instant_text
from longcase.model.codec import Json
from longcase.store.kept import kept, shaped


def check_history_format(text: str | bytes | None, store: str) -> None:
    """Refuse histories written in a format this release does not read.

    Args:
        text: the value of the setting `history_format`, None if it was never set.

    Raises:
        SchemaMismatch: the store's format is newer.
    """
    found = kept(text, "the setting history_format", int) if text is not None else HISTORY_FORMAT
    if found > HISTORY_FORMAT:
        raise SchemaMismatch(
            f"the store {store} has history format {found}, this release reads up to {HISTORY_FORMAT}",
            hint="upgrade Longcase to the release that wrote it",
            found=found,
            needed=HISTORY_FORMAT,
        )


def clock_setting(epoch_real: float, epoch: datetime, factor: float) -> Json:
    """Return the value of the setting `clock`: a scaled clock that several processes share."""
    return {"epoch_real": epoch_real, "epoch": instant_text(epoch), "factor": factor}


def clock_from(setting: Json) -> ScaledClock | None:
    """Return the clock the setting `clock` stands for, None if the store runs on real time.

    Raises:
        StoreCorrupt: it stands for none.
    """
    if setting is None:
        return None
    return shaped(setting, "the setting clock", _clock)


def _clock(kept: Any) -> ScaledClock:
    return ScaledClock(float(kept["epoch_real"]), instant_of(kept["epoch"]), float(kept["factor"]))
