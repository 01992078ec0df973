"""How often Python looks for cyclic garbage while a worker runs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

OBJECTS = 20_000  # newly made objects between two looks; Python's own 700 cost a busy worker 4 % of its time


@contextmanager
def rarer() -> Iterator[None]:
    """Have the collector look every OBJECTS new objects, unless the program has set it to look rarer, or not at all.

    A turn makes a few dozen objects that live until the case moves on, and a visit leaves one small cycle behind:
    some 700 of those, a few megabytes, wait for the collector at most.
    """
    before = gc.get_threshold()
    raised = (OBJECTS, *before[1:])
    if not 0 < before[0] < OBJECTS:
        yield
        return
    gc.set_threshold(*raised)
    try:
        yield
    finally:
        if gc.get_threshold() == raised:  # else somebody else has set it meanwhile
            gc.set_threshold(*before)
