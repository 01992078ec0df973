"""What a check-up finds: one symptom, its level, and its mend."""

from __future__ import annotations

from datetime import timedelta
from typing import Final, Literal

from longcase.errors import StoreCorrupt
from longcase.record import record

SILENT_SECONDS: Final = 30.0  # a worker that lives says so every few seconds
UNSERVED_SECONDS: Final = 60.0  # a case that is ready for so long is nobody's
CLOCK_BACK: Final = timedelta(seconds=5)  # how much newer than now the newest event may be

Level = Literal["ok", "warning", "error"]


@record
class Symptom:
    """One finding of the doctor. `hint` is the mend, ready to paste."""

    level: Level
    name: str
    message: str
    hint: str = ""

    @classmethod
    def of(cls, damage: StoreCorrupt) -> Symptom:
        """Return the finding that damage is."""
        return cls("error", "damage", damage.message, damage.hint)
