"""What a case is waiting on, read from its state: kind, what, whose move, since, expected by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import NamedTuple

from longcase.history.committed import kept_outcomes
from longcase.history.redoing import is_held
from longcase.history.state import Call, CaseState, Timer


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
    if state.incidents:
        found += _incidents(state)
    kept = kept_outcomes(state) if state.incidents else {}
    for ref, call in state.calls.items():
        if call["awaited"] and call["status"] != "incident":
            whose, what = call["system"] or call["owner"], _call_text(state, call)
            if ref in kept:
                whose = state.incidents[kept[ref]]["owner"]
                what = f"{call['activity']}, ended: incident {kept[ref]} keeps its outcome"
            found.append(Wait("activity", what, whose, call["since"], call["expected"], call["node"], call["seq"]))
    if state.tasks:
        found += _tasks(state)
    if state.receives:
        found += _receives(state)
    if state.timers:
        found += [_timer(timer) for timer in state.timers.values() if timer["kind"] == "pause"]
    if state.children:
        found += _children(state)
    undoing = state.undoing
    if undoing is not None:
        found.append(Wait("undo", "undoing", state.owner, undoing["at"], "", undoing["node"], undoing["seq"]))
    if not found and state.timers:
        # Stage code waits under `asyncio.timeout` for what it does itself: the timeout is what moves the case.
        found = [_timer(timer) for timer in state.timers.values()]
    if len(found) > 1:
        found.sort(key=lambda wait: (wait.kind != "incident", wait.expected or _END_OF_TIME, wait.seq))
    return found


def _incidents(state: CaseState) -> Iterator[Wait]:
    for opened in state.incidents.values():
        what = f"{opened['kind']}: {opened['message']}"
        yield Wait("incident", what, opened["owner"], opened["since"], opened["due"], opened["node"], 0)


def _tasks(state: CaseState) -> Iterator[Wait]:
    for task in state.tasks.values():
        if task["status"] in ("decided", "expired"):
            continue
        kind = "data" if task["kind"] == "require" else "person"
        what = task["question"]
        if task["quorum"] != 1:
            what = f"{what} ({votes_stand([vote['answer'] for vote in task['votes']], task['quorum'])})"
        yield Wait(kind, what, ", ".join(task["whose"]), task["since"], task["expected"], task["node"], task["seq"])


def votes_stand(answers: Collection[str], quorum: int) -> str:
    """Return how the answers of a quorum stand: "1 of 2"; where people disagree "rail 1, road 1; 2 needed"."""
    given = Counter(answers)
    if len(given) < 2:
        return f"{len(answers)} of {quorum}"
    counts = ", ".join(f"{answer} {count}" for answer, count in sorted(given.items()))
    return f"{counts}; {quorum} needed"


def _receives(state: CaseState) -> Iterator[Wait]:
    for receive in state.receives.values():
        what = f"signal {receive['signal']}"
        yield Wait(
            "signal", what, receive["whose"], receive["since"], receive["expected"], receive["node"], receive["seq"]
        )


def _timer(timer: Timer) -> Wait:
    return Wait("timer", timer["because"], timer["whose"], timer["since"], timer["due"], timer["node"], timer["seq"])


def _children(state: CaseState) -> Iterator[Wait]:
    for child in state.children.values():
        if child["awaited"]:
            what = f"child {child['workflow']}/{child['key']}"
            yield Wait("child", what, state.owner, child["since"], child["expected"], child["node"], child["seq"])


def for_a_worker(state: CaseState) -> list[Wait]:
    """Return what an open case without a wait of its own waits for: a worker. No fact of its row, for the eye."""
    if state.status != "open":
        return []
    what = "a worker"
    for task in state.tasks.values():
        if task["status"] == "decided":
            what = f'a worker, to go on with the answer to "{task["question"]}"'
    return [Wait("worker", what, state.owner, state.at, "", "", 0)]


def _call_text(state: CaseState, call: Call) -> str:
    text = call["activity"]
    if is_held(state, call):
        return f"{text}, called anew: begins when the call before it is settled"
    if call["status"] == "backoff":
        return f"{text}, attempt {call['attempt'] + 1} at {call['next_try']}"
    if call["status"] == "unknown":
        return f"{text}, outcome of attempt {call['attempt']} unknown"
    if call["status"] == "ready" and call.get("queue"):
        return f"{text}, for a worker of queue {call['queue']}"
    return text if call["attempt"] <= 1 else f"{text}, attempt {call['attempt']}"


def next_due(state: CaseState) -> str:
    """Return the earliest instant at which something of the case fires, or "" if nothing will."""
    if state.status != "open":
        return ""
    found = all_due(state)
    return min(found) if found else ""


def all_due(state: CaseState) -> list[str]:
    """Return the next instant of every clock of a case, in no order."""
    found: list[str] = [timer["due"] for timer in state.timers.values()] if state.timers else []
    for call in state.calls.values():
        if call["next_try"] and not call.get("queue"):  # else its queue knows, and the worker that takes it
            found.append(call["next_try"])
        # An attempt that runs is bounded by it as long as somebody waits for its call.
        if call["deadline"] and (
            call["awaited"] if call["status"] == "running" else call["status"] in ("ready", "backoff")
        ):
            found.append(call["deadline"])
        if call["start_by"] and call["status"] == "ready":
            found.append(call["start_by"])
    if state.tasks:
        found += _task_clocks(state)
    return found


def _task_clocks(state: CaseState) -> Iterator[str]:
    for task in state.tasks.values():
        if task["status"] in ("decided", "expired"):
            continue
        if task["reminders"]:
            yield task["reminders"][0]
        if task["expires_at"]:
            yield task["expires_at"]
        if task["level"] < len(task["ladder"]):
            yield str(task["ladder"][task["level"]]["at"])
