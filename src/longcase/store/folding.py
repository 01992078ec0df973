"""What every store does to events and rows alike, whatever keeps them: digest, place, fold, projection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set

from longcase.history.chain import link, payload_digest
from longcase.history.event import BESIDE, TASK_CLOCKS, Event
from longcase.history.state import CaseState, Task, apply, blocked
from longcase.store import rows
from longcase.store.records import CaseRow, CaseWrite, Input, NewCase
from longcase.store.rows import Row, text_of


def prepare(events: Iterable[Event], salt: Callable[[], str]) -> None:
    """Give events their payload text, salt and digest: all that does not depend on their place."""
    for event in events:
        text = event.text = event.text or text_of(event.data, event.type)
        event.salt = salted = salt()
        event.digest = payload_digest(salted, text)


def refold(row: CaseRow, events: Sequence[Event]) -> None:
    """Give events their place after the stored ones: instant, seq, hash; and fold them in."""
    state = row.state
    for event in events:
        event.seq = state.seq + 1
        if event.at < state.at:  # the clock went back, or the turn was computed before the last event
            event.at = state.at
        event.hash = row.hash = link(row.hash, event)
        apply(state, event)


def task_rows(case_no: int, state: CaseState, events: Sequence[Event]) -> list[Row]:
    """Return the rows of the tasks that `events` changed."""
    touched = rows.touched_tasks(state, events)
    return tasks_of(case_no, touched) if touched else []


def tasks_of(case_no: int, tasks: Mapping[str, Task]) -> list[Row]:
    """Return rows of the tasks projection, ready to be put."""
    return [(case_no, name, *rows.task_values(task)) for name, task in tasks.items()]


def earliest(*instants: str) -> str:
    """Return the earliest of the instants that are given, or ""."""
    return min((instant for instant in instants if instant), default="")


def orphaned(write: CaseWrite, gone: Set[int]) -> bool:
    """Tell whether a turn leaves a queued attempt to a worker that was forgotten while the turn was computed.

    Nobody will tell its death any more: the case has to be looked at again, unless it stands still anyway.
    """
    return bool(gone) and not blocked(write.state) and any(call.worker in gone for call in write.queued or ())


def may_follow(between: Iterable[str], events: Sequence[Event]) -> bool:
    """Tell whether what came in between, by type, leaves a turn as it is: people's records do, a mover's do not."""
    # These name events of the turn by the seq it expected for them, or judge the votes there were (`vote_stale`).
    named = TASK_CLOCKS | {"undo_started", "incident_opened", "vote_stale"}
    return set(between) <= BESIDE and not any(event.type in named for event in events)


def is_child(state: CaseState, case_no: int, child: str) -> bool:
    """Tell whether a case is the one that `case_no` started under that name."""
    return state.parent is not None and (state.parent["case_no"], state.parent["child"]) == (case_no, child)


def shift_causes(events: Sequence[Event], base_seq: int, first: int) -> None:
    """Let events of a turn that name one another do so by their places from `first` on."""
    # From the numbers the events bear now, so that writing them once more shifts nothing twice.
    shift = first - events[0].seq if events else 0
    for event in events:
        if event.cause is not None and event.cause > base_seq:
            event.cause += shift


def name_parent(child: NewCase, case_no: int) -> str:
    """Write the parent's number into a child's first event; returns the child's name there, "" if it has no parent.

    The number of a parent that is started in the same write is known only then, and another at a second try.
    """
    parent = child.started.data.get("parent")
    if parent is None:
        return ""
    if parent.get("case_no") != case_no:
        child.started.data["parent"] = {**parent, "case_no": case_no}
        child.started.text = ""
    return str(parent["child"])


def refused_child(child: str) -> Input:
    """Return what a parent hears of a child whose key names a live case of somebody else: nobody will answer (B22)."""
    return Input(f"refused-{child}", "child_refused", {"child": child}, "engine", "engine")
