"""The repairs an operator has: each judges the locked case and says what to append, or why not.

Repairs never queue behind a poisoned input: their facts are appended at once under the row's lock
(SEMANTICS A2); only the outcome an operator supplies for a call is an input, because stage code
awaits it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from datetime import timedelta

from longcase.engine.attempts import completed
from longcase.engine.code import WorkflowCode
from longcase.engine.corrections import input_corrected
from longcase.engine.incidents import fits
from longcase.engine.repeating import refuse_repeating
from longcase.engine.tasks import Actor
from longcase.errors import CaseClosed, RepairRefused, UsageError
from longcase.history.committed import results_gone
from longcase.history.event import Event, instant_of, instant_text
from longcase.history.state import Call, CaseState, Incident
from longcase.model.codec import Json
from longcase.record import record

_CALL_KINDS = frozenset(
    {
        "activity_failed", "outcome_unknown", "contract_changed", "result_not_encodable", "undecodable_payload",
        "unknown_activity", "poisoned_activity",
    }
)  # fmt: skip
RETRY_EXPECTED = timedelta(hours=1)


@record(frozen=False)
class Repair:
    """What a repair wants written: events at once, inputs (type, data) for the stage's next turn."""

    events: list[Event] = field(default_factory=list)
    inputs: list[tuple[str, dict[str, Json]]] = field(default_factory=list)
    did: str = ""


def open_incident(state: CaseState, number: str | None = None) -> tuple[str, Incident]:
    """Return the incident meant: the numbered one, or the only one there is."""
    still_open(state)
    if number is not None:
        if number not in state.incidents:
            known = ", ".join(state.incidents) or "none"
            raise RepairRefused(
                f"{state.address} has no incident {number} (open: {known})", hint=f"longcase show {state.address}"
            )
        return number, state.incidents[number]
    if not state.incidents:
        raise RepairRefused(f"{state.address} has no open incident", hint=f"longcase show {state.address}")
    if len(state.incidents) > 1:
        known = ", ".join(f"{k} ({i['kind']})" for k, i in state.incidents.items())
        raise RepairRefused(
            f"{state.address} has {len(state.incidents)} incidents: {known}",
            hint="name one: --incident " + next(iter(state.incidents)),
        )
    return next(iter(state.incidents.items()))


def retry(state: CaseState, number: str | None, actor: Actor, reason: str, now: str) -> Repair:
    """Grant the failed call new attempts under the same key, or apply the refused input again.

    Where its effect must not be repeated and `verify` can tell whether it took place, it is asked first.
    """
    ref, incident = open_incident(state, number)
    _allow(incident, "retry")
    repair = Repair(did=f"retried {incident['kind']}")
    call = state.calls.get(incident["call"])
    if incident["kind"] in _CALL_KINDS and call is not None:
        data: dict[str, Json] = {
            "call": incident["call"],
            "reason": reason,
            "deadline": "",
            "expected": instant_text(instant_of(now) + RETRY_EXPECTED),
        }
        if "verify" in incident["details"]:
            data["asks"] = True
            repair.did += "; verify is asked first whether it took effect"
        event = by(
            actor,
            Event(
                "call_retried",
                data,
                state.visit,
                node=call["node"],
                n=call["n"],
                strand=call["strand"],
                cause=call["seq"],
            ),
        )
        repair.events.append(event)
    repair.events.append(incident_closed(ref, "retried", actor, reason, state))
    pending = incident["pending"]
    if pending:
        repair.inputs.append((pending["type"], {k: v for k, v in pending.items() if k != "type"}))
    return repair


def set_result(state: CaseState, number: str | None, result: Json, reason: str, code: WorkflowCode | None) -> Repair:
    """Supply the outcome of a call that cannot supply its own; its failed attempts stay on record."""
    ref, incident = open_incident(state, number)
    _allow(incident, "set-result")
    call = state.calls.get(incident["call"])
    if call is None:
        raise RepairRefused(
            f"{state.address}: incident {ref} ({incident['kind']}) is of no call",
            hint=f"longcase retry {state.address}",
        )
    activity = code.activities.get(call["activity"]) if code is not None else None
    if activity is not None and not call["undoes"]:
        activity.result_codec.decode(result, f"result of {call['activity']}")
    data: dict[str, Json] = {"call": incident["call"], "result": result, "why": reason}
    return Repair([], [("activity_completed", data)], f"result of {call['activity']} set")


def skip(state: CaseState, number: str | None, actor: Actor, reason: str, code: WorkflowCode | None) -> Repair:
    """Go on without the call: only where its result type admits None."""
    ref, incident = open_incident(state, number)
    call = state.calls.get(incident["call"])
    if call is not None and not fits("skip", call, code):
        raise RepairRefused(
            f"{call['activity']} cannot be skipped: its result is never None",
            hint=f"longcase set-result {state.address} '<json>' --reason ...",
        )
    _allow(incident, "skip")
    if call is None:
        return Repair([incident_closed(ref, "skipped", actor, reason, state)], [], f"incident {ref} acknowledged")
    if call["undoes"]:
        data: dict[str, Json] = {"call": call["undoes"], "status": "left", "drop": incident["call"], "reason": reason}
        event = by(
            actor, Event("undo_skipped", data, state.visit, node=call["node"], n=call["n"], strand=call["strand"])
        )
        return Repair(
            [event, incident_closed(ref, "skipped", actor, reason, state)], [], f"{call['activity']} left undone"
        )
    return Repair(
        [],
        [("activity_completed", {"call": incident["call"], "result": None, "why": reason})],
        f"{call['activity']} skipped",
    )


def correct(
    state: CaseState,
    patch: Mapping[str, Json],
    actor: Actor,
    reason: str,
    *,
    pin: bool,
    key_field: str,
    called_with: Callable[[Call], dict[str, Json]],
) -> Repair:
    """Set fields of the object, recorded with who, why, before and after; pinned for the visit (B9).

    Calls in flight that were called with one of them are marked: `redo` has them called anew.

    Args:
        called_with: what a call was called with.
    """
    still_open(state)
    if key_field and key_field in patch and patch[key_field] != state.object.get(key_field):
        raise RepairRefused(
            f"{state.address}: the key field {key_field} cannot be corrected",
            hint="start a new case and cancel this one",
        )
    changed = {name: value for name, value in patch.items() if name not in state.object or state.object[name] != value}
    if not changed:
        return Repair(did="nothing to change")
    marks = [by(actor, mark) for mark in input_corrected(state, changed, called_with)]
    told = [f"{mark.data['activity']} {_was_called(mark)}: longcase show {state.address}" for mark in marks]
    data: dict[str, Json] = {
        "patch": changed, "before": {name: state.object.get(name) for name in changed}, "reason": reason, "pin": pin,
    }  # fmt: skip
    return Repair(
        [by(actor, Event("corrected", data, state.visit)), *marks], [], "; ".join([", ".join(changed), *told])
    )


def _was_called(mark: Event) -> str:
    return "was called with what it was before" if mark.data["changes"] else "may have been called with it"


def move(
    state: CaseState,
    stage: str,
    actor: Actor,
    reason: str,
    code: WorkflowCode | None,
    earlier: Sequence[Event] = (),
    committed: Mapping[str, Json] | None = None,
    *,
    repeat: bool = False,
) -> Repair:
    """End the visit and enter another stage; nothing is undone (SEMANTICS B12).

    `earlier` are the events of the last visit of that stage: its calls are made again under their old
    keys, so that the world can tell a repeat from a new one (SEMANTICS A5). Their results are not reused.
    If one of them has an effect that must not be repeated, `repeat` says that a person wants it all the same.
    """
    still_open(state)
    if code is not None:
        known = list(code.workflow.stages)
        if stage not in known:
            raise UsageError(f"{code.workflow.name} has no stage {stage}", hint=f"its stages are {', '.join(known)}")
    if not repeat:
        refuse_repeating(state, stage, earlier, code)
    repair = _moved(state, stage, actor, reason, restart=False, reuse=_calls_of(earlier, state, results=False))
    outlasting = {
        ref: result
        for ref, result in (committed or {}).items()
        for call in [state.calls[ref]]
        if _outlasts_itself(call["activity"], call.get("scope", call["key"]))
    }
    repair.events[:0] = _recorded(state, outlasting)  # the stage that is entered may ask for just these
    return repair


def restart(
    state: CaseState,
    visit_events: Sequence[Event],
    actor: Actor,
    reason: str,
    code: WorkflowCode | None = None,
    committed: Mapping[str, Json] | None = None,
) -> Repair:
    """Begin the visit anew under the same keys, taking over results that are already recorded (A5).

    `committed` are the results, by call, that transactions have committed and no turn has applied yet: they are
    recorded first, so that no call is made again whose rows are there (A12). One whose result is gone refuses it.
    """
    still_open(state)
    for ref, call in state.calls.items():
        activity = code.activities.get(call["activity"]) if code is not None else None
        if call["status"] in ("running", "unknown", "incident") and activity is not None and activity.effect == "once":
            # The new visit would begin the same call under the same key beside it.
            raise RepairRefused(
                f"{state.address} cannot restart: attempt {call['attempt']} of {call['activity']} is not settled, "
                "and its effect must not be repeated",
                hint=_settling(state, ref, call),
            )
    if gone := results_gone(state, committed or {}):
        call = state.calls[gone[0]]
        raise RepairRefused(
            f"{state.address} cannot restart: attempt {call['attempt']} of {call['activity']} has committed its "
            "transaction, and its result is nowhere; called again it would write a second time",
            hint="restore a backup; or, if a second time is right: "
            f"longcase move {state.address} {state.stage} --reason ...",
        )
    late = _recorded(state, committed or {})
    reuse = _calls_of([*visit_events, *late], state, results=True)
    repair = _moved(state, state.stage, actor, reason, restart=True, reuse=reuse)
    there = {kept["id"] for kept in state.signals}  # another restart, not carried out yet, may have returned them
    returned = [kept for kept in _consumed(visit_events, state.lineage) if kept["id"] not in there]
    repair.events[0].data["signals"] = returned
    entered = next((event.data for event in visit_events if event.type == "stage_entered"), {})
    told = {name: entered[name] for name in ("signal", "input", "why") if name in entered}
    if told:  # what an exception path was begun with: it is begun with the same again
        repair.events[0].data["told"] = told
    repair.events[:0] = late
    taken = [name for name, call in reuse.items() if "result" in call]
    repair.did += f", taking over the results of {', '.join(taken)}" if taken else ", with no result to take over"
    if state.tasks:
        repair.did += "; what was asked is asked again"
    return repair


def _settling(state: CaseState, ref: str, call: Call) -> str:
    if call["status"] == "incident" and not any(opened["call"] == ref for opened in state.incidents.values()):
        return f"its result was accepted, and waits for the other incident: longcase show {state.address}"
    return f"wait for its end, or: longcase set-result {state.address} '<json>' --reason ..."


def _recorded(state: CaseState, committed: Mapping[str, Json]) -> list[Event]:
    """Return the records of results that transactions have committed, so that the next visit finds them."""
    found = []
    for ref, call in state.calls.items():
        if ref in committed and not call["undoes"]:
            unawaited: Call = {**call, "awaited": False}
            actor = f"worker:{call['worker']}"
            more: dict[str, Json] = {"kept": True}
            if _outlasts_itself(call["activity"], call.get("scope", call["key"])):
                more["once"] = True
            found.append(completed(state, ref, unawaited, call["attempt"], committed[ref], actor, **more))
    return found


def _outlasts_itself(activity: str, key: str) -> bool:
    """Tell by its key whether a call's result is the case's or the visit's: the key of one call ends with a number."""
    return key.endswith(f"-{activity}")


def _consumed(visit_events: Sequence[Event], lineage: int) -> list[Json]:
    """Return the signals a visit consumed, as they were kept: its restart finds them again, in order (B6).

    Those of handlers are marked: the calls they have made are made again, also if the stage no longer waits.
    """
    kept: dict[str, Json] = {}
    consumed: list[Json] = []
    for event in visit_events:
        data = event.data
        if event.type == "stage_entered":
            kept = {signal["id"]: signal for signal in data["snapshot"].get("signals", ())}
        elif event.type == "signal_received":
            kept[data["id"]] = {
                "id": data["id"], "signal": data["signal"], "seq": event.seq, "at": data["accepted_at"],
                "sender": data["sender"], "body": data["body"],
            }  # fmt: skip
        elif event.type == "signal_consumed" and data["id"] in kept:
            consumed.append(kept[data["id"]])
        elif event.type == "handler_started" and data["id"] in kept:
            consumed.append({**kept[data["id"]], "begun": lineage})
    return consumed


def _calls_of(visit_events: Sequence[Event], state: CaseState, *, results: bool) -> dict[str, Json]:
    """Return the calls of a visit by name and ordinal: digest of the arguments, key, and result if wanted.

    One that took the place of a call which is not settled yet has what that was asked as (`after`): made again it waits
    for the same (A4).

    A result whose transaction stays committed, and can only be taken over or told, is marked (`rows`): by the call, and
    whether no turn has applied it.
    """
    reuse: dict[str, Json] = {}
    without_undo: set[str] = set()
    staying: set[str] = set()
    unsettled = {redone["asked_as"] for redone in state.redone.values()}
    names: dict[str, str] = {}
    for event in visit_events:
        data = event.data
        if event.type == "stage_entered":  # of a visit that was a restart itself
            for name, kept in data["reuse"].items():
                if results:
                    reuse[name] = kept
                elif "rows" not in kept:  # where such a result is not taken over, that is told (A12)
                    reuse[name] = {what: kept[what] for what in ("digest", "key", "after") if what in kept}
        elif event.type == "activity_scheduled":
            names[data["call"]] = f"{data.get('run', '')}{data['activity']}#{data['nth']}"
            reuse[names[data["call"]]] = {"digest": data["digest"], "key": data["key"]}
            if data.get("after") in unsettled:
                reuse[names[data["call"]]]["after"] = data["after"]
            if data.get("transaction") and not data.get("undo") and not _outlasts_itself(data["activity"], data["key"]):
                without_undo.add(names[data["call"]])
        elif event.type == "attempt_committed" and names.get(data["call"]) in without_undo:
            staying.add(data["call"])
        elif event.type == "call_redone" and data["redoes"] in names:
            # What the call before comes to belongs to other arguments.
            name = names[data["call"]] = names.pop(data["redoes"])
            after = {key: reuse[name][key] for key in ("after",) if key in reuse[name]}
            reuse[name] = {"digest": data["digest"], "key": data["key"], **after}
            if data["asked_as"] in unsettled:
                reuse[name]["after"] = data["asked_as"]
        elif results and event.type in ("activity_completed", "result_late") and data["call"] in names:
            found = reuse[names[data["call"]]]
            found["result"] = data["result"]
            if data["call"] in staying:
                found["rows"] = {"call": data["call"], "activity": data["activity"], "node": event.node}
                if "kept" in data:
                    found["rows"]["untold"] = True
        elif event.type == "activity_reused" and data["reuse"]:
            taken = {"digest": data["digest"], "key": data["key"], "result": data["result"]}
            reuse[data["reuse"]] = {**reuse.get(data["reuse"], {}), **taken}
    return reuse


def _moved(state: CaseState, stage: str, actor: Actor, reason: str, *, restart: bool, reuse: dict[str, Json]) -> Repair:
    data: dict[str, Json] = {"to": stage, "from": state.stage, "reason": reason, "restart": restart, "reuse": reuse}
    repair = Repair([by(actor, Event("moved", data, state.visit))], [], f"to {stage}")
    for ref, incident in state.incidents.items():
        if incident["blocks"]:
            repair.events.append(incident_closed(ref, "moved", actor, reason, state))
            if incident["pending"]:  # its end is on record nowhere else
                pending = incident["pending"]
                repair.inputs.append((pending["type"], {k: v for k, v in pending.items() if k != "type"}))
    return repair


def cancel(state: CaseState, actor: Actor, reason: str) -> Repair:
    """Ask for the case's end by its cancel path (undo, then close "cancelled", unless it declares one)."""
    still_open(state)
    if state.cancel is not None:
        return Repair(did="already asked")
    event = by(actor, Event("cancel_requested", {"reason": reason}, state.visit))
    return Repair([event], [("interrupted", {"reason": reason})], "asked")


def _allow(incident: Incident, repair: str) -> None:
    if repair not in incident["repairs"]:
        raise RepairRefused(
            f"{repair} does not apply to {incident['kind']}", hint=f"what applies: {', '.join(incident['repairs'])}"
        )


def still_open(state: CaseState) -> None:
    if state.status == "closed":
        name = (state.close or {}).get("name", "")
        raise CaseClosed(f"{state.address} is closed: {name}", hint=f"longcase history {state.address}")


def incident_closed(ref: str, how: str, actor: Actor, reason: str, state: CaseState) -> Event:
    return by(actor, Event("incident_closed", {"incident": ref, "how": how, "reason": reason}, state.visit))


def by(actor: Actor, event: Event) -> Event:
    event.actor, event.channel, event.on_behalf = actor.name, actor.channel, actor.on_behalf
    return event
