"""What is sent over a line that breaks may reach the server late: from then on it is refused.

Every turn names the fence it was sent under, and the rows of its workers hold the newest one. After a loss the
fence is raised before anything else is written. The change waits for the turns that are under way, as those hold
the rows of their workers to the end; one that comes later finds a fence above its own, and is not written. So
what is looked for after that, and is not there, never comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any, Final

import asyncpg

from longcase.store.postgres.queues import PATIENT

# Never lowered: an order to raise it may come late, too.
_RAISE: Final = "UPDATE workers SET fence = greatest(fence, $2) WHERE no = ANY($1::bigint[])"
OPEN: Final = 2**62  # a fence no turn is refused by: its transaction holds the rows of its workers already


class Fence:
    """The fence of one store's writers.

    Args:
        workers: the incarnations of this process.
        losses: counts the connections that broke.
    """

    def __init__(self, workers: Callable[[], Collection[int]], losses: Callable[[], int]) -> None:
        self.number = 0  # of what is sent now
        self._workers = workers
        self._losses = losses
        self._seen = 0
        self._raising = asyncio.Lock()

    @property
    def holds(self) -> bool:
        """Tell whether nothing that was sent over a broken line can land any more."""
        return self._seen == self._losses()

    async def raise_up(self, connection: Any) -> None:
        """Refuse what was sent before now. It does not hold yet if a turn whose line is gone is still under way."""
        async with self._raising:
            losses, workers = self._losses(), sorted(self._workers())
            if self._seen == losses:
                return
            if workers:
                self.number += 1
                try:
                    async with connection.transaction():
                        await connection.execute(PATIENT)
                        await connection.execute(_RAISE, workers, self.number)
                except asyncpg.LockNotAvailableError:
                    return
            self._seen = losses
