"""The event: one recorded fact of a case, and the catalogue of all there are.

Every type declares its version, its road into history and its anchor on the map. Roads
(SEMANTICS A2):

    input    what stage code awaits; enters history only in the turn that applies it; seen
    emitted  what stage code did in a turn; compared on replay; seen
    outside  appended at once under the case row's lock by a repair or correction; seen, so a turn
             computed without it is thrown away and redone; the next turn applies it
    record   attempts, votes, reminders, refusals; unseen: a turn is appended after them
"""

from __future__ import annotations

from dataclasses import field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, Literal

from longcase.errors import BugError
from longcase.model.codec import Json
from longcase.record import record

Road = Literal["input", "emitted", "outside", "record"]
Anchor = Literal["node", "edge", "stage", "case"]

HISTORY_FORMAT: Final = 1


@record
class EventType:
    """One entry of the catalogue."""

    name: str
    road: Road
    anchor: Anchor
    meaning: str
    version: int = 1

    @property
    def seen(self) -> bool:
        """Whether stage code can see it (a turn computed without it is stale)."""
        return self.road != "record"


_ALL = (
    EventType("case_started", "outside", "case", "a case was accepted with its business object"),
    EventType("stage_entered", "emitted", "edge", "a visit began; carries the snapshot replay starts from"),
    EventType("object_changed", "emitted", "node", "stage code wrote fields of the object"),
    EventType("ruling_recorded", "emitted", "node", "a decision was taken by its rule"),
    EventType("activity_scheduled", "emitted", "node", "an activity was commanded, with its key, and perhaps begun"),
    EventType("activity_reused", "emitted", "node", "a call took the recorded result of an earlier one"),
    EventType("activity_completed", "input", "node", "the call's success, recorded once and never replaced"),
    EventType("activity_failed", "input", "node", "the call is finally lost; raised into the stage"),
    EventType("activity_cancelled", "emitted", "node", "stage code stopped waiting for the call"),
    EventType("attempt_started", "record", "node", "a further attempt began"),
    EventType("attempt_failed", "record", "node", "an attempt ended in failure; the next one has its instant"),
    EventType("attempt_lost", "record", "node", "an attempt's worker died or its lease lapsed; the outcome is unknown"),
    EventType("attempt_committed", "record", "node", "an attempt's transaction was committed, its result waits"),
    EventType("attempt_refused", "record", "node", "a result came from an attempt that is no longer the current one"),
    EventType("attempt_verified", "record", "node", "an unknown outcome was settled by asking the world"),
    EventType("result_late", "record", "node", "a result of a call nobody waits for any more"),
    EventType("timer_set", "emitted", "node", "a pause or a timeout was armed"),
    EventType("timer_fired", "input", "node", "a timer came due"),
    EventType("timer_cancelled", "emitted", "node", "a timer was disarmed"),
    EventType("task_opened", "emitted", "node", "people were asked"),
    EventType("task_claimed", "record", "node", "a person took the task"),
    EventType("task_released", "record", "node", "a person gave the task back"),
    EventType("vote_given", "record", "node", "a person answered, perhaps otherwise than before"),
    EventType("vote_refused", "record", "node", "an answer was refused: late, second, stale, or not allowed"),
    EventType("vote_stale", "record", "node", "what was shown changed; the answer no longer counts and is asked again"),
    EventType("task_reminded", "record", "node", "a reminder went out"),
    EventType("task_escalated", "record", "edge", "a level of the ladder was climbed"),
    EventType("task_expired", "record", "edge", "nobody decided in time; the declared answer stands for it"),
    EventType("task_decided", "input", "node", "the task has its answer, by people or by its expiry"),
    EventType("task_met", "emitted", "node", "a required field has its value"),
    EventType("task_withdrawn", "emitted", "node", "nobody needs the answer any more"),
    EventType("receive_opened", "emitted", "node", "the stage waits for a signal"),
    EventType("receive_closed", "emitted", "node", "the stage stopped waiting for a signal"),
    EventType("signal_received", "input", "case", "a signal entered the history, to be consumed or kept"),
    EventType("signal_consumed", "emitted", "node", "waiting code resumed with the signal"),
    EventType("handler_started", "emitted", "node", "a handler took a signal, and runs beside the stage"),
    EventType("handler_ended", "emitted", "node", "a handler returned"),
    EventType("stage_returned", "emitted", "node", "the stage is done, and waits for its handlers to end"),
    EventType("signal_refused", "record", "case", "a signal came to a closed case, or is none of the workflow"),
    EventType("signal_unhandled", "record", "case", "a signal nobody consumed, with the reason"),
    EventType("duplicate_ignored", "record", "case", "a message came again under the same key"),
    EventType("child_started", "emitted", "node", "a child case was started"),
    EventType("child_closed", "input", "node", "a child case closed"),
    EventType("child_released", "emitted", "node", "the stage stopped waiting for a child case"),
    EventType("undo_requested", "emitted", "node", "the stage asked to undo what the case did"),
    EventType("undo_started", "record", "node", "the compensation of one call was commanded"),
    EventType("undone", "record", "node", "the compensation of one call succeeded"),
    EventType("undo_skipped", "record", "node", "there was nothing to undo for a call, or a person said so"),
    EventType("undo_finished", "input", "node", "everything is settled and undone"),
    EventType("interrupted", "input", "stage", "an exception path, a cancel or a move ended the visit"),
    EventType(
        "unwind_refused", "record", "stage", "interrupted stage code waited again, or took over 100 steps for each task"
    ),
    EventType("cancel_requested", "record", "case", "somebody asked to cancel the case"),
    EventType("incident_opened", "record", "stage", "the case cannot go on without an operator"),
    EventType("incident_closed", "record", "stage", "the incident ended: repaired, answered, or superseded"),
    EventType("call_retried", "record", "node", "an operator granted the call new attempts"),
    EventType("input_corrected", "record", "node", "a field that a call in flight was called with has been corrected"),
    EventType("call_redone", "record", "node", "an operator had it called anew with other arguments, under a new key"),
    EventType("corrected", "outside", "case", "somebody set fields of the object, with who, why, before and after"),
    EventType("moved", "outside", "stage", "somebody moved the case, or restarted its visit"),
    EventType("visit_warned", "record", "stage", "the visit's or the case's history grows long"),
    EventType("case_closed", "emitted", "edge", "the case ended under a named close"),
)  # fmt: skip

CATALOGUE: Final[dict[str, EventType]] = {kind.name: kind for kind in _ALL}
SEEN: Final[frozenset[str]] = frozenset(kind.name for kind in _ALL if kind.seen)
APPLIED: Final[frozenset[str]] = frozenset(kind.name for kind in _ALL if kind.road in ("input", "emitted"))
# What people do at the door while a turn is computed: the turn is appended after these, unless it lets a
# task's clock take effect itself. Every other record (an attempt's start or end, an undo, an expiry) is
# a mover's, and changes what another mover's turn would do: that turn is redone.
BESIDE: Final[frozenset[str]] = frozenset(
    {
        "vote_given", "vote_refused", "vote_stale", "task_claimed", "task_released", "task_reminded", "task_escalated",
        "duplicate_ignored", "signal_refused", "attempt_refused",
    }
)  # fmt: skip
TASK_CLOCKS: Final[frozenset[str]] = frozenset({"task_reminded", "task_escalated", "task_expired"})


@record(frozen=False)
class Event:
    """One fact. `seq`, `salt`, `digest` and `hash` are given at append, under the case row's lock.

    Attributes:
        visit: the visit it belongs to, 0 before the first.
        at: instant of append, UTC, ISO 8601 with microseconds and Z.
        actor: `person:NAME`, `service:NAME`, `worker:N`, `timer` or `engine`.
        on_behalf: whom the actor stood in for.
        channel: where it came in: `api`, `cli`, `http`, `engine`.
        cause: seq of the event that led to it; None for what came from outside.
        map: number of the map the visit's code has; 0 before a worker saw the case.
        node, n, strand: the place on the map, the n-th arrival there in the visit, the task path.
    """

    type: str
    data: dict[str, Json]
    visit: int = 0
    at: str = ""
    actor: str = "engine"
    on_behalf: str = ""
    channel: str = "engine"
    cause: int | None = None
    map: int = 0
    node: str = ""
    n: int = 0
    strand: str = ""
    seq: int = 0
    version: int = 1
    salt: str = field(default="", repr=False)
    digest: bytes = field(default=b"", repr=False)
    hash: bytes = field(default=b"", repr=False)
    text: str = field(default="", repr=False)  # the payload as stored; encoded once

    @property
    def seen(self) -> bool:
        return self.type in SEEN


def instant_text(instant: datetime) -> str:
    """Return an aware instant as stored: UTC, microseconds, Z; text order is time order."""
    if instant.tzinfo is not UTC:
        if instant.tzinfo is None:
            raise BugError(f"naive instant {instant!r}")
        instant = instant.astimezone(UTC)
    second = _second_text(instant.year, instant.month, instant.day, instant.hour, instant.minute, instant.second)
    return f"{second}{instant.microsecond:06d}Z"


@lru_cache(maxsize=64)  # the clock is read many times a second
def _second_text(year: int, month: int, day: int, hour: int, minute: int, second: int) -> str:
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}."


@lru_cache(maxsize=256)  # a batch shares its instant
def instant_of(text: str) -> datetime:
    """Return the instant a stored text stands for."""
    return datetime.fromisoformat(text)


@lru_cache(maxsize=256)
def later_text(text: str, by: timedelta) -> str:
    """Return the stored text of an instant plus a length of time."""
    return instant_text(instant_of(text) + by)
