"""Writing the turns of many cases at once: their heads are read, then one statement per table.

Every turn goes by one of two roads (SEMANTICS A2): straight, when nothing came in between, or folded
again from the stored row, when only unseen events did. A turn that a seen event overtook is refused
as stale, and no other turn notices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from longcase.errors import BugError, CaseNotFound
from longcase.history.chain import GENESIS, link
from longcase.history.event import Event
from longcase.history.state import CaseState, blocked
from longcase.history.waits import next_due
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
    task_rows,
)
from longcase.store.records import CaseRef, CaseRow, CaseWrite, Input, Written
from longcase.store.rows import Row
from longcase.store.sqlite.queues import replace as replace_queued
from longcase.store.sqlite.transaction import INSERT_EVENT, OPERATION, UPDATE_CASE, UPDATE_OPERATION, Transaction
from longcase.store.unit import Entry

_HEAD = """
SELECT case_no, seq, seen_seq, hash, status, at, wake_at, lease,
       (SELECT count(*) FROM inbox WHERE inbox.case_no = cases.case_no)
FROM cases WHERE case_no = ?
"""
_TURN = f"UPDATE cases SET {', '.join(f'{column} = ?' for column in rows.TURN_COLUMNS)}"
_UPDATE_TURN = f"{_TURN}, {OPERATION}"
# SQLite takes a row out of every index that has a named column, and puts it in again, equal or not.
_UPDATE_TURN_ALONE = f"{_TURN}, hash = ? WHERE case_no = ?"

Head = tuple[int, int, bytes, str, str, str, int, int]  # seq, seen_seq, hash, status, at, wake_at, lease, pending


def run_writes(tx: Transaction, entries: Sequence[Entry]) -> None:
    """Append the turns of many cases: one statement per table; sets every entry's outcome.

    Calls of different callers may hold the same case; the later one is then checked against what the
    earlier one wrote.
    """
    rest = list(entries)
    while rest:
        batch: list[Entry] = []
        again: list[Entry] = []
        taken: set[int] = set()
        for entry in rest:
            if entry.write.new is None and entry.write.case_no in taken:
                again.append(entry)
            else:
                taken.add(entry.write.case_no)
                batch.append(entry)
        _run_batch(tx, batch)
        rest = again


def _run_batch(tx: Transaction, entries: Sequence[Entry]) -> None:
    wanted = [(entry.write.case_no,) for entry in entries if entry.write.new is None]
    heads: dict[int, Head] = {row[0]: row[1:] for row in tx.cursor.executemany(_HEAD, wanted)}
    events: list[Row] = []
    updates: list[Row] = []
    turns: list[Row] = []
    turns_alone: list[Row] = []
    operations: list[Row] = []
    tasks: list[Row] = []
    for entry in entries:
        write = entry.write
        if write.new is not None:
            _write_new(tx, entry)
            continue
        head = heads.get(write.case_no)
        if head is None:
            raise CaseNotFound(f"no case has the number {write.case_no}")
        seq, seen_seq, previous, status, at, wake_at, lease, pending = head
        appended = write.events
        if (
            seen_seq != write.base_seen
            or seq < write.base_seq  # computed on what was never stored: a write before it was lost
            or (status == "closed" and any(event.seen for event in appended))
        ):
            entry.outcome = Written("stale", write.case_no)
            continue
        if seq != write.base_seq or (appended and appended[0].at < at):
            _write_between(tx, entry, pending, wake_at)
            continue
        news = False
        if pending or write.notify:
            pending, news = _inbox(tx, write, pending, write.state)
        wake = tx.now if news else write.wake_at
        if not appended:
            operations.append((wake, write.lease, write.case_no))
        else:
            state = write.state
            wide = False
            for event in appended:
                seq += 1
                if event.seq != seq:
                    raise BugError(f"case {write.case_no}: event {event.type} has seq {event.seq}, expected {seq}")
                event.hash = previous = link(previous, event)
                events.append(rows.event_values(write.case_no, event))
                wide = wide or event.type in rows.WIDE
            if state.seq != seq:
                raise BugError(f"case {write.case_no}: the state stands at {state.seq}, its events at {seq}")
            if wide:
                updates.append((*rows.state_values(state), previous, wake, write.lease, write.case_no))
            elif wake == wake_at and write.lease == lease:
                turns_alone.append((*rows.turn_values(state), previous, write.case_no))
            else:
                turns.append((*rows.turn_values(state), previous, wake, write.lease, write.case_no))
            tasks += task_rows(write.case_no, state, appended)
        entry.outcome = Written("done", write.case_no, write.state, pending=pending)
    many = tx.cursor.executemany
    if events:
        many(INSERT_EVENT, events)
    if updates:
        many(UPDATE_CASE, updates)
    if turns:
        many(_UPDATE_TURN, turns)
    if turns_alone:
        many(_UPDATE_TURN_ALONE, turns_alone)
    if operations:
        many(UPDATE_OPERATION, operations)
    tx.put_tasks(tasks)
    for entry in entries:
        write = entry.write
        if entry.outcome is None or entry.outcome.outcome != "done":
            continue
        if write.queued is not None:
            replace_queued(tx, entry.outcome.case_no, write.state.tenant, write.queued)
        if write.children or write.notify or write.cancel_children:
            entry.outcome = _write_around(tx, write, entry.outcome)
    named = {number for entry in entries for number in (entry.write.lease, entry.write.worker)}
    named |= {call.worker for entry in entries for call in entry.write.queued or ()}
    if named := named - {0}:
        _wake_orphans(tx, entries, named)


def _wake_orphans(tx: Transaction, entries: Sequence[Entry], named: set[int]) -> None:
    """Wake cases of workers that were forgotten while their turns were computed: nobody will tell their death."""
    gone = named - {row[0] for row in tx.execute("SELECT no FROM workers")}
    for entry in entries:
        write = entry.write
        runs = write.worker in gone and any(call.worker == write.worker for call in write.queued or ())
        runs = runs or orphaned(write, gone)
        if (runs or write.lease in gone) and entry.outcome is not None and entry.outcome.outcome == "done":
            tx.wake(entry.outcome.case_no)


def _inbox(tx: Transaction, write: CaseWrite, pending: int, state: CaseState) -> tuple[int, bool]:
    """Take the applied inputs out, put what the case keeps for itself in; returns how many are there
    then, and whether they want a turn now."""
    for case_no, item in write.notify:
        if case_no == write.case_no:
            pending += tx.put_input(case_no, item)
    if not pending:
        return 0, False
    if write.taken:
        tx.cursor.executemany(
            "DELETE FROM inbox WHERE no = ? AND case_no = ?", [(no, write.case_no) for no in write.taken]
        )
    count = "SELECT count(*), coalesce(max(no), 0) FROM inbox WHERE case_no = ?"
    for pending, newest in tx.execute(count, (write.case_no,)):
        if write.heard is not None:
            return pending, newest > write.heard
    return pending, pending > 0 and not blocked(state)


def _may_follow(tx: Transaction, write: CaseWrite) -> bool:
    """Tell whether what came in between leaves the turn as it is: people's records do, a mover's do not."""
    between = tx.execute("SELECT type FROM history WHERE case_no = ? AND seq > ?", (write.case_no, write.base_seq))
    return may_follow((row[0] for row in between), write.events)


def _write_between(tx: Transaction, entry: Entry, pending: int, wake_at: str) -> None:
    """Append a turn after unseen events that came in between (A2)."""
    write = entry.write
    row = tx.case(write.case_no)
    interleaved = row.state.seq != write.base_seq
    if interleaved and any(event.type == "stage_entered" for event in write.events):
        # It carries a snapshot of the case, which does not know what came in between.
        entry.outcome = Written("stale", write.case_no)
        return
    if interleaved and not _may_follow(tx, write):
        entry.outcome = Written("stale", write.case_no)
        return
    tx.execute("SAVEPOINT entry")
    try:
        shift_causes(write.events, write.base_seq, row.state.seq + 1)
        tx.append(row, write.events)
        news = False
        if pending or write.notify:
            pending, news = _inbox(tx, write, pending, row.state)
        row.lease = write.lease
        # Somebody may have asked for a turn together with what came in between: his wake stays.
        row.wake_at = earliest(
            write.wake_at, next_due(row.state), wake_at if interleaved else "", tx.now if news else ""
        )
        tx.store(row, write.events)
    except (KeyError, BugError):
        # What came in between took away what the turn speaks of: it is redone on what is there now.
        tx.execute("ROLLBACK TO entry")
        tx.execute("RELEASE entry")
        entry.outcome = Written("stale", write.case_no)
        return
    tx.execute("RELEASE entry")
    entry.outcome = Written("done", write.case_no, row.state, interleaved=True, pending=pending)


def _write_new(tx: Transaction, entry: Entry) -> None:
    """Start a case together with its first turns."""
    write = entry.write
    new = write.new
    assert new is not None
    existing = tx.existing(new)
    if existing:
        entry.outcome = Written("existing", existing, tx.case(existing).state)
        return
    first = new.started
    prepare([first], tx.salt)
    first.seq = 1
    events = [first, *write.events]
    previous = GENESIS
    for seq, event in enumerate(events, 1):
        if event.seq != seq or not event.at:
            raise BugError(
                f"a new case of {write.state.address}: event {event.type} has seq {event.seq}, expected {seq}"
            )
        event.hash = previous = link(previous, event)
    row = CaseRow(0, write.state, previous, write.wake_at, write.lease, 0)
    tx.insert(row, events)
    if new.dedup is not None:
        tx.remember(write.state.tenant, new.dedup, None, row.case_no)
    entry.outcome = Written("done", row.case_no, write.state)


def _write_around(tx: Transaction, write: CaseWrite, written: Written) -> Written:
    """Write what a turn does to other cases, in the same transaction."""
    children = []
    for child in write.children:
        name = name_parent(child, written.case_no)
        started = tx.start(child, parent=written.case_no)
        children.append(started)
        stranger = name and not is_child(started.state, written.case_no, name)
        if stranger and tx.put_input(written.case_no, refused_child(name)):
            tx.wake(written.case_no)
            written = replace(written, pending=written.pending + 1)
    for case_no, item in write.notify:
        if case_no != write.case_no and tx.is_open(case_no) and tx.put_input(case_no, item):
            tx.wake(case_no)
    for child_ref, workflow, key, reason in write.cancel_children:
        _cancel(tx, CaseRef(workflow=workflow, key=key, tenant=write.state.tenant), written.case_no, child_ref, reason)
    return replace(written, children=tuple(children))


def _cancel(tx: Transaction, ref: CaseRef, parent: int, child: str, reason: str) -> None:
    """Ask a live child of `parent` to cancel, as a person would; a stranger under its key is left alone."""
    case_no = tx.find(ref)
    if not case_no:
        return
    row = tx.case(case_no)
    if row.state.status == "closed" or row.state.cancel is not None or not is_child(row.state, parent, child):
        return
    event = Event("cancel_requested", {"reason": reason}, visit=row.state.visit, at=tx.now)
    prepare([event], tx.salt)
    row.wake_at = tx.now
    # The stage hears of it by an input, as after a person's cancel.
    tx.put_input(case_no, Input(f"cancel-{row.state.seq}", "interrupted", {"reason": reason}, "engine", "engine"))
    tx.append(row, [event])
    tx.store(row, [event])
