"""Turns: straight where the row is known to stand as the turn was computed on it, else judged on the sheet.

A turn that a seen event overtook is refused as stale; one that only people's records overtook is appended
after them (SEMANTICS A2). Plain functions over what was read: they wait for nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from longcase.errors import BugError
from longcase.history.chain import GENESIS, link
from longcase.history.event import Event
from longcase.history.state import blocked
from longcase.history.waits import next_due
from longcase.record import record
from longcase.store import rows
from longcase.store.folding import (
    earliest,
    is_child,
    may_follow,
    name_parent,
    orphaned,
    prepare,
    refused_child,
    shift_causes,
)
from longcase.store.postgres.sheet import Held, Sheet, Wanted, needs, numbered
from longcase.store.postgres.statement import Draft
from longcase.store.records import CaseRef, CaseRow, CaseWrite, Input, Written


@record
class Head:
    """How a case's row stood when this process last read or wrote it."""

    revision: int
    seq: int
    seen_seq: int
    hash: bytes
    status: str
    at: str
    pending: int
    newest: int  # number of the newest input in its inbox, 0 for none

    @classmethod
    def of(cls, found: Any, row: CaseRow) -> Head:
        """Return the head of a row of SELECT_ROW."""
        revision, newest = found[-2], found[-1]
        state = row.state
        return cls(revision, state.seq, state.seen_seq, row.hash, state.status, state.at, row.pending, newest)

    @classmethod
    def after(cls, draft: Draft, pending: int, newest: int) -> Head:
        """Return the head of a case that was written."""
        state = draft.state
        return cls(
            draft.revision + 1, state.seq, state.seen_seq, draft.hash, state.status, state.at, pending, newest
        )  # fmt: skip


def chained(write: CaseWrite, seq: int, previous: bytes) -> bytes:
    """Give the events of a turn their hashes; returns the new head.

    Raises:
        BugError: they are not numbered on from `seq`, or the state does not stand where they end.
    """
    for event in write.events:
        seq += 1
        if event.seq != seq:
            raise BugError(f"case {write.case_no}: event {event.type} has seq {event.seq}, expected {seq}")
        event.hash = previous = link(previous, event)
    if write.state.seq != seq:
        raise BugError(f"case {write.case_no}: the state stands at {write.state.seq}, its events at {seq}")
    return previous


# -- the fast road -----------------------------------------------------------------------------------------


def straight(write: CaseWrite, head: Head | None, now: str) -> Draft | None:
    """Return what to write if the row stands as `head` says; None if the turn must be judged on a sheet."""
    events = write.events
    if (
        head is None
        or head.seq != write.base_seq
        or head.seen_seq != write.base_seen
        or (events and events[0].at < head.at)
        or (head.status == "closed" and any(event.seen for event in events))
        or (write.notify and (head.pending or any(case_no != write.case_no for case_no, _ in write.notify)))
        or write.children
        or write.cancel_children
    ):
        return None
    pending = head.pending + len(write.notify) - len(write.taken)
    news = pending > 0 and (
        not blocked(write.state) if write.heard is None else bool(write.notify) or head.newest > write.heard
    )
    kind: Any = "operated"
    hash_ = head.hash
    if events:
        kind = "wide" if any(event.type in rows.WIDE for event in events) else "turns"
        hash_ = chained(write, head.seq, head.hash)
    draft = Draft(
        write.case_no, write.state, hash_, now if news else write.wake_at, write.lease, events, kind,
        head.revision, head.seq, taken=write.taken, queued=write.queued, writer=write.worker,
    )  # fmt: skip
    for _, item in write.notify:
        item.accepted_at = item.accepted_at or now
        draft.puts.append(item)
    return draft


def first(write: CaseWrite, now: str, sheet_salt: Any) -> Draft | None:
    """Return what to write for a new case with its first turns; None if it must be judged on a sheet."""
    new = write.new
    assert new is not None
    if write.children or write.cancel_children or write.notify:
        return None
    events, hash_ = _first_events(write, sheet_salt)
    draft = Draft(0, write.state, hash_, write.wake_at, write.lease, events, "fresh")
    draft.again, draft.queued, draft.writer = new.again, write.queued, write.worker
    if new.dedup is not None:
        draft.dedups.append((new.dedup, None, now))
    return draft


def _first_events(write: CaseWrite, salt: Any) -> tuple[list[Event], bytes]:
    assert write.new is not None
    started = write.new.started
    started.seq = 1
    prepare([started], salt)
    events = [started, *write.events]
    numbered(events, write.state.address)
    previous = GENESIS
    for event in events:
        event.hash = previous = link(previous, event)
    return events, previous


# -- on a sheet --------------------------------------------------------------------------------------------


def wanted(write: CaseWrite) -> Wanted:
    """Return what a turn must have on its sheet."""
    asked = needs([*([write.new] if write.new is not None else []), *write.children])
    asked.cases |= {case_no for case_no, _ in write.notify if case_no}
    tenant = write.state.tenant
    asked.keys |= {(tenant, workflow, key) for _, workflow, key, _ in write.cancel_children}
    if write.new is None:
        asked.cases.add(write.case_no)
        asked.between[write.case_no] = write.base_seq
    return asked


def judge(sheet: Sheet, write: CaseWrite) -> Written:
    """Put a turn on the sheet, with what it does to other cases."""
    written = _new(sheet, write) if write.new is not None else _turn(sheet, write)
    if written.outcome == "done":
        sheet.case(written.case_no).queued = write.queued
    if written.outcome == "done" and (write.children or write.notify or write.cancel_children):
        return _around(sheet, write, written)
    return written


def _new(sheet: Sheet, write: CaseWrite) -> Written:
    new = write.new
    assert new is not None
    existing = sheet.existing(new)
    if existing is not None:
        return Written("existing", existing.row.case_no, existing.row.state)
    events, hash_ = _first_events(write, sheet.salt)
    held = sheet.add(CaseRow(0, write.state, hash_, write.wake_at, write.lease, 0), new)
    held.events = events
    if new.dedup is not None:
        sheet.remember(held, new.dedup, None)
    return Written("done", held.row.case_no, write.state)


def _turn(sheet: Sheet, write: CaseWrite) -> Written:
    held = sheet.case(write.case_no)
    state, events = held.row.state, write.events
    if (
        state.seen_seq != write.base_seen
        or state.seq < write.base_seq  # computed on what was never stored: a write before it was lost
        or (state.status == "closed" and any(event.seen for event in events))
    ):
        return Written("stale", write.case_no)
    if state.seq != write.base_seq or (events and events[0].at < state.at):
        return _between(sheet, held, write)
    if events:
        held.row.hash = chained(write, state.seq, held.row.hash)
        held.events = list(events)
    held.row.state = write.state
    pending, news = _inbox(sheet, held, write)
    news = news or orphaned(write, sheet.gone)
    held.row.wake_at, held.row.lease = sheet.now if news else write.wake_at, write.lease
    held.touched = True
    return Written("done", write.case_no, write.state, pending=pending)


def _between(sheet: Sheet, held: Held, write: CaseWrite) -> Written:
    """Append a turn after unseen events that came in between (A2)."""
    row = held.row
    interleaved = row.state.seq != write.base_seq
    # A stage's entry carries a snapshot of the case, which does not know what came in between.
    if interleaved and (
        any(event.type == "stage_entered" for event in write.events)
        or not may_follow(sheet.between.get(write.case_no, ()), write.events)
    ):
        return Written("stale", write.case_no)
    was_due = row.wake_at if interleaved else ""
    try:
        shift_causes(write.events, write.base_seq, row.state.seq + 1)
        sheet.append(held, write.events)
    except (KeyError, BugError):
        # What came in between took away what the turn speaks of: it is redone on what is there now.
        held.events, held.touched = [], False
        return Written("stale", write.case_no)
    pending, news = _inbox(sheet, held, write)
    row.lease = write.lease
    news = news or orphaned(write, sheet.gone)
    # Somebody may have asked for a turn together with what came in between: his wake stays.
    row.wake_at = earliest(write.wake_at, next_due(row.state), was_due, sheet.now if news else "")
    return Written("done", write.case_no, row.state, interleaved=True, pending=pending)


def _inbox(sheet: Sheet, held: Held, write: CaseWrite) -> tuple[int, bool]:
    """Take the applied inputs out, put what the case keeps for itself in; returns how many are there
    then, and whether they want a turn now."""
    for case_no, item in write.notify:
        if case_no == write.case_no:
            sheet.put_input(held, item)
    held.taken = list(write.taken)
    waiting = held.pending
    if not waiting:
        return 0, False
    if write.heard is not None:
        return len(waiting), any(not item.no or item.no > write.heard for item in waiting)
    return len(waiting), not blocked(held.row.state)


def _around(sheet: Sheet, write: CaseWrite, written: Written) -> Written:
    """Put on the sheet what a turn does to other cases."""
    own = sheet.case(written.case_no)
    children = []
    for child in write.children:
        name = name_parent(child, written.case_no)
        held, started = sheet.start(child, parent=written.case_no)
        children.append(started)
        stranger = name and not is_child(held.row.state, written.case_no, name)
        if stranger and sheet.put_input(own, refused_child(name)):
            sheet.wake(own)
            written = replace(written, pending=written.pending + 1)
    for case_no, item in write.notify:
        other = sheet.cases.get(case_no)
        if other is not None and other is not own and other.row.state.status == "open" and sheet.put_input(other, item):
            sheet.wake(other)
    for child_ref, workflow, key, reason in write.cancel_children:
        _cancel(sheet, CaseRef(0, workflow, key, write.state.tenant), written.case_no, child_ref, reason)
    return replace(written, children=tuple(children))


def _cancel(sheet: Sheet, ref: CaseRef, parent: int, child: str, reason: str) -> None:
    """Ask a live child of `parent` to cancel, as a person would; a stranger under its key is left alone."""
    held = sheet.find(ref)
    if held is None:
        return
    state = held.row.state
    if state.status == "closed" or state.cancel is not None or not is_child(state, parent, child):
        return
    event = Event("cancel_requested", {"reason": reason}, visit=state.visit, at=sheet.now)
    prepare([event], sheet.salt)
    sheet.wake(held)
    # The stage hears of it by an input, as after a person's cancel.
    told = Input(f"cancel-{state.seq}", "interrupted", {"reason": reason}, "engine", "engine")
    sheet.put_input(held, told)
    sheet.append(held, [event])
