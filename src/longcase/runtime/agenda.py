"""What one worker is to look at next, and when it is to look into the store again.

Outcomes of this process come first, so that work in flight is finished before new work is begun; then
the cases somebody here has named; then what the store holds, where it may hold more than was seen.
"""

from __future__ import annotations

import asyncio
from collections import deque

from longcase.engine.work import Item


class Agenda:
    """The cases that wait in this process for their turn.

    `store_at` and `queues_at` are instants at which the store, and the queues in it, are worth a look:
    None is now, "" is when somebody tells.
    """

    def __init__(self) -> None:
        self.store_at: str | None = None
        self.queues_at: str | None = None
        self._outcomes: dict[int, list[Item]] = {}
        self._line: deque[int] = deque()
        self._named: dict[int, None] = {}
        self._settled: set[int] = set()  # of those named: the end of an attempt of this process waits in the store
        self._bell = asyncio.Event()

    # -- what comes in -----------------------------------------------------------------------------------

    def name(self, case_no: int) -> None:
        """Have a case looked at; whoever sleeps is not woken for it."""
        self._named[case_no] = None  # one that came meanwhile stays: it may tell of a later commit

    def wake(self, case_no: int) -> None:
        """Have a case looked at now."""
        self._named[case_no] = None
        self._bell.set()

    def settle(self, case_no: int) -> None:
        """Have a case looked at whose attempt has ended, with its result in the store."""
        self._settled.add(case_no)
        self.wake(case_no)

    def report(self, case_no: int, item: Item) -> None:
        """Have what an attempt came to applied."""
        waiting = self._outcomes.get(case_no)
        if waiting is None:
            self._outcomes[case_no] = [item]
            self._line.append(case_no)
        else:
            waiting.append(item)
        self._bell.set()

    def put_back(self, case_no: int, items: list[Item]) -> None:
        """Have a case looked at again that was taken and not moved; outcomes that came meanwhile stand behind."""
        if items:
            self._outcomes[case_no] = items + self._outcomes.get(case_no, [])
            self._line.append(case_no)
        else:
            self._named[case_no] = None

    def expect(self, wake_at: str) -> None:
        """Note that the store has something for that instant."""
        if wake_at and self.store_at is not None and (not self.store_at or wake_at < self.store_at):
            self.store_at = wake_at

    def look_everywhere(self) -> None:
        """Have the store and its queues looked at now."""
        self.store_at = self.queues_at = None
        self._bell.set()

    def ring(self) -> None:
        """End the worker's sleep."""
        self._bell.set()

    # -- what is taken -----------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether a case waits here."""
        return bool(self._line or self._named)

    @property
    def ended(self) -> int:
        """How many cases have outcomes that are not applied yet."""
        return len(self._line) + len(self._settled)

    def take(self, places: int, of_outcomes: int) -> tuple[dict[int, list[Item]], set[int]]:
        """Take the next cases with their outcomes, and which of them the store is to be asked about.

        Args:
            places: how many cases at most.
            of_outcomes: how many of these may go to cases with outcomes.
        """
        cases: dict[int, list[Item]] = {}
        look: set[int] = set()
        while self._line and len(cases) < of_outcomes:
            case_no = self._line.popleft()
            items = self._outcomes.pop(case_no, None)
            if items:
                cases[case_no] = items
        while self._named and len(cases) < places:
            case_no = next(iter(self._named))
            del self._named[case_no]
            self._settled.discard(case_no)
            cases.setdefault(case_no, [])
            look.add(case_no)
        return cases, look

    async def sleep(self, seconds: float) -> None:
        """Sleep until something of this process comes in, and at most so long."""
        self._bell.clear()
        handle = asyncio.get_running_loop().call_later(seconds, self._bell.set)
        await self._bell.wait()
        handle.cancel()


def come(instant: str | None, now: str) -> bool:
    """Tell whether it is time to look again."""
    return instant is None or (bool(instant) and instant <= now)


def sooner(one: str | None, other: str | None) -> str | None:
    """Return the sooner of two instants to look again at."""
    if one is None or other is None:
        return None
    return min(filter(None, (one, other)), default="")
