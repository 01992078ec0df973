"""Waiting for something that can be seen, with a bound; never for time."""

from __future__ import annotations

import time
from collections.abc import Callable

BOUND = 60.0  # seconds until a test says that what it waits for did not come


def until(seen: Callable[[], object], what: str, bound: float = BOUND) -> float:
    """Wait until something can be seen; returns the seconds it took."""
    began = time.monotonic()
    while not seen():
        assert time.monotonic() - began < bound, f"{what}: not within {bound:g} s"
        time.sleep(0.005)
    return time.monotonic() - began
