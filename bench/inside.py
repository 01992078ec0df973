"""What a process that runs Longcase does and notes: it starts cases, sees them close, and knows its own CPU.

It imports little, because child.py is timed from its spawn: what only the parent needs stands in `harness`.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Sequence
from typing import Any

from longcase import Longcase, Workflow

CHUNK = 500  # cases accepted in one transaction by the workloads that start many


class Watch:
    """Notes when a case's close is durable: it sits on the store's `write`, in the worker's process."""

    def __init__(self, longcase: Longcase) -> None:
        self.closed: dict[int, float] = {}  # case -> wall clock at which the commit was answered
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._count: tuple[int, asyncio.Future[None]] | None = None
        self._write = longcase.store.write
        # The one place where bench reaches between worker and store: polling would disturb what it measures.
        setattr(longcase.store, "write", self._noting)  # noqa: B010

    async def _noting(self, writes: Sequence[Any], **options: Any) -> Any:
        outcomes = await self._write(writes, **options)
        now = time.time()
        for write, outcome in zip(writes, outcomes, strict=True):
            if outcome.outcome == "done" and write.state.status == "closed":
                self.closed.setdefault(outcome.case_no, now)
                future = self._waiting.pop(outcome.case_no, None)
                if future is not None:
                    future.set_result(None)
        if self._count is not None and len(self.closed) >= self._count[0]:
            self._count[1].set_result(None)
            self._count = None
        return outcomes

    async def close_of(self, case_no: int) -> None:
        """Wait until a case's close is durable."""
        if case_no not in self.closed:
            self._waiting[case_no] = asyncio.get_running_loop().create_future()
            await self._waiting[case_no]

    async def closes(self, count: int) -> None:
        """Wait until `count` cases have closed in all."""
        if len(self.closed) < count:
            self._count = (count, asyncio.get_running_loop().create_future())
            await self._count[1]


async def start_all(longcase: Longcase, workflow: Workflow[Any], bodies: Sequence[Any]) -> list[int]:
    """Accept cases in transactions of CHUNK; returns their numbers."""
    numbers: list[int] = []
    service = longcase.service
    for first in range(0, len(bodies), CHUNK):
        new = [service.new_case(workflow, body) for body in bodies[first : first + CHUNK]]
        numbers += [receipt.case_no for receipt in await service.start_prepared(new)]
    return numbers


async def count(longcase: Longcase, condition: str) -> int:
    """Count cases, as any SQL tool would."""
    rows = await longcase.service.query(f"SELECT count(*) AS n FROM cases WHERE {condition}")
    number: int = rows[0]["n"]
    return number


async def until(longcase: Longcase, condition: str, cases: int, *, within: float = 300.0) -> bool:
    """Look every 20 ms until so many cases fulfil the condition; False if they do not in time."""
    end = time.monotonic() + within
    while await count(longcase, condition) < cases:
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.02)
    return True


def cpu_s() -> float:
    """Return this process's CPU seconds, all threads, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
