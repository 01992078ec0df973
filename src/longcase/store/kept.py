"""Reading JSON that we wrote ourselves, where the disk, or somebody, may have changed it since.

One that cannot be read is StoreCorrupt, which names the row. Who reads many rows, or can do without one, reads it
`beside_damage`: it is named in the log with what to do, and the others are read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from longcase.errors import StoreCorrupt
from longcase.model.codec import Json, json_value

T = TypeVar("T")
log = logging.getLogger("longcase.store")

HINT: Final = "longcase verify; longcase restore BACKUP"
Told = Callable[[StoreCorrupt], None]


def kept_json(text: str | bytes, what: str, hint: str = HINT) -> Any:
    """Return the JSON of a column that holds our own.

    Raises:
        StoreCorrupt: it is JSON no more.
    """
    return kept(text, what, lambda value: value, hint)


def kept(text: str | bytes, what: str, made: Callable[[Any], T], hint: str = HINT) -> T:
    """Return what `made` makes of the JSON of a column, as `shaped` does.

    Raises:
        StoreCorrupt: it is JSON no more, or has not that shape.
    """
    try:
        value = json_value(text)
    except ValueError as error:
        raise StoreCorrupt(f"{what} is no JSON any more: {error}", hint=hint) from error
    return shaped(value, what, made, hint)


def shaped(value: Json, what: str, made: Callable[[Any], T], hint: str = HINT) -> T:
    """Return what `made` makes of JSON that is our own.

    Raises:
        StoreCorrupt: it has not the shape that `made` takes.
    """
    try:
        return made(value)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise StoreCorrupt(f"{what} is not what was written: {error}", hint=hint) from error


def something(value: Json) -> Json:
    """Take anything but null."""
    if value is None:
        raise TypeError("expected a value")
    return value


def names(value: Json) -> list[str]:
    """Take a list of names."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError("expected a list of names")
    return value


def by_name(value: Json) -> dict[str, str]:
    """Take texts by name."""
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise TypeError("expected texts by name")
    return value


def in_log(damage: StoreCorrupt) -> None:
    """Name damage in the log, with what to do."""
    log.error("%s (hint: %s)", damage.message, damage.hint)


@contextmanager
def beside_damage(told: Told = in_log) -> Iterator[None]:
    """Read something that the answer can do without: damage is told, and the caller goes on."""
    try:
        yield
    except StoreCorrupt as damage:
        told(damage)


def said_by(worker: int, codes: str | bytes, queues: str | bytes, told: Told) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return what a worker said it loads and serves; where that cannot be read it is as if it had said nothing."""
    mend = "start it anew: it writes that as it joins"
    loads: dict[str, str] = {}
    serves: tuple[str, ...] = ()
    with beside_damage(told):
        loads = kept(codes, f"what worker {worker} loads", by_name, mend)
    with beside_damage(told):
        serves = tuple(kept(queues, f"what worker {worker} serves", names, mend))
    return loads, serves
