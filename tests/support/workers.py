"""What may befall a worker that runs in the test's own process."""

from __future__ import annotations

import inspect
from typing import Any

from tests.support.waiting import until_true

from longcase import Longcase
from longcase.runtime.worker import Worker


async def joined(worker: Worker) -> None:
    """Wait until cases may be started by the worker."""
    await until_true(lambda: worker.accepts)


async def lapse(store: Any, worker: int) -> None:
    """Let an incarnation be dead for the store, although its process lives."""
    lapsed = store.abandon(worker)
    if inspect.isawaitable(lapsed):
        await lapsed


async def taken_over(longcase: Longcase, url: str, worker: int) -> None:
    """Let the worker's lease lapse, and somebody else take over what it held."""
    await lapse(longcase.store, worker)
    async with Longcase([], url=url) as other:
        await other.store.recover(worker)


async def killed(worker: Worker) -> None:
    """Let a worker end as if its process had been killed: it gives nothing back."""

    async def not_left() -> None:
        pass

    worker._membership.leave = not_left  # type: ignore[method-assign]
    worker.abort()
    await lapse(worker.store, worker.number)
