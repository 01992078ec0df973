"""Running the asynchronous door from programs without an event loop: the CLI, LongcaseClient."""

from __future__ import annotations

from collections.abc import Coroutine
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from longcase.errors import BugError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

T = TypeVar("T")


class Driver:
    """Runs coroutines over one store to their end, one caller at a time or many.

    A SQLite store that is open `inline` never suspends: its coroutines are run where they are called, and no
    event loop is made. Any other store gets an event loop in a thread of its own.

    Args:
        url: of the store.
    """

    def __init__(self, url: str) -> None:
        self._loop: AbstractEventLoop | None = None
        if not url.startswith("sqlite:"):
            import asyncio  # a command on SQLite does not pay for it

            self._loop = asyncio.new_event_loop()
            self._thread = Thread(target=self._loop.run_forever, name="longcase-door", daemon=True)
            self._thread.start()

    def __call__(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and return its result, or raise its error."""
        if self._loop is not None:
            import asyncio

            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        try:
            work.send(None)
        except StopIteration as ended:
            result: T = ended.value
            return result
        work.close()
        raise BugError("an inline store suspended")

    def close(self) -> None:
        """End the thread; what still runs on its loop is cancelled."""
        if self._loop is not None:
            import asyncio

            asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._loop = None


async def _cancel_all() -> None:
    import asyncio

    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
