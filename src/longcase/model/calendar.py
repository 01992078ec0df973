"""Business time: when a team works, and when a span of business time is over.

A `Calendar` has opening hours per weekday in one time zone, minus holidays. What an author or a
stored event says in local time is turned into UTC instants once per local day, and all counting
happens on those: a clock change makes a working day an hour longer or shorter and nothing else.

The rules, which `tests/unit/test_calendar.py` holds against two independent oracles:

- Business hours consume open time. Asked outside the hours, the count begins at the next
  opening; a count that ends exactly at closing time ends there, not at the next opening.
- n business days end on the n-th working day after the day the count begins, at the local time
  it begins; if that moment is not within the hours, at the next opening. The count begins at
  once within the hours, else at the next opening. A working day is a local date with open time.
- A local time that does not exist (the clock went forward) is the first instant after the gap;
  one that exists twice (the clock went back) is its first occurrence.

It does not decide what a span is for, and it knows no "now": callers pass instants, and record
the due instant they get, because holiday data changes between releases and a replay must not.
Before it on the data's way stand `opening`, `zone` and `region`, which read its parts; next comes
`span`, the words authors write spans with.

Source: INVARIANTS I23.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterable, Mapping
from dataclasses import field
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Any, Literal, TypeAlias, final

from longcase.errors import DefinitionError, UsageError
from longcase.model.hours import Ranges, parse_hours
from longcase.model.names import printable
from longcase.model.region import PublicHolidays, is_region
from longcase.model.zone import first_instant, load_zone
from longcase.record import record

__all__ = [
    "MAX_DAYS",
    "BusinessSpan",
    "Calendar",
    "Span",
    "calendar_from_json",
    "calendar_to_json",
    "check_amount",
    "check_elapsed",
    "due",
    "due_notice",
]

MAX_DAYS = 3653
"""The longest span, in days: ten years. A longer one is a typing error, not a deadline."""
SEARCH_LIMIT_DAYS = MAX_DAYS + 7
"""How many local days a count may cross; a week more than the longest round-the-clock span."""
BETWEEN_LIMIT_DAYS = 36_525
"""The longest stretch `business_time_between` adds up: a hundred years."""
DAY_CACHE_LIMIT = 4096
"""How many local days a calendar keeps resolved; more than one whole search needs."""
FIRST_YEAR, LAST_YEAR = 1900, 9900
"""The years instants may lie in, so that no arithmetic here can overflow."""
NAME_LIMIT = 128
"""The longest calendar name, in characters."""
_AS_WRITTEN = "calendar_to_json writes it"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MICROS_PER_HOUR = 3_600_000_000
_LONGEST = timedelta(days=MAX_DAYS)

BusinessUnit: TypeAlias = Literal["hours", "days"]


@final
@record
class BusinessSpan:
    """An amount of business time: `business_hours(8)` or `business_days(2)`.

    Args:
        unit: "hours" of open time, or "days" that have open time.
        amount: 0 to ten years; days are whole.
        calendar: whose time it is; without one it is the calendar of the owner who is waited on.

    Raises:
        DefinitionError: the unit or the amount is not one of these.
    """

    unit: BusinessUnit
    amount: float
    calendar: Calendar | None = None

    def __post_init__(self) -> None:
        if self.unit not in ("hours", "days"):
            raise DefinitionError(
                f'expected the unit "hours" or "days", got {printable(self.unit)}', hint="business_hours(8)"
            )
        limit = MAX_DAYS * 24 if self.unit == "hours" else MAX_DAYS
        amount = check_amount(f"business {self.unit}", self.amount, limit)
        if amount == int(amount):
            amount = int(amount)
        elif self.unit == "days":
            raise DefinitionError(
                f"expected a whole number of business days, got {amount}",
                hint="business_hours(...) counts parts of a day",
            )
        if self.calendar is not None and not isinstance(self.calendar, Calendar):
            raise DefinitionError(
                f"expected a Calendar, got {printable(self.calendar)}",
                hint=f'business_{self.unit}({amount}, Calendar("NL", tz="Europe/Amsterdam"))',
            )
        object.__setattr__(self, "amount", amount)

    def __str__(self) -> str:
        unit = self.unit[:-1] if self.amount == 1 else self.unit
        whose = f" ({self.calendar.name})" if self.calendar else ""
        return f"{self.amount} business {unit}{whose}"


Span: TypeAlias = timedelta | BusinessSpan
"""A length of time: elapsed (`timedelta`, runs day and night) or business time."""


@final
@record
class Calendar:
    """When a team works: opening hours per weekday in one time zone, minus holidays.

    A calendar is a value: two with the same name, hours, zone and holidays are equal.
    Which rules business time follows stands at the top of this module.

    Args:
        name_or_region: an ISO region in capitals ("NL", "DE-BY"), whose public holidays are then
            not worked; anything else is a plain name ("night desk").
        hours: groups of days and times, "Mon-Fri 09:00-12:30,13:00-17:00; Sat 10:00-14:00".
            A range of days may cross the weekend ("Sun-Thu"); times run from 00:00 to 24:00.
        tz: IANA name of the zone the hours are meant in.
        holidays: further dates that are not worked, such as company days.

    Raises:
        DefinitionError: a name, text of hours, zone or date that cannot be read; near names are
            listed. The author mends it.
    """

    name: str
    hours: str
    tz: str
    holidays: frozenset[date]
    _zone: zoneinfo.ZoneInfo = field(compare=False)
    _week: tuple[Ranges, ...] = field(compare=False)
    _public: PublicHolidays | None = field(compare=False)
    _resolved: dict[int, Ranges] = field(compare=False)

    def __init__(
        self,
        name_or_region: str,
        *,
        hours: str = "Mon-Fri 09:00-17:00",
        tz: str = "UTC",
        holidays: Iterable[date] = (),
    ) -> None:
        put = object.__setattr__
        put(self, "name", _checked_name(name_or_region))
        put(self, "_week", parse_hours(hours))
        put(self, "hours", hours)
        put(self, "_zone", load_zone(tz))
        put(self, "tz", tz)
        put(self, "holidays", _checked_holidays(holidays))
        put(self, "_public", PublicHolidays(self.name) if is_region(self.name) else None)
        put(self, "_resolved", {})

    def __repr__(self) -> str:
        holidays = f", holidays={sorted(self.holidays)!r}" if self.holidays else ""
        return f"Calendar({self.name!r}, hours={self.hours!r}, tz={self.tz!r}{holidays})"

    @property
    def region(self) -> str | None:
        """The region whose public holidays count, or None for a plain name."""
        return self.name if self._public else None

    @property
    def notice(self) -> str | None:
        """What is not known about this calendar's holidays, or None.

        Business time counted with a notice must carry it to whoever reads the deadline: public
        holidays that are not known were counted as working days.
        """
        return self._public.notice if self._public else None

    def add(self, instant: datetime, span: BusinessSpan) -> datetime:
        """Return the instant at which `span` is over, counted on this calendar from `instant`.

        Use `due` where the span may be elapsed time or may name its own calendar; here
        `span.calendar` is not looked at.

        Args:
            instant: any aware datetime.
            span: hours of open time, or working days.
        Returns: an aware UTC datetime, never before `instant`.
        Raises:
            UsageError: the instant is naive or lies outside the years 1900 to 9900.
            DefinitionError: ten years do not hold that much business time; mend hours or holidays.
        """
        start = _micros(instant)
        if span.unit == "hours":
            return _instant(self._after_open_time(start, round(span.amount * _MICROS_PER_HOUR), span))
        return _instant(self._after_working_days(start, int(span.amount), span))

    def next_opening(self, instant: datetime) -> datetime:
        """Return `instant` in UTC if it lies within the hours, else when they next begin."""
        return _instant(self._after_open_time(_micros(instant), 0, None))

    def is_open(self, instant: datetime) -> bool:
        """Tell whether `instant` lies within the hours; the closing instant does not."""
        moment = _micros(instant)
        first = self._local_day(moment)
        # Where clocks go back across midnight, an hour of the day before lies within the next day.
        return any(opens <= moment < closes for day in (first, first + 1) for opens, closes in self._open_ranges(day))

    def business_time_between(self, a: datetime, b: datetime) -> timedelta:
        """Return the open time from `a` to `b`; negative if `b` comes first.

        Raises:
            UsageError: an instant is naive, or the two are more than a hundred years apart.
        """
        start, end = _micros(a), _micros(b)
        if end < start:
            return -self.business_time_between(b, a)
        first, last = self._local_day(start), self._local_day(end) + 1
        if last - first > BETWEEN_LIMIT_DAYS:
            raise UsageError(
                f"expected two instants within a hundred years, got {a.isoformat()} and {b.isoformat()}",
                hint="look at the units: milliseconds taken for seconds lead thousands of years away",
            )
        total = 0
        for day in range(first, last + 1):
            for opens, closes in self._open_ranges(day):
                total += max(0, min(closes, end) - max(opens, start))
        return timedelta(microseconds=total)

    def _after_open_time(self, start: int, amount: int, span: BusinessSpan | None) -> int:
        first = self._local_day(start)
        for day in range(first, first + SEARCH_LIMIT_DAYS):
            for opens, closes in self._open_ranges(day):
                if closes <= start:
                    continue
                begin = max(opens, start)
                if amount <= closes - begin:
                    return begin + amount
                amount -= closes - begin
        raise self._never(start, span)

    def _after_working_days(self, start: int, amount: int, span: BusinessSpan) -> int:
        begin = self._after_open_time(start, 0, span)
        if amount == 0:
            return begin
        local = _instant(begin).astimezone(self._zone)
        first = local.toordinal() + 1
        for day in range(first, first + SEARCH_LIMIT_DAYS):
            amount -= bool(self._open_ranges(day))
            if amount == 0:
                wall = datetime.combine(date.fromordinal(day), local.time())
                return self._after_open_time(_micros(first_instant(wall, self._zone)), 0, span)
        raise self._never(start, span)

    def _never(self, start: int, span: BusinessSpan | None) -> DefinitionError:
        what = f"{span.amount} business {span.unit}" if span else "open time"
        return DefinitionError(
            f"calendar {self.name} has no {what} within ten years of {_instant(start).isoformat()}",
            hint=f"shorten the span, or look at its hours ({self.hours}) and its {len(self.holidays)} holidays",
        )

    def _local_day(self, moment: int) -> int:
        return _instant(moment).astimezone(self._zone).toordinal()

    def _open_ranges(self, day: int) -> Ranges:
        """Return the open time of one local day (an ordinal) as UTC microseconds, in order."""
        ranges = self._resolved.get(day)
        if ranges is None:
            ranges = self._resolve(day)
            if len(self._resolved) >= DAY_CACHE_LIMIT:
                self._resolved.clear()
            self._resolved[day] = ranges
        return ranges

    def _resolve(self, day: int) -> Ranges:
        week = self._week[(day + 6) % 7]
        local_date = date.fromordinal(day)
        if not week or local_date in self.holidays or (self._public and local_date in self._public):
            return ()
        midnight = datetime.combine(local_date, time())
        ranges = (
            tuple(_micros(first_instant(midnight + timedelta(minutes=minute), self._zone)) for minute in opening)
            for opening in week
        )
        # Hours that fall into a gap whole have no length left: such a day has one range less.
        return tuple((opens, closes) for opens, closes in ranges if opens < closes)


def due(start: datetime, span: Span, calendar: Calendar | None = None) -> datetime:
    """Return the instant at which `span`, begun at `start`, is over.

    Record the answer and do not ask again on replay: holiday data changes between releases.

    Args:
        start: any aware datetime.
        span: elapsed time is added as it is; business time is counted on its own calendar.
        calendar: counts business time whose span names no calendar; usually the owner's.
    Returns: an aware UTC datetime, never before `start`.
    Raises:
        UsageError: `start` is naive or lies outside the years 1900 to 9900.
        DefinitionError: business time without a calendar, or a span that is negative or too long.
    """
    if isinstance(span, timedelta):
        return _instant(_micros(start)) + check_elapsed(span)
    return _calendar_of(span, calendar).add(start, span)


def due_notice(span: Span, calendar: Calendar | None = None) -> str | None:
    """Return the notice a deadline from `due(..., span, calendar)` must carry, or None."""
    return None if isinstance(span, timedelta) else _calendar_of(span, calendar).notice


def _calendar_of(span: BusinessSpan, calendar: Calendar | None) -> Calendar:
    if not isinstance(span, BusinessSpan):
        raise DefinitionError(f"expected a span of time, got {printable(span)}", hint="days(2) or business_hours(8)")
    chosen = span.calendar or calendar
    if chosen is None:
        raise DefinitionError(
            f"no calendar to count {span} on: neither the span nor the owner has one",
            hint=f'give the owner one, Team("credit", calendar=office), or the span: '
            f"business_{span.unit}({span.amount}, office)",
        )
    return chosen


def calendar_to_json(calendar: Calendar) -> dict[str, Any]:
    """Return the calendar's declaration as plain JSON data; equal calendars give equal data."""
    return {
        "name": calendar.name,
        "hours": calendar.hours,
        "tz": calendar.tz,
        "holidays": [day.isoformat() for day in sorted(calendar.holidays)],
    }


def calendar_from_json(data: object) -> Calendar:
    """Return the calendar that `calendar_to_json` wrote; one object per declaration, caches warm.

    Raises:
        UsageError: the data is not what `calendar_to_json` writes; nothing is guessed.
    """
    if not isinstance(data, Mapping) or set(data) != {"name", "hours", "tz", "holidays"}:
        raise UsageError(
            f"expected a calendar of name, hours, tz and holidays, got {printable(data)}", hint=_AS_WRITTEN
        )
    name, hours, tz, days = data["name"], data["hours"], data["tz"], data["holidays"]
    if not (isinstance(days, list) and all(isinstance(text, str) for text in (name, hours, tz, *days))):
        raise UsageError(f"expected a calendar of texts and a list of dates, got {printable(data)}", hint=_AS_WRITTEN)
    try:
        return _shared_calendar(name, hours, tz, tuple(_stored_date(day) for day in days))
    except DefinitionError as error:
        raise UsageError(error.message, hint=error.hint) from error


def _stored_date(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"expected a holiday like 2026-12-25, got {printable(text)}", hint=_AS_WRITTEN) from error
    if day.isoformat() != text:  # Python also reads 20261225 and 2026-W52-5
        raise UsageError(f"expected a holiday like 2026-12-25, got {printable(text)}", hint=_AS_WRITTEN)
    return day


@lru_cache(maxsize=256)
def _shared_calendar(name: str, hours: str, tz: str, days: tuple[date, ...]) -> Calendar:
    return Calendar(name, hours=hours, tz=tz, holidays=days)


def check_amount(what: str, amount: float, limit: float) -> float:
    """Return `amount` if it is a number from 0 to `limit`, else raise a DefinitionError naming `what`."""
    if isinstance(amount, bool) or not isinstance(amount, (int, float)):
        raise DefinitionError(f"{what}: expected a number, got {printable(amount)}", hint="days(3), hours(1.5)")
    if amount > limit:
        raise DefinitionError(
            f"{what}: expected at most {limit} (ten years), got {_shown(amount)}",
            hint="a wait that long has no deadline: say so with a reason, or name a nearer review",
        )
    if not amount >= 0:  # written so that NaN, which compares false, is caught
        raise DefinitionError(
            f"{what}: expected a number from 0 to {limit}, got {_shown(amount)}", hint="days(3), hours(1.5)"
        )
    return amount


def check_elapsed(span: timedelta) -> timedelta:
    """Return `span` if it is a length from zero to ten years, else raise a DefinitionError."""
    if not timedelta() <= span <= _LONGEST:
        raise DefinitionError(
            f"expected a span from zero to ten years ({MAX_DAYS} days), got {span}", hint="days(3), hours(1.5)"
        )
    return span


def _shown(number: float) -> str:
    try:
        return printable(number)
    except ValueError:  # Python refuses to write an int of thousands of digits
        return "a number of thousands of digits"


def _micros(instant: datetime) -> int:
    if not isinstance(instant, datetime):
        raise UsageError(
            f"expected an instant (an aware datetime), got {printable(instant)}",
            hint="datetime(2026, 1, 31, 12, tzinfo=UTC)",
        )
    if instant.utcoffset() is None:
        raise UsageError(
            f"expected an instant with a time zone, got the naive {instant.isoformat()}",
            hint="say whose time it is: instant.replace(tzinfo=UTC)",
        )
    if not FIRST_YEAR <= instant.year <= LAST_YEAR:
        raise UsageError(
            f"expected an instant in the years {FIRST_YEAR} to {LAST_YEAR}, got {instant.isoformat()}",
            hint="for no end at all leave the field empty",
        )
    return (instant - _EPOCH) // _MICROSECOND


def _instant(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)


def _checked_name(name: str) -> str:
    if not isinstance(name, str) or not name.strip() or name != name.strip() or not name.isprintable():
        raise DefinitionError(
            f"expected a calendar's name or region, got {printable(name)}", hint='Calendar("NL") or Calendar("desk")'
        )
    if len(name) > NAME_LIMIT:
        raise DefinitionError(
            f"expected a calendar's name of at most {NAME_LIMIT} characters, got {len(name)}", hint='Calendar("desk")'
        )
    if not is_region(name) and is_region(name.upper()):
        # Else `Calendar("nl")` would work through every public holiday, and nobody would be told.
        raise DefinitionError(
            f"calendar {name!r} may be the region {name.upper()} or a plain name",
            hint=f'Calendar("{name.upper()}") for the region, Calendar("{name} desk") for a name',
        )
    return name


def _checked_holidays(holidays: Iterable[date]) -> frozenset[date]:
    try:
        days = tuple(holidays)
    except TypeError as error:
        raise DefinitionError(
            f"expected dates as holidays, got {printable(holidays)}", hint="holidays=[date(2026, 12, 25)]"
        ) from error
    for day in days:
        if not isinstance(day, date) or isinstance(day, datetime):
            raise DefinitionError(
                f"expected dates as holidays, got {printable(day)}", hint="holidays=[date(2026, 12, 25)]"
            )
    return frozenset(days)
