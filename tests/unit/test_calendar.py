"""Business time against two oracles: a wall clock watched minute by minute, and workclock.

The first oracle shares no idea with the code: it walks UTC minutes, reads the wall clock, and
remembers the latest local time it has shown. That memory is all there is to clock changes: a
time that was jumped over counts as shown, and a time shown again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.support.calendars import MINUTE

from longcase.model.calendar import (
    BusinessSpan,
    Calendar,
)
from longcase.model.span import business_days, business_hours
from longcase.model.zone import first_instant

# Each zone with a moment near a clock change of its own kind.
CHANGES = [
    ("Europe/Amsterdam", datetime(2026, 3, 29, 1, tzinfo=UTC)),  # forward at 02:00
    ("Europe/Amsterdam", datetime(2026, 10, 25, 1, tzinfo=UTC)),  # back at 03:00
    ("America/New_York", datetime(2026, 3, 8, 7, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 11, 1, 6, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 4, 15, tzinfo=UTC)),  # back by half an hour
    ("Australia/Lord_Howe", datetime(2026, 10, 3, 15, 30, tzinfo=UTC)),
    ("America/Havana", datetime(2026, 3, 8, 5, tzinfo=UTC)),  # forward at midnight: the day begins at 01:00
    ("America/Havana", datetime(2026, 11, 1, 5, tzinfo=UTC)),  # back to midnight: the day begins twice
    ("America/St_Johns", datetime(2010, 11, 7, 2, 31, tzinfo=UTC)),  # back from 00:01 into the day before
    ("America/Sao_Paulo", datetime(2018, 2, 18, 2, tzinfo=UTC)),  # back from midnight into the day before
    ("Pacific/Apia", datetime(2011, 12, 30, 10, tzinfo=UTC)),  # 30 December did not exist
    ("Asia/Kolkata", datetime(2026, 6, 1, tzinfo=UTC)),  # half-hour zone without changes
]


# -- the first oracle -------------------------------------------------------------------------

Week = tuple[tuple[tuple[int, int], ...], ...]


def watch(week: Week, holidays: frozenset[date], zone: ZoneInfo, start: datetime) -> Iterator[tuple[bool, datetime]]:
    """Yield, for each minute from `start`, whether it is open and the latest local time shown."""
    instant = start - timedelta(days=1)  # long enough before, so that the memory is true at `start`
    shown = datetime.min  # noqa: DTZ901 - a wall shows no zone
    while True:
        shown = max(shown, instant.astimezone(zone).replace(tzinfo=None))
        if instant >= start:
            minute = shown.hour * 60 + shown.minute
            yield (
                shown.date() not in holidays
                and any(opens <= minute < closes for opens, closes in week[shown.weekday()]),
                shown,
            )
        instant += MINUTE


def watched_hours(week: Week, holidays: frozenset[date], zone: ZoneInfo, start: datetime, amount: int) -> datetime:
    """Count `amount` open minutes by watching; with none left, the next open minute."""
    for passed, (is_open, _) in enumerate(watch(week, holidays, zone, start)):
        if is_open and amount == 0:
            return start + passed * MINUTE
        amount -= is_open
        if is_open and amount == 0:
            return start + (passed + 1) * MINUTE
    raise AssertionError


def watched_days(week: Week, holidays: frozenset[date], zone: ZoneInfo, start: datetime, amount: int) -> datetime:
    """Wait for the opening, count days that show open time, then wait for the time of day."""
    minutes = enumerate(watch(week, holidays, zone, start))
    begun: datetime | None = None
    counted: set[date] = set()
    for passed, (is_open, shown) in minutes:
        if not is_open:
            continue
        if begun is None:
            begun = (start + passed * MINUTE).astimezone(zone).replace(tzinfo=None)
        if shown.date() > begun.date():
            counted.add(shown.date())
        reached = shown >= datetime.combine(max(counted, default=begun.date()), begun.time())
        # On the last day, its time of day may come after its hours: then any later open minute ends it.
        if amount == 0 or (len(counted) == amount and reached) or len(counted) > amount:
            return start + passed * MINUTE
    raise AssertionError


@st.composite
def hours_texts(draw: st.DrawFn) -> tuple[str, Week]:
    """Draw opening hours as text and as the minutes they mean."""
    week: list[tuple[tuple[int, int], ...]] = []
    for _ in range(7):
        marks = draw(st.lists(st.integers(0, 96).map(lambda quarter: quarter * 15), max_size=4, unique=True))
        marks = sorted(marks)[: len(marks) // 2 * 2]
        week.append(tuple(zip(marks[::2], marks[1::2], strict=True)))
    assume(any(week))
    clock = "{:02}:{:02}-{:02}:{:02}".format
    groups = [
        f"{day} " + ",".join(clock(*divmod(opens, 60), *divmod(closes, 60)) for opens, closes in ranges)
        for day, ranges in zip(("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"), week, strict=True)
        if ranges
    ]
    return "; ".join(groups), tuple(week)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Calendar, Week, frozenset[date], ZoneInfo, datetime]:
    """Draw a calendar and an instant some days around a clock change of its zone."""
    name, change = draw(st.sampled_from(CHANGES))
    text, week = draw(hours_texts())
    start = change + draw(st.integers(-3 * 1440, 1440)) * MINUTE
    near = change.date()
    holidays = draw(st.frozensets(st.integers(-2, 4).map(lambda step: near + timedelta(days=step)), max_size=3))
    return Calendar("drawn", hours=text, tz=name, holidays=holidays), week, holidays, ZoneInfo(name), start


@given(situations(), st.integers(0, 30 * 60))
def test_business_hours_agree_with_a_watched_clock(
    situation: tuple[Calendar, Week, frozenset[date], ZoneInfo, datetime], amount: int
) -> None:
    calendar, week, holidays, zone, start = situation
    open_a_week = sum(closes - opens for ranges in week for opens, closes in ranges)
    amount = min(amount, open_a_week)  # keeps the watching to a few weeks
    assert calendar.add(start, business_hours(amount / 60)) == watched_hours(week, holidays, zone, start, amount)


@given(situations(), st.integers(0, 4))
def test_business_days_agree_with_a_watched_clock(
    situation: tuple[Calendar, Week, frozenset[date], ZoneInfo, datetime], amount: int
) -> None:
    calendar, week, holidays, zone, start = situation
    amount = min(amount, sum(map(bool, week)))
    assert calendar.add(start, business_days(amount)) == watched_days(week, holidays, zone, start, amount)


@given(situations(), st.integers(0, 4 * 1440))
def test_open_time_agrees_with_a_watched_clock(
    situation: tuple[Calendar, Week, frozenset[date], ZoneInfo, datetime], length: int
) -> None:
    calendar, week, holidays, zone, start = situation
    minutes = zip(range(length), watch(week, holidays, zone, start), strict=False)
    opened = [is_open for _, (is_open, _) in minutes]
    end = start + length * MINUTE
    assert calendar.business_time_between(start, end) == sum(opened) * MINUTE
    assert calendar.business_time_between(end, start) == -sum(opened) * MINUTE
    assert [calendar.is_open(start + passed * MINUTE) for passed in range(0, length, 37)] == opened[::37]


@given(st.sampled_from(CHANGES), st.integers(-2880, 2880), st.integers(0, 2880))
def test_local_times_keep_their_order_over_a_clock_change(change: tuple[str, datetime], first: int, later: int) -> None:
    zone = ZoneInfo(change[0])
    local = change[1].astimezone(zone).replace(tzinfo=None) + first * MINUTE
    instant = first_instant(local, zone)
    assert instant <= first_instant(local + later * MINUTE, zone)
    shown = instant.astimezone(zone).replace(tzinfo=None)
    assert shown >= local
    if shown > local:  # within a gap: a moment before, the clock still showed less
        assert (instant - timedelta(seconds=1)).astimezone(zone).replace(tzinfo=None) < local


# -- the second oracle ------------------------------------------------------------------------

day_starts = st.datetimes(datetime(2015, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@pytest.mark.parametrize("zone", ["Europe/Amsterdam", "America/New_York", "Asia/Kolkata", "Australia/Sydney"])
@given(start=day_starts, amount=st.integers(1, 60 * 3600), free=st.sets(st.integers(0, 60), max_size=10))
def test_business_hours_agree_with_workclock(zone: str, start: datetime, amount: int, free: set[int]) -> None:
    workclock = pytest.importorskip("workclock")
    holidays = [start.date() + timedelta(days=step) for step in free]
    calendar = Calendar(
        "desk", hours="Mon-Fri 08:00-12:30,13:00-17:15; Sat 22:00-24:00; Sun 00:00-04:00", tz=zone, holidays=holidays
    )
    schedule = workclock.Schedule(
        [
            workclock.WorkDay(time(8), time(17, 15)),
            workclock.Break(time(12, 30), time(13)),
            workclock.WorkDay(time(22), time(4), [5]),
            *([workclock.Holidays(holidays)] if holidays else []),
        ],
        time_zone=zone,
    )
    end = calendar.add(start, business_hours(amount / 3600))
    # An amount is kept in hours: a count of seconds comes back to the microsecond.
    assert end == schedule.add(start, timedelta(seconds=amount))
    assert calendar.business_time_between(start, end) == schedule.between(start, end)


# -- algebra ----------------------------------------------------------------------------------


@given(situations(), st.integers(1, 600), st.integers(1, 600))
def test_two_counts_in_a_row_end_where_their_sum_does(
    situation: tuple[Calendar, Week, frozenset[date], ZoneInfo, datetime], first: int, second: int
) -> None:
    calendar, start = situation[0], situation[4]
    middle = calendar.add(start, business_hours(first / 60))
    total = BusinessSpan("hours", (first + second) / 60)
    assert calendar.add(middle, business_hours(second / 60)) == calendar.add(start, total)


@given(situations(), st.integers(1, 6000))
def test_the_open_time_up_to_the_end_is_the_span(
    situation: tuple[Calendar, Week, frozenset[date], ZoneInfo, datetime], amount: int
) -> None:
    calendar, start = situation[0], situation[4]
    end = calendar.add(start, business_hours(amount / 60))
    assert end >= start
    assert calendar.business_time_between(start, end) == amount * MINUTE


@given(situations(), st.integers(0, 10), st.integers(0, 2880))
def test_who_asks_later_never_waits_to_an_earlier_end(
    situation: tuple[Calendar, Week, frozenset[date], ZoneInfo, datetime], amount: int, later: int
) -> None:
    calendar, start = situation[0], situation[4]
    span = business_hours(amount)
    assert calendar.add(start, span) <= calendar.add(start + later * MINUTE, span)
