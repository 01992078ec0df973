"""What follows an attempt's end: success, another try, or the call's end. Pure policy over facts.

An attempt's number is its fence: only the outcome of the call's latest running attempt counts, and
a number is given once, under the case row's lock (INVARIANTS I13 to I15).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime, timedelta
from typing import Any, Literal

from longcase.history.event import Event, instant_of, instant_text
from longcase.history.state import UNKNOWN_KINDS, Call, CaseState, UndoEntry
from longcase.model.activity import Activity
from longcase.model.codec import Json
from longcase.record import record

FailureKind = Literal[
    "error", "non_retryable", "timeout", "heartbeat", "contract_changed", "not_encodable", "undecodable", "lost",
    "unknown_activity", "cancelled",
]  # fmt: skip
FINAL_KINDS = frozenset(
    {"non_retryable", "contract_changed", "not_encodable", "undecodable", "unknown_activity", "cancelled"}
)
CRASH_ATTEMPTS = 10  # attempts lost with their worker before the call is quarantined as an incident
APART = timedelta(seconds=2)  # over which calls that were lost twice are spread; doubled at each further loss
APART_AT_MOST = timedelta(minutes=1)


@record(frozen=False)
class Success:
    """An attempt returned; `result` is encoded and fits its declared type."""

    result: Json


@record
class Failure:
    """An attempt failed. `type` and `bases` are class names; `retry_after` is the vendor's own delay."""

    kind: FailureKind
    type: str
    message: str
    bases: tuple[str, ...] = ()
    retry_after: timedelta | None = None
    details: Json = None  # of the last heartbeat
    field: str = ""  # for contract_changed: the field that does not fit

    def to_json(self) -> dict[str, Json]:
        out: dict[str, Json] = {
            "kind": self.kind,
            "type": self.type,
            "message": self.message,
            "bases": list(self.bases),
        }
        if self.field:
            out["field"] = self.field
        return out


@record
class Verdict:
    """What a failure leads to.

    again: try once more at `next_try`. lost: raise into the stage, by the input `activity_failed`.
    unknown: ask `verify`, or open an incident; never repeat. incident: cannot be decided by retrying.
    """

    follow: Literal["again", "lost", "unknown", "incident"]
    next_try: str = ""
    incident: str = ""
    details: dict[str, Json] = field(default_factory=dict)


def judge(activity: Activity[..., Any] | None, call: Call, failure: Failure, now: datetime, draw: float) -> Verdict:
    """Decide what follows the failed attempt of `call`; `draw` is uniform in [0, 1) for the jitter."""
    if failure.kind == "unknown_activity" or activity is None:
        return Verdict("incident", incident="unknown_activity")
    if failure.kind in ("contract_changed", "not_encodable", "undecodable"):
        return Verdict(
            "incident",
            incident={"contract_changed": "contract_changed", "not_encodable": "result_not_encodable"}.get(
                failure.kind, "undecodable_payload"
            ),
        )
    if activity.effect == "once" and failure.kind in UNKNOWN_KINDS:
        return Verdict("unknown")
    failures = call["failures"] + 1
    if failure.kind == "lost":
        # A crash is not the activity's failure: it does not use up the policy, but it is bounded.
        if call["attempt"] >= activity.retry.max_attempts + CRASH_ATTEMPTS:
            return Verdict("incident", incident="poisoned_activity")
        return Verdict("again", instant_text(now + _apart(call.get("lost", 0) + 1, draw)))
    if failure.kind in FINAL_KINDS or failures >= activity.retry.max_attempts:
        return Verdict("lost")
    delay = activity.retry.delay(failures, draw)
    if failure.retry_after is not None:
        delay = max(delay, failure.retry_after)
    next_try = now + delay
    if (
        activity.retry.budget is not None
        and call["first"]
        and next_try > instant_of(call["first"]) + activity.retry.budget
    ):
        return Verdict("lost")
    if call["deadline"] and next_try > instant_of(call["deadline"]):
        return Verdict("lost")
    return Verdict("again", instant_text(next_try))


def _apart(lost: int, draw: float) -> timedelta:
    """Return how long a call waits whose worker has died `lost` times.

    The first loss is tried again at once. From the second on the calls that a dying worker held are tried
    apart: else the one that kills it takes the same others with it each time, and they are quarantined
    with it (test_fault_F33_a_poisoned_case_is_quarantined_and_the_good_ones_go_on).
    """
    if lost < 2:
        return timedelta(0)
    return min(APART * (1 << min(lost - 2, 16)), APART_AT_MOST) * draw


def cut_off_again(activity: Activity[..., Any] | None, call: Call, draw: float) -> timedelta | None:
    """Return the pause before a call that did not take effect is made again; None: it is cut off each time.

    Such a call (`effect="once"`, its `verify` answers) would else be repeated for ever and without a pause:
    an attempt that kills its worker, or runs into its timeout, comes to no failure that the policy counts.
    """
    cut_off = call["failures"] + call.get("lost", 0)
    if cut_off >= (1 if activity is None else activity.retry.max_attempts) + CRASH_ATTEMPTS:
        return None
    return _apart(cut_off, draw)


def outcome_counts(state: CaseState, ref: str, number: int) -> bool:
    """Tell whether the end of attempt `number` is that of the call's current running attempt, and is still open."""
    call = state.calls.get(ref)
    return (
        call is not None
        and call["attempt"] == number
        and call["status"] == "running"
        and call.get("committed") != number  # its result is in the inbox, whatever is reported besides
    )


def undo_named(activity: Activity[..., Any]) -> dict[str, Json]:
    """Return what the command of a call says of its undo; "" where only a person could undo it."""
    if activity.undo_activity is not None:
        return {"undo": activity.undo_activity.name}
    return {"undo": ""} if activity.effect in ("once", "repeatable") else {}


def where_run(activity: Activity[..., Any]) -> dict[str, Json]:
    """Return what the command of a call says of where its attempts run, if not just in any worker."""
    where: dict[str, Json] = {}
    if activity.transaction:
        where["transaction"] = True
    if activity.queue is not None:
        where["queue"], where["priority"] = activity.queue.name, activity.priority
    return where


def completed(state: CaseState, ref: str, call: Call, number: int, result: Json, actor: str, **more: Json) -> Event:
    """Return the event of a call's success: an input while stage code waits, else a late result."""
    data: dict[str, Json] = {"call": ref, "activity": call["activity"], "attempt": number, "result": result, **more}
    if "asked_as" in call:
        data["asked_as"] = call["asked_as"]
    kind = "undone" if call["undoes"] else ("activity_completed" if call["awaited"] else "result_late")
    return Event(
        kind, data, state.visit, "", actor, "", "engine", call["seq"], 0, call["node"], call["n"], call["strand"]
    )


def failed_attempt(state: CaseState, ref: str, call: Call, failure: Failure, verdict: Verdict, actor: str) -> Event:
    """Return the record of a failed attempt that is not the call's end for the stage."""
    data: dict[str, Json] = {
        "call": ref, "activity": call["activity"], "attempt": call["attempt"], "error": failure.to_json(),
        "next_try": verdict.next_try, "started": call["started"],
    }  # fmt: skip
    if failure.details is not None:
        data["details"] = failure.details
    if failure.kind == "lost":
        data["counts"] = 0
    if verdict.follow == "lost" and not call["awaited"] and not call["undoes"]:
        data["final"] = True
    return place(state, call, Event("attempt_lost" if failure.kind == "lost" else "attempt_failed", data, actor=actor))


def lost(state: CaseState, ref: str, call: Call, failure: Failure, actor: str, *, runs: bool = False) -> Event:
    """Return the input that raises the call's final failure into the stage.

    With `runs` the call's latest attempt has not ended: the event names it as `runs`, where else it names
    the `attempt` that failed, and the call is settled at that attempt's end (A4). Histories that were
    written before there was this field fold as they did: there the attempt's end counted for nothing.
    """
    data: dict[str, Json] = {
        "call": ref, "activity": call["activity"], "runs" if runs else "attempt": call["attempt"],
        "error": failure.to_json(), "started": call["started"],
    }  # fmt: skip
    if "asked_as" in call:
        data["asked_as"] = call["asked_as"]
    return place(state, call, Event("activity_failed", data, actor=actor))


def begun(state: CaseState, ref: str, call: Call, worker: int) -> Event:
    """Return the record of a further attempt's start."""
    data: dict[str, Json] = {
        "call": ref,
        "activity": call["activity"],
        "attempt": call["attempt"] + 1,
        "worker": worker,
    }
    return place(state, call, Event("attempt_started", data, actor=f"worker:{worker}"))


def committed(state: CaseState, ref: str, call: Call, worker: int) -> Event:
    """Return the record, written in the attempt's own transaction, that it was committed."""
    data: dict[str, Json] = {"call": ref, "activity": call["activity"], "attempt": call["attempt"], "worker": worker}
    return place(state, call, Event("attempt_committed", data, actor=f"worker:{worker}"))


def refused(state: CaseState, ref: str, number: int, outcome: str, worker: int, result: Json = None) -> Event:
    """Return the record of an end that no longer counts: the attempt had lost its lease."""
    data: dict[str, Json] = {"call": ref, "attempt": number, "outcome": outcome, "why": "lost_lease", "result": result}
    return Event("attempt_refused", data, state.visit, actor=f"worker:{worker}")


def place(state: CaseState, wait: Mapping[str, Any], event: Event) -> Event:
    """Put an event where its call, timer or undo stands on the map, caused by the command of that."""
    event.visit = state.visit
    event.node, event.n, event.strand = wait["node"], wait["n"], wait["strand"]
    event.cause = wait["seq"]
    return event


def undo_steps(state: CaseState) -> tuple[Literal["wait", "start", "finish", "unknown"], str]:
    """Say what a running undo wants next, newest command first, one at a time (A4, B12).

    wait: a call of the entry is still out, or awaited beside the undo; start: run the entry's
    compensation; unknown: a person or `verify` must settle it; finish: nothing is left. The second item
    is the entry's call, or the compensation that is to be settled.
    """
    undoing = state.undoing
    assert undoing is not None
    if undoing["call"]:
        return "wait", str(undoing["call"])
    for entry in reversed(state.undo.values()):
        if undoing["since"] and entry["visit"] < _since_visit(state, str(undoing["since"])):
            break
        if entry["status"] in ("undone", "nothing", "left") or not entry["undo"]:
            # Without a compensation only the settling matters: a late result must not surprise.
            call = state.calls.get(entry["call"])
            if entry["status"] == "open" and call is not None:
                return ("wait" if _comes_to_an_end(call) else "unknown"), entry["call"]
            continue
        call = state.calls.get(entry["call"])
        if entry["status"] == "done":
            # The compensation an interrupted undo had begun goes on; it is not begun a second time, nor one beside it.
            latest = compensation(entry)
            begun = state.calls.get(latest)
            if begun is None:
                latest = _compensating(state)
                begun = state.calls.get(latest)
            if begun is None:
                return "start", entry["call"]
            if begun["status"] in ("running", "ready", "backoff"):
                return "wait", entry["call"]
            return "unknown", latest
        if call is None:
            continue
        return ("wait" if _comes_to_an_end(call) else "unknown"), entry["call"]
    return "finish", ""


def _comes_to_an_end(call: Call) -> bool:
    """Tell whether a call is settled without the undo: an attempt is out, or other code of the visit awaits it."""
    return call["status"] in ("running", "ready") or call["awaited"]


def compensation(entry: UndoEntry) -> str:
    """Return the name of the call that undoes an entry now: after one that failed for good it is another name."""
    failed = entry.get("failed", 0)
    return f"{entry['call']}-undo{failed + 1}" if failed else f"{entry['call']}-undo"


def _compensating(state: CaseState) -> str:
    """Return a compensation that has not come to its end, "" if there is none."""
    return next((ref for ref, call in state.calls.items() if call["undoes"]), "")


def _since_visit(state: CaseState, stage: str) -> int:
    return state.visits.get(stage, 0)


def unsettled(state: CaseState, leave: tuple[str, ...]) -> dict[str, str]:
    """Return the calls, and their activities, that forbid a close: entries still open, not named in `leave`.

    One that an operator had called anew is open until it is undone: no stage code will see to that.
    """
    return {
        entry["call"]: entry["activity"]
        for entry in state.undo.values()
        if (
            (entry["status"] == "open" and entry["call"] in state.calls)
            or (entry["status"] == "done" and entry["call"] in state.redone)
        )
        and entry["activity"] not in leave
    }


def left_open(state: CaseState, ref: str) -> bool:
    """Tell whether a refused close waits for just this call's outcome: then it is settled, not kept for the stage."""
    return any(
        opened["kind"] == "unsettled_close" and opened["blocks"] and ref in opened["details"].get("calls", ())
        for opened in state.incidents.values()
    )
