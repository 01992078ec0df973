"""The records of a case: what its row holds, what `stage_entered` snapshots, and what replay starts from.

They are changed by the fold only (`state`), and nothing older than they is needed (SEMANTICS B2).
"""

from __future__ import annotations

from dataclasses import field, fields
from operator import attrgetter
from typing import Final, NotRequired, TypedDict

from longcase.model.codec import Json
from longcase.record import record


class Call(TypedDict):
    """A commanded activity (or the compensation of one) that has no recorded outcome yet."""

    activity: str
    label: NotRequired[str]
    node: str
    n: int
    strand: str
    visit: int
    seq: int  # of the event that commanded it and holds its input
    key: str
    owner: str
    system: str
    since: str
    expected: str
    attempt: int  # number of the latest attempt; 0 before the first. Also its fence
    failures: int  # failed attempts since the call was commanded or granted new attempts
    status: str  # ready | running | backoff | unknown | incident
    worker: int  # incarnation that runs the attempt; 0 if none
    started: str  # of the running attempt
    first: str  # start of the first attempt
    next_try: str
    deadline: str  # schedule-to-close, or ""
    start_by: str  # schedule-to-start: until then the first attempt must have begun, or ""
    awaited: bool  # whether stage code still waits for it
    undoes: str  # the call this one compensates, or ""
    details: NotRequired[Json]  # last heartbeat of a lost or failed attempt, for the next one
    details_of: NotRequired[int]  # the attempt it was
    error: NotRequired[dict[str, Json]]  # of the last failure, for whoever asks
    queue: NotRequired[str]  # whose workers alone may run it
    priority: NotRequired[int]  # within the queue
    stopping: NotRequired[bool]  # the stage waits for the end of an attempt it has cancelled: no further one
    corrected: NotRequired[dict[str, Json]]  # what of its arguments was corrected since: changes, doubts, by, at
    asked_as: NotRequired[str]  # the call that stage code waits for, where an operator had it called anew
    after: NotRequired[str]  # the same, of the visit that was begun anew: it does not begin before that one is settled
    scope: NotRequired[str]  # the key of the one with `asked_as`, under which `once_per` finds the result
    transaction: NotRequired[bool]  # its attempts run in transactions of the store: nothing of a failed one is left
    committed: NotRequired[int]  # the attempt whose transaction was committed: its result waits in the inbox
    lost: NotRequired[int]  # attempts lost with their worker since the call was commanded or granted new attempts


class Timer(TypedDict):
    """An armed stage timer."""

    due: str
    since: str
    because: str
    kind: str  # pause | timeout
    node: str
    n: int
    strand: str
    seq: int
    whose: str


class Vote(TypedDict):
    """One person's answer to a task."""

    by: str
    answer: str
    reason: str
    at: str
    digest: str


class Task(TypedDict):
    """An open question to people: an approval, a choice, a form, or a required field."""

    kind: str  # approval | choice | task | require
    question: str
    node: str
    n: int
    strand: str
    visit: int
    round: int
    seq: int
    status: str  # ready | reserved | decided | expired | withdrawn
    of: str
    whose: list[str]
    claimed_by: str
    since: str
    expected: str
    quorum: int
    answers: list[str]
    form: Json
    field: str
    fields: list[str] | None
    constants: dict[str, Json]
    shown: str  # canonical JSON of what is shown
    digest: str
    votes: list[Vote]
    reminders: list[str]  # instants still to come, at most REMINDERS of them
    ladder: list[dict[str, Json]]  # {at, to, reassign}, in order
    level: int
    expires_at: str
    expires_answer: str
    members: dict[str, list[str]]  # of each candidate team that names its members
    outcome: NotRequired[dict[str, Json]]


class Receive(TypedDict):
    """An open wait for a signal."""

    signal: str
    node: str
    n: int
    strand: str
    seq: int
    since: str
    expected: str
    whose: str


class KeptSignal(TypedDict):
    """A signal that entered the history and is not consumed yet."""

    id: str
    signal: str
    seq: int
    at: str
    sender: str
    body: Json
    begun: NotRequired[int]  # lineage of the restarted visit in which its handler had begun


class Handled(TypedDict):
    """A handler that runs beside the stage."""

    signal: str
    id: str  # of the signal it took
    node: str
    n: int
    strand: str
    seq: int
    since: str
    expected: str
    whose: str


class Child(TypedDict):
    """A child case that has not closed."""

    workflow: str
    key: str
    node: str
    n: int
    strand: str
    seq: int
    since: str
    expected: str
    awaited: bool
    on_close: str


class UndoEntry(TypedDict):
    """What `case.undo()` has to settle: written with the command, before the first attempt (A4)."""

    call: str
    activity: str
    undo: str  # name of the compensating activity, or "" where the effect has none
    visit: int
    stage: str
    seq: int  # of the command, which holds the arguments
    status: str  # open | done | nothing | undone | left
    result: int  # seq of the event that holds the result, 0 while there is none
    failed: NotRequired[int]  # compensations that failed for good, and that an interrupt went past: each has its name


class Redone(TypedDict):
    """A call that an operator had called anew with other arguments, until it is settled (A4)."""

    asked_as: str  # the call that stage code waits for
    node: str
    n: int
    strand: str
    seq: int  # of the event that commanded it


class Incident(TypedDict):
    """Why the case cannot go on without an operator."""

    kind: str
    owner: str
    message: str
    since: str
    due: str
    cause: int
    visit: int
    node: str
    call: str
    blocks: bool  # no input is applied while it is open
    pending: Json  # the input that could not be applied and is not in the inbox, or None
    repairs: list[str]
    details: dict[str, Json]


# Failures after which the world may have changed although no answer came.
UNKNOWN_KINDS: Final = frozenset({"timeout", "heartbeat", "lost"})


def may_have_happened(call: Call, kind: str | None) -> bool:
    """Tell whether the world may have changed by an attempt that failed in this way."""
    return kind in UNKNOWN_KINDS and not call.get("transaction")


TRANSIENT: Final = frozenset({"ended_tasks"})


@record(frozen=False)
class CaseState:
    """Everything the system knows of a case. Changed by `apply` only."""

    uid: str = ""
    tenant: str = "main"
    workflow: str = ""
    key: str = ""
    status: str = "open"  # open | closed
    stage: str = ""
    kind: str = "stage"  # stage | path: whether the visit is of a stage or of an exception path
    visit: int = 0
    visits: dict[str, int] = field(default_factory=dict)  # the latest entry of each stage, restarts aside
    lineage: int = 0  # the first visit in a chain of restarts; keys and random seeds hang on it
    owner: str = ""
    started_at: str = ""
    entered_at: str = ""
    expected: str = ""  # when the case is expected to close
    stage_expected: str = ""
    closed_at: str = ""
    close: dict[str, Json] | None = None
    parent: dict[str, Json] | None = None
    object: dict[str, Json] = field(default_factory=dict)
    seq: int = 0
    seen_seq: int = 0
    entered_seq: int = 0  # of the visit's `stage_entered`: replay reads from there
    applied_seq: int = 0  # the last seen event a turn has run the stage over
    at: str = ""
    calls: dict[str, Call] = field(default_factory=dict)
    timers: dict[str, Timer] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    receives: dict[str, Receive] = field(default_factory=dict)
    signals: list[KeptSignal] = field(default_factory=list)
    handlers: dict[str, Handled] = field(default_factory=dict)  # those that run, by name
    returned: dict[str, Json] | None = None  # what the stage came to, while it waits for its handlers
    children: dict[str, Child] = field(default_factory=dict)
    undo: dict[str, UndoEntry] = field(default_factory=dict)  # by call, in the order of command
    undoing: dict[str, Json] | None = None
    redone: dict[str, Redone] = field(default_factory=dict)  # abandoned calls that are not settled yet
    incidents: dict[str, Incident] = field(default_factory=dict)
    rounds: dict[str, int] = field(default_factory=dict)
    once: dict[str, Json] = field(default_factory=dict)  # results recorded once per case or visit, by key
    reuse: dict[str, Json] = field(default_factory=dict)  # results a restarted visit takes over, by call name
    pins: dict[str, int] = field(default_factory=dict)
    move: dict[str, Json] | None = None
    cancel: dict[str, Json] | None = None
    # What is known to have grown long, visit | case; True where a release warned that did not say of what. It is one
    # field, as a worker of such a release beside this one could not read another.
    history_warned: bool | list[str] = False
    ended_tasks: dict[str, Task] = field(default_factory=dict)  # closed since the row was last written

    @property
    def address(self) -> str:
        return f"{self.workflow}/{self.key}"

    @property
    def warned(self) -> list[str]:
        """What is known to have grown long: visit | case."""
        return self.history_warned if isinstance(self.history_warned, list) else []

    def to_json(self) -> dict[str, Json]:
        """Return the record as JSON-able data; empty fields are left out."""
        out: dict[str, Json] = {}
        for name, value in zip(_FIELDS, _values(self), strict=True):
            if value or value is False or (value == 0 and name == "visit"):
                out[name] = value
        return out

    @classmethod
    def from_json(cls, data: dict[str, Json]) -> CaseState:
        """Return the record `to_json` made. The data is taken over, not copied."""
        state = cls()
        for name, value in data.items():
            setattr(state, name, value)
        return state


_FIELDS: Final = tuple(f.name for f in fields(CaseState) if f.name not in TRANSIENT)
_values: Final = attrgetter(*_FIELDS)
