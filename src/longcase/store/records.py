"""What passes through the port: cases as stored, what is to be written, what is answered. Records, no rules.

`store.port` says what a store does with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Generic, Literal, TypeVar

from longcase.history.event import Event
from longcase.history.state import CaseState
from longcase.model.codec import Json
from longcase.record import record

T = TypeVar("T")


@record
class CaseRef:
    """A case by number, or by tenant, workflow and key (the live case of that key, else the newest)."""

    case_no: int = 0
    workflow: str = ""
    key: str = ""
    tenant: str = "main"


@record(frozen=False)
class Input:
    """An accepted input that waits in the inbox for the turn that applies it.

    `type` and `data` are those of the history event it will become; `id` is unique in the case and
    given by the sender of the input (so that a repeat is recognised), `no` by the store (order).
    """

    id: str
    type: str
    data: dict[str, Json]
    actor: str
    channel: str
    accepted_at: str = ""
    no: int = 0
    cause: int | None = None
    on_behalf: str = ""
    damaged: bool = False  # where it lies; `data` has what is left of it, for the eye


@record
class DedupKey:
    """A sender's key. Scope is (tenant, recipient); the digest tells the same body from another."""

    scope: str
    key: str
    body: str


@record(frozen=False)
class NewCase:
    """A case to be started: its first event, and the key that makes a repeated start harmless."""

    started: Event  # case_started
    dedup: DedupKey | None = None
    again: bool = False  # start anew although a closed case has the key


@record
class QueuedCall:
    """A call of an activity that is bound to a queue: it waits for a worker that serves it, or runs there.

    `attempt` is the number to be begun next, or the one that runs on `worker` (0 while it waits).
    """

    call: str
    queue: str
    priority: int
    attempt: int
    due: str  # not to be begun before
    since: str
    worker: int = 0
    stop: bool = False  # the running attempt is asked to stop


@record
class QueueLimits:
    """A queue a worker serves, and what holds for it over the whole fleet."""

    name: str
    concurrency: int | None = None  # attempts at once
    rate: tuple[int, float] | None = None  # attempts begun in so many seconds


@record
class Taken:
    """Queued calls given to a worker, and when it is worth asking again: "" if nobody knows."""

    calls: tuple[tuple[int, str, int], ...]  # case, call, number of the attempt to begin
    again: str
    claim: int = 0  # number of the taking, for `give_back`


@record(frozen=False)
class CaseWrite:
    """What one or more turns of one case add. Written wholly or not at all."""

    case_no: int
    base_seq: int
    base_seen: int
    events: list[Event]
    state: CaseState  # after `events`, if nothing came in between
    lease: int = 0
    wake_at: str = ""
    taken: list[int] = field(default_factory=list)  # numbers of the inbox inputs these turns applied
    children: list[NewCase] = field(default_factory=list)  # started in the same transaction
    notify: list[tuple[int, Input]] = field(default_factory=list)  # inputs for other cases (a child's close)
    cancel_children: list[tuple[str, str, str, str]] = field(default_factory=list)  # (child, workflow, key, reason)
    new: NewCase | None = None  # start this case here; case_no is 0 and base_seq 1 (the case_started event)
    heard: int | None = None  # newest inbox input these turns looked at (see `Store.write`)
    queued: list[QueuedCall] | None = None  # all calls of the case that stand in a queue; None: as they were
    worker: int = 0  # the incarnation that computed this; 0 for nobody's


@record(frozen=False)
class Written:
    """The outcome of one CaseWrite, in the order given.

    `done`: written; `state` is what the row holds now (re-folded if unseen events came in between).
    `stale`: a seen event came in between, or the case closed; nothing of this case was written.
    `existing`: only for `new`: a case of that key is there; `case_no` is its number.
    `failed`: only with `partial`: this entry cannot be written, for the reason in `error`.
    """

    outcome: Literal["done", "stale", "existing", "failed"]
    case_no: int
    state: CaseState | None = None
    interleaved: bool = False  # unseen events came in between: the caller must take over `state`
    pending: int = 0  # inbox inputs still there
    children: tuple[Started, ...] = ()  # what became of the children, in the order given
    error: Exception | None = None


@record
class Started:
    """The answer to a start: the case's number and whether it was there before."""

    case_no: int
    existing: bool
    state: CaseState
    differs: tuple[str, ...] = ()  # fields of the object that differ from the existing case's


@record(frozen=False)
class Edit(Generic[T]):
    """What a unit of work under the case row's lock wants written.

    `refusal` is raised to the caller after the events (which record the refusal) are durable.
    """

    result: T
    events: list[Event] = field(default_factory=list)
    inputs: list[Input] = field(default_factory=list)
    dedup: DedupKey | None = None  # remembered with `answer` in the same transaction
    answer: Json = None
    wake: bool = False  # the case wants a turn now
    refusal: Exception | None = None


@record(frozen=False)
class Locked:
    """What a unit of work sees: the case under its row's lock. It must not change `state` itself."""

    case_no: int
    state: CaseState
    now: str
    inbox: Callable[[], list[Input]]  # read when it is asked for: ten thousand inputs may wait
    duplicate: Json | None = None  # the answer remembered under the dedup key that was passed, if any

    @property
    def pending(self) -> list[Input]:
        """The inputs no turn has applied yet, in order of acceptance; to be asked for before the decision is made."""
        return self.inbox()


Decide = Callable[[Locked], Edit[T]]


@record(frozen=False)
class CaseRow:
    """A case as stored."""

    case_no: int
    state: CaseState
    hash: bytes
    wake_at: str
    lease: int
    pending: int
    inbox: list[Input] | None = None  # what waits, where the store has read it along; else ask `inboxes`


@record
class WorkerRow:
    """A registered worker incarnation."""

    no: int
    host: str
    pid: int
    started_at: str
    beat_at: str
    alive: bool
    leases: int
    codes: Mapping[str, str] = field(default_factory=dict)  # fingerprint of the code, by workflow
    queues: tuple[str, ...] = ()  # those it serves

    def loads(self, workflow: str) -> bool:
        """Tell whether it can move cases of a workflow, as far as it said what it has loaded."""
        return not self.codes or workflow in self.codes

    def serves(self, queue: str) -> bool:
        """Tell whether it takes what waits in a queue, as far as it said which it serves."""
        return not self.queues or queue in self.queues


@record(frozen=False)
class Stored:
    """All that is kept of one case, as it stands in the tables: what `verify` compares with the history."""

    case_no: int
    row: dict[str, Json]  # by column; JSON columns decoded
    hash: bytes  # the head of the chain, as the row has it
    events: list[Event]  # in the order of their seq; `data` is {} where `text` is no JSON
    inbox: list[Input]
    tasks: dict[str, dict[str, Json]]  # by name in the case: the row of the tasks projection


@record
class Exported:
    """A file that holds closed cases, and was read back: what the store keeps a receipt of."""

    file: str  # as it was named
    digest: bytes  # SHA-256 of its bytes
    by: str  # the actor
    cases: Mapping[int, tuple[int, bytes]]  # by number: how long the history was, and its head


@record
class Purge:
    """Which closed cases are to go: those of a workflow that are old enough, exported, and held by nothing."""

    tenant: str
    workflow: str
    closed_until: str  # closed at this instant or before
    keys_until: str  # no message under a sender's key was accepted for it later
    by: str
    reason: str
    limit: int  # cases of one transaction


@record
class Purged:
    """A case that has gone; its tombstone stands in the view `purged`."""

    case_no: int
    address: str
    events: int


def differing(existing: Mapping[str, Json], sent: Mapping[str, Json]) -> tuple[str, ...]:
    """Return the fields of two objects that differ, sorted."""
    return tuple(sorted(name for name in existing.keys() | sent.keys() if existing.get(name) != sent.get(name)))
