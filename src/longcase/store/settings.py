"""Facts of the store itself that every store keeps alike: the history's format, a clock several processes share."""

from __future__ import annotations

import json
from datetime import datetime

from longcase.env import ScaledClock
from longcase.errors import SchemaMismatch
from longcase.history.event import HISTORY_FORMAT, instant_of, instant_text
from longcase.model.codec import Json


def check_history_format(text: str | None, store: str) -> None:
    """Refuse histories written in a format this release does not read.

    Args:
        text: the value of the setting `history_format`, None if it was never set.

    Raises:
        SchemaMismatch: the store's format is newer.
    """
    found = json.loads(text) if text is not None else HISTORY_FORMAT
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
    """Return the clock the setting `clock` stands for, None if the store runs on real time."""
    if setting is None:
        return None
    return ScaledClock(setting["epoch_real"], instant_of(setting["epoch"]), setting["factor"])
