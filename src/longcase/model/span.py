"""Lengths of time as authors and operators write them: `days(2)`, `business_hours(8)`, "8bh".

A span is elapsed time (`timedelta`, runs day and night) or business time (`BusinessSpan`, runs
in somebody's opening hours). There are no months and no years: they have no fixed length.
This module makes, reads and shows spans; it does not say when one is over.
Before it on the data's way: `calendar`, whose `due` turns a start and a span into an instant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from longcase.errors import DefinitionError, UsageError
from longcase.model.calendar import (
    MAX_DAYS,
    BusinessSpan,
    Calendar,
    Span,
    calendar_from_json,
    calendar_to_json,
    check_amount,
    check_elapsed,
    due,
)
from longcase.model.names import printable

__all__ = [
    "BusinessSpan",
    "Span",
    "business_days",
    "business_hours",
    "days",
    "describe_span",
    "due",
    "hours",
    "minutes",
    "parse_span",
    "seconds",
    "span_from_json",
    "span_to_json",
]

TEXT_LIMIT = 64
"""The longest text `parse_span` reads, in characters."""

_SHORT = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|m|h|d|w|bh|bd)")
_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_ISO = re.compile(rf"P(?:{_NUMBER}W)?(?:{_NUMBER}D)?(?:T(?:{_NUMBER}H)?(?:{_NUMBER}M)?(?:{_NUMBER}S)?)?")
_UNFIXED = re.compile(r"[0-9.]+ ?(?:M|mo|mon|months?|y|Y|years?)|P[0-9.]+[YM].*|P(?:[0-9.]+[WD])+[0-9.]+[YM].*")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_ISO_SECONDS = (604_800, 86_400, 3600, 60, 1)
_LONGEST_SECONDS = MAX_DAYS * 86_400
_PARTS = (("day", 86_400_000_000), ("hour", 3_600_000_000), ("minute", 60_000_000))


def seconds(n: float) -> timedelta:
    """Return a span of `n` elapsed seconds; 0 to ten years."""
    return timedelta(seconds=check_amount("seconds", n, _LONGEST_SECONDS))


def minutes(n: float) -> timedelta:
    """Return a span of `n` elapsed minutes; 0 to ten years."""
    return timedelta(minutes=check_amount("minutes", n, _LONGEST_SECONDS // 60))


def hours(n: float) -> timedelta:
    """Return a span of `n` elapsed hours, nights and weekends included; 0 to ten years."""
    return timedelta(hours=check_amount("hours", n, _LONGEST_SECONDS // 3600))


def days(n: float) -> timedelta:
    """Return a span of `n` times 24 elapsed hours, weekends included; 0 to ten years."""
    return timedelta(days=check_amount("days", n, MAX_DAYS))


def business_hours(n: float, calendar: Calendar | None = None) -> BusinessSpan:
    """Return a span of `n` hours of open time.

    Args:
        n: 0 to ten years of hours; parts of an hour are allowed.
        calendar: whose hours; without one, those of the owner who is waited on.
    """
    return BusinessSpan("hours", n, calendar)


def business_days(n: float, calendar: Calendar | None = None) -> BusinessSpan:
    """Return a span of `n` working days, over at the local time it began.

    Args:
        n: a whole number, 0 to ten years.
        calendar: whose working days; without one, those of the owner who is waited on.
    """
    return BusinessSpan("days", n, calendar)


def describe_span(span: Span) -> str:
    """Return the span in words: "2 days", "1 hour 30 minutes", "8 business hours (NL)"."""
    if isinstance(span, BusinessSpan):
        return str(span)
    rest = abs(span) // timedelta(microseconds=1)
    words = []
    for name, size in _PARTS:
        count, rest = divmod(rest, size)
        if count:
            words.append(_counted(str(count), name))
    if rest or not words:
        whole, fraction = divmod(rest, 1_000_000)
        words.append(_counted(f"{whole}.{fraction:06}".rstrip("0").rstrip("."), "second"))
    return ("minus " if span < timedelta() else "") + " ".join(words)


def parse_span(text: str) -> Span:
    """Return the span an operator wrote: "30s", "90m", "24h", "2d", "1w", "8bh", "2bd", "PT24H", "P2D".

    Business spans come without a calendar; `due` takes that of the owner.

    Raises:
        UsageError: the text is no span, has no fixed length (months, years), or is over ten years.
    """
    written = text.strip() if isinstance(text, str) and len(text) <= TEXT_LIMIT else ""
    if _UNFIXED.fullmatch(written):
        raise UsageError(
            f"{written!r} has no fixed length: months and years differ",
            hint='count days: "30d" for thirty days, "22bd" for business days ("90m" is minutes)',
        )
    short, iso = _SHORT.fullmatch(written), _ISO.fullmatch(written)
    if short is None and (iso is None or written.endswith("T") or not any(iso.groups())):
        raise UsageError(
            f"expected a span from zero to ten years, got {printable(text)}",
            hint='write it like "30s", "90m", "24h", "2d", "8bh" (business hours), "2bd" (business days) or "PT24H"',
        )
    try:
        if short is not None:
            return _short_span(short[1], short[2])
        assert iso is not None
        parts = zip(iso.groups(), _ISO_SECONDS, strict=True)
        return seconds(sum(_number(part) * size for part, size in parts if part))
    except DefinitionError as error:
        raise UsageError(error.message, hint=error.hint) from error


def span_to_json(span: Span) -> dict[str, Any]:
    """Return the span as plain JSON data: its unit, its amount, and the calendar it names, if any."""
    if isinstance(span, BusinessSpan):
        calendar = calendar_to_json(span.calendar) if span.calendar else None
        return {"unit": f"business_{span.unit}", "amount": span.amount, "calendar": calendar}
    elapsed = check_elapsed(span).total_seconds()
    return {"unit": "seconds", "amount": int(elapsed) if elapsed.is_integer() else elapsed}


def span_from_json(data: object) -> Span:
    """Return the span that `span_to_json` wrote.

    Raises:
        UsageError: the data is not what `span_to_json` writes; nothing is guessed.
    """
    if not isinstance(data, Mapping):
        raise UsageError(f"expected a span of unit and amount, got {printable(data)}", hint="span_to_json writes it")
    unit, amount = data.get("unit"), data.get("amount")
    try:
        if unit == "seconds" and set(data) == {"unit", "amount"}:
            return seconds(amount)  # type: ignore[arg-type]  # check_amount refuses what is no number
        if unit in ("business_hours", "business_days") and set(data) == {"unit", "amount", "calendar"}:
            calendar = None if data["calendar"] is None else calendar_from_json(data["calendar"])
            make = business_hours if unit == "business_hours" else business_days
            return make(amount, calendar)  # type: ignore[arg-type]  # likewise
    except DefinitionError as error:
        raise UsageError(error.message, hint=error.hint) from error
    raise UsageError(f"expected a span of unit and amount, got {printable(data)}", hint="span_to_json writes it")


def _short_span(amount: str, unit: str) -> Span:
    if unit == "bh":
        return business_hours(_number(amount))
    if unit == "bd":
        return business_days(_number(amount))
    return seconds(_number(amount) * _SECONDS[unit])


def _number(text: str) -> float:
    return float(text) if "." in text else int(text)


def _counted(amount: str, name: str) -> str:
    return f"{amount} {name}" if amount == "1" else f"{amount} {name}s"
