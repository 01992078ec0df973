"""What must hold of what is stored, one check function per invariant (INVARIANTS.md).

Each `inv_NN` looks at one case as it stands in the tables and yields what is wrong; it changes
nothing and needs only the store. `longcase verify` runs them all (`verify.py`), the test suites run
them after every crash. I12 looks over all cases and remembers keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from datetime import datetime, timedelta
from typing import Any, Final

from longcase.errors import BugError
from longcase.history.chain import GENESIS, link, payload_digest
from longcase.history.committed import results_gone
from longcase.history.event import CATALOGUE, Event
from longcase.history.state import CaseState, apply
from longcase.history.waits import waits
from longcase.model.codec import dump_json
from longcase.model.names import MAIN_TENANT, of_tenant
from longcase.record import record
from longcase.store.records import Stored

# How long a case may want a turn while others get theirs: no worker, a store read while it is in use, a clock
# that runs a thousand times as fast are none of them findings.
PATIENCE: Final = timedelta(days=30)


@record
class Finding:
    """One broken invariant: which, of which case, at which event (0 if of the case as a whole)."""

    invariant: str  # I3
    case_no: int
    address: str
    seq: int
    message: str
    tenant: str = MAIN_TENANT

    def __str__(self) -> str:
        place = f"{self.address}{of_tenant(self.tenant)} (case {self.case_no})" + (
            f", event {self.seq}" if self.seq else ""
        )
        return f"{self.invariant}: {place}: {self.message}"


@record(frozen=False)
class CaseFacts:
    """A stored case, and its history folded as far as it goes."""

    stored: Stored
    folded_row: Callable[[CaseState], dict[str, Any]]
    folded_tasks: Callable[[CaseState], dict[str, dict[str, Any]]]
    state: CaseState = field(default_factory=CaseState)
    fold_error: str = ""
    fold_stopped: int = 0
    ownerless: list[int] = field(default_factory=list)  # events after which I30 did not hold

    def __post_init__(self) -> None:
        for event in self.stored.events:
            try:
                apply(self.state, event)
            except (BugError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
                self.fold_error = f"{type(error).__name__}: {error}"
                self.fold_stopped = event.seq
                return
            if not self.state.owner or not self.state.stage or self.state.status not in ("open", "closed"):
                self.ownerless.append(event.seq)

    @property
    def events(self) -> list[Event]:
        return self.stored.events

    @property
    def address(self) -> str:
        return f"{self.stored.row['workflow']}/{self.stored.row['key']}"

    def finding(self, invariant: str, message: str, seq: int = 0) -> Finding:
        tenant = str(self.stored.row.get("tenant", MAIN_TENANT))
        return Finding(invariant, self.stored.case_no, self.address, seq, message, tenant)


Check = Callable[[CaseFacts], Iterator[Finding]]


# -- history and storage ---------------------------------------------------------------------------


def inv_01(case: CaseFacts) -> Iterator[Finding]:
    """I1: history is numbered 1..n without a gap, and the row counts it."""
    expected = 0
    for event in case.events:
        expected += 1
        if event.seq != expected:
            yield case.finding("I1", f"event {expected} is missing: the next one is {event.seq}", event.seq)
            expected = event.seq
    if case.stored.row["seq"] != expected:
        yield case.finding("I1", f"the row counts {case.stored.row['seq']} events, the history ends at {expected}")


def inv_02(case: CaseFacts, anchors: Mapping[int, bytes]) -> Iterator[Finding]:
    """I2: what stood at an anchor (seq -> hash, noted earlier) still stands there."""
    hashes = {event.seq: event.hash for event in case.events}
    for seq, known in anchors.items():
        if hashes.get(seq) != known:
            what = "is gone" if seq not in hashes else "is not the one that was anchored"
            yield case.finding("I2", f"event {seq} {what}", seq)


def inv_03(case: CaseFacts) -> Iterator[Finding]:
    """I3: the row and the tasks are exactly what folding the history gives."""
    if case.fold_error:
        yield case.finding("I3", f"the history cannot be folded: {case.fold_error}", case.fold_stopped)
        return
    expected = case.folded_row(case.state)
    for column, value in expected.items():
        held = case.stored.row.get(column)
        if held != value:
            yield case.finding("I3", f"column {column} holds {_short(held)}, its history says {_short(value)}")
    head = case.events[-1].hash if case.events else GENESIS
    if case.stored.hash != head:
        yield case.finding("I3", "column hash is not the hash of the newest event")
    tasks = case.folded_tasks(case.state)
    for name in tasks.keys() | case.stored.tasks.keys():
        if name not in tasks:
            yield case.finding("I3", f"task {name} stands in the tasks, its history knows none of that name")
        elif name not in case.stored.tasks:
            yield case.finding("I3", f"task {name} is missing from the tasks")
        else:
            for column, value in tasks[name].items():
                held = case.stored.tasks[name].get(column)
                if held != value:
                    yield case.finding(
                        "I3", f"task {name}: column {column} holds {_short(held)}, its history says {_short(value)}"
                    )


def inv_05(case: CaseFacts) -> Iterator[Finding]:
    """I5: an event refers only to events before it. (References between tables: `broken_references`.)"""
    for event in case.events:
        if event.cause is not None and not 0 < event.cause < event.seq:
            yield case.finding("I5", f"{event.type} names event {event.cause} as its cause", event.seq)


def inv_39(case: CaseFacts) -> Iterator[Finding]:
    """I39: the chain holds: no event was edited, dropped or re-ordered."""
    previous = GENESIS
    for event in case.events:
        if event.digest != payload_digest(event.salt, event.text):
            yield case.finding("I39", f"the payload of {event.type} is not what was recorded", event.seq)
        elif event.hash != link(previous, event):
            yield case.finding("I39", f"{event.type} does not follow the event before it as it was recorded", event.seq)
        previous = event.hash


# -- ingest ----------------------------------------------------------------------------------------

_FROM_INBOX: Final = frozenset({"signal_received", "signal_refused", "signal_unhandled"})


def inv_08(case: CaseFacts) -> Iterator[Finding]:
    """I8: an accepted signal is in the inbox or in history, never both, never twice."""
    seen: dict[str, int] = {}
    for event in case.events:
        if event.type == "signal_received":
            name = str(event.data.get("id"))
            if name in seen:
                yield case.finding(
                    "I8", f"signal {name} stands in history twice, first as event {seen[name]}", event.seq
                )
            seen[name] = event.seq
        elif event.type in _FROM_INBOX:
            seen.setdefault(str(event.data.get("id")), event.seq)
    for item in case.stored.inbox:
        if item.damaged:
            yield case.finding("I8", f"input {item.no} of the inbox ({item.id}) is not what was accepted")
        elif item.type == "signal_received" and item.id in seen:
            yield case.finding("I8", f"signal {item.id} is in the inbox and in history", seen[item.id])


class LiveKeys:
    """I12 over all cases: at most one live case of a tenant, workflow and key; no blank key."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, str], int] = {}

    def __call__(self, case: CaseFacts) -> Iterator[Finding]:
        row = case.stored.row
        if not str(row["key"]).strip():
            yield case.finding("I12", "the key is blank")
        if row["status"] == "open":
            key = (row["tenant"], row["workflow"], row["key"])
            first = self._seen.setdefault(key, case.stored.case_no)
            if first != case.stored.case_no:
                yield case.finding("I12", f"case {first} is a live case of the same key")


class Overdue:
    """I31 over all cases: none wanted a turn long before its workflow's cases last got one."""

    def __init__(self) -> None:
        self._wanted: dict[int, tuple[str, str, Finding]] = {}
        self._moved: dict[str, str] = {}  # by workflow: when a mover last did something

    def __call__(self, case: CaseFacts) -> None:
        row = case.stored.row
        workflow = str(row["workflow"])
        by_movers = (e.at for e in case.events if e.actor == "timer" or e.actor.startswith("worker:"))
        self._moved[workflow] = max(self._moved.get(workflow, ""), *by_movers, "")
        wake = str(row["wake_at"])
        if row["status"] == "open" and wake:
            finding = case.finding("I31", f"wants a turn since {wake}, and gets none")
            self._wanted[case.stored.case_no] = workflow, wake, finding

    def findings(self) -> Iterator[Finding]:
        """Yield the cases that were passed over. Others of the workflow were moved long after they wanted to be."""
        for workflow, wake, finding in self._wanted.values():
            moved = self._moved[workflow]
            if moved and datetime.fromisoformat(wake) + PATIENCE < datetime.fromisoformat(moved):
                yield finding


# -- activities, timers, tasks -----------------------------------------------------------------------

_ATTEMPT_ENDS: Final = frozenset(
    {"attempt_failed", "attempt_lost", "activity_completed", "activity_failed", "result_late", "undone"}
)  # fmt: skip


def inv_13(case: CaseFacts) -> Iterator[Finding]:
    """I13: a call's success is recorded once, and the result that a transaction committed is kept until then."""
    done: dict[str, int] = {}
    for event in case.events:
        if event.type in ("activity_completed", "result_late", "undone"):
            call = str(event.data.get("call"))
            if call in done:
                yield case.finding("I13", f"call {call} succeeded already in event {done[call]}", event.seq)
            done[call] = event.seq
    for call in results_gone(case.state, (str(item.data.get("call")) for item in case.stored.inbox)):
        number = case.state.calls[call]["attempt"]
        yield case.finding("I13", f"call {call}: attempt {number} committed its transaction, its result is nowhere")


def inv_15(case: CaseFacts) -> Iterator[Finding]:
    """I15: a call's attempts are numbered upwards, and at most one runs."""
    latest: dict[str, int] = {}
    running: dict[str, int] = {}
    for event in case.events:
        data = event.data
        call = str(data.get("call"))
        if event.type in ("activity_scheduled", "undo_started", "attempt_started"):
            number = data.get("attempt") or 0
            if event.type == "attempt_started" and number <= latest.get(call, 0):
                yield case.finding("I15", f"call {call}: attempt {number} after attempt {latest[call]}", event.seq)
            if call in running:
                yield case.finding("I15", f"call {call}: attempt {number} began while {running[call]} ran", event.seq)
            latest[call] = number
            if number:
                running[call] = number
        elif (event.type in _ATTEMPT_ENDS and "runs" not in data) or event.type in ("incident_opened", "undo_skipped"):
            running.pop(call, None)


def inv_20(case: CaseFacts) -> Iterator[Finding]:
    """I20: a call that was called anew has an idempotency key that no other arguments had before."""
    keys: dict[str, int] = {}
    for event in case.events:
        if event.type in ("activity_scheduled", "call_redone", "undo_started"):
            key = str(event.data.get("key"))
            if event.type == "call_redone" and key in keys:
                call = event.data.get("call")
                yield case.finding("I20", f"call {call} has the key of event {keys[key]}", event.seq)
            keys.setdefault(key, event.seq)


def inv_24(case: CaseFacts) -> Iterator[Finding]:
    """I21, I24: a timer fires once, not early, and never after it was cancelled."""
    due: dict[str, str] = {}
    gone: dict[str, Event] = {}
    for event in case.events:
        if event.type == "timer_set":
            due[str(event.data.get("timer"))] = str(event.data.get("due"))
        elif event.type in ("timer_fired", "timer_cancelled"):
            timer = str(event.data.get("timer"))
            before = gone.get(timer)
            if timer not in due:
                yield case.finding("I24", f"{event.type}: timer {timer} was never set", event.seq)
            elif before is not None:
                yield case.finding("I24", f"{event.type}: timer {timer} is gone since event {before.seq}", event.seq)
            elif event.type == "timer_fired" and event.at < due[timer]:
                yield case.finding("I21", f"timer {timer} is due at {due[timer]} and fired at {event.at}", event.seq)
            gone[timer] = event


def inv_25(case: CaseFacts) -> Iterator[Finding]:
    """I25: one outcome a task, and no answer counts after it."""
    ended: dict[str, Event] = {}
    for event in case.events:
        if event.type in ("task_decided", "task_met", "task_withdrawn", "vote_given"):
            task = str(event.data.get("task"))
            before = ended.get(task)
            if before is not None:
                yield case.finding("I25", f"{event.type}: task {task} ended in event {before.seq}", event.seq)
            elif event.type != "vote_given":
                ended[task] = event


# -- state and ownership -----------------------------------------------------------------------------


def inv_30(case: CaseFacts) -> Iterator[Finding]:
    """I30: at every event the case has one owner and one state."""
    for seq in case.ownerless:
        yield case.finding("I30", "after this event the case has no owner or no stage", seq)
    if not case.stored.row["owner"]:
        yield case.finding("I30", "the row has no owner")


def inv_31(case: CaseFacts) -> Iterator[Finding]:
    """I31: an open case has something that will move it: nothing is stuck silently."""
    state = case.state
    if case.fold_error or state.status != "open" or case.stored.row["wake_at"] or case.stored.inbox:
        return  # a timer alone moves nothing without its wake-up; of one long overdue tells `Overdue`
    calls = any(call["awaited"] or call["undoes"] or state.undoing is not None for call in state.calls.values())
    # An answer that stands waits in the inbox for its turn; without it nobody will be told.
    tasks = any(task["status"] not in ("decided", "expired") for task in state.tasks.values())
    children = any(child["awaited"] for child in state.children.values())
    if not (calls or tasks or children or state.receives or state.incidents):
        yield case.finding("I31", f"nothing will ever move it: open in {state.stage} since {state.entered_at}, no wait")


def inv_32(case: CaseFacts) -> Iterator[Finding]:
    """I32: every wait that must end has an end in sight; a ladder is climbed once a level, in order."""
    if not case.fold_error and case.state.status == "open":
        for wait in waits(case.state):
            if wait.kind in ("incident", "activity", "timer", "child") and not wait.expected:
                yield case.finding("I32", f"waits on {wait.kind} {wait.what} with no end expected", wait.seq)
    climbed: dict[str, int] = {}
    for event in case.events:
        if event.type == "task_escalated":
            task, level = str(event.data.get("task")), event.data.get("level")
            if level != climbed.get(task, 0) + 1:
                yield case.finding("I32", f"task {task}: level {level} after level {climbed.get(task, 0)}", event.seq)
            climbed[task] = level or 0


def inv_33(case: CaseFacts) -> Iterator[Finding]:
    """I33: every event names who did it; its type is known and its instant not before the last one's."""
    before = ""
    for event in case.events:
        kind = event.actor.partition(":")[0]
        if kind not in ("person", "service", "worker", "timer", "engine"):
            yield case.finding("I33", f"{event.type} names {event.actor!r} as its actor", event.seq)
        if event.type not in CATALOGUE:
            yield case.finding("I33", f"no event type is called {event.type}", event.seq)
        if event.at < before:
            yield case.finding("I33", f"{event.type} is of {event.at}, the event before it of {before}", event.seq)
        before = event.at


CHECKS: Final[tuple[Check, ...]] = (
    inv_01, inv_39, inv_03, inv_05, inv_08, inv_13, inv_15, inv_20, inv_24, inv_25, inv_30, inv_31, inv_32, inv_33,
)  # fmt: skip


def _short(value: Any) -> str:
    text = dump_json(value) if not isinstance(value, str) else value
    return text if len(text) <= 80 else f"{text[:77]}..."
