"""Business time in examples a person can check, what is due when, and where it ends."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.calendars import AMSTERDAM, MINUTE, MONDAY, OFFICE, at, wall

from longcase.errors import DefinitionError, UsageError
from longcase.model import calendar as calendar_module
from longcase.model.calendar import (
    BusinessSpan,
    Calendar,
    due,
    due_notice,
)
from longcase.model.span import business_days, business_hours, days, hours
from longcase.model.zone import first_instant


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
