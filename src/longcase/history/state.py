"""The state of a case as a fold of its history: one reducer for each type of event.

The reducers are the only code that changes a `CaseState`. Those of calls and tasks have rooms of their own.
"""

from __future__ import annotations

from collections.abc import Iterable

from longcase.errors import BugError
from longcase.history import redoing as _redoing  # noqa: F401 - registers its reducers, as calls does
from longcase.history import tasks as _tasks  # noqa: F401
from longcase.history.calls import undo_entry, untold
from longcase.history.event import APPLIED, SEEN, Event
from longcase.history.records import (
    UNKNOWN_KINDS,
    Call,
    CaseState,
    Child,
    Incident,
    KeptSignal,
    Receive,
    Redone,
    Task,
    Timer,
    UndoEntry,
    Vote,
    may_have_happened,
)
from longcase.history.reducers import REDUCERS, on


def apply(state: CaseState, event: Event) -> None:
    """Fold one event into the state. The event's `seq` must be the next one."""
    if event.seq != state.seq + 1:
        raise BugError(f"{state.address}: event {event.type} has seq {event.seq}, expected {state.seq + 1}")
    kind = event.type
    state.seq = event.seq
    state.at = event.at
    if kind in SEEN:
        state.seen_seq = event.seq
        if kind in APPLIED:
            state.applied_seq = event.seq
    reduce = REDUCERS.get(kind)
    if reduce is not None:
        reduce(state, event)


def fold(events: Iterable[Event], state: CaseState | None = None) -> CaseState:
    """Return the state after `events`, beginning with `state` or nothing."""
    state = state or CaseState()
    for event in events:
        apply(state, event)
    return state


@on("case_started")
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


@on("stage_entered")
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
    if "visit" in state.warned:
        state.history_warned = [what for what in state.warned if what != "visit"] or False
    leave_visit(state)


def leave_visit(state: CaseState) -> None:
    """Drop what belongs to the visit alone; running calls, signals, children and the undo list stay."""
    state.timers = {}
    state.receives = {}
    state.handlers = {}
    state.returned = None
    state.tasks = {}
    state.pins = {}
    state.move = None
    for call in state.calls.values():
        if not call["undoes"]:
            call["awaited"] = False
    for child in state.children.values():
        child["awaited"] = False


@on("object_changed")
def _object_changed(state: CaseState, event: Event) -> None:
    state.object = {**state.object, **event.data["patch"]}


@on("corrected")
def _corrected(state: CaseState, event: Event) -> None:
    state.object = {**state.object, **event.data["patch"]}
    if event.data.get("pin"):
        for name in event.data["patch"]:
            state.pins[name] = event.seq


@on("timer_set")
def _timer_set(state: CaseState, event: Event) -> None:
    data = event.data
    state.timers[data["timer"]] = {
        "due": data["due"], "since": event.at, "because": data["because"], "kind": data["kind"],
        "node": event.node, "n": event.n, "strand": event.strand, "seq": event.seq, "whose": data["whose"],
    }  # fmt: skip


@on("timer_fired", "timer_cancelled")
def _timer_gone(state: CaseState, event: Event) -> None:
    state.timers.pop(event.data["timer"], None)


@on("receive_opened")
def _receive_opened(state: CaseState, event: Event) -> None:
    data = event.data
    state.receives[data["receive"]] = {
        "signal": data["signal"], "node": event.node, "n": event.n, "strand": event.strand, "seq": event.seq,
        "since": event.at, "expected": data["expected"], "whose": data["whose"],
    }  # fmt: skip


@on("receive_closed")
def _receive_closed(state: CaseState, event: Event) -> None:
    state.receives.pop(event.data["receive"], None)


@on("signal_received")
def _signal_received(state: CaseState, event: Event) -> None:
    data = event.data
    state.signals.append(
        {
            "id": data["id"], "signal": data["signal"], "seq": event.seq, "at": data["accepted_at"],
            "sender": data["sender"], "body": data["body"],
        }
    )  # fmt: skip


@on("signal_consumed")
def _signal_consumed(state: CaseState, event: Event) -> None:
    data = event.data
    state.signals = [kept for kept in state.signals if kept["id"] != data["id"]]
    state.receives.pop(data["receive"], None)


@on("handler_started")
def _handler_started(state: CaseState, event: Event) -> None:
    data = event.data
    state.signals = [kept for kept in state.signals if kept["id"] != data["id"]]
    state.handlers[data["handler"]] = {
        "signal": data["signal"], "id": data["id"], "node": event.node, "n": event.n, "strand": event.strand,
        "seq": event.seq, "since": event.at, "expected": data["expected"], "whose": data["whose"],
    }  # fmt: skip


@on("handler_ended")
def _handler_ended(state: CaseState, event: Event) -> None:
    state.handlers.pop(event.data["handler"], None)


@on("stage_returned")
def _stage_returned(state: CaseState, event: Event) -> None:
    state.returned = {"exit": event.data["exit"], "since": event.at}


@on("signal_unhandled")
def _signal_unhandled(state: CaseState, event: Event) -> None:
    state.signals = [kept for kept in state.signals if kept["id"] != event.data["id"]]


@on("child_started")
def _child_started(state: CaseState, event: Event) -> None:
    data = event.data
    state.children[data["child"]] = {
        "workflow": data["workflow"], "key": data["key"], "node": event.node, "n": event.n, "strand": event.strand,
        "seq": event.seq, "since": event.at, "expected": data["expected"], "awaited": data["awaited"],
        "on_close": data["on_close"],
    }  # fmt: skip


@on("child_closed", "child_released")
def _child_closed(state: CaseState, event: Event) -> None:
    state.children.pop(event.data["child"], None)


@on("interrupted")
def _interrupted(state: CaseState, event: Event) -> None:
    state.undoing = None
    state.cancel = None
    state.move = None
    state.incidents = {k: incident for k, incident in state.incidents.items() if incident["call"] in state.calls}


@on("cancel_requested")
def _cancel_requested(state: CaseState, event: Event) -> None:
    state.cancel = {"by": event.actor, "reason": event.data["reason"], "seq": event.seq}


@on("moved")
def _moved(state: CaseState, event: Event) -> None:
    before, reuse = state.move, event.data["reuse"]
    state.move = {"to": event.data["to"], "restart": event.data["restart"], "seq": event.seq, "reuse": reuse}
    if before is not None and (left := [*before.get("stranded", ()), *untold(before["reuse"], reuse)]):
        state.move["stranded"] = left
    if "told" in event.data:
        state.move["told"] = event.data["told"]
    state.signals = sorted([*state.signals, *event.data.get("signals", ())], key=lambda kept: kept["seq"])


@on("incident_opened")
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


@on("incident_closed")
def _incident_closed(state: CaseState, event: Event) -> None:
    closed = state.incidents.pop(event.data["incident"], None)
    refused = closed["details"].get("input") if closed is not None else None
    if refused and event.data.get("how") == "moved" and state.move is not None:
        state.move["past"] = [*state.move.get("past", ()), refused]


def blocked(state: CaseState) -> bool:
    """Tell whether an incident keeps the case from taking inputs."""
    return bool(state.incidents) and any(opened["blocks"] for opened in state.incidents.values())


@on("visit_warned")
def _visit_warned(state: CaseState, event: Event) -> None:
    if "of" in event.data:
        state.history_warned = sorted({*state.warned, *event.data["of"]})
    else:  # by a release whose first warning was also its last
        state.history_warned = True


@on("case_closed")
def _case_closed(state: CaseState, event: Event) -> None:
    data = event.data
    state.status = "closed"
    state.close = {"name": data["close"], "result": data["result"], "reason": data["reason"]}
    state.closed_at = event.at
    leave_visit(state)
    state.undoing = None
    state.redone = {}
    state.cancel = None
    state.incidents = {}
    state.calls = {name: call for name, call in state.calls.items() if call["status"] == "running"}
    state.children = {}


__all__ = [
    "UNKNOWN_KINDS",
    "Call",
    "CaseState",
    "Child",
    "Incident",
    "KeptSignal",
    "Receive",
    "Redone",
    "Task",
    "Timer",
    "UndoEntry",
    "Vote",
    "apply",
    "blocked",
    "fold",
    "leave_visit",
    "may_have_happened",
    "undo_entry",
]
