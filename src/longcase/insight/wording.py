"""Plain sentences for what is stored: where a case stands, and what an event says.

One catalogue for every face, so that the terminal, a mail and an export tell the same story. Pure:
the instant it is now is passed in, and how an instant is written is the face's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from longcase.history.event import Event
from longcase.history.state import Call, CaseState, Task
from longcase.history.waits import Wait, for_a_worker, waits

Written = Callable[[str], str]
"""How a face writes an instant."""


def headline(state: CaseState, now: str, written: Written) -> str:
    """Return where a case stands, in one sentence."""
    if state.status == "closed":
        close = state.close or {}
        reason = f": {close['reason']}" if close.get("reason") else ""
        return f"Closed as {close.get('name')} on {written(state.closed_at)}{reason}."
    open_waits = waits(state)
    if not open_waits:
        if not state.visit:
            return f"Accepted on {written(state.started_at)}, not yet taken up by a worker."
        (wait,) = for_a_worker(state)
        return f"In {state.stage} since {written(state.entered_at)}, waiting for {wait.what}."
    wait = open_waits[0]
    ended = f", expected {written(wait.expected)}" if wait.expected else ""
    late = " (overdue)" if wait.expected and wait.expected < now else ""
    return f"{_waiting(state, wait)} since {written(wait.since)}{ended}{late}{_then(state, wait)}."


def _waiting(state: CaseState, wait: Wait) -> str:
    match wait.kind:
        case "incident":
            return f"Stopped, {wait.whose} to act: {wait.what},"
        case "activity" if (call := _queued_at(state, wait.seq)) is not None:
            return f"Waiting for a worker of queue {call.get('queue')}: {call['activity']},"
        case "activity" | "child" | "undo":
            return f"Waiting on {wait.whose}: {wait.what}," if wait.kind != "undo" else "Undoing,"
        case "person":
            task = _task_at(state, wait.seq)
            count = ""
            if task is not None and task["quorum"] > 1:
                count = f" ({task['quorum']} needed, {len(task['votes'])} given)"
            question = task["question"] if task is not None else wait.what
            return f'Waiting for {wait.whose}{count}: "{question}",'
        case "timer":
            return f"Pausing: {wait.what},"
        case _:
            return f"Waiting for {wait.whose}: {wait.what},"


def _then(state: CaseState, wait: Wait) -> str:
    task = _task_at(state, wait.seq)
    if task is None:
        return ""
    coming = [str(climb["to"]) for climb in task["ladder"][task["level"] :]]
    if task["expires_at"]:
        coming.append(f'"{task["expires_answer"]}" stands')
    return f", then {', then '.join(coming)}" if coming else ""


def _queued_at(state: CaseState, seq: int) -> Call | None:
    """Return the call commanded at `seq` if it waits for a worker of its queue."""
    calls = state.calls.values()
    return next((c for c in calls if c["seq"] == seq and c.get("queue") and c["status"] == "ready"), None)


def _task_at(state: CaseState, seq: int) -> Task | None:
    return next((task for task in state.tasks.values() if task["seq"] == seq), None)


_TOLD: Final[dict[str, str]] = {
    "case_started": "case started",
    "stage_entered": "entered {stage}",
    "object_changed": "changed {patch}",
    "ruling_recorded": "decided {decision}: {answer} ({policy})",
    "activity_scheduled": "called {activity}",
    "activity_reused": "took the recorded result of {reuse}",
    "activity_completed": "{call} returned {result}",
    "activity_failed": "{call} is finally lost: {error}",
    "activity_cancelled": "stopped waiting for {call}",
    "attempt_started": "attempt {attempt} of {call} began",
    "attempt_failed": "attempt {attempt} of {call} failed: {error}; next try {next_try}",
    "attempt_lost": "attempt {attempt} of {call} is lost: {error}; next try {next_try}",
    "attempt_committed": "attempt {attempt} of {call} committed its transaction",
    "attempt_refused": "a result of an attempt that no longer counts was refused",
    "attempt_verified": "{call} was verified: {why}",
    "result_late": "{call} returned {result} after nobody waited for it",
    "timer_set": "timer set until {due}: {because}",
    "timer_fired": "timer fired, due {due}",
    "timer_cancelled": "timer cancelled",
    "task_opened": "asked {request.of}: {request.question}",
    "task_claimed": "{by} took the task",
    "task_released": "{by} gave the task back",
    "vote_given": '{vote.by} answered "{vote.answer}": {vote.reason}',
    "vote_refused": '{by} answered "{answer}" and was refused: {why}',
    "vote_stale": "what was shown has changed; asked again: {asked_again}",
    "task_reminded": "reminded {whose}",
    "task_escalated": "escalated to {to} (level {level})",
    "task_expired": 'nobody decided in time: "{answer}" stands',
    "task_decided": 'the answer is "{answer}": {reason}',
    "task_met": "the missing data is there",
    "task_withdrawn": "the task was withdrawn",
    "receive_opened": "waits for the signal {signal}",
    "receive_closed": "no longer waits for a signal",
    "signal_received": "signal {signal} from {sender}: {body}",
    "signal_consumed": "took the signal {signal}",
    "signal_refused": "signal {signal} from {sender} was refused: the case is closed",
    "signal_unhandled": "nobody took the signal {signal}: {reason}",
    "duplicate_ignored": "signal {signal} came again under the key {key}: ignored",
    "child_started": "started the case {workflow}/{key}",
    "child_closed": "a child case closed: {close}",
    "child_released": "stopped waiting for a child case",
    "undo_requested": "began to undo",
    "undo_started": "undoing by {activity}",
    "undone": "undone: {call}",
    "undo_skipped": "nothing to undo for {call}",
    "undo_finished": "everything is undone",
    "interrupted": "interrupted: {why}",
    "unwind_refused": "stage code did not end when interrupted",
    "cancel_requested": "asked to cancel: {reason}",
    "incident_opened": "incident {incident}, {kind}: {message}; {owner} to act",
    "incident_closed": "incident {incident} ended: {how} {reason}",
    "call_retried": "granted {call} new attempts: {reason}",
    "corrected": "corrected {patch}, before {before}: {reason}",
    "moved": "moved from {from} to {to}: {reason}",
    "visit_warned": "the history grows long",
    "case_closed": "closed as {close}: {reason}",
}


def told(event: Event) -> str:
    """Return an event in words; what is longer than a line is cut."""
    text = _TOLD.get(event.type, event.type.replace("_", " "))
    out = ""
    for piece in text.split("{"):
        name, brace, rest = piece.partition("}")
        out += f"{_value(event.data, name)}{rest}" if brace else piece
    return out.removesuffix(": ").removesuffix("; next try ").rstrip()


def _value(data: Mapping[str, Any], path: str) -> str:
    value: Any = data
    for name in path.split("."):
        value = value.get(name, "") if isinstance(value, Mapping) else ""
    if isinstance(value, Mapping) and "message" in value and "type" in value:
        return f"{value['type']}: {value['message']}"
    if isinstance(value, Mapping):
        value = ", ".join(f"{name}={_short(item)}" for name, item in value.items())
    elif isinstance(value, list):
        value = ", ".join(map(_short, value))
    return _short(value)


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 160 else f"{text[:157]}..."
