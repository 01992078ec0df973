"""What a queue's limits and its fairness come to, whichever store asks. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import TypeVar

from longcase.history.event import instant_of, instant_text
from longcase.store.records import QueueLimits

T = TypeVar("T")


def room_of(queue: QueueLimits, running: int, begun: Sequence[str], now: str, limit: int) -> tuple[int, str]:
    """Return how many calls may be claimed now, and when the rate lets the next one begin.

    Args:
        running: calls of the queue that are claimed or run; only asked where it has a concurrency.
        begun: the claims its rate counts; only asked where it has one.
    """
    room, opens = limit, ""
    if queue.concurrency is not None:
        room = min(room, queue.concurrency - running)
    if queue.rate is not None:
        count, seconds = queue.rate
        horizon = instant_text(instant_of(now) - timedelta(seconds=seconds))
        recent = [entry for entry in begun if _instant(entry) > horizon]
        room = min(room, count - len(recent))
        if recent:
            opens = instant_text(instant_of(_instant(recent[0])) + timedelta(seconds=seconds))
    return room, opens


def counted(begun: Sequence[str], now: str, calls: Iterable[tuple[int, str]], most: int) -> list[str]:
    """Return what a rate counts after more calls are claimed: the newest `most`, each as instant, case and call."""
    # Sorted: the clock may have gone back.
    return sorted([*begun, *(f"{now} {case_no} {call}" for case_no, call in calls)])[-most:]


def uncounted(begun: Sequence[str], calls: Iterable[tuple[int, str]]) -> list[str]:
    """Return what a rate counts after claims were given back: the last one of each of `calls` has used nothing."""
    left = list(begun)
    for case_no, call in calls:
        ours = [entry for entry in left if entry.endswith(f" {case_no} {call}")]
        if ours:
            left.remove(ours[-1])
    return left


def _instant(entry: str) -> str:
    return entry.partition(" ")[0]


def in_turn(waiting: Sequence[tuple[str, list[T]]], room: int) -> Iterator[tuple[str, T]]:
    """Yield up to `room` calls with their tenants, one of each tenant in the order given, then again."""
    left = list(waiting)
    while left and room > 0:
        for tenant, calls in left:
            if room > 0:
                room -= 1
                yield tenant, calls.pop(0)
        left = [entry for entry in left if entry[1]]
