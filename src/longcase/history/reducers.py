"""Which function folds which type of event; `state` applies them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from longcase.history.event import Event
from longcase.history.records import CaseState

Reducer = Callable[[CaseState, Event], None]
REDUCERS: Final[dict[str, Reducer]] = {}


def on(*types: str) -> Callable[[Reducer], Reducer]:
    """Register a function as the reducer of these types of event."""

    def register(reduce: Reducer) -> Reducer:
        for kind in types:
            REDUCERS[kind] = reduce
        return reduce

    return register
