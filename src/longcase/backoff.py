"""Pauses between tries of what is away: drawn, and growing up to a cap.

Many processes lose one server in the same instant. Were their pauses alike they would all come back in the
same instant too, again and again; and a server that is away for long is not asked twice a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

FIRST: Final = 0.5  # seconds the first pause lasts at most
CAP: Final = 5.0  # and any pause


class Backoff:
    """The pauses of one who tries again and again.

    Each lasts between half its bound and the whole of it; the bound doubles from FIRST to CAP.

    Args:
        draw: a number from 0 to below 1, as `Env.random.random` gives it.
    """

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self._bound = 0.0  # of the pause before; 0 where there was none
        self._bell = asyncio.Event()

    def next(self) -> float:
        """Return the seconds of the next pause."""
        self._bound = min(2 * self._bound or FIRST, CAP)
        return self._bound * (1 + self._draw()) / 2

    def reset(self) -> None:
        """Note that a try went well: the pause after it is a first one."""
        self._bound = 0.0

    async def pause(self) -> None:
        """Wait for as long as the next pause lasts, or until `hurry`."""
        self._bell.clear()
        handle = asyncio.get_running_loop().call_later(self.next(), self._bell.set)
        try:
            await self._bell.wait()
        finally:
            handle.cancel()

    def hurry(self) -> None:
        """End the pause that is under way."""
        self._bell.set()
