"""What a queue's limits and its fairness come to, whichever store asks. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TypeVar

from longcase.history.event import instant_of, instant_text
from longcase.store.port import QueueLimits

T = TypeVar("T")


def room_of(queue: QueueLimits, running: int, begun: Sequence[str], now: str, limit: int) -> tuple[int, str]:
    """Return how many calls may be claimed now, and when the rate lets the next one begin.

    Args:
        running: calls of the queue that are claimed or run; only asked where it has a concurrency.
        begun: the instants its rate counts; only asked where it has one.
    """
    room, opens = limit, ""
    if queue.concurrency is not None:
        room = min(room, queue.concurrency - running)
    if queue.rate is not None:
        count, seconds = queue.rate
        horizon = instant_text(instant_of(now) - timedelta(seconds=seconds))
        recent = [instant for instant in begun if instant > horizon]
        room = min(room, count - len(recent))
        if recent:
            opens = instant_text(instant_of(recent[0]) + timedelta(seconds=seconds))
    return room, opens


def counted(begun: Sequence[str], now: str, number: int, most: int) -> list[str]:
    """Return what a rate counts after `number` more calls, the newest `most` instants."""
    return sorted([*begun, *[now] * number])[-most:]  # the clock may have gone back


def in_turn(waiting: Sequence[tuple[str, list[T]]], room: int) -> Iterator[tuple[str, T]]:
    """Yield up to `room` calls with their tenants, one of each tenant in the order given, then again."""
    left = list(waiting)
    while left and room > 0:
        for tenant, calls in left:
            if room > 0:
                room -= 1
                yield tenant, calls.pop(0)
        left = [entry for entry in left if entry[1]]
