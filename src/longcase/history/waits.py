"""What a case is waiting on, read from its state: kind, what, whose move, since, expected by."""

from __future__ import annotations

from typing import Any, NamedTuple

from longcase.history.state import CaseState


class Wait(NamedTuple):
    """One open wait. `expected` is "" where no end is promised."""

    kind: str  # incident | activity | person | data | signal | timer | child | undo
    what: str
    whose: str
    since: str
    expected: str
    node: str
    seq: int


_END_OF_TIME = "9999"


def waits(state: CaseState) -> list[Wait]:
    """Return every open wait: incidents first, then by when it is expected to end, ties by seq."""
    found: list[Wait] = []
    for incident in state.incidents.values():
        found.append(
            Wait(
                "incident", f"{incident['kind']}: {incident['message']}", incident["owner"], incident["since"],
                incident["due"], incident["node"], 0,
            )
        )  # fmt: skip
    for call in state.calls.values():
        if call["awaited"] and call["status"] != "incident":
            found.append(
                Wait(
                    "activity",
                    _call_text(call),
                    call["system"] or call["owner"],
                    call["since"],
                    call["expected"],
                    call["node"],
                    call["seq"],
                )
            )
    for task in state.tasks.values():
        if task["status"] in ("decided", "expired"):
            continue
        kind = "data" if task["kind"] == "require" else "person"
        what = (
            task["question"]
            if task["quorum"] == 1
            else f"{task['question']} ({len(task['votes'])} of {task['quorum']})"
        )
        found.append(
            Wait(kind, what, ", ".join(task["whose"]), task["since"], task["expected"], task["node"], task["seq"])
        )
    for receive in state.receives.values():
        found.append(
            Wait(
                "signal",
                f"signal {receive['signal']}",
                receive["whose"],
                receive["since"],
                receive["expected"],
                receive["node"],
                receive["seq"],
            )
        )
    for timer in state.timers.values():
        if timer["kind"] == "pause":
            found.append(
                Wait(
                    "timer", timer["because"], timer["whose"], timer["since"], timer["due"], timer["node"], timer["seq"]
                )
            )
    for child in state.children.values():
        if child["awaited"]:
            found.append(
                Wait(
                    "child",
                    f"child {child['workflow']}/{child['key']}",
                    state.owner,
                    child["since"],
                    child["expected"],
                    child["node"],
                    child["seq"],
                )
            )
    if state.undoing is not None:
        found.append(
            Wait("undo", "undoing", state.owner, state.undoing["at"], "", state.undoing["node"], state.undoing["seq"])
        )
    if not found:
        # Stage code waits under `asyncio.timeout` for what it does itself: the timeout is what moves the case.
        found = [
            Wait("timer", timer["because"], timer["whose"], timer["since"], timer["due"], timer["node"], timer["seq"])
            for timer in state.timers.values()
        ]
    found.sort(key=lambda wait: (wait.kind != "incident", wait.expected or _END_OF_TIME, wait.seq))
    return found


def not_taken_up(state: CaseState) -> list[Wait]:
    """Return what an accepted case waits for before its first visit: a worker. No fact of its row, for the eye."""
    if state.status != "open" or state.visit:
        return []
    return [Wait("worker", "a worker", state.owner, state.started_at, "", "", 0)]


def _call_text(call: Any) -> str:
    text: str = call["activity"]
    if call["status"] == "backoff":
        return f"{text}, attempt {call['attempt'] + 1} at {call['next_try']}"
    if call["status"] == "unknown":
        return f"{text}, outcome of attempt {call['attempt']} unknown"
    return text if call["attempt"] <= 1 else f"{text}, attempt {call['attempt']}"


def next_due(state: CaseState) -> str:
    """Return the earliest instant at which something of the case fires, or "" if nothing will."""
    return min(all_due(state), default="") if state.status == "open" else ""


def all_due(state: CaseState) -> list[str]:
    """Return the next instant of every clock of a case, in no order."""
    found: list[str] = [timer["due"] for timer in state.timers.values()] if state.timers else []
    for call in state.calls.values():
        if call["next_try"]:
            found.append(call["next_try"])
        # An attempt that runs is bounded by it as long as somebody waits for its call.
        runs = call["status"] == "running" and call["awaited"]
        if call["deadline"] and (runs or call["status"] in ("ready", "backoff")):
            found.append(call["deadline"])
        if call["start_by"] and call["status"] == "ready":
            found.append(call["start_by"])
    for task in state.tasks.values():
        if task["status"] in ("decided", "expired"):
            continue
        if task["reminders"]:
            found.append(task["reminders"][0])
        if task["expires_at"]:
            found.append(task["expires_at"])
        if task["level"] < len(task["ladder"]):
            found.append(str(task["ladder"][task["level"]]["at"]))
    return found
