"""The fold of corrected input: what a call in flight was called with, and the call that takes its place."""

from __future__ import annotations

from typing import Final

from longcase.history.calls import close_call_incidents, commanded, settle, undo_entry
from longcase.history.event import Event
from longcase.history.records import Call, CaseState, may_have_happened
from longcase.history.reducers import on
from longcase.model.codec import Json, canonical_json

# Failures by an answer that could not be read: the call has taken effect, unless a transaction took it back.
_UNREADABLE: Final = frozenset({"contract_changed", "not_encodable"})


def is_held(state: CaseState, call: Call) -> bool:
    """Tell whether a call may not begin yet: one before it is not settled, or the stage is to close.

    Before it is the call whose place it takes, or took in the visit that was begun anew.
    """
    asked_as = call.get("asked_as")
    after = call.get("after")
    if (asked_as is None and after is None) or call["attempt"]:
        return False
    if any(redone["asked_as"] in (asked_as, after) for redone in state.redone.values()):
        return True
    return asked_as is not None and any(
        opened["kind"] == "unsettled_close" and opened["blocks"] for opened in state.incidents.values()
    )


def standing_for(state: CaseState, asked_as: str) -> str:
    """Return the call whose outcome stage code gets for the one it has asked for."""
    for ref, call in state.calls.items():
        if call.get("asked_as") == asked_as and ref not in state.redone:
            return ref
    return asked_as


def _may_have_happened(call: Call) -> bool:
    """Tell whether a call that does not run may have taken effect, as far as its last attempt tells."""
    if call["status"] == "unknown":
        return True
    kind = call.get("error", {}).get("kind")
    unread = kind in _UNREADABLE and not call.get("transaction")
    return call["attempt"] > 0 and (unread or may_have_happened(call, kind))


@on("input_corrected")
def _input_corrected(state: CaseState, event: Event) -> None:
    call = state.calls.get(event.data["call"])
    if call is None:
        return
    before: dict[str, Json] = call.get("corrected", {"changes": [], "doubts": []})
    changes = {_place(change["at"]): change for change in before["changes"]}
    for change in event.data["changes"]:
        place = _place(change["at"])
        first = changes.pop(place, change)
        if not same(first["before"], change["after"]):
            changes[place] = {**change, "before": first["before"]}
    doubts = {(_place(doubt["at"]), doubt["field"]): doubt for doubt in before["doubts"]}
    for doubt in event.data["doubts"]:
        name = (_place(doubt["at"]), doubt["field"])
        doubts.pop(name, None)
        if not same(doubt["value"], doubt["after"]):
            doubts[name] = doubt
    call.pop("corrected", None)
    left = [doubt for (place, _), doubt in doubts.items() if place not in changes]
    if changes or left:
        call["corrected"] = {"changes": list(changes.values()), "doubts": left, "by": event.actor, "at": event.at}


@on("call_redone")
def _call_redone(state: CaseState, event: Event) -> None:
    data = event.data
    old = state.calls[data["redoes"]]
    _abandon(state, data["redoes"], old, data["asked_as"], event)
    commanded(state, event)
    call = state.calls[data["call"]]
    call["asked_as"] = data["asked_as"]
    call["scope"] = old.get("scope", old["key"])
    if "after" in old:
        call["after"] = old["after"]


def _abandon(state: CaseState, ref: str, call: Call, asked_as: str, event: Event) -> None:
    """Let go of a call: a running attempt is settled at its end, an unknown outcome by asking (A4)."""
    call["awaited"] = False
    call.pop("corrected", None)
    close_call_incidents(state, ref)
    state.redone[ref] = {
        "asked_as": asked_as, "node": call["node"], "n": call["n"], "strand": call["strand"], "seq": call["seq"],
    }  # fmt: skip
    if call["status"] == "running":
        return
    entry = undo_entry(state, ref)
    if entry is not None and entry["undo"] and _may_have_happened(call) and not event.data.get("never_happened"):
        call["status"] = "unknown"
        call["worker"] = 0
        call["started"] = call["next_try"] = ""
        return
    # It has not happened; or it may have, and nobody could take it back: whoever had it called anew was told so.
    del state.calls[ref]
    settle(state, ref, "nothing", event.seq)


def same(one: Json, other: Json) -> bool:
    """Tell whether two values are the same as JSON; Python takes 1, 1.0 and True for equal."""
    return one is other or canonical_json(one) == canonical_json(other)


def _place(at: list[str | int]) -> tuple[str | int, ...]:
    return tuple(at)
