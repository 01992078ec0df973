"""Business time against two oracles: a wall clock watched minute by minute, and workclock.

The first oracle shares no idea with the code: it walks UTC minutes, reads the wall clock, and
remembers the latest local time it has shown. That memory is all there is to clock changes: a
time that was jumped over counts as shown, and a time shown again changes nothing.
"""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from types import SimpleNamespace
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from longcase.errors import DefinitionError, UsageError
from longcase.model import calendar as calendar_module
from longcase.model.calendar import (
    BusinessSpan,
    Calendar,
    calendar_from_json,
    calendar_to_json,
    due,
    due_notice,
)
from longcase.model.span import business_days, business_hours, days, hours
from longcase.model.zone import first_instant

AMSTERDAM = ZoneInfo("Europe/Amsterdam")
OFFICE = Calendar("office", hours="Mon-Fri 09:00-17:00", tz="Europe/Amsterdam")
MINUTE = timedelta(minutes=1)
MONDAY = datetime(2026, 1, 5, tzinfo=UTC)

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


def at(text: str, zone: str = "Europe/Amsterdam") -> datetime:
    """Read "2026-01-09 16:00" on the wall of `zone`."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


def wall(instant: datetime, zone: str = "Europe/Amsterdam") -> str:
    """Show an instant as the clock on the wall of `zone` does."""
    return instant.astimezone(ZoneInfo(zone)).strftime("%a %Y-%m-%d %H:%M")


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


# -- examples a person can check --------------------------------------------------------------


def test_an_approval_asked_friday_afternoon_escalates_by_calendar_and_never_on_saturday() -> None:
    asked = at("2026-01-09 16:00")
    assert wall(due(asked, business_hours(8), OFFICE)) == "Mon 2026-01-12 16:00"
    assert wall(due(asked, business_hours(24), OFFICE)) == "Wed 2026-01-14 16:00"
    assert wall(due(asked, hours(24), OFFICE)) == "Sat 2026-01-10 16:00"


@given(st.integers(0, 7 * 1440), st.integers(1, 400))
def test_no_business_deadline_falls_on_a_day_off(minute: int, quarters: int) -> None:
    ends = due(MONDAY + minute * MINUTE, business_hours(quarters / 4), OFFICE).astimezone(AMSTERDAM)
    assert ends.weekday() < 5
    assert time(9) < ends.time() <= time(17)


@pytest.mark.parametrize(
    ("asked", "span", "ends"),
    [
        ("2026-01-05 09:00", business_hours(8), "Mon 2026-01-05 17:00"),  # ends at closing, not at the next opening
        ("2026-01-05 17:00", business_hours(1), "Tue 2026-01-06 10:00"),
        ("2026-01-05 06:00", business_hours(1), "Mon 2026-01-05 10:00"),
        ("2026-01-10 12:00", business_hours(1), "Mon 2026-01-12 10:00"),
        ("2026-01-05 11:00", business_hours(0), "Mon 2026-01-05 11:00"),
        ("2026-01-05 17:00", business_hours(0), "Tue 2026-01-06 09:00"),
        ("2026-01-05 11:00", business_hours(0.5), "Mon 2026-01-05 11:30"),
        ("2026-01-09 16:00", business_days(1), "Mon 2026-01-12 16:00"),
        ("2026-01-09 16:00", business_days(5), "Fri 2026-01-16 16:00"),
        ("2026-01-10 12:00", business_days(1), "Tue 2026-01-13 09:00"),  # the count begins Monday 09:00
        ("2026-01-09 17:00", business_days(1), "Tue 2026-01-13 09:00"),
        ("2026-01-09 08:00", business_days(1), "Mon 2026-01-12 09:00"),
        ("2026-01-09 11:00", business_days(0), "Fri 2026-01-09 11:00"),
        ("2026-01-10 11:00", business_days(0), "Mon 2026-01-12 09:00"),
    ],
)
def test_business_time_in_an_office(asked: str, span: BusinessSpan, ends: str) -> None:
    assert wall(OFFICE.add(at(asked), span)) == ends


def test_a_business_day_that_ends_outside_the_hours_ends_at_the_next_opening() -> None:
    shop = Calendar("shop", hours="Mon-Fri 09:00-12:30,13:00-17:00; Sat 10:00-14:00", tz="Europe/Amsterdam")
    assert wall(shop.add(at("2026-01-09 16:00"), business_days(1))) == "Mon 2026-01-12 09:00"
    assert wall(shop.add(at("2026-01-09 09:30"), business_days(1))) == "Sat 2026-01-10 10:00"
    assert wall(shop.add(at("2026-01-10 12:45"), business_days(1))) == "Mon 2026-01-12 13:00"


def test_holidays_are_not_worked() -> None:
    closed = Calendar("office", tz="Europe/Amsterdam", holidays=[date(2026, 12, 24), date(2026, 12, 25)])
    asked = at("2026-12-23 16:00")
    assert wall(closed.add(asked, business_hours(2))) == "Mon 2026-12-28 10:00"
    assert wall(closed.add(asked, business_days(1))) == "Mon 2026-12-28 16:00"
    assert not closed.is_open(at("2026-12-24 12:00"))
    assert closed.business_time_between(at("2026-12-23 12:00"), at("2026-12-28 12:00")) == timedelta(hours=8)


def test_a_night_shift_is_an_hour_shorter_when_the_clock_goes_forward() -> None:
    night = Calendar("night", hours="Sun 00:00-06:00", tz="Europe/Amsterdam")
    assert wall(night.add(at("2026-03-29 00:00"), business_hours(5))) == "Sun 2026-03-29 06:00"
    assert wall(night.add(at("2026-10-25 00:00"), business_hours(7))) == "Sun 2026-10-25 06:00"


@pytest.mark.parametrize(
    ("local", "zone", "instant"),
    [
        ("2026-03-29 02:30", "Europe/Amsterdam", datetime(2026, 3, 29, 1, 0, tzinfo=UTC)),  # gap: the first after it
        ("2026-10-25 02:30", "Europe/Amsterdam", datetime(2026, 10, 25, 0, 30, tzinfo=UTC)),  # twice: the first
        ("2026-03-08 02:15", "America/New_York", datetime(2026, 3, 8, 7, 0, tzinfo=UTC)),
        ("2026-11-01 01:15", "America/New_York", datetime(2026, 11, 1, 5, 15, tzinfo=UTC)),
        ("2026-10-04 02:10", "Australia/Lord_Howe", datetime(2026, 10, 3, 15, 30, tzinfo=UTC)),
        ("2026-03-08 00:30", "America/Havana", datetime(2026, 3, 8, 5, 0, tzinfo=UTC)),
        ("2011-12-30 12:00", "Pacific/Apia", datetime(2011, 12, 30, 10, 0, tzinfo=UTC)),
        ("2026-06-01 12:00", "Asia/Kolkata", datetime(2026, 6, 1, 6, 30, tzinfo=UTC)),
    ],
)
def test_a_local_time_is_its_first_instant(local: str, zone: str, instant: datetime) -> None:
    assert first_instant(datetime.fromisoformat(local), ZoneInfo(zone)) == instant


def test_a_business_day_due_within_the_gap_is_due_after_it() -> None:
    night = Calendar("night", hours="Mon-Sun 00:00-06:00", tz="Europe/Amsterdam")
    assert wall(night.add(at("2026-03-28 02:30"), business_days(1))) == "Sun 2026-03-29 03:00"


def test_a_business_day_due_at_a_repeated_time_is_due_the_first_time() -> None:
    night = Calendar("night", hours="Mon-Sun 00:00-06:00", tz="Europe/Amsterdam")
    assert night.add(at("2026-10-24 02:30"), business_days(1)) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)


def test_no_business_days_from_a_repeated_time_never_go_back() -> None:
    night = Calendar("night", hours="Mon-Sun 00:00-06:00", tz="Europe/Amsterdam")
    second = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    assert night.add(second, business_days(0)) == second


def test_a_day_that_has_begun_stays_open_when_the_clock_goes_back_over_its_midnight() -> None:
    # On 7 November 2010 at 00:01 St. John's went back to 23:01 of Saturday: Sunday had begun already.
    sunday = Calendar("sunday", hours="Sun 00:00-24:00", tz="America/St_Johns")
    again_saturday = datetime(2010, 11, 7, 2, 45, tzinfo=UTC)
    assert wall(again_saturday, "America/St_Johns") == "Sat 2010-11-06 23:15"
    assert sunday.is_open(again_saturday)
    assert sunday.business_time_between(again_saturday - timedelta(days=1), again_saturday) == timedelta(minutes=15)
    assert sunday.next_opening(again_saturday) == again_saturday


def test_a_day_whose_hours_fall_into_the_gap_is_no_working_day() -> None:
    night = Calendar("night", hours="Mon-Sun 02:00-03:00", tz="Europe/Amsterdam")
    assert wall(night.add(at("2026-03-28 02:15"), business_days(1))) == "Mon 2026-03-30 02:15"
    assert wall(night.add(at("2026-03-28 02:15"), business_hours(1))) == "Mon 2026-03-30 02:15"


def test_a_desk_round_the_clock_counts_like_a_clock() -> None:
    always = Calendar("always", hours="Mon-Sun 00:00-24:00", tz="America/Havana")
    start = at("2026-02-01 13:07", "America/Havana")
    for change in (24, 2400, 3653 * 24):
        assert always.add(start, business_hours(change)) == start + timedelta(hours=change)
    assert wall(always.add(start, business_days(3653)), "America/Havana") == "Sat 2036-02-02 13:07"
    # 3653 local days later: the same time of day, whatever the clock did between.


def test_the_answer_is_in_utc_whatever_zone_asks() -> None:
    asked = datetime(2026, 1, 9, 10, tzinfo=timezone(timedelta(hours=-5)))
    for answer in (OFFICE.add(asked, business_hours(1)), OFFICE.next_opening(asked), due(asked, days(1))):
        assert answer.tzinfo is UTC
    assert wall(OFFICE.add(asked, business_hours(1))) == "Fri 2026-01-09 17:00"


def test_opening_is_within_the_hours_and_closing_is_not() -> None:
    assert OFFICE.is_open(at("2026-01-05 09:00"))
    assert not OFFICE.is_open(at("2026-01-05 17:00"))
    assert wall(OFFICE.next_opening(at("2026-01-05 17:00"))) == "Tue 2026-01-06 09:00"
    assert wall(OFFICE.next_opening(at("2026-01-05 16:59"))) == "Mon 2026-01-05 16:59"


# -- due --------------------------------------------------------------------------------------


def test_a_span_keeps_its_own_calendar() -> None:
    sunday = Calendar("sunday", hours="Sun 09:00-17:00", tz="Europe/Amsterdam")
    assert wall(due(at("2026-01-09 16:00"), business_hours(1, sunday), OFFICE)) == "Sun 2026-01-11 10:00"


def test_business_time_without_a_calendar_names_the_mend() -> None:
    asks: list[Callable[[], object]] = [
        lambda: due(MONDAY, business_hours(8)),
        lambda: due_notice(business_hours(8)),
    ]
    for ask in asks:
        with pytest.raises(DefinitionError, match="no calendar to count 8 business hours on") as refusal:
            ask()
        assert "calendar=office" in refusal.value.hint
        assert "business_hours(8, office)" in refusal.value.hint


@pytest.mark.parametrize("span", [timedelta(seconds=-1), timedelta(days=3654), timedelta.max])
def test_an_elapsed_span_out_of_range_is_refused(span: timedelta) -> None:
    with pytest.raises(DefinitionError, match="zero to ten years"):
        due(MONDAY, span)


def test_what_is_no_span_is_refused() -> None:
    with pytest.raises(DefinitionError, match="expected a span of time, got 5"):
        due(MONDAY, cast(Any, 5), OFFICE)


@pytest.mark.parametrize("ask", ["add", "due", "is_open", "next_opening", "between"])
def test_a_naive_datetime_is_refused(ask: str) -> None:
    naive = datetime(2026, 1, 5, 9)  # noqa: DTZ001
    calls: dict[str, Callable[[], object]] = {
        "add": lambda: OFFICE.add(naive, business_hours(1)),
        "due": lambda: due(naive, days(1)),
        "is_open": lambda: OFFICE.is_open(naive),
        "next_opening": lambda: OFFICE.next_opening(naive),
        "between": lambda: OFFICE.business_time_between(MONDAY, naive),
    }
    with pytest.raises(UsageError, match="naive 2026-01-05T09:00:00") as refusal:
        calls[ask]()
    assert "tzinfo=UTC" in refusal.value.hint


@pytest.mark.parametrize("instant", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
def test_an_instant_at_the_end_of_time_is_refused(instant: datetime) -> None:
    with pytest.raises(UsageError, match="years 1900 to 9900"):
        due(instant, days(1))


def test_a_date_is_no_instant() -> None:
    with pytest.raises(UsageError, match="expected an instant"):
        due(cast(datetime, date(2026, 1, 5)), days(1))


# -- limits -----------------------------------------------------------------------------------


def test_business_time_that_ten_years_do_not_hold_is_refused() -> None:
    weekly = Calendar("weekly", hours="Mon 09:00-10:00")
    for span in (business_hours(600), business_days(600)):
        with pytest.raises(DefinitionError, match=r"no 600 business (hours|days) within ten years"):
            weekly.add(MONDAY, span)


def test_a_calendar_closed_by_its_holidays_is_refused_when_asked() -> None:
    closed = Calendar(
        "closed", hours="Mon 09:00-10:00", holidays=[MONDAY.date() + timedelta(weeks=n) for n in range(600)]
    )
    with pytest.raises(DefinitionError, match="no open time within ten years"):
        closed.next_opening(MONDAY)


def test_a_stretch_of_over_a_hundred_years_is_refused() -> None:
    with pytest.raises(UsageError, match="within a hundred years"):
        OFFICE.business_time_between(MONDAY, MONDAY.replace(year=2127))


def test_the_kept_days_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calendar_module, "DAY_CACHE_LIMIT", 10)
    calendar = Calendar("office", tz="Europe/Amsterdam")
    assert calendar.add(MONDAY, business_hours(400)) == OFFICE.add(MONDAY, business_hours(400))
    assert len(calendar._resolved) <= 10


# -- declaring one ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        ("mon-fri 9:00-17:00", "Mon-Fri 09:00-17:00"),
        ("Monday-Friday 09:00-17:00", "Mon-Fri 09:00-17:00"),
        ("Mon - Fri 09:00 - 17:00", "Mon-Fri 09:00-17:00"),
        ("Mon\u2013Fri 09:00\u201317:00", "Mon-Fri 09:00-17:00"),
        ("Mon-Fri 09:00-12:00,12:00-17:00", "Mon-Fri 09:00-17:00"),
        ("Mon-Fri 13:00-17:00,09:00-13:00;", "Mon-Fri 09:00-17:00"),
        ("Mon-Fri 09:00-17:00, Sat 10:00-14:00", "Mon-Fri 09:00-17:00; Sat 10:00-14:00"),
        ("Mon,Wed,Fri 09:00-17:00", "Mon 09:00-17:00; Wed 09:00-17:00; Fri 09:00-17:00"),
        ("Sat-Mon 09:00-17:00", "Sat,Sun,Mon 09:00-17:00"),
        ("Mon 09:00-12:00; Mon 13:00-17:00", "Mon 09:00-12:00,13:00-17:00"),
    ],
)
def test_hours_can_be_written_in_several_ways(text: str, same_as: str) -> None:
    asked = at("2026-01-09 16:00")
    one, other = (Calendar("desk", hours=hours, tz="Europe/Amsterdam") for hours in (text, same_as))
    assert [one.add(asked, business_hours(n)) for n in range(60)] == [
        other.add(asked, business_hours(n)) for n in range(60)
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no day has open time"),
        (" ; ", "no day has open time"),
        ("Mon-Fri", "Mon-Fri has no times"),
        ("Mon-Fri 09:00-17:00; Sat", "Sat has no times"),
        ("09:00-17:00", "has no days before it"),
        ("Mon 09:00-12:00; 13:00-17:00", "has no days before it"),
        ("Mno 09:00-17:00", "did you mean Mon"),
        ("Mo-Fr 09:00-17:00", "'Mo' is not a day"),
        ("Mon-Wed-Fri 09:00-17:00", "not a day or a range of days"),
        ("Mon 9-17", "not a range of times"),
        ("Mon 09:00", "not a range of times"),
        ("Mon 09:00-17:00-18:00", "not a range of times"),
        ("Mon \u0660\u0669:00-17:00", "not a range of times"),
        ("Mon 09:60-17:00", "not within 00:00-24:00"),
        ("Mon 09:00-24:01", "not within 00:00-24:00"),
        ("Mon 24:00-25:00", "not within 00:00-24:00"),
        ("Mon 09:00-09:00", "no length"),
        ("Mon 22:00-06:00", "ends before it begins"),
        ("Mon 09:00-12:00,11:00-13:00", "overlaps 09:00-12:00 on Mon"),
        ("Mon-Fri 09:00-17:00; Fri 10:00-11:00", "overlaps 09:00-17:00 on Fri"),
        ("Mon 09:00-10:00," * 100, "at most 1000 characters"),
    ],
)
def test_hours_that_cannot_be_read_are_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(DefinitionError, match=reason):
        Calendar("desk", hours=text)


@given(st.text(alphabet=st.sampled_from("MonFri -,;:0129\u202e"), max_size=40))
def test_any_text_of_hours_is_read_or_refused(text: str) -> None:
    try:
        calendar = Calendar("desk", hours=text)
    except DefinitionError:
        return
    assert calendar.is_open(calendar.next_opening(MONDAY))


def test_a_refused_word_is_shown_with_its_control_characters_escaped() -> None:
    with pytest.raises(DefinitionError) as refusal:
        Calendar("desk", hours="Mon\u202e 09:00-17:00")
    assert r"Mon\u202e" in refusal.value.message


@pytest.mark.parametrize(("text", "split"), [("Fri,Sat 22:00-06:00", "Sat,Sun 00:00-06:00"), ("Mon 22:00-00:00", "")])
def test_the_hint_for_hours_over_midnight_is_itself_readable(text: str, split: str) -> None:
    with pytest.raises(DefinitionError) as refusal:
        Calendar("desk", hours=text)
    mended = refusal.value.hint.split('"')[1]
    assert split in mended
    assert Calendar("desk", hours=mended).is_open(at("2026-01-05 23:00", "UTC")) == text.startswith("Mon")


@pytest.mark.parametrize(
    ("tz", "near"),
    [
        ("europe/amsterdam", "Europe/Amsterdam"),
        ("Amsterdam", "Europe/Amsterdam"),
        ("Europe/Amsterdm", "Europe/Amsterdam"),
        ("America/New York", "America/New_York"),
        ("EST5EDT", "America/New_York"),
        ("CET", "Europe/Brussels"),
        ("Mars/Phobos", "/"),
    ],
)
def test_an_unknown_or_retired_time_zone_lists_near_names(tz: str, near: str) -> None:
    with pytest.raises(DefinitionError, match="expected the name of a time zone") as refusal:
        Calendar("desk", tz=tz)
    assert "did you mean" in refusal.value.hint
    assert near in refusal.value.hint


@pytest.mark.parametrize(
    "tz",
    [
        "",
        "America",
        "../etc/passwd",
        "/etc/passwd",
        "a\x00b",
        "localtime",
        "right/UTC",
        "posix/UTC",
        "x" * 5000,
        "\ud800",
        None,
        5,
    ],
)
def test_what_is_no_time_zone_is_refused(tz: Any) -> None:
    with pytest.raises(DefinitionError, match="expected the name of a time zone") as refusal:
        Calendar("desk", tz=tz)
    assert refusal.value.hint
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("name", ["", " ", " NL", "a\nb", "a\u202eb", "x" * 129, None, 5])
def test_a_calendar_needs_a_readable_name(name: Any) -> None:
    with pytest.raises(DefinitionError, match="calendar's name"):
        Calendar(name)


@pytest.mark.parametrize("name", ["nl", "Nl", "de-by"])
def test_a_region_in_small_letters_is_not_taken_for_a_name(name: str) -> None:
    with pytest.raises(DefinitionError, match="may be the region") as refusal:
        Calendar(name)
    assert f'Calendar("{name.upper()}")' in refusal.value.hint


@pytest.mark.parametrize("days_off", ["2026-12-25", ["2026-12-25"], [MONDAY], date(2026, 12, 25), 5])
def test_holidays_are_dates(days_off: Any) -> None:
    with pytest.raises(DefinitionError, match="expected dates as holidays"):
        Calendar("desk", holidays=days_off)


def test_hours_are_text() -> None:
    with pytest.raises(DefinitionError, match="expected hours like"):
        Calendar("desk", hours=cast(str, ["Mon 09:00-17:00"]))


def test_a_calendar_is_a_value() -> None:
    same = Calendar("office", hours="Mon-Fri 09:00-17:00", tz="Europe/Amsterdam")
    OFFICE.add(MONDAY, business_hours(8))  # what is cached makes no difference
    assert same == OFFICE
    assert hash(same) == hash(OFFICE)
    assert same != Calendar("office", tz="Europe/Brussels")
    assert same != Calendar("office", tz="Europe/Amsterdam", holidays=[date(2026, 1, 1)])
    with pytest.raises(AttributeError):
        same.tz = "UTC"  # type: ignore[misc]
    for twin in (copy.deepcopy(OFFICE), pickle.loads(pickle.dumps(OFFICE))):  # noqa: S301
        assert twin == OFFICE
        assert twin.add(MONDAY, business_hours(8)) == OFFICE.add(MONDAY, business_hours(8))


def test_a_calendar_shows_itself_ready_to_paste() -> None:
    calendar = Calendar("NL", tz="Europe/Amsterdam", holidays=[date(2026, 12, 24)])
    namespace = {"Calendar": Calendar, "datetime": SimpleNamespace(date=date)}
    assert eval(repr(calendar), namespace) == calendar  # noqa: S307


def test_a_calendar_comes_back_from_json_as_one_shared_object() -> None:
    calendar = Calendar("desk", hours="Sun-Thu 08:00-16:00", tz="Asia/Riyadh", holidays=[date(2026, 9, 23)])
    data = calendar_to_json(calendar)
    assert data["holidays"] == ["2026-09-23"]
    assert calendar_from_json(data) == calendar
    assert calendar_from_json(dict(data)) is calendar_from_json(data)


@pytest.mark.parametrize(
    "change",
    [
        {"holidays": ["2026-02-30"]},
        {"holidays": ["20261225"]},
        {"holidays": ["2026-W01-1"]},
        {"holidays": "2026-12-25"},
        {"holidays": [5]},
        {"tz": "Mars/Phobos"},
        {"tz": None},
        {"hours": "always"},
        {"name": ""},
        {"colour": "red"},
    ],
)
def test_stored_data_that_is_no_calendar_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"expected|is not a day"):
        calendar_from_json(calendar_to_json(OFFICE) | change)


# -- public holidays of a region --------------------------------------------------------------


@pytest.fixture
def no_holidays_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "holidays", None)


@pytest.fixture
def holidays_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a small package with two regions: NL, and LK whose data ends in 2026."""

    class Region(dict[date, str]):
        end_year = 2100

    def country_holidays(country: str, *, subdiv: str | None, years: int) -> Region:
        if country not in ("NL", "LK") or subdiv not in (None, "ZH"):
            raise NotImplementedError(country)
        region = Region({date(years, 12, 25): "Christmas"})
        region.end_year = 2026 if country == "LK" else 2100
        return region

    monkeypatch.setitem(sys.modules, "holidays", cast(Any, SimpleNamespace(country_holidays=country_holidays)))


@pytest.mark.usefixtures("no_holidays_package")
def test_a_region_whose_holidays_are_not_installed_is_kept_and_says_so() -> None:
    calendar = Calendar("NL", tz="Europe/Amsterdam")
    assert calendar.region == "NL"
    assert wall(calendar.add(at("2026-12-24 16:00"), business_hours(2))) == "Fri 2026-12-25 10:00"
    assert calendar.notice == (
        "public holidays of NL are not installed (longcase[calendars]): they are counted as working days"
    )
    assert due_notice(business_hours(2), calendar) == calendar.notice
    assert due_notice(days(2), calendar) is None


@pytest.mark.usefixtures("holidays_package")
def test_a_region_whose_holidays_are_installed_does_not_work_on_them() -> None:
    calendar = Calendar("NL-ZH", tz="Europe/Amsterdam", holidays=[date(2026, 12, 28)])
    assert wall(calendar.add(at("2026-12-24 16:00"), business_hours(2))) == "Tue 2026-12-29 10:00"
    assert calendar.notice is None


@pytest.mark.usefixtures("holidays_package")
@pytest.mark.parametrize("region", ["XX", "NL-ZZ"])
def test_a_region_nobody_knows_is_kept_and_says_so(region: str) -> None:
    calendar = Calendar(region, tz="Europe/Amsterdam")
    assert wall(calendar.add(at("2026-12-24 16:00"), business_hours(2))) == "Fri 2026-12-25 10:00"
    assert calendar.notice == (
        f"no public holidays are known for the region {region}: they are counted as working days"
    )


@pytest.mark.usefixtures("holidays_package")
def test_a_region_whose_holidays_end_soon_says_when() -> None:
    notice = Calendar("LK").notice
    assert notice == "public holidays of LK are known up to 2026; after that they are counted as working days"


@pytest.mark.usefixtures("no_holidays_package")
def test_a_plain_name_needs_no_public_holidays() -> None:
    assert OFFICE.region is None
    assert OFFICE.notice is None
    assert due_notice(business_hours(8), OFFICE) is None


def test_the_holidays_package_is_not_imported_before_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "holidays", raising=False)
    Calendar("NL", tz="Europe/Amsterdam")
    assert "holidays" not in sys.modules


def test_the_real_holidays_package_gives_kings_day() -> None:
    pytest.importorskip("holidays")
    calendar = Calendar("NL", tz="Europe/Amsterdam")
    assert wall(calendar.add(at("2026-04-24 16:00"), business_hours(2))) == "Tue 2026-04-28 10:00"
    assert calendar.notice is None
    assert not Calendar("DE-BY", tz="Europe/Berlin").is_open(at("2026-01-06 12:00", "Europe/Berlin"))
    assert Calendar("DE-HH", tz="Europe/Berlin").is_open(at("2026-01-06 12:00", "Europe/Berlin"))
