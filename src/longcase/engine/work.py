"""What there is to do for a case, and what follows from doing it: the records `advance` takes and returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Literal

from longcase.engine.attempts import Failure, Success
from longcase.history.state import Call, CaseState
from longcase.history.waits import all_due, next_due
from longcase.model.codec import Json
from longcase.record import record


@record(frozen=False)  # made for every attempt: freezing it would double what its making costs
class Ended:
    """An attempt of this process ended; `at` is when."""

    call: str
    number: int
    outcome: Success | Failure
    worker: int
    at: str


@record
class Verified:
    """The world was asked about a call of unknown outcome."""

    call: str
    number: int
    answer: Literal["happened", "not_happened", "unknown"]
    result: Json
    why: str
    at: str


@record
class Accepted:
    """An input from the inbox."""

    no: int
    id: str
    type: str
    data: dict[str, Json]
    actor: str
    channel: str
    on_behalf: str
    cause: int | None
    at: str
    damaged: bool = False


Item = Ended | Verified | Accepted


@record(frozen=False)
class Work:
    """What there is to do for one case, and the little the engine may ask of the runtime.

    Attributes:
        now: the store's clock, as text.
        items: in the order they were accepted or ended.
        dead: tells whether a worker incarnation is certainly dead.
        draw: uniform in [0, 1), for jitter.
        limit: apply at most so many items and due clocks; the rest stays for the next advance.
        granted: tells whether this worker may run what a call of the case needs now.
    """

    now: str
    items: Sequence[Item] = ()
    dead: Callable[[int], bool] = lambda worker: False
    draw: Callable[[], float] = lambda: 0.5
    limit: int | None = None
    granted: Callable[[int, str, Call], bool] = lambda case_no, ref, call: True


@record(frozen=False)
class Command:
    """What the runtime must do once the events are durable.

    perform: run attempt `number` of `call`; verify: ask the world about it; stop: ask the attempt to stop.
    """

    kind: Literal["perform", "verify", "stop"]
    case_no: int
    call: str
    number: int


@record(frozen=False)
class Advance:
    """The outcome: what was applied and what is to be carried out. The events are the resident's."""

    taken: list[int] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    kept: list[Item] = field(default_factory=list)  # could not be applied now; must not be lost
    again: bool = False  # an input that had to wait can be applied now
    applied: int = 0  # items and clocks that took effect
    items_applied: int = 0


class Stopped(Exception):
    """The limit of this advance is reached."""


def wake_at(state: CaseState, now: str) -> str:
    """Return when the case wants to be advanced again by its clocks alone, or "".

    What is due by now has either taken effect or cannot: an incident keeps it waiting (its repair
    wakes the case) or no slot is free for an attempt (the worker comes back when one is).
    """
    due = next_due(state)
    if not due or due > now:
        return due
    return min((instant for instant in all_due(state) if instant > now), default="")
