"""What a worker looks for once in a while, whether or not anybody told: a store that is gone, workers that
are dead, a clock that was set.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime

from longcase.env import Env, RealClock
from longcase.errors import StoreGone, UnavailableError
from longcase.store.port import Store

log = logging.getLogger("longcase.worker")

SWEEP = 1.0  # seconds between two looks
CLOCK_JUMP = 2.0  # seconds the clock may drift between two sweeps before it is called a jump


class Sweep:
    """The looks of one worker.

    Args:
        look_everywhere: told that more may be ready than was known.
    """

    def __init__(self, store: Store, env: Env, look_everywhere: Callable[[], None]) -> None:
        self._store = store
        self._env = env
        self._look_everywhere = look_everywhere
        self._at = 0.0
        self._clocks: tuple[datetime, float] | None = None

    def soon(self) -> None:
        """Have the next round sweep."""
        self._at = 0.0

    def is_due(self, time: float) -> bool:
        """Tell whether it is time.

        Args:
            time: the loop's.
        """
        return time >= self._at

    def check_store(self) -> None:
        """Raise StoreGone if what was opened is no longer what the URL names."""
        if self._store.gone():
            raise StoreGone(
                f"the store {self._store.url} was deleted or replaced under this worker",
                hint="put its file back, then start the worker",
            )

    def notice_clock_jump(self) -> None:
        """Log when the wall clock and the machine's steady one disagree (I22): what is due moves with the former."""
        seen = (self._env.now(), self._env.monotonic())
        before, self._clocks = self._clocks, seen
        if before is None or not isinstance(self._env.clock, RealClock):
            return
        jump = (seen[0] - before[0]).total_seconds() - (seen[1] - before[1])
        if abs(jump) > CLOCK_JUMP:
            log.warning("clock_jump: the clock moved %+.1f s beside the time that passed; due instants follow it", jump)
            self._look_everywhere()

    async def recover(self) -> None:
        """Void the leases of dead workers, so that their cases are ready and their attempts settled."""
        self._at = asyncio.get_running_loop().time() + SWEEP
        for dead in await self._store.dead_workers():
            try:
                count = await self._store.recover(dead)
            except UnavailableError as error:
                if not error.retryable:
                    raise
                log.warning("worker %d not recovered, trying again: %s", dead, error.message)
                continue
            except Exception:  # one worker's leases, perhaps of one that lives after all: nothing else waits for them
                log.exception("worker %d not recovered", dead)
                continue
            if count:
                # Not "go on here": who moves them is whoever has loaded their workflow and comes first.
                log.warning("worker %d is dead; cases set free for the workers of their workflows: %d", dead, count)
            self._look_everywhere()
