"""What a move would repeat: calls of `effect="once"` that the stage has made before (SEMANTICS A5)."""

from __future__ import annotations

from collections.abc import Sequence

from longcase.engine.code import WorkflowCode
from longcase.errors import RepairRefused
from longcase.history.event import Event
from longcase.history.state import CaseState


def refuse_repeating(state: CaseState, stage: str, earlier: Sequence[Event], code: WorkflowCode | None) -> None:
    """Refuse to enter a stage again that would repeat what must not be repeated, until a person says so.

    Args:
        earlier: the events of the last visit of that stage.

    Raises:
        RepairRefused: naming the calls; whoever asks has looked outside, or has it done all the same.
    """
    begun: dict[str, str] = {}  # what may have taken effect, by call: in words
    asked: dict[str, str] = {}
    for event in earlier:
        data = event.data
        if event.type == "stage_entered":  # what its restart keeps, and the visit has not asked for yet
            for name, kept in (data.get("reuse") or {}).items():
                activity = name.rpartition("#")[0].rpartition("/")[2]
                if "result" in kept and _must_not(activity, kept["key"], state, code):
                    begun[name] = f"{activity} (before its restart, returned)"
            continue
        if event.type == "activity_reused":
            begun.pop(data["reuse"], None)
        ref = data.get("call", "")
        if event.type in ("activity_scheduled", "call_redone", "activity_reused"):
            asked[ref] = data["activity"] if _must_not(data["activity"], data["key"], state, code) else ""
        if not asked.get(ref):
            continue
        if event.type in ("activity_completed", "activity_reused", "result_late"):
            begun[ref] = f"{asked[ref]} ({ref}, returned)"
        elif event.type == "attempt_started" or data.get("attempt"):
            begun.setdefault(ref, f"{asked[ref]} ({ref})")
    if begun:
        taken_over = stage == state.stage and all(told.endswith("returned)") for told in begun.values())
        instead = f"; longcase restart {state.address} keeps what has returned" if taken_over else ""
        raise RepairRefused(
            f"{state.address}: {stage} has called {', '.join(begun.values())}, whose effect must not be repeated; "
            "entered again it makes the call again",
            hint=f"if that is right: longcase move {state.address} {stage} --repeat --reason ...{instead}",
        )


def _must_not(name: str, key: str, state: CaseState, code: WorkflowCode | None) -> bool:
    """Tell whether an activity must not be repeated, and would be: with `once_per="case"` its result is taken over."""
    activity = code.activities.get(name) if code is not None else None
    if activity is None or activity.effect != "once":
        return False
    return activity.once_per != "case" or key not in state.once
