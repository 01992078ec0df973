"""A worker's standing in the store: it joins as an incarnation, gives signs of life, and leaves.

An incarnation the store has forgotten does not come back: others have taken over what it held, and the
worker joins anew under another number.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from longcase.engine.code import WorkflowCode
from longcase.env import Env
from longcase.errors import UnavailableError
from longcase.runtime.pulse import Culprit, Pulse
from longcase.store.port import Store

log = logging.getLogger("longcase.worker")

BEAT_WORKER = 5.0  # seconds between a worker's own signs of life, one small commit each


class Membership:
    """One worker's incarnations, one after the other.

    Args:
        culprit: names what blocks the loop, for the pulse.
        lost: told that the store has forgotten the present incarnation.
    """

    def __init__(
        self,
        store: Store,
        env: Env,
        culprit: Callable[[asyncio.AbstractEventLoop], Culprit | None],
        lost: Callable[[], None],
    ) -> None:
        self.number = 0  # of the present incarnation
        self.forgotten = False
        self._store = store
        self._env = env
        self._culprit = culprit
        self._lost = lost
        self._pulse: Pulse | None = None
        self._beats_here = True
        self._beat_at = 0.0

    async def join(self, codes: Mapping[str, WorkflowCode], serves: Sequence[str]) -> int:
        """Register a new incarnation with what it has loaded and serves; returns its number."""
        loop = asyncio.get_running_loop()
        asked = self._env.monotonic()
        loaded = {name: code.fingerprint for name, code in codes.items() if code.fingerprint}
        self.number = await self._store.join(socket.gethostname(), os.getpid(), codes=loaded, serves=serves)
        heart = self._store.heart(self.number)
        self._pulse = Pulse(heart, self._env, partial(self._culprit, loop), partial(self.forget, self.number), asked)
        # Where the lease is kept by the pulse, the pump need not; elsewhere its beat is for the eye.
        self._beats_here = not self._pulse.start(loop) or heart is None
        self.forgotten = False  # only now: until it has joined it tries again
        return self.number

    @property
    def holds(self) -> bool:
        """Whether the incarnation's lease cannot have lapsed; where none is kept from here, nobody can tell."""
        return self._beats_here or self._pulse is None or self._pulse.holds

    def forget(self, incarnation: int) -> None:
        """Note that the store has forgotten an incarnation; if it is this one, the pump joins anew first of all."""
        if incarnation == self.number:  # else the answer to an earlier one's beat came late
            self.forgotten = True
            self._lost()

    async def beat(self, time: float) -> None:
        """Give a sign of life where the pulse does not, if it is time for one.

        Args:
            time: the loop's.
        """
        if time >= self._beat_at and self._beats_here:
            self._beat_at = time + BEAT_WORKER
            await self._store.beat(self.number)

    def stop_pulse(self) -> None:
        """Give no further signs of life."""
        if self._pulse is not None:
            self._pulse.stop()

    async def leave(self) -> None:
        """Give back every lease; where the store does not answer, others find the incarnation dead."""
        try:
            await self._store.leave(self.number)
        except UnavailableError as error:
            log.warning("could not give leases back: %s", error.message)
