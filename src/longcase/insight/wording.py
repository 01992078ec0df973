"""Plain sentences for what is stored: where a case stands, and what an event says.

One catalogue for every face, so that the terminal, a mail and an export tell the same story. Pure:
the instant it is now is passed in, and how an instant is written is the face's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from longcase.history.chain import is_sound
from longcase.history.committed import kept_outcomes
from longcase.history.event import CATALOGUE, Event
from longcase.history.redoing import is_held
from longcase.history.state import Call, CaseState, Task
from longcase.history.waits import Wait, for_a_worker, votes_stand, waits
from longcase.model.codec import dump_json

Written = Callable[[str], str]
"""How a face writes an instant."""

INCIDENT_SHOWN: Final = 160  # characters, of what a case waits for
_INSTANT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_INSTANTS: Final = frozenset({"next_try", "due"})  # of an event's data


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
    wait = wait._replace(what=waiting_on(wait.kind, wait.what, written))
    return f"{_done(state)}{_waiting(state, wait)} since {written(wait.since)}{ended}{late}{_then(state, wait)}."


def waiting_on(kind: str | None, what: str, written: Written) -> str:
    """Return what is waited for as it is read: of a call that is tried again the instant, as the face writes it.

    Of a long incident the beginning: all of it is told where the incident is.
    """
    if kind == "incident" and len(what) > INCIDENT_SHOWN:
        return f"{what[: INCIDENT_SHOWN - 3].rstrip()}..."
    return with_instants(what, written) if kind == "activity" else what


def with_instants(text: str, written: Written) -> str:
    """Return a sentence of our own with its instants as `written`; not for texts that hold data of a case."""
    return _INSTANT.sub(lambda found: written(found[0]), text)


def handlers(state: CaseState, written: Written) -> list[str]:
    """Return what runs beside the stage: each handler with the signal it took, whose it is, since when, how long."""
    told = []
    for name, run in state.handlers.items():
        ended = f", expected {written(run['expected'])}" if run["expected"] else ""
        told.append(f"{name} on {run['signal']} ({run['whose']}, since {written(run['since'])}{ended})")
    return told


def _done(state: CaseState) -> str:
    """Return that the stage is done, where only its handlers still keep the case in it."""
    names = f"handler{'s' * (len(state.handlers) > 1)} {', '.join(state.handlers)}"
    return f"Stage {state.stage} is done, waits for {names}. " if state.returned is not None else ""


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
                count = f" ({_given(task)})"
            question = task["question"] if task is not None else wait.what
            return f'Waiting for {wait.whose}{count}: "{question}",'
        case "timer":
            return f"Pausing: {wait.what},"
        case _:
            return f"Waiting for {wait.whose}: {wait.what},"


def _given(task: Task) -> str:
    answers = [vote["answer"] for vote in task["votes"]]
    if len(set(answers)) > 1:
        return votes_stand(answers, task["quorum"])
    return f"{task['quorum']} needed, {len(answers)} given"


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
    found = next((c for c in calls if c["seq"] == seq and c.get("queue") and c["status"] == "ready"), None)
    return None if found is None or is_held(state, found) else found


def _task_at(state: CaseState, seq: int) -> Task | None:
    return next((task for task in state.tasks.values() if task["seq"] == seq), None)


def corrected_calls(state: CaseState, written: Written) -> list[str]:
    """Return of each call in flight what it was called with that was corrected since, and how it is called anew."""
    marked = {ref: call for ref, call in state.calls.items() if "corrected" in call}
    lines = []
    for ref, call in marked.items():
        mark = call["corrected"]
        which = f" --call {ref}" if len(marked) > 1 else ""
        redo = f"longcase redo {state.address}{which}"
        if not mark["changes"]:
            names = dict.fromkeys(doubt["at"][0] for doubt in mark["doubts"])
            redo += " --with '{" + ", ".join(f'"{name}": ...' for name in names) + "}'"
        by = f"by {mark['by']} on {written(mark['at'])}"
        lines.append(f"{'; '.join(_called_with(call['activity'], ref, mark))}, {by}; redo: {redo}")
    return lines


def settling(state: CaseState) -> list[str]:
    """Return of each call that was called anew what the new call still waits for."""
    lines = []
    kept = kept_outcomes(state) if state.redone else {}
    for ref in state.redone:
        call, entry = state.calls.get(ref), state.undo.get(ref)
        if call is not None and ref in kept:
            what, why = call["activity"], f"it has ended, and incident {kept[ref]} keeps its outcome"
        elif call is not None:
            unknown = f"nobody knows yet what attempt {call['attempt']} came to"
            running = f"attempt {call['attempt']} was asked to stop, and its end is awaited"
            what, why = call["activity"], running if call["status"] == "running" else unknown
        elif entry is not None:
            what, why = entry["activity"], f"it took effect, and is undone by {entry['undo']}"
        else:
            continue
        lines.append(f"{what} ({ref}) was called anew; before that begins: {why}")
    return lines


def _called_with(activity: str, ref: str, mark: Mapping[str, Any]) -> list[str]:
    """Say what of a call's input was corrected, and what may have been."""
    told = []
    pairs = [
        f"{_place(one['at'])}={_json(one['before'])}, corrected to {_json(one['after'])}" for one in mark["changes"]
    ]
    if pairs:
        told.append(f"{activity} ({ref}) was called with {', '.join(pairs)}")
    for one in mark["doubts"]:
        field = f"{one['field']}, corrected to {_json(one['after'])}"
        told.append(f"{activity} ({ref}) was called with {_place(one['at'])}={_json(one['value'])}, perhaps {field}")
    return told


def _place(at: Sequence[str | int]) -> str:
    """Return the place of a value as people write it: `client.rating`, `clients[0].rating`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in at).removeprefix(".")


def _json(value: Any) -> str:
    return _short(value if isinstance(value, str) else dump_json(value))


_TOLD: Final[dict[str, str]] = {
    "case_started": "case started",
    "stage_entered": "entered {stage}",
    "object_changed": "changed {patch}",
    "ruling_recorded": "decided {decision}: {answer} ({policy})",
    "activity_scheduled": "called {activity} ({call})",
    "activity_reused": "took the recorded result of {reuse}",
    "activity_completed": "{call} returned {result}",
    "activity_failed": "{call} is finally lost: {error}",
    "activity_cancelled": "stopped waiting for {call}",
    "attempt_started": "attempt {attempt} of {call} began",
    "attempt_failed": "attempt {attempt} of {call} failed: {error}; next try {next_try}",
    "attempt_lost": "attempt {attempt} of {call} is lost: {error}; next try {next_try}",
    "attempt_committed": "attempt {attempt} of {call} committed its transaction",
    "attempt_refused": "a result of an attempt that no longer counts was refused",
    "attempt_verified": "verify says that {call} did not take effect; next try {next_try}",
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
    "handler_started": "handler {handler} took the signal {signal}",
    "handler_ended": "handler {handler} is done",
    "stage_returned": "the stage is done ({exit}), waits for {handlers}",
    "signal_refused": "signal {signal} from {sender} was refused: the case is closed",
    "signal_unhandled": "nobody took the signal {signal}: {why}",
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
    "incident_closed": "incident {incident} ended: {how}: {reason}",
    "call_retried": "granted {call} new attempts: {reason}",
    "input_corrected": "corrected since: what {activity} ({call}) was called with",
    "call_redone": "had {activity} called anew with {changed}: {reason}",
    "corrected": "corrected {patch}, before {before}: {reason}",
    "moved": "moved from {from} to {to}: {reason}",
    "visit_warned": "the history grows long: {visit_events} events to replay in the visit, {case_events} in the case",
    "case_closed": "closed as {close}: {reason}",
}


def told(event: Event, written: Written = str) -> str:
    """Return an event in words, its instants as `written`; what is longer than a line is cut."""
    if event.digest and not is_sound(event):
        return f"{event.type}: its payload is not what was recorded, see longcase verify"
    text = _TOLD.get(event.type, event.type.replace("_", " "))
    if event.type == "result_late" and "kept" in event.data:
        text = "{call} had committed its transaction, and its result {result} was kept for the next visit"
    elif event.type == "activity_completed" and event.data.get("verified"):
        text = "verify says that {call} took effect: {result}"
    elif event.type == "signal_unhandled" and event.data["signal"] in CATALOGUE:
        text = "nobody took the input {signal}: {why}"
    elif event.type == "signal_refused" and not event.data["close"]:
        text = "signal {signal} from {sender} was refused: the workflow does not declare it"
    elif event.type == "vote_given" and "before" in event.data:
        text = '{vote.by} answered "{vote.answer}" instead of "{before}": {vote.reason}'
    elif event.type == "call_retried" and event.data.get("asks"):
        text = "granted {call} new attempts, should verify say that it did not take effect: {reason}"
    if event.type == "input_corrected":
        return "; ".join(_called_with(event.data["activity"], event.data["call"], event.data))
    out = ""
    for piece in text.split("{"):
        name, brace, rest = piece.partition("}")
        value = _value(event.data, name) if brace else ""
        out += f"{written(value) if value and name in _INSTANTS else value}{rest}" if brace else piece
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
