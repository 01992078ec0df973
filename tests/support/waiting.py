"""Waiting for something observable, with a bound."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

BOUND = 60.0  # seconds anything is waited for before the test gives up


async def until(look: Callable[[], Awaitable[Any]]) -> Any:
    """Look until there is something to see, or the bound is over."""
    async with asyncio.timeout(BOUND):
        while not (seen := await look()):
            await asyncio.sleep(0.01)
    return seen


async def until_true(look: Callable[[], Any]) -> Any:
    """Look, without asking a store, until there is something to see."""

    async def looking() -> Any:
        return look()

    return await until(looking)


def wait_for(path: Path) -> None:
    """Wait until another process has written a file."""
    deadline = time.monotonic() + 90  # a process that is to begin first
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)
