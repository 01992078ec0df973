"""What a terminal is given: escaped text, aligned columns, instants people can read, or JSON.

Data of a case may hold anything, so everything printed passes `escape`: no control character, ANSI
sequence or bidi override of a customer's name ever reaches a terminal.
"""

from __future__ import annotations

import json
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final

_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ud800-\udfff]"
)
_WIDEST: Final = 60  # of one column of a table
LONGEST_ERROR: Final = 300  # characters of an error's message; --json has all of it


class ReaderGone(Exception):
    """Nobody reads the answer any more: `longcase list | head`."""


class Interrupted(Exception):
    """Ctrl-C, under a name that the option parser does not make a silent end of its own."""


def turn_away() -> None:
    """Let what is still to be printed go nowhere, so that the interpreter's last flush finds no closed pipe."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def escape(text: object) -> str:
    """Return text with control, bidi and invisible characters written as escapes."""
    return _UNSAFE.sub(lambda found: _written(found[0]), str(text))


def _written(character: str) -> str:
    named = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    number = ord(character)
    return named.get(character) or (f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}")


def line(text: str = "") -> None:
    """Print one line; line breaks inside it are shown, not made."""
    print(escape(text))


def block(text: str) -> None:
    """Print a text of our own that has several lines."""
    for part in text.rstrip("\n").split("\n"):
        line(part)


def note(text: str) -> None:
    """Print one line beside the answer, on stderr."""
    if sys.stderr is not None:
        print(escape(text), file=sys.stderr, flush=True)


def data(value: Any) -> None:
    """Print one JSON document on one line; characters a terminal would act on are escaped as JSON does."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    print(_UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print columns under their headers; what is too long for a column is cut, but for the last one."""
    whole = [[escape("" if cell is None else cell) for cell in row] for row in rows]
    cells = [[*map(_cut, row[:-1]), *row[-1:]] for row in whole]
    widths = [max([_width(head), *(_width(row[i]) for row in cells)]) for i, head in enumerate(headers)]
    for row in [list(headers), *cells]:
        padded = [cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
        print("  ".join(padded).rstrip())


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values in two columns; pairs without a value are left out."""
    shown = [(name, value) for name, value in pairs if value not in ("", None)]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"{escape(name):<{width}}  {escape(value)}")


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)


def instant(text: str | None) -> str:
    """Return a stored instant as "Mon 2026-01-05 09:00" (UTC), "" for none."""
    return datetime.fromisoformat(text).strftime("%a %Y-%m-%d %H:%M") if text else ""


def stamp(text: str) -> str:
    """Return a stored instant to the second, as a list of events has it: "2026-01-05 09:00:00" (UTC)."""
    return text[:19].replace("T", " ")


def span(length: timedelta) -> str:
    """Return a length of time roughly, in its largest unit: "3 days", "2 h", "45 s"."""
    seconds = abs(length.total_seconds())
    for size, unit in ((172_800, "days"), (5_400, "h"), (90, "min")):
        if seconds >= size:
            return f"{round(seconds / {'days': 86_400, 'h': 3_600, 'min': 60}[unit])} {unit}"
    return f"{round(seconds)} s"


def error_text(message: str, hint: str) -> str:
    """Return an error as it is printed: the message, an empty line, the mend."""
    if len(message) > LONGEST_ERROR:
        message = f"{message[:LONGEST_ERROR]}... ({len(message) - LONGEST_ERROR:,} more characters: --json)"
    shown = "\n".join(escape(part) for part in message.split("\n"))
    return f"error: {shown}\n\nhint: {escape(hint)}" if hint else f"error: {shown}"


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that is told what is done and in all; draws a bar where somebody looks."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what)
        yield lambda done, total: shown.update(task, completed=done, total=total)
