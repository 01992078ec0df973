"""How many attempts may run at once and begin in a span: per activity, per system, per worker.

What finds no slot is held back here, first come first served per limit, and is named again when a slot
of that limit comes free or its rate allows the next one. Nothing waits inside.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from longcase.engine.work import Command
from longcase.model.activity import Activity

ATTEMPTS_AT_ONCE = 2_000
THREADS = 32  # plain `def` activities at once; a further one is not begun before a thread is free
AT_A_TIME = 64  # held-back cases looked at when a rate limit opens

Limit = tuple[str, int | None, tuple[int, timedelta] | None]
_WORKER = "worker"
# One of the calls that worker after worker died with may be what kills them. They begin apart, so that it
# takes no others with it each time (test_fault_F33_a_poisoned_case_is_quarantined_and_the_good_ones_go_on).
SUSPECT = 2  # workers that have died during attempts of one call
_SUSPECTS: Limit = ("suspects", None, (1, timedelta(seconds=0.5)))
_THREADS: Limit = ("threads", THREADS, None)


class Slot(NamedTuple):
    """Room for one attempt, and since when the rates of its activity count it; None if that is not known any more."""

    activity: Activity[..., Any]
    since: datetime | None = None


class Slots:
    """Counts this worker's running attempts and keeps what is held back. Nothing in here waits."""

    def __init__(self, now: Callable[[], datetime], *, limit: int = ATTEMPTS_AT_ONCE) -> None:
        self._now = now
        self._limit = limit
        self._running = 0
        self._counts: Counter[str] = Counter()
        self._begun: dict[str, deque[datetime]] = {}
        self._waiting: dict[str, OrderedDict[int, None]] = {}
        self._unused: list[Activity[..., Any]] = []  # whose slots came free without an attempt's end
        self._refused: dict[str, Limit] = {}  # every limit that ever refused, by name
        self._named: dict[int, list[str]] = {}  # cases that were told of a free slot, and the limits of that
        self.closed = False  # a draining worker begins nothing new
        self.refusing: set[str] = set()  # limits that have refused since this was last cleared
        self.retry_at: datetime | None = None  # when a rate limit lets the next one begin

    def take(self, activity: Activity[..., Any], lost: int = 0) -> Slot | None:
        """Take a slot if every limit allows it; else None, and `refusing` names the limit that does not.

        Args:
            lost: how many workers have died during attempts of this call.
        """
        limits = _limits(activity)
        if lost >= SUSPECT:
            limits = (*limits, _SUSPECTS)
        if self.closed or self._running >= self._limit:
            self.refusing.add(_WORKER)
            return None
        for limit in limits:
            if not self._free(*limit):
                self.refusing.add(limit[0])
                self._refused[limit[0]] = limit
                return None
        self._running += 1
        now = self._now()
        for name, _, rate in limits:
            self._counts[name] += 1
            if rate is not None:
                self._begun.setdefault(name, deque()).append(now)
        return Slot(activity, now)

    def give_back(self, activity: Activity[..., Any]) -> None:
        """Give a slot back; the rate keeps counting what has begun."""
        self._running -= 1
        for name, _, _ in _limits(activity):
            self._counts[name] -= 1

    def give_up(self, slot: Slot) -> None:
        """Give back a slot in which no attempt has run, and what rates count for it; `spare` then names who may go."""
        self.give_back(slot.activity)
        for name, _, rate in _limits(slot.activity):
            if rate is not None and slot.since is not None and slot.since in self._begun[name]:
                self._begun[name].remove(slot.since)
        self._unused.append(slot.activity)

    @property
    def has_spare(self) -> bool:
        """Whether slots were given up since `spare` was last asked."""
        return bool(self._unused)

    def spare(self) -> list[int]:
        """Return the cases that may begin since slots were given up."""
        unused, self._unused = self._unused, []
        return [case_no for activity in unused for case_no in self.freed_by(activity)]

    def keep_waiting(self, case_no: int, limits: Iterable[str]) -> None:
        """Keep a case that found no slot in the queues of the limits that refused it: first, if it was named."""
        was_named = self._named.pop(case_no, None) is not None
        for name in limits:
            queue = self._waiting.setdefault(name, OrderedDict())
            queue[case_no] = None
            if was_named:
                queue.move_to_end(case_no, last=False)

    def free_again(self, limits: Iterable[str]) -> list[str]:
        """Return those of the limits that refused an attempt and would not any more, nor is their slot promised."""
        promised = {name for names in self._named.values() for name in names}
        return [
            name
            for name in limits
            if name not in promised
            and (self.room > 0 if name == _WORKER else name in self._refused and self._free(*self._refused[name]))
        ]

    def first_of(self, limits: Iterable[str]) -> list[int]:
        """Return the case that waits longest for each of the limits: it may begin now."""
        return [case_no for name in limits for case_no in self._first(name, 1)]

    def looked_at(self, case_no: int, commands: Iterable[Command]) -> list[int]:
        """Return who may begin after a case that was named: in its slot, if it had no use for it, or in another."""
        if case_no not in self._named:
            return []
        names: Iterable[str] = self._named.pop(case_no)
        if any(command.kind == "perform" for command in commands):
            names = self.free_again(names)
        return self.first_of(names)

    def freed_by(self, activity: Activity[..., Any]) -> list[int]:
        """Return the cases that may begin since an attempt of `activity` ended: the first of each queue."""
        if not self._waiting:
            return []
        return self.first_of((_WORKER, *(limit[0] for limit in _limits(activity))))

    def due(self) -> list[int]:
        """Return the cases a rate limit has made wait until now."""
        if self.retry_at is None or self.retry_at > self._now():
            return []
        self.retry_at = None
        cases = [case_no for name in list(self._waiting) for case_no in self._first(name, AT_A_TIME)]
        if self._waiting:
            # Those behind them are looked at next, unless a limit refuses again and says when.
            self.retry_at = self._now()
        return cases

    def _first(self, name: str, count: int) -> list[int]:
        queue = self._waiting.get(name)
        if queue is None:
            return []
        taken = [case_no for case_no, _ in zip(queue, range(count), strict=False)]
        for case_no in taken:
            del queue[case_no]
            self._named.setdefault(case_no, []).append(name)
        if not queue:
            del self._waiting[name]
        return taken

    @property
    def running(self) -> int:
        return self._running

    @property
    def room(self) -> int:
        """How many more attempts this worker may begin, whatever else limits them."""
        return 0 if self.closed else max(0, self._limit - self._running)

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
                self.retry_at = at if self.retry_at is None or self.retry_at <= self._now() else min(self.retry_at, at)
                return False
        return True


@lru_cache(maxsize=1024)
def _limits(activity: Activity[..., Any]) -> tuple[Limit, ...]:
    limits: list[Limit] = []
    if not activity.is_async:
        limits.append(_THREADS)
    if activity.concurrency is not None or activity.rate is not None:
        limits.append((f"activity:{activity.name}", activity.concurrency, activity.rate))
    system = activity.system
    if system is not None and (system.concurrency is not None or system.rate is not None):
        limits.append((f"system:{system.name}", system.concurrency, system.rate))
    return tuple(limits)
