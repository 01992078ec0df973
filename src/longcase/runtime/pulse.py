"""A worker's pulse: a thread of its own that keeps the lease, as long as the event loop turns.

    the loop ticks --> the thread sees it --> the heart beats --> the store keeps the lease

A busy loop must not lose the lease of healthy work, and a blocked one must not hold it for ever. So the
thread beats while the loop ticks, and goes on beating without a tick for as long as what blocks it may
last: the attempt's own `timeout=`, or `PATIENCE` where no attempt is to blame. After that it stops, the
lease lapses, and others take over; should the loop turn again, the worker finds itself forgotten and
joins anew. A process that was stopped for longer than its lease knows it by its own clock before that: it
begins nothing until it has been heard again. On SQLite nothing lapses (a process that lives keeps its lock):
there the pulse only tells.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress

from longcase.env import Env
from longcase.errors import LongcaseError, WorkerForgotten
from longcase.store.port import Heart

log = logging.getLogger("longcase.worker")

TICK = 1.0  # seconds between ticks of the loop
LOOK = 2.5  # seconds between looks of the thread where no heart sets the pace
PATIENCE = 30.0  # seconds a loop may stand still although no attempt is to blame
TELL = 10.0  # seconds after which a standing loop is reported

Culprit = tuple[str, float]  # what blocks the loop, and how long it may


class Pulse:
    """Beats for one incarnation, from a thread.

    Args:
        joined: `env.monotonic()` just before the incarnation joined.
    """

    def __init__(
        self,
        heart: Heart | None,
        env: Env,
        culprit: Callable[[], Culprit | None],
        forgotten: Callable[[], None],
        joined: float = 0.0,
    ) -> None:
        self._heard = joined  # no later than the store heard of the incarnation
        self._heart = heart
        self._env = env
        self._culprit = culprit
        self._forgotten = forgotten
        self._every = heart.every if heart is not None else LOOK
        self._ticked = False
        self._still = 0.0  # seconds without a tick that this thread was awake for
        self._told = False
        self._stop = threading.Event()
        self._ticking: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Begin; returns False where there are no threads, and the caller must beat by itself."""
        self._loop = loop
        self._loop_thread = threading.get_ident()
        if not self._env.thread("longcase-pulse", self._run):
            return False
        self._tick()
        return True

    @property
    def holds(self) -> bool:
        """Whether the lease cannot have lapsed, by this process's clock: nobody takes the worker for dead."""
        return self._heart is None or self._env.monotonic() - self._heard < self._heart.lease

    def stop(self) -> None:
        """Stop beating; the lease lapses unless the worker leaves."""
        self._stop.set()
        if self._ticking is not None:
            self._ticking.cancel()

    def _tick(self) -> None:
        self._ticked = True
        self._ticking = self._loop.call_later(TICK, self._tick)

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._every):
                if not self._look():
                    return
        finally:
            if self._heart is not None:
                self._heart.close()

    def _look(self) -> bool:
        """Beat if the loop turns; False if there is nothing to beat for any more."""
        try:
            return not self._may_beat() or self._heart is None or self._beat(self._heart)
        except Exception:  # without this thread healthy work loses its lease: whatever it was, it is tried again
            log.exception("no sign of life given")
            return True

    def _may_beat(self) -> bool:
        if self._ticked:
            if self._told:
                log.warning("the event loop turns again after %.0f s", self._still)
            self._ticked, self._told, self._still = False, False, 0.0
            return True
        # Counted in steps of this thread, not by the clock: a process that was stopped was not blocked.
        self._still += self._every
        found = self._culprit()
        if self._still >= TELL and not self._told:
            self._told = True
            what = found[0] if found is not None else "something"
            frame = sys._current_frames().get(self._loop_thread)
            where = "".join(traceback.format_stack(frame, 3)) if frame is not None else ""
            log.warning(
                "%s has blocked the event loop for %.0f s: nothing else moves in this worker; "
                "declare it with a plain def, or let it await\n%s", what, self._still, where,
            )  # fmt: skip
        return self._still <= (found[1] if found is not None else PATIENCE)

    def _beat(self, heart: Heart) -> bool:
        sent = self._env.monotonic()
        try:
            heart.beat()
            self._heard = sent
        except WorkerForgotten:
            with suppress(RuntimeError):  # the loop is closed: the worker has left
                self._loop.call_soon_threadsafe(self._forgotten)
            return False
        except LongcaseError as error:
            log.warning("no sign of life given: %s", error.message)
        return True
