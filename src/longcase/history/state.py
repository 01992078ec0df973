"""The state of a case as a fold of its history: one typed record, one reducer.

`CaseState` is what the row of a case holds, what `stage_entered` snapshots, and what replay starts
from; nothing older is needed (SEMANTICS B2). The reducer is the only code that changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Final, NotRequired, TypedDict, cast

from longcase.errors import BugError
from longcase.history.event import APPLIED, Event
from longcase.model.codec import Json


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
_TRANSIENT: Final = frozenset({"settled_tasks"})


@dataclass(slots=True)
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
    children: dict[str, Child] = field(default_factory=dict)
    undo: dict[str, UndoEntry] = field(default_factory=dict)  # by call, in the order of command
    undoing: dict[str, Json] | None = None
    incidents: dict[str, Incident] = field(default_factory=dict)
    rounds: dict[str, int] = field(default_factory=dict)
    once: dict[str, Json] = field(default_factory=dict)  # results recorded once per case or visit, by key
    reuse: dict[str, Json] = field(default_factory=dict)  # results a restarted visit takes over, by call name
    pins: dict[str, int] = field(default_factory=dict)
    move: dict[str, Json] | None = None
    cancel: dict[str, Json] | None = None
    history_warned: bool = False
    settled_tasks: dict[str, Task] = field(default_factory=dict)  # closed since the row was last written

    @property
    def address(self) -> str:
        return f"{self.workflow}/{self.key}"

    def to_json(self) -> dict[str, Json]:
        """Return the record as JSON-able data; empty fields are left out."""
        out: dict[str, Json] = {}
        for name in _FIELDS:
            value = getattr(self, name)
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


_FIELDS: Final = tuple(f.name for f in fields(CaseState) if f.name not in _TRANSIENT)

Reducer = Callable[[CaseState, Event], None]
_reducers: dict[str, Reducer] = {}


def apply(state: CaseState, event: Event) -> None:
    """Fold one event into the state. The event's `seq` must be the next one."""
    if event.seq != state.seq + 1:
        raise BugError(f"{state.address}: event {event.type} has seq {event.seq}, expected {state.seq + 1}")
    state.seq = event.seq
    state.at = event.at
    if event.seen:
        state.seen_seq = event.seq
        if event.type in APPLIED:
            state.applied_seq = event.seq
    reduce = _reducers.get(event.type)
    if reduce is not None:
        reduce(state, event)


def fold(events: Iterable[Event], state: CaseState | None = None) -> CaseState:
    """Return the state after `events`, beginning with `state` or nothing."""
    state = state or CaseState()
    for event in events:
        apply(state, event)
    return state


def _on(*types: str) -> Callable[[Reducer], Reducer]:
    def register(reduce: Reducer) -> Reducer:
        for kind in types:
            _reducers[kind] = reduce
        return reduce

    return register


@_on("case_started")
def _case_started(state: CaseState, event: Event) -> None:
    data = event.data
    state.uid = data["uid"]
    state.tenant = data["tenant"]
    state.workflow = data["workflow"]
    state.key = data["key"]
    state.stage = data["stage"]
    state.owner = data["owner"]
    state.expected = data["expected"]
    state.object = data["object"]
    state.parent = data.get("parent")
    state.started_at = state.entered_at = event.at


@_on("stage_entered")
def _stage_entered(state: CaseState, event: Event) -> None:
    data = event.data
    state.stage = data["stage"]
    state.kind = data["kind"]
    state.visit = event.visit
    state.visits[data["stage"]] = data["lineage"]  # a restart is no new entry
    state.entered_seq = event.seq
    state.lineage = data["lineage"]
    state.owner = data["owner"]
    state.stage_expected = data["expected"]
    state.entered_at = event.at
    state.reuse = data.get("reuse") or {}
    leave_visit(state)


def leave_visit(state: CaseState) -> None:
    """Drop what belongs to the visit alone; running calls, signals, children and the undo list stay."""
    state.timers = {}
    state.receives = {}
    state.tasks = {}
    state.pins = {}
    state.move = None
    for call in state.calls.values():
        if not call["undoes"]:
            call["awaited"] = False
    for child in state.children.values():
        child["awaited"] = False


@_on("object_changed")
def _object_changed(state: CaseState, event: Event) -> None:
    state.object = {**state.object, **event.data["patch"]}


@_on("corrected")
def _corrected(state: CaseState, event: Event) -> None:
    state.object = {**state.object, **event.data["patch"]}
    if event.data.get("pin"):
        for name in event.data["patch"]:
            state.pins[name] = event.seq


@_on("activity_scheduled", "undo_started")
def _activity_scheduled(state: CaseState, event: Event) -> None:
    data = event.data
    begun = data["attempt"] == 1
    call: Call = {
        "activity": data["activity"], "node": event.node, "n": event.n, "strand": event.strand,
        "visit": event.visit, "seq": event.seq, "key": data["key"], "owner": data["owner"],
        "system": data["system"], "since": event.at, "expected": data["expected"],
        "attempt": data["attempt"], "failures": 0, "status": "running" if begun else "ready",
        "worker": data["worker"], "started": event.at if begun else "", "first": event.at if begun else "",
        "next_try": "", "deadline": data["deadline"], "start_by": data["start_by"], "awaited": True,
        "undoes": data.get("undoes", ""),
    }  # fmt: skip
    state.calls[data["call"]] = call
    if "undo" in data:
        state.undo[data["call"]] = {
            "call": data["call"], "activity": data["activity"], "undo": data["undo"], "visit": event.visit,
            "stage": state.stage, "seq": event.seq, "status": "open", "result": 0,
        }  # fmt: skip
    if event.type == "undo_started" and state.undoing is not None:
        state.undoing["call"] = data["call"]


def undo_entry(state: CaseState, call: str) -> UndoEntry | None:
    """Return the undo entry written with a call's command, None once it is of no more use."""
    return state.undo.get(call)


@_on("activity_completed", "result_late", "undone")
def _activity_completed(state: CaseState, event: Event) -> None:
    data = event.data
    call = state.calls.pop(data["call"], None)
    if call is None:
        return
    _close_call_incidents(state, data["call"])
    if call["undoes"]:
        _settle(state, call["undoes"], "undone", event.seq)
        if state.undoing is not None:
            state.undoing["call"] = ""
        return
    _settle(state, data["call"], "done", event.seq)
    if data.get("once"):
        state.once[call["key"]] = {"seq": event.seq, "result": data["result"]}


def _settle(state: CaseState, call: str, status: str, seq: int) -> None:
    entry = undo_entry(state, call)
    if entry is not None:
        if not entry["undo"]:
            # Settled, and there is nothing to undo it with: it must not weigh on every later turn.
            del state.undo[call]
            return
        entry["status"] = status
        if status == "done":
            entry["result"] = seq


def _close_call_incidents(state: CaseState, call: str) -> None:
    if state.incidents:
        state.incidents = {k: incident for k, incident in state.incidents.items() if incident["call"] != call}


@_on("activity_failed")
def _activity_failed(state: CaseState, event: Event) -> None:
    ref = event.data["call"]
    _close_call_incidents(state, ref)
    entry = undo_entry(state, ref)
    call = state.calls.get(ref)
    if call is not None and entry is not None and entry["undo"] and event.data["error"]["kind"] in UNKNOWN_KINDS:
        # The stage goes on without it, but the world may have changed: an undo has to find out (A4).
        call["status"] = "unknown"
        call["awaited"] = False
        call["worker"] = 0
        call["started"] = call["next_try"] = ""
        return
    state.calls.pop(ref, None)
    _settle(state, ref, "nothing", event.seq)


@_on("activity_reused")
def _activity_reused(state: CaseState, event: Event) -> None:
    state.reuse.pop(event.data["reuse"], None)


@_on("activity_cancelled")
def _activity_cancelled(state: CaseState, event: Event) -> None:
    call = state.calls.get(event.data["call"])
    if call is None or event.data["waits"]:
        return
    call["awaited"] = False
    if call["attempt"] == 0:
        # No attempt ever began: nothing is out there to settle.
        del state.calls[event.data["call"]]
        _settle(state, event.data["call"], "nothing", event.seq)
    elif call["status"] == "backoff":
        # Nobody waits for another attempt. Whether the last one took effect is known, unless it got no answer.
        kind = call.get("error", {}).get("kind")
        if kind in UNKNOWN_KINDS and undo_entry(state, event.data["call"]) is not None:
            call["status"] = "unknown"
            call["next_try"] = ""
        else:
            del state.calls[event.data["call"]]
            _settle(state, event.data["call"], "nothing", event.seq)


@_on("attempt_started")
def _attempt_started(state: CaseState, event: Event) -> None:
    call = state.calls[event.data["call"]]
    call["attempt"] = event.data["attempt"]
    call["status"] = "running"
    call["worker"] = event.data["worker"]
    call["started"] = event.at
    call["first"] = call["first"] or event.at
    call["next_try"] = ""


@_on("attempt_failed", "attempt_lost")
def _attempt_failed(state: CaseState, event: Event) -> None:
    data = event.data
    call = state.calls.get(data["call"])
    if call is None:
        return
    call["worker"] = 0
    call["started"] = ""
    call["failures"] += data.get("counts", 1)
    call["error"] = data["error"]
    if "details" in data:
        call["details"] = data["details"]
        call["details_of"] = data["attempt"]
    call["next_try"] = data["next_try"]
    if data["next_try"]:
        call["status"] = "backoff"
    elif data.get("final"):
        # Nobody waits for the call (A4), so its failure raises into nothing: settle and forget it.
        del state.calls[data["call"]]
        _settle(state, data["call"], "nothing", event.seq)
    else:
        call["status"] = "unknown"


@_on("attempt_verified")
def _attempt_verified(state: CaseState, event: Event) -> None:
    call = state.calls.get(event.data["call"])
    if call is None:
        return
    if event.data["happened"] is False:
        call["status"] = "backoff"
        call["next_try"] = event.data["next_try"]


@_on("call_retried")
def _call_retried(state: CaseState, event: Event) -> None:
    call = state.calls[event.data["call"]]
    # Nobody waits for a call that an undo has to settle: it is ready, as one in backoff would be given up.
    call["status"] = "backoff" if call["awaited"] or call["undoes"] else "ready"
    call["next_try"] = event.at
    call["failures"] = 0
    call["deadline"] = event.data["deadline"]
    call["expected"] = event.data["expected"]
    call["first"] = ""
    _close_call_incidents(state, event.data["call"])


@_on("timer_set")
def _timer_set(state: CaseState, event: Event) -> None:
    data = event.data
    state.timers[data["timer"]] = {
        "due": data["due"], "since": event.at, "because": data["because"], "kind": data["kind"],
        "node": event.node, "n": event.n, "strand": event.strand, "seq": event.seq, "whose": data["whose"],
    }  # fmt: skip


@_on("timer_fired", "timer_cancelled")
def _timer_gone(state: CaseState, event: Event) -> None:
    state.timers.pop(event.data["timer"], None)


@_on("task_opened")
def _task_opened(state: CaseState, event: Event) -> None:
    data = event.data
    state.rounds[event.node] = data["round"]
    task: dict[str, Json] = {
        **data["request"], "node": event.node, "n": event.n, "strand": event.strand, "visit": event.visit,
        "round": data["round"], "seq": event.seq, "status": "ready", "claimed_by": "", "since": event.at,
        "votes": [], "level": 0,
    }  # fmt: skip
    state.tasks[data["task"]] = cast(Task, task)


@_on("task_claimed")
def _task_claimed(state: CaseState, event: Event) -> None:
    task = state.tasks[event.data["task"]]
    task["status"] = "reserved"
    task["claimed_by"] = event.data["by"]


@_on("task_released")
def _task_released(state: CaseState, event: Event) -> None:
    task = state.tasks[event.data["task"]]
    task["status"] = "ready"
    task["claimed_by"] = ""


@_on("vote_given")
def _vote_given(state: CaseState, event: Event) -> None:
    task = state.tasks[event.data["task"]]
    task["votes"].append(event.data["vote"])
    if event.data["decides"]:
        # The answer stands from here on; `task_decided` tells the stage in its next turn.
        task["status"] = "decided"


@_on("task_expired")
def _task_expired(state: CaseState, event: Event) -> None:
    state.tasks[event.data["task"]]["status"] = "expired"


@_on("vote_stale")
def _vote_stale(state: CaseState, event: Event) -> None:
    task = state.tasks[event.data["task"]]
    task["votes"] = [vote for vote in task["votes"] if vote["digest"] == event.data["digest"]]
    task["shown"] = event.data["shown"]
    task["digest"] = event.data["digest"]


@_on("task_reminded")
def _task_reminded(state: CaseState, event: Event) -> None:
    task = state.tasks[event.data["task"]]
    task["reminders"] = task["reminders"][1:]  # the list is the event's that opened the task: never changed


@_on("task_escalated")
def _task_escalated(state: CaseState, event: Event) -> None:
    data = event.data
    task = state.tasks[data["task"]]
    task["level"] = data["level"]
    task["whose"] = [data["to"]] if data["reassign"] else [*task["whose"], data["to"]]


@_on("task_decided")
def _task_decided(state: CaseState, event: Event) -> None:
    _settle_task(state, event, "decided")


@_on("task_met")
def _task_met(state: CaseState, event: Event) -> None:
    _settle_task(state, event, "decided")


@_on("task_withdrawn")
def _task_withdrawn(state: CaseState, event: Event) -> None:
    _settle_task(state, event, "withdrawn")


def _settle_task(state: CaseState, event: Event, status: str) -> None:
    task = state.tasks.pop(event.data["task"], None)
    if task is None:
        return
    task["status"] = status
    task["outcome"] = {**{k: v for k, v in event.data.items() if k != "task"}, "at": event.at, "seq": event.seq}
    state.settled_tasks[event.data["task"]] = task


@_on("receive_opened")
def _receive_opened(state: CaseState, event: Event) -> None:
    data = event.data
    state.receives[data["receive"]] = {
        "signal": data["signal"], "node": event.node, "n": event.n, "strand": event.strand, "seq": event.seq,
        "since": event.at, "expected": data["expected"], "whose": data["whose"],
    }  # fmt: skip


@_on("receive_closed")
def _receive_closed(state: CaseState, event: Event) -> None:
    state.receives.pop(event.data["receive"], None)


@_on("signal_received")
def _signal_received(state: CaseState, event: Event) -> None:
    data = event.data
    state.signals.append(
        {
            "id": data["id"], "signal": data["signal"], "seq": event.seq, "at": data["accepted_at"],
            "sender": data["sender"], "body": data["body"],
        }
    )  # fmt: skip


@_on("signal_consumed")
def _signal_consumed(state: CaseState, event: Event) -> None:
    data = event.data
    state.signals = [kept for kept in state.signals if kept["id"] != data["id"]]
    state.receives.pop(data["receive"], None)


@_on("signal_unhandled")
def _signal_unhandled(state: CaseState, event: Event) -> None:
    state.signals = [kept for kept in state.signals if kept["id"] != event.data["id"]]


@_on("child_started")
def _child_started(state: CaseState, event: Event) -> None:
    data = event.data
    state.children[data["child"]] = {
        "workflow": data["workflow"], "key": data["key"], "node": event.node, "n": event.n, "strand": event.strand,
        "seq": event.seq, "since": event.at, "expected": data["expected"], "awaited": data["awaited"],
        "on_close": data["on_close"],
    }  # fmt: skip


@_on("child_closed", "child_released")
def _child_closed(state: CaseState, event: Event) -> None:
    state.children.pop(event.data["child"], None)


@_on("undo_requested")
def _undo_requested(state: CaseState, event: Event) -> None:
    state.undoing = {
        "undo": event.data["undo"], "since": event.data["since"], "call": "", "at": event.at, "seq": event.seq,
        "node": event.node, "n": event.n, "strand": event.strand,
    }  # fmt: skip


@_on("undo_skipped")
def _undo_skipped(state: CaseState, event: Event) -> None:
    _settle(state, event.data["call"], event.data["status"], event.seq)
    call = event.data.get("drop")
    if call:
        state.calls.pop(call, None)
        _close_call_incidents(state, call)
    if state.undoing is not None:
        state.undoing["call"] = ""


@_on("undo_finished")
def _undo_finished(state: CaseState, event: Event) -> None:
    state.undoing = None


@_on("interrupted")
def _interrupted(state: CaseState, event: Event) -> None:
    state.undoing = None
    state.cancel = None
    state.move = None
    state.incidents = {k: incident for k, incident in state.incidents.items() if incident["call"] in state.calls}


@_on("cancel_requested")
def _cancel_requested(state: CaseState, event: Event) -> None:
    state.cancel = {"by": event.actor, "reason": event.data["reason"], "seq": event.seq}


@_on("moved")
def _moved(state: CaseState, event: Event) -> None:
    state.move = {
        "to": event.data["to"],
        "restart": event.data["restart"],
        "seq": event.seq,
        "reuse": event.data["reuse"],
    }
    state.signals = sorted([*state.signals, *event.data.get("signals", ())], key=lambda kept: kept["seq"])


@_on("incident_opened")
def _incident_opened(state: CaseState, event: Event) -> None:
    data = event.data
    state.incidents[data["incident"]] = {
        "kind": data["kind"], "owner": data["owner"], "message": data["message"], "since": event.at,
        "due": data["due"], "cause": data["cause"], "visit": event.visit, "node": event.node,
        "call": data["call"], "blocks": data["blocks"], "pending": data["pending"],
        "repairs": data["repairs"], "details": data["details"],
    }  # fmt: skip
    if data["kind"] == "child_key_taken":
        state.children.pop(data["details"]["child"], None)  # it was never started
    call = state.calls.get(data["call"])
    if call is not None:
        call["status"] = "incident"
        call["next_try"] = ""
        call["worker"] = 0
        call["started"] = ""


@_on("incident_closed")
def _incident_closed(state: CaseState, event: Event) -> None:
    closed = state.incidents.pop(event.data["incident"], None)
    refused = closed["details"].get("input") if closed is not None else None
    if refused and event.data.get("how") == "moved" and state.move is not None:
        state.move["past"] = [*state.move.get("past", ()), refused]


@_on("visit_warned")
def _visit_warned(state: CaseState, event: Event) -> None:
    state.history_warned = True


@_on("case_closed")
def _case_closed(state: CaseState, event: Event) -> None:
    data = event.data
    state.status = "closed"
    state.close = {"name": data["close"], "result": data["result"], "reason": data["reason"]}
    state.closed_at = event.at
    leave_visit(state)
    state.undoing = None
    state.cancel = None
    state.incidents = {}
    state.calls = {name: call for name, call in state.calls.items() if call["status"] == "running"}
    state.children = {}
