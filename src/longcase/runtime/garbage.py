"""How often Python looks for cyclic garbage while a worker runs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

OBJECTS = 20_000  # newly made objects between two looks; Python's own 700 cost a busy worker 4 % of its time
OLDER = 2  # looks at the young until those that outlived one are looked at, and so on: as often as Python does


@contextmanager
def rarer() -> Iterator[None]:
    """Have the collector look every OBJECTS new objects, unless the program has set it to look rarer, or not at all.

    A turn makes a few dozen objects that live until the case moves on, and then go with their last reference. What
    waits for the collector is the program's own, and errors that stage code catches in groups.
    """
    before = gc.get_threshold()
    raised = (OBJECTS, *(min(count, OLDER) for count in before[1:]))
    if not 0 < before[0] < OBJECTS:
        yield
        return
    gc.set_threshold(*raised)
    try:
        yield
    finally:
        if gc.get_threshold() == raised:  # else somebody else has set it meanwhile
            gc.set_threshold(*before)
