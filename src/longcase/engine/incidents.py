"""Incidents: why a case cannot go on without an operator, who owns that, and which repairs apply."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final

from longcase.engine.code import WorkflowCode
from longcase.engine.comparing import Fault, Mismatch, is_authors
from longcase.errors import ActivityFailed, InvalidInput, LongcaseError
from longcase.history.event import Event, instant_text
from longcase.history.state import Call, CaseState
from longcase.model.activity import Activity
from longcase.model.codec import Json
from longcase.model.names import storable, text_of

ATTENTION: Final = timedelta(hours=4)  # when an incident is due to be looked at

_REPAIRS: Final[dict[str, list[str]]] = {
    "activity_failed": ["retry", "skip", "set-result", "correct", "restart", "move", "cancel"],
    "outcome_unknown": ["set-result", "retry", "skip", "cancel"],
    "contract_changed": ["retry", "set-result", "move", "cancel"],
    "result_not_encodable": ["retry", "set-result", "move", "cancel"],
    "undecodable_payload": ["retry", "set-result", "move", "cancel"],
    "unknown_activity": ["retry", "set-result", "move", "cancel"],
    "poisoned_activity": ["retry", "set-result", "move", "cancel"],
    "late_effect": ["skip"],
    "child_key_taken": ["restart", "move", "cancel"],
    "code_changed": ["retry", "restart", "move", "cancel"],
    "history_damaged": ["retry", "move", "cancel"],
    "input_damaged": ["retry", "move", "cancel"],
    "overrides_correction": ["retry", "correct", "move", "cancel"],
}
_OTHERS: Final = ["retry", "correct", "restart", "move", "cancel"]


class TurnDiscarded(Exception):
    """A turn that must not be committed: the incident to open instead, and the input left unapplied."""

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        owner: str,
        node: str = "",
        call: str = "",
        details: dict[str, Json] | None = None,
        unfit: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.owner = owner
        self.node = node
        self.call = call
        self.details = details or {}
        self.unfit = unfit  # repairs that its kind allows, and that would come to the same incident
        # Told by `advance`: what took effect before, and the item whose turn it was.
        self.applied = 0
        self.item: Any = None


def fits(repair: str, call: Call | None, code: WorkflowCode | None) -> bool:
    """Tell whether a repair that an incident's kind allows fits its call too.

    Both the list an incident opens with and the judgement of a repair go by it: a call whose result is never
    None cannot be skipped. Leaving a compensation undone is no result, and what it is called with no field of the case.
    """
    if call is not None and call["undoes"]:
        return repair not in ("correct", "restart")
    if repair != "skip" or call is None:
        return True
    activity = code.activities.get(call["activity"]) if code is not None else None
    if activity is None:
        return True
    try:
        activity.result_codec.decode(None, "None")
    except Exception:  # a validator of the author's own may raise anything over a None it did not expect
        return False
    return True


def incident(
    state: CaseState,
    discarded: TurnDiscarded,
    now: datetime,
    code: WorkflowCode,
    *,
    cause: int | None = None,
    blocks: bool = True,
    pending: Json = None,
) -> Event:
    """Return the event that opens an incident. Call incidents do not block the rest of the case."""
    number = f"i{state.seq + 1}"
    call = state.calls.get(discarded.call)
    data: dict[str, Json] = {
        "incident": number, "kind": discarded.kind, "owner": discarded.owner, "message": discarded.message,
        "due": instant_text(now + ATTENTION), "cause": cause or state.seen_seq, "call": discarded.call,
        "blocks": blocks and not discarded.call, "pending": pending,
        "repairs": [
            repair
            for repair in _REPAIRS.get(discarded.kind, _OTHERS)
            if repair not in discarded.unfit and fits(repair, call, code)
        ],
        "details": discarded.details,
    }  # fmt: skip
    return Event("incident_opened", data, state.visit, cause=cause or state.seen_seq, node=discarded.node)


def stays_committed(
    state: CaseState, code: WorkflowCode, kept: dict[str, Json], why: str, now: datetime, cause: int
) -> Event:
    """Return the event that tells of a result which a transaction has committed, and no visit will take over (A12).

    Args:
        kept: the result, as a restart has kept it.
    """
    rows = kept["rows"]
    activity = code.activities.get(rows["activity"])
    late = TurnDiscarded(
        "late_effect", f"{rows['activity']} has committed its transaction, {why}, and it has no undo",
        owner=activity.owner.name if activity is not None else state.owner, node=rows["node"],
        details={"result": kept["result"], "committed_by": rows["call"]},
    )  # fmt: skip
    return incident(state, late, now, code, cause=cause, blocks=False)


def from_fault(fault: Fault, owner: str) -> TurnDiscarded:
    """Turn a fault the host noted into the incident it leads to."""
    return TurnDiscarded(fault.kind, fault.message, owner=fault.owner or owner, details=fault.details)


def asked_first(activity: Activity[..., Any] | None) -> dict[str, Json]:
    """Say of a failed call whether its effect must not be repeated and `verify` can tell: `retry` asks it first."""
    tells = activity is not None and activity.effect == "once" and activity.verify_function is not None
    return {"verify": "retry asks it before another attempt begins"} if tells else {}


def from_mismatch(mismatch: Mismatch, owner: str) -> TurnDiscarded:
    """Recorded past beside attempted present."""
    details: dict[str, Json] = {"recorded": mismatch.recorded, "attempted": mismatch.attempted, "line": mismatch.line}
    return TurnDiscarded("code_changed", str(mismatch), owner=owner, details=details)


def from_damage(seq: int, owner: str) -> TurnDiscarded:
    """A visit that cannot be replayed: one of its events is not what was recorded."""
    hint = "longcase verify; then restore a backup (longcase restore BACKUP) and retry, or move or cancel the case"
    return TurnDiscarded(
        "history_damaged", f"event {seq} of the history is not what was recorded", owner=owner,
        details={"event": seq, "hint": hint},
    )  # fmt: skip


def damaged_input(no: int, ident: str, kind: str, owner: str) -> TurnDiscarded:
    """A turn that cannot be taken: its input is not what was accepted."""
    hint = "restore a backup (longcase restore BACKUP) and retry; or move the case, which puts it aside, or cancel it"
    return TurnDiscarded(
        "input_damaged", f"input {no} of the inbox ({storable(ident)}, {storable(kind)}) is not what was accepted",
        owner=owner, details={"no": no, "hint": hint},
    )  # fmt: skip


def from_exception(error: BaseException, owner: str) -> TurnDiscarded:
    """Turn what a stage raised into an incident of its visit."""
    if type(error).__name__ == "StageNeverYields":
        return TurnDiscarded(
            "stage_never_yields",
            "the stage ran longer than the limit of one turn",
            owner=owner,
            details={"line": _line_of(error)},
        )
    kind = "object_invalid" if isinstance(error, InvalidInput) and "object of" in error.message else "stage_failed"
    text = storable(error.message) if isinstance(error, LongcaseError) else f"{type(error).__name__}: {text_of(error)}"
    details: dict[str, Json] = {"type": type(error).__name__, "line": _line_of(error)}
    if isinstance(error, LongcaseError) and error.hint:
        details["hint"] = error.hint
    return TurnDiscarded(kind, text, owner=owner, details=details)


def failed_calls(error: BaseException) -> Iterator[ActivityFailed]:
    """Yield the activity failures inside an exception or a group of them, each once."""
    if isinstance(error, ActivityFailed):
        yield error
    elif isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from failed_calls(inner)


def _line_of(error: BaseException) -> str:
    trace: Any = error.__traceback__
    line = ""
    while trace is not None:
        code = trace.tb_frame.f_code
        if is_authors(code.co_filename):
            line = f"{code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno} in {code.co_name}"
        trace = trace.tb_next
    return line
