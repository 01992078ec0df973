"""Calendars as they are declared, kept and shown: hours, zones, days off, public holidays of a region."""

from __future__ import annotations

import copy
import pickle
import sys
from datetime import date
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.calendars import MONDAY, OFFICE, at, wall

from longcase.errors import DefinitionError, UsageError
from longcase.model.calendar import (
    Calendar,
    calendar_from_json,
    calendar_to_json,
    due_notice,
)
from longcase.model.span import business_hours, days


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
