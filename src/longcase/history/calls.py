"""The fold of calls: commands, attempts, outcomes, and what an undo has to settle."""

from __future__ import annotations

from collections.abc import Mapping

from longcase.history.event import Event
from longcase.history.records import Call, CaseState, UndoEntry, may_have_happened
from longcase.history.reducers import on
from longcase.model.codec import Json


@on("activity_scheduled", "undo_started")
def commanded(state: CaseState, event: Event) -> None:
    """Fold the command of a call."""
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
    if data.get("transaction"):
        call["transaction"] = True
    if "after" in data:
        call["after"] = data["after"]
    if "queue" in data:
        call["queue"] = data["queue"]
        call["priority"] = data["priority"]
    if "instead" in data:  # told with this turn: it must not be told again where the visit ends
        name = data["instead"]["name"]
        state.reuse = {**state.reuse, name: {k: v for k, v in state.reuse[name].items() if k != "rows"}}
    state.calls[data["call"]] = call
    if "undo" in data:
        state.undo[data["call"]] = {
            "call": data["call"], "activity": data["activity"], "undo": data["undo"], "visit": event.visit,
            "stage": state.stage, "seq": event.seq, "status": "open", "result": 0,
        }  # fmt: skip
    if event.type == "undo_started" and state.undoing is not None:
        state.undoing["call"] = data["call"]


def untold(before: Mapping[str, Json], after: Mapping[str, Json]) -> list[dict[str, Json]]:
    """Return the committed results kept for a visit that ends (`before`) and nobody has applied, nor will (`after`)."""
    return [kept for name, kept in before.items() if name not in after and kept.get("rows", {}).get("untold")]


def undo_entry(state: CaseState, call: str) -> UndoEntry | None:
    """Return the undo entry written with a call's command, None once it is of no more use."""
    return state.undo.get(call)


@on("activity_completed", "result_late", "undone")
def _activity_completed(state: CaseState, event: Event) -> None:
    data = event.data
    call = state.calls.pop(data["call"], None)
    if call is None:
        return
    close_call_incidents(state, data["call"])
    if call["undoes"]:
        settle(state, call["undoes"], "undone", event.seq)
        if state.undoing is not None:
            state.undoing["call"] = ""
        return
    if data.get("once") and data["call"] not in state.redone:
        state.once[call.get("scope", call["key"])] = {"seq": event.seq, "result": data["result"]}
    settle(state, data["call"], "done", event.seq)


def settle(state: CaseState, call: str, status: str, seq: int) -> None:
    """Note what became of a call, for an undo and for whoever waits for just that."""
    entry = undo_entry(state, call)
    if state.redone and (status != "done" or entry is None or not entry["undo"]):
        state.redone.pop(call, None)
    if entry is not None:
        if not entry["undo"]:
            # Settled, and there is nothing to undo it with: it must not weigh on every later turn.
            del state.undo[call]
            return
        entry["status"] = status
        if status == "done":
            entry["result"] = seq


def close_call_incidents(state: CaseState, call: str) -> None:
    """Drop the incidents of a call that has come to its end, or goes on."""
    if state.incidents:
        state.incidents = {k: incident for k, incident in state.incidents.items() if incident["call"] != call}


def last_attempt(failed: Mapping[str, Json]) -> Json:
    """Return the number of a failed call's last attempt, which may run on: it was asked to stop.

    Args:
        failed: the data of `activity_failed`.
    """
    return failed.get("runs", failed.get("attempt"))


@on("activity_failed")
def _activity_failed(state: CaseState, event: Event) -> None:
    ref = event.data["call"]
    close_call_incidents(state, ref)
    entry = undo_entry(state, ref)
    call = state.calls.get(ref)
    if call is not None and "runs" in event.data:
        # Out of time, and its attempt has been asked to stop: what it still comes to is late (A4).
        call["awaited"] = False
        if entry is not None and not entry["undo"]:
            settle(state, ref, "nothing", event.seq)  # the stage knows, and could not undo it: it may close
        return
    if (
        call is not None
        and entry is not None
        and entry["undo"]
        and may_have_happened(call, event.data["error"]["kind"])
    ):
        # The stage goes on without it, but the world may have changed: an undo has to find out (A4).
        call["status"] = "unknown"
        call["awaited"] = False
        call["worker"] = 0
        call["started"] = call["next_try"] = ""
        return
    state.calls.pop(ref, None)
    settle(state, ref, "nothing", event.seq)


@on("activity_reused")
def _activity_reused(state: CaseState, event: Event) -> None:
    state.reuse.pop(event.data["reuse"], None)


@on("activity_cancelled")
def _activity_cancelled(state: CaseState, event: Event) -> None:
    call = state.calls.get(event.data["call"])
    if call is None:
        return
    if event.data["waits"]:
        call["stopping"] = True
        return
    call["awaited"] = False
    if call["attempt"] == 0:
        # No attempt ever began: nothing is out there to settle.
        del state.calls[event.data["call"]]
        settle(state, event.data["call"], "nothing", event.seq)
    elif call["status"] == "backoff":
        # Nobody waits for another attempt. Whether the last one took effect is known, unless it got no answer.
        kind = call.get("error", {}).get("kind")
        if may_have_happened(call, kind) and undo_entry(state, event.data["call"]) is not None:
            call["status"] = "unknown"
            call["next_try"] = ""
        else:
            del state.calls[event.data["call"]]
            settle(state, event.data["call"], "nothing", event.seq)


@on("attempt_started")
def _attempt_started(state: CaseState, event: Event) -> None:
    call = state.calls[event.data["call"]]
    call["attempt"] = event.data["attempt"]
    call["status"] = "running"
    call["worker"] = event.data["worker"]
    call["started"] = event.at
    call["first"] = call["first"] or event.at
    call["next_try"] = ""


@on("attempt_committed")
def _attempt_committed(state: CaseState, event: Event) -> None:
    call = state.calls.get(event.data["call"])
    if call is not None:
        call["committed"] = event.data["attempt"]


@on("attempt_failed", "attempt_lost")
def _attempt_failed(state: CaseState, event: Event) -> None:
    data = event.data
    call = state.calls.get(data["call"])
    if call is None:
        return
    call["worker"] = 0
    call["started"] = ""
    call["failures"] += data.get("counts", 1)
    if not data.get("counts", 1):
        call["lost"] = call.get("lost", 0) + 1
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
        settle(state, data["call"], "nothing", event.seq)
    else:
        call["status"] = "unknown"


@on("attempt_verified")
def _attempt_verified(state: CaseState, event: Event) -> None:
    call = state.calls.get(event.data["call"])
    if call is None:
        return
    if event.data["happened"] is False:
        call["status"] = "backoff"
        call["next_try"] = event.data["next_try"]


@on("call_retried")
def _call_retried(state: CaseState, event: Event) -> None:
    call = state.calls[event.data["call"]]
    # Nobody waits for a call that an undo has to settle: it is ready, as one in backoff would be given up.
    call["status"] = "backoff" if call["awaited"] or call["undoes"] else "ready"
    call["next_try"] = event.at
    if event.data.get("asks"):  # `verify` says whether there is another attempt
        call["status"] = "unknown"
        call["next_try"] = ""
    call["failures"] = 0
    call.pop("lost", None)
    call["deadline"] = event.data["deadline"]
    call["expected"] = event.data["expected"]
    call["first"] = ""
    close_call_incidents(state, event.data["call"])


@on("undo_requested")
def _undo_requested(state: CaseState, event: Event) -> None:
    state.undoing = {
        "undo": event.data["undo"], "since": event.data["since"], "call": "", "at": event.at, "seq": event.seq,
        "node": event.node, "n": event.n, "strand": event.strand,
    }  # fmt: skip


@on("undo_skipped")
def _undo_skipped(state: CaseState, event: Event) -> None:
    settle(state, event.data["call"], event.data["status"], event.seq)
    call = event.data.get("drop")
    if call:
        dropped = state.calls.pop(call, None)
        close_call_incidents(state, call)
        # Written only where it matters: a state that an earlier release folded must still equal its fold (I35).
        entry = state.undo.get(dropped["undoes"]) if dropped is not None else None
        if entry is not None and entry["status"] == "done":
            entry["failed"] = entry.get("failed", 0) + 1
    if state.undoing is not None:
        state.undoing["call"] = ""


@on("undo_finished")
def _undo_finished(state: CaseState, event: Event) -> None:
    state.undoing = None
