"""How many attempts may run at once and begin in a span: per activity, per system, per worker."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from longcase.model.activity import Activity

ATTEMPTS_AT_ONCE = 2_000


class Slots:
    """Counts running attempts of this worker. Taking and giving back never waits."""

    def __init__(self, now: Callable[[], datetime], *, limit: int = ATTEMPTS_AT_ONCE) -> None:
        self._now = now
        self._limit = limit
        self._running = 0
        self._counts: Counter[str] = Counter()
        self._begun: dict[str, deque[datetime]] = {}
        self.closed = False  # a draining worker begins nothing new
        self.refused = False  # set when something was held back; the worker looks again on release
        self.retry_at: datetime | None = None  # when a rate limit lets the next one begin

    def take(self, activity: Activity[..., Any]) -> bool:
        """Take a slot if every limit allows it."""
        limits = _limits(activity)
        if self.closed or self._running >= self._limit or (limits and not all(self._free(*limit) for limit in limits)):
            self.refused = True
            return False
        self._running += 1
        for name, _, rate in limits:
            self._counts[name] += 1
            if rate is not None:
                self._begun.setdefault(name, deque()).append(self._now())
        return True

    def give_back(self, activity: Activity[..., Any]) -> None:
        """Give a slot back; the rate keeps counting what has begun."""
        self._running -= 1
        for name, _, _ in _limits(activity):
            self._counts[name] -= 1

    @property
    def running(self) -> int:
        return self._running

    def _free(self, name: str, concurrency: int | None, rate: tuple[int, timedelta] | None) -> bool:
        if concurrency is not None and self._counts[name] >= concurrency:
            return False
        if rate is not None:
            begun = self._begun.setdefault(name, deque())
            horizon = self._now() - rate[1]
            while begun and begun[0] <= horizon:
                begun.popleft()
            if len(begun) >= rate[0]:
                at = begun[0] + rate[1]
                self.retry_at = at if self.retry_at is None else min(self.retry_at, at)
                return False
        return True


@lru_cache(maxsize=1024)
def _limits(activity: Activity[..., Any]) -> list[tuple[str, int | None, tuple[int, timedelta] | None]]:
    if activity.concurrency is None and activity.rate is None and (
        activity.system is None or (activity.system.concurrency is None and activity.system.rate is None)
    ):
        return []
    limits = [(f"activity:{activity.name}", activity.concurrency, activity.rate)]
    if activity.system is not None:
        limits.append((f"system:{activity.system.name}", activity.system.concurrency, activity.system.rate))
    return limits
