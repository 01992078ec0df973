"""Read a time zone's name, and turn local times into instants, clock changes included.

Next on the data's way: `calendar`.

Source: names retired by the tz database in release 2024b (its NEWS), and what replaces them.
"""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime, timedelta

from longcase.errors import DefinitionError
from longcase.model.names import printable
from longcase.nearest import nearest

_NAME_LIMIT = 128
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_RETIRED_ZONES = {
    "CET": "Europe/Brussels",
    "CST6CDT": "America/Chicago",
    "EET": "Europe/Athens",
    "EST": "America/Panama",
    "EST5EDT": "America/New_York",
    "HST": "Pacific/Honolulu",
    "MET": "Europe/Brussels",
    "MST": "America/Phoenix",
    "MST7MDT": "America/Denver",
    "PST8PDT": "America/Los_Angeles",
    "WET": "Europe/Lisbon",
}
# Files a time zone folder may hold that mean something else on each machine, or count leap seconds.
_MACHINE_ZONES = ("localtime", "posixrules", "Factory", "posix/", "right/")


def load_zone(tz: str) -> zoneinfo.ZoneInfo:
    """Return the time zone of that IANA name.

    Raises:
        DefinitionError: the name is not known, is retired, or differs between machines; near
            names are listed (BAD-INPUTS row 49).
    """
    if not isinstance(tz, str):
        raise DefinitionError(f"expected the name of a time zone, got {printable(tz)}", hint='tz="Europe/Amsterdam"')
    if tz not in _RETIRED_ZONES and not tz.startswith(_MACHINE_ZONES):
        try:
            return zoneinfo.ZoneInfo(tz)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            pass  # the refusal below lists near names, which only a wrong name should pay for
    near = _near_zones(tz)
    raise DefinitionError(
        f"expected the name of a time zone, got {printable(tz)}",
        hint=f"did you mean {' or '.join(near)}?" if near else 'names are like "Europe/Amsterdam" and "UTC"',
    )


def _near_zones(tz: str) -> list[str]:
    if tz in _RETIRED_ZONES:
        return [_RETIRED_ZONES[tz]]
    names = sorted(
        name
        for name in zoneinfo.available_timezones()
        if name not in _RETIRED_ZONES and not name.startswith(_MACHINE_ZONES)
    )
    wanted = tz[:_NAME_LIMIT].casefold().replace(" ", "_")
    whole = {name.casefold(): name for name in names}
    cities = {name.casefold().rpartition("/")[2]: name for name in names}
    city = wanted.rpartition("/")[2]
    exact = whole.get(wanted) or cities.get(city)
    if exact:
        return [exact]
    found = [whole[near] for near in nearest(wanted, whole, 3)]
    found += [cities[near] for near in nearest(city, cities, 2, likeness=0.75)]
    found = found or [whole[near] for near in nearest(wanted, whole, 3, likeness=0.3)]
    return list(dict.fromkeys(found))[:4]


def first_instant(local: datetime, zone: zoneinfo.ZoneInfo) -> datetime:
    """Return the UTC instant of a naive local time: the first there is, at or after it.

    A time within a gap is the instant the clock goes forward; a time that comes twice is its
    first occurrence. The answer never decreases as `local` grows.

    Source: INVARIANTS I23; PEP 495 for what fold means within a gap.
    """
    instant = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if instant.astimezone(zone).replace(tzinfo=None, fold=0) == local.replace(fold=0):
        return instant
    # Within a gap fold=0 reads with the offset before it (an instant after the change), fold=1
    # with the offset after it (an instant before the change): the change lies in between.
    before = (local.replace(tzinfo=zone, fold=1) - _EPOCH) // _SECOND
    after = -((_EPOCH - instant) // _SECOND)
    assert before < after, "the two readings of a local time within a gap enclose the change"
    offset_before = _offset(before, zone)
    while after - before > 1:  # halves at most two days of seconds: 18 rounds
        middle = (before + after) // 2
        if _offset(middle, zone) == offset_before:
            before = middle
        else:
            after = middle
    return _EPOCH + after * _SECOND


def _offset(second: int, zone: zoneinfo.ZoneInfo) -> timedelta | None:
    return (_EPOCH + second * _SECOND).astimezone(zone).utcoffset()
