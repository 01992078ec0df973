"""What every store's purge goes by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from longcase.store.records import Purged

MAX_EVENTS: Final = 5_000  # deleted in one transaction, beyond its first case: bounds how long others wait


def bounded(found: Iterable[Any]) -> list[Purged]:
    """Return as many cases of (number, workflow, key, events) as one transaction takes."""
    chosen: list[Purged] = []
    events = 0
    for case_no, workflow, key, count in found:
        events += count
        if chosen and events > MAX_EVENTS:
            break
        chosen.append(Purged(case_no, f"{workflow}/{key}", count))
    return chosen
