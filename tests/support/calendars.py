"""Offices and instants for tests of business time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from longcase.model.calendar import (
    Calendar,
)

AMSTERDAM = ZoneInfo("Europe/Amsterdam")
OFFICE = Calendar("office", hours="Mon-Fri 09:00-17:00", tz="Europe/Amsterdam")
MINUTE = timedelta(minutes=1)
MONDAY = datetime(2026, 1, 5, tzinfo=UTC)


def at(text: str, zone: str = "Europe/Amsterdam") -> datetime:
    """Read "2026-01-09 16:00" on the wall of `zone`."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


def wall(instant: datetime, zone: str = "Europe/Amsterdam") -> str:
    """Show an instant as the clock on the wall of `zone` does."""
    return instant.astimezone(ZoneInfo(zone)).strftime("%a %Y-%m-%d %H:%M")
