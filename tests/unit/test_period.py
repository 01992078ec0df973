"""How long a closed case is kept: whole years of the calendar, or days; never a day too short."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from longcase.errors import UsageError
from longcase.service.retention import Period


@pytest.mark.parametrize(
    ("text", "period", "shown"),
    [
        ("7 years", Period(years=7), "7 years"), ("1y", Period(years=1), "1 year"),
        (" 90  days ", Period(days=90), "90 days"), ("1 Day", Period(days=1), "1 day"),
        ("30d", Period(days=30), "30 days"),
    ],
)  # fmt: skip
def test_a_period_is_read_and_shown(text: str, period: Period, shown: str) -> None:
    assert Period.parse(text) == period
    assert str(period) == shown
    assert Period.parse(str(period)) == period


@pytest.mark.parametrize(
    "text", ["", "7", "years", "0 years", "-1 years", "6 months", "1.5 years", "10000 years", "1 y 2 d"]
)
def test_what_names_no_period_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected years or days") as refused:
        Period.parse(text)
    assert refused.value.hint == "longcase keep claims '7 years'"


@pytest.mark.parametrize(
    ("now", "period", "until"),
    [
        ((2026, 11, 22, 18), Period(years=7), (2019, 11, 22, 18)),
        ((2026, 3, 1, 0), Period(days=1), (2026, 2, 28, 0)),
        ((2028, 2, 29, 12), Period(years=1), (2027, 2, 28, 12)),
        ((2028, 2, 29, 12), Period(years=4), (2024, 2, 28, 12)),
        ((2027, 3, 1, 0), Period(years=3), (2024, 3, 1, 0)),
        ((2026, 5, 17, 3), Period(years=9999), (1, 1, 1, 3)),
    ],
)
def test_a_case_is_kept_to_the_same_day_of_a_later_year(
    now: tuple[int, ...], period: Period, until: tuple[int, ...]
) -> None:
    """Who closed on 29 February is kept to 1 March where there is none."""
    assert period.before(datetime(*now, tzinfo=UTC)) == datetime(*until, tzinfo=UTC)  # type: ignore[arg-type,misc]
