"""Read opening hours: "Mon-Fri 09:00-12:30,13:00-17:00; Sat 10:00-14:00".

A text is groups of days and the times they share. A semicolon ends a group; within it days and
times are separated by commas or blanks, and days after times begin a group of their own, so
"Mon-Fri 09:00-17:00, Sat 10:00-14:00" says what it seems to. What a day's times mean as instants
is not known here; next on the data's way: `calendar`.
"""

from __future__ import annotations

import itertools
import re
from functools import lru_cache
from typing import TypeAlias

from longcase.errors import DefinitionError
from longcase.model.names import printable
from longcase.nearest import nearest

HOURS_LIMIT = 1000
"""The longest text of hours, in characters."""

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""Opening and closing moments of one day, in order, without overlap."""

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_FULL_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DAY_NUMBER = {name: number for number, full in enumerate(_FULL_DAYS) for name in (full, full[:3])}
_HOURS_EXAMPLE = '"Mon-Fri 09:00-12:30,13:00-17:00; Sat 10:00-14:00"'
_HOURS_HINT = f"write them like {_HOURS_EXAMPLE}"
_TIMES = re.compile(r"([0-9]{1,2}):([0-9]{2})-([0-9]{1,2}):([0-9]{2})")
_MINUTES_PER_DAY = 24 * 60


def parse_hours(text: str) -> tuple[Ranges, ...]:
    """Return the open minutes of each weekday, Monday first, merged and in order.

    Raises:
        DefinitionError: what cannot be read, with the word that stops it. Times that overlap, end
            before they begin or have no length are refused, not mended.
    """
    if not isinstance(text, str):
        raise DefinitionError(f"expected hours like {_HOURS_EXAMPLE}, got {printable(text)}", hint=_HOURS_HINT)
    if len(text) > HOURS_LIMIT:
        raise DefinitionError(f"expected hours of at most {HOURS_LIMIT} characters, got {len(text)}", hint=_HOURS_HINT)
    return _parse(text)


@lru_cache(maxsize=256)
def _parse(text: str) -> tuple[Ranges, ...]:
    week: list[list[tuple[int, int]]] = [[] for _ in _DAYS]
    for group in re.sub(r"\s*[-\u2013]\s*", "-", text).split(";"):
        days: list[int] = []
        timed = True
        for word in re.split(r"[,\s]+", group.strip()):
            if word and word[0].isalpha():
                days = (days if not timed else []) + _parse_days(word, text)
                timed = False
            elif word:
                if not days:
                    raise _bad_hours(text, f"{printable(word)} has no days before it")
                _open(week, days, word, text)
                timed = True
        if not timed:
            raise _bad_hours(text, f"{_day_list(days)} has no times after it")
    if not any(week):
        raise _bad_hours(text, "no day has open time")
    return tuple(_merged(day) for day in week)


def _parse_days(word: str, text: str) -> list[int]:
    ends = []
    for name in word.split("-"):
        number = _DAY_NUMBER.get(name.casefold())
        if number is None:
            near = nearest(name.casefold(), _DAY_NUMBER)
            mend = f", did you mean {near[0].title()}?" if near else ""
            raise _bad_hours(text, f"{printable(name)} is not a day{mend}")
        ends.append(number)
    if len(ends) > 2:
        raise _bad_hours(text, f"{printable(word)} is not a day or a range of days")
    return [(ends[0] + step) % 7 for step in range((ends[-1] - ends[0]) % 7 + 1)]


def _open(week: list[list[tuple[int, int]]], days: list[int], word: str, text: str) -> None:
    match = _TIMES.fullmatch(word)
    if match is None:
        raise _bad_hours(text, f"{printable(word)} is not a range of times")
    from_hour, from_minute, to_hour, to_minute = (int(part) for part in match.groups())
    opens, closes = from_hour * 60 + from_minute, to_hour * 60 + to_minute
    if max(from_minute, to_minute) > 59 or opens >= _MINUTES_PER_DAY or closes > _MINUTES_PER_DAY:
        raise _bad_hours(text, f"{printable(word)} is not within 00:00-24:00")
    if opens == closes:
        raise _bad_hours(text, f"{printable(word)} has no length; the whole day is 00:00-24:00")
    if opens > closes:
        before, after = word.split("-")
        following = sorted((day + 1) % 7 for day in days)
        rest = f"; {_day_list(following)} 00:00-{after}" if closes else ""
        raise DefinitionError(
            f"calendar hours {printable(text)}: {printable(word)} ends before it begins",
            hint=f'split it at midnight: "{_day_list(days)} {before}-24:00{rest}"',
        )
    for day in days:
        for other_opens, other_closes in week[day]:
            if opens < other_closes and other_opens < closes:
                raise _bad_hours(
                    text, f"{printable(word)} overlaps {_clock(other_opens)}-{_clock(other_closes)} on {_DAYS[day]}"
                )
        week[day].append((opens, closes))


def _merged(ranges: list[tuple[int, int]]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for opens, closes in sorted(ranges):
        if merged and merged[-1][1] == opens:
            merged[-1] = (merged[-1][0], closes)
        else:
            merged.append((opens, closes))
    return tuple(merged)


def _day_list(days: list[int]) -> str:
    if len(days) > 2 and all(after == (before + 1) % 7 for before, after in itertools.pairwise(days)):
        return f"{_DAYS[days[0]]}-{_DAYS[days[-1]]}"
    return ",".join(_DAYS[day] for day in days)


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


def _bad_hours(text: str, reason: str) -> DefinitionError:
    return DefinitionError(f"calendar hours {printable(text)}: {reason}", hint=_HOURS_HINT)
