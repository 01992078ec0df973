"""The repair `redo`: a call in flight is called anew with corrected arguments, under a key of its own (SEMANTICS B9).

What it was called with before is settled first, as any call nobody waits for (A4): a running attempt is asked to stop
and its end awaited, what took effect is undone, what nobody knows is asked. Then the new call begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from longcase.engine.attempts import place, undo_named, where_run
from longcase.engine.corrections import in_flight, with_changes
from longcase.engine.repair import Repair, by, incident_closed, still_open
from longcase.engine.tasks import Actor
from longcase.errors import InvalidInput, RepairRefused, UsageError
from longcase.history.event import Event, later_text
from longcase.history.state import Call, CaseState
from longcase.model.activity import Activity
from longcase.model.codec import Json, digest, dump_json

_FAILED: Final = frozenset({"error", "non_retryable", "undecodable", "unknown_activity"})  # no answer is missing
_SHOWN: Final = 60  # characters of an argument


def meant(state: CaseState, ref: str | None) -> tuple[str, Call]:
    """Return the call that is to be called anew: the one that is named, or the only one that is marked.

    Args:
        ref: its reference, or the name of its activity where that tells which one is meant.

    Raises:
        CaseClosed, RepairRefused: there is none.
    """
    still_open(state)
    calls = dict(in_flight(state))
    marked = {name: call for name, call in calls.items() if "corrected" in call}
    if ref is not None:
        if ref not in calls:
            ref = _of_activity(state, calls, marked, ref)
        if ref not in calls:
            known = ", ".join(f"{name} ({call['activity']})" for name, call in calls.items()) or "none"
            raise RepairRefused(
                f"{state.address} has no call {ref} in flight (in flight: {known})",
                hint=f"name one: --call {next(iter(marked))}" if marked else f"longcase show {state.address}",
            )
        if ref not in marked:
            raise RepairRefused(
                f"{state.address}: {calls[ref]['activity']} ({ref}) was called with nothing that was corrected since",
                hint=f"longcase correct {state.address} FIELD=VALUE --reason ...",
            )
        return ref, marked[ref]
    if not marked:
        raise RepairRefused(
            f"{state.address}: there is nothing to redo; no call in flight was called with what was corrected since",
            hint=f"longcase show {state.address}",
        )
    if len(marked) > 1:
        known = ", ".join(f"{name} ({call['activity']})" for name, call in marked.items())
        raise RepairRefused(
            f"{state.address} has {len(marked)} calls whose input was corrected: {known}",
            hint="name one: --call " + next(iter(marked)),
        )
    return next(iter(marked.items()))


def _of_activity(state: CaseState, calls: Mapping[str, Call], marked: Mapping[str, Call], name: str) -> str:
    """Return the call of an activity by its name: the marked one, else the only one; the name if there is none.

    Raises:
        RepairRefused: there are several.
    """
    named = [ref for ref, call in calls.items() if call["activity"] == name]
    found = [ref for ref in named if ref in marked] or named
    if len(found) > 1:
        raise RepairRefused(
            f"{state.address} has {len(found)} calls of {name} in flight: {', '.join(found)}",
            hint=f"name one: --call {found[0]}",
        )
    return found[0] if found else name


def redo(
    state: CaseState,
    ref: str,
    recorded: dict[str, Json],
    given: Mapping[str, Json],
    activity: Activity[Any, Any] | None,
    actor: Actor,
    reason: str,
    now: str,
    *,
    never_happened: bool = False,
) -> Repair:
    """Abandon a call and have it called anew, with what was corrected since and what is given.

    Args:
        ref: a marked call, as `meant` returns it.
        recorded: what it was called with.
        given: arguments by name; they come before what was corrected.
        never_happened: a person says that no attempt of it took effect.
    """
    call = state.calls[ref]
    name, what = call["activity"], f"{state.address}: {call['activity']} ({ref})"
    if activity is None:
        raise RepairRefused(f"{what}: no activity of that name is loaded", hint="deploy it, or name its module: --app")
    if activity.effect == "once" and not _is_settled(call, never_happened):
        raise RepairRefused(f"{what}: attempt {call['attempt']} is not settled, and its effect must not be repeated",
                            hint=_settling(state.address, call))  # fmt: skip
    arguments = _arguments(what, call, activity, recorded, given)
    if digest(arguments) == digest(recorded):
        raise RepairRefused(
            f"{what} would be called with the same arguments; what was corrected since may not be among them",
            hint=f"longcase redo {state.address} --call {ref} --with '{{\"{next(iter(recorded), 'argument')}\": ...}}'",
        )
    data = _command(state, ref, call, activity, arguments, now)
    changed = {name: value for name, value in arguments.items() if digest(value) != digest(recorded.get(name))}
    data["changed"] = changed
    data["reason"] = reason
    if never_happened:
        data["never_happened"] = True
    event = place(state, call, by(actor, Event("call_redone", data)))
    closing = [
        incident_closed(number, "redone", actor, reason, state)
        for number, opened in state.incidents.items()
        if opened["call"] == ref
    ]
    return Repair([event, *closing], [], f"{name} is called with {_short(changed)}{_when(call, activity)}")


def _command(
    state: CaseState, ref: str, call: Call, activity: Activity[Any, Any], arguments: dict[str, Json], now: str
) -> dict[str, Json]:
    """Return the command of the new call; like a granted retry it has no end of its own but its policy's."""
    asked_as = call.get("asked_as", ref)
    number = int(ref.rpartition("-redo")[2]) + 1 if "asked_as" in call else 1
    name = f"{asked_as}-redo{number}"
    data: dict[str, Json] = {
        "call": name, "redoes": ref, "asked_as": asked_as, "activity": activity.name, "digest": digest(arguments),
        "input": arguments, "key": f"{call.get('scope', call['key'])}-{name}", "owner": activity.owner.name,
        "system": activity.system.name if activity.system else "",
        "expected": later_text(now, activity.longest),
        "deadline": "", "start_by": "", "attempt": 0, "worker": 0,
    }  # fmt: skip
    return data | undo_named(activity) | where_run(activity)


def _arguments(
    what: str, call: Call, activity: Activity[Any, Any], recorded: dict[str, Json], given: Mapping[str, Json]
) -> dict[str, Json]:
    """Return what the new call is called with, as the activity's declared types have it."""
    unknown = [name for name in given if name not in activity.codecs]
    if unknown:
        raise UsageError(
            f"{what} has no argument {', '.join(unknown)}", hint=f"its arguments: {', '.join(activity.codecs)}"
        )
    arguments = {**with_changes(recorded, call.get("corrected", {}).get("changes", ())), **given}
    missing = [name for name in activity.codecs if name not in arguments]
    if missing:
        raise RepairRefused(
            f"{what} was called without {', '.join(missing)}, which the loaded activity takes",
            hint="give it: --with '{" + ", ".join(f'"{name}": ...' for name in missing) + "}'",
        )
    try:
        return {
            name: codec.encode(codec.decode(arguments[name], f"{activity.name}({name})"), f"{activity.name}({name})")
            for name, codec in activity.codecs.items()
        }
    except InvalidInput as error:
        error.hint = error.hint or "give what fits: --with '{\"argument\": ...}'"
        raise


def _is_settled(call: Call, never_happened: bool) -> bool:
    """Tell whether it is known that no attempt of a call took effect."""
    if call["status"] == "running":
        return False
    failed = call["status"] != "unknown" and call.get("error", {}).get("kind") in _FAILED
    return call["attempt"] == 0 or failed or never_happened


def _settling(address: str, call: Call) -> str:
    if call["status"] == "running":
        return f"wait for its end: longcase show {address}"
    return (
        f"it took effect: longcase set-result {address} '<json>' --reason ...; "
        f"it did not: longcase redo {address} --never-happened --reason ..."
    )


def _when(call: Call, activity: Activity[Any, Any]) -> str:
    if call["status"] == "running":
        return f", once attempt {call['attempt']} has ended: it is asked to stop"
    return ""


def _short(arguments: Mapping[str, Json]) -> str:
    texts = {name: dump_json(value) for name, value in arguments.items()}
    return ", ".join(f"{name}={text if len(text) <= _SHOWN else text[:_SHOWN] + '...'}" for name, text in texts.items())
