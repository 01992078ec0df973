"""Spans: what authors may write, what operators may type, and what is refused."""

from __future__ import annotations

import json
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcase.errors import DefinitionError, UsageError
from longcase.model.calendar import MAX_DAYS, BusinessSpan, Calendar, Span
from longcase.model.span import (
    business_days,
    business_hours,
    days,
    describe_span,
    hours,
    minutes,
    parse_span,
    seconds,
    span_from_json,
    span_to_json,
)

OFFICE = Calendar("office", hours="Mon-Fri 09:00-17:00", tz="Europe/Amsterdam", holidays=[date(2026, 12, 24)])

elapsed_spans = st.timedeltas(min_value=timedelta(), max_value=timedelta(days=MAX_DAYS))
business_spans = st.one_of(
    st.builds(
        business_hours, st.integers(0, MAX_DAYS * 24) | st.floats(0, MAX_DAYS * 24), st.sampled_from([None, OFFICE])
    ),
    st.builds(business_days, st.integers(0, MAX_DAYS), st.sampled_from([None, OFFICE])),
)


def test_elapsed_spans_are_plain_timedeltas() -> None:
    assert seconds(30) == timedelta(seconds=30)
    assert minutes(90) == timedelta(minutes=90)
    assert hours(1.5) == timedelta(hours=1, minutes=30)
    assert days(2) == timedelta(days=2)


def test_ten_years_are_the_longest_span() -> None:
    assert days(3653) == hours(3653 * 24) == minutes(3653 * 1440) == seconds(3653 * 86_400)


@pytest.mark.parametrize("make", [seconds, minutes, hours, days, business_hours, business_days])
@pytest.mark.parametrize(
    "amount",
    [
        -1,
        -0.001,
        float("nan"),
        float("inf"),
        float("-inf"),
        1e300,
        pytest.param(10**6000, id="6000 digits"),
        pytest.param(-(10**6000), id="minus 6000 digits"),
        True,
        "5",
        None,
        Decimal(5),
    ],
)
def test_what_is_no_length_of_time_is_refused(make: Any, amount: Any) -> None:
    with pytest.raises(DefinitionError, match="expected"):
        make(amount)


@pytest.mark.parametrize(
    ("make", "amount"),
    [(days, 3653.1), (hours, 87_673), (business_hours, 87_673), (business_days, 3654), (seconds, 315_619_201)],
)
def test_a_span_over_ten_years_is_refused_with_its_limit(make: Any, amount: float) -> None:
    with pytest.raises(DefinitionError, match="ten years") as refusal:
        make(amount)
    assert refusal.value.hint


def test_a_business_span_is_a_value() -> None:
    assert business_hours(8.0, OFFICE) == BusinessSpan("hours", 8, OFFICE)
    assert hash(business_hours(8.0, OFFICE)) == hash(business_hours(8, OFFICE))
    assert business_hours(8) != business_hours(8, OFFICE)
    assert not hasattr(business_hours(8), "__dict__")
    with pytest.raises(AttributeError):
        business_hours(8).amount = 9  # type: ignore[misc]


def test_part_of_a_business_day_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r"whole number of business days, got 1\.5") as refusal:
        business_days(1.5)
    assert "business_hours" in refusal.value.hint


def test_a_name_is_no_calendar() -> None:
    with pytest.raises(DefinitionError, match="expected a Calendar, got 'NL'"):
        business_hours(8, cast(Calendar, "NL"))


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(DefinitionError, match='"hours" or "days", got \'weeks\''):
        BusinessSpan(cast(Any, "weeks"), 1)


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (days(2), "2 days"),
        (days(1), "1 day"),
        (hours(24), "1 day"),
        (minutes(90), "1 hour 30 minutes"),
        (seconds(1), "1 second"),
        (seconds(0.25), "0.25 seconds"),
        (timedelta(days=1, seconds=61), "1 day 1 minute 1 second"),
        (timedelta(), "0 seconds"),
        (timedelta(hours=-3), "minus 3 hours"),
        (business_hours(8, Calendar("NL")), "8 business hours (NL)"),
        (business_hours(1), "1 business hour"),
        (business_hours(0.5), "0.5 business hours"),
        (business_days(2), "2 business days"),
    ],
)
def test_a_span_is_shown_in_words(span: Span, words: str) -> None:
    assert describe_span(span) == words


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("2d", days(2)),
        ("90m", minutes(90)),
        ("24h", hours(24)),
        ("30s", seconds(30)),
        ("1w", days(7)),
        ("1.5h", minutes(90)),
        (" 2d ", days(2)),
        ("0s", seconds(0)),
        ("8bh", business_hours(8)),
        ("0.5bh", business_hours(0.5)),
        ("2bd", business_days(2)),
        ("PT24H", hours(24)),
        ("P2D", days(2)),
        ("P1W", days(7)),
        ("PT1M", minutes(1)),
        ("P1DT2H3M4.5S", timedelta(days=1, hours=2, minutes=3, seconds=4.5)),
        ("PT0S", seconds(0)),
    ],
)
def test_an_operator_can_write_a_span(text: str, span: Span) -> None:
    assert parse_span(text) == span


@pytest.mark.parametrize(
    "text", ["P1M", "P1Y", "P1Y2M", "P1M2D", "P2D1M", "P1W1Y", "1M", "1mo", "2 months", "1y", "1 year"]
)
def test_months_and_years_have_no_fixed_length(text: str) -> None:
    with pytest.raises(UsageError, match="no fixed length") as refusal:
        parse_span(text)
    assert "30d" in refusal.value.hint


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "P",
            "PT",
            "P1DT",
            "p2d",
            "pt24h",
            "T5M",
            "5",
            "d",
            "2D",
            "2 d",
            "2dd",
            "2d2d",
            "-1",
            "-1d",
            "-P1D",
            "P-1D",
        ),
        *("1e3s", "1_000s", "1,5h", ".5h", "5.h", "+5m", "NaN", "inf", "nand", "\u0662d", "2d\nrm", "2d\x00", "1.5bd"),
        *("99999d", "9" * 60 + "d", "9" * 5000 + "d", "1e300d", "3654bd", "P3654D", "PT87673H"),
    ],
)
def test_what_is_no_span_is_refused_as_usage(text: str) -> None:
    with pytest.raises(UsageError, match="expected") as refusal:
        parse_span(text)
    assert refusal.value.hint
    assert len(str(refusal.value)) < 400


def test_what_is_no_text_is_refused_as_usage() -> None:
    with pytest.raises(UsageError, match="got 5"):
        parse_span(cast(str, 5))


@given(st.text(max_size=80))
def test_any_text_is_a_span_or_a_usage_error(text: str) -> None:
    try:
        span = parse_span(text)
    except UsageError:
        return
    assert isinstance(span, timedelta | BusinessSpan)


@given(elapsed_spans | business_spans)
def test_a_span_comes_back_from_json_as_it_was(span: Span) -> None:
    stored = json.dumps(span_to_json(span), allow_nan=False)
    assert span_from_json(json.loads(stored)) == span


def test_the_stored_form_is_plain() -> None:
    assert span_to_json(days(2)) == {"unit": "seconds", "amount": 172_800}
    assert span_to_json(seconds(0.5)) == {"unit": "seconds", "amount": 0.5}
    assert span_to_json(business_days(2)) == {"unit": "business_days", "amount": 2, "calendar": None}
    assert span_to_json(business_hours(8, OFFICE)) == {
        "unit": "business_hours",
        "amount": 8,
        "calendar": {
            "name": "office",
            "hours": "Mon-Fri 09:00-17:00",
            "tz": "Europe/Amsterdam",
            "holidays": ["2026-12-24"],
        },
    }


def test_a_negative_span_is_not_stored() -> None:
    with pytest.raises(DefinitionError, match="from zero to ten years"):
        span_to_json(timedelta(days=-1))


@pytest.mark.parametrize(
    "data",
    [
        *(
            None,
            [],
            "2d",
            5,
            {},
            {"unit": "seconds"},
            {"unit": "months", "amount": 1},
            {"unit": ["seconds"], "amount": 1},
        ),
        *({"unit": "seconds", "amount": None}, {"unit": "seconds", "amount": "5"}, {"unit": "seconds", "amount": -1}),
        *({"unit": "seconds", "amount": float("nan")}, {"unit": "seconds", "amount": 1, "calendar": None}),
        *({"unit": "business_hours", "amount": 8}, {"unit": "business_days", "amount": 1.5, "calendar": None}),
        *(
            {"unit": "business_hours", "amount": 8, "calendar": "NL"},
            {"unit": "business_hours", "amount": 8, "calendar": {}},
        ),
    ],
)
def test_stored_data_that_is_no_span_is_refused(data: object) -> None:
    with pytest.raises(UsageError, match="expected"):
        span_from_json(data)
