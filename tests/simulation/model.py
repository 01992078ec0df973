"""The reference model: what a case must do, said a second time, in plain Python and without an engine.

Written from the rules of execution alone (SEMANTICS A1, A3, A7, B1, B3, B6, B8, B17). It has no loop, no
store and no replay: a plan is walked by generators, one input at a time, until nothing moves. The
order of the inputs is the one the history gives; after each of them the facts the model expects are
set beside the facts that were recorded.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

from longcase.history.event import CATALOGUE, Event
from longcase.history.state import CaseState
from longcase.model.span import describe_span

Fact = tuple[str, str]
Step = dict[str, Any]
Walk = Generator[tuple[str, str], Any, str]
VISITS = 4
BY_INTERRUPT = {"task_withdrawn", "activity_cancelled", "child_released"}


class Gone(BaseException):
    """The walk is cancelled. `scope` names the timeout that did it, "" an interrupt or a cancelled branch."""

    def __init__(self, scope: str = "") -> None:
        self.scope = scope


class Impossible(Exception):
    """The history holds what no rule allows."""


@dataclass(eq=False)
class Strand:
    """One walk, and what it waits for."""

    walk: Walk
    parent: Strand | None = None
    wait: tuple[str, str] | None = None
    branches: list[Strand] = field(default_factory=list)
    answer: str = ""


class Model:
    """A case as the rules describe it."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.plan = body["plan"]
        self.memo = body.get("memo")
        self.trace: list[str] = []
        self.stage = ""
        self.visit = 0
        self.closed = ""
        self.facts: Counter[Fact] = Counter()
        self.root: Strand | None = None
        self.beside: Strand | None = None  # the handler that runs
        self.returned = False  # the stage has come to its end, and waits for the handler
        self.told = False  # that it does is recorded
        self.begun: set[str] = set()  # jots that were begun in this visit before a restart
        self.jots: dict[str, list[Step]] = {}  # the steps each signal brings, by its id
        self.receivers: list[tuple[str, str, Strand]] = []  # (signal, label, strand), first come first
        self.signals: list[tuple[str, str, str]] = []  # (signal, id, text), in order of arrival
        self.arrived: list[tuple[str, str, str]] = []
        self.used: list[tuple[str, str, str]] = []  # consumed in this visit
        self.restarting = False
        self.leaving = False
        self.ready: deque[Callable[[], None]] = deque()  # in the order in which an event loop would come to them
        self.scopes: dict[str, Strand] = {}
        self.settled: set[str] = set()  # calls whose end is on record although the stage never saw it
        self.reused: dict[str, Any] = {}

    # -- walking a plan --------------------------------------------------------------------------------

    def emit(self, kind: str, label: str) -> None:
        self.facts[kind, label] += 1

    def note(self, step: Step, text: str) -> None:
        self.trace.append(f"{step['at']}={text}")
        self.emit("object_changed", self.trace[-1])

    def wait(self, kind: str, label: str, undo: str) -> Generator[tuple[str, str], Any, Any]:
        """Wait for one thing; `undo` is the fact that says the stage stopped waiting."""
        try:
            return (yield kind, label)
        except Gone:
            if undo and label not in self.settled:
                self.emit(undo, label)
            raise

    def run(self, steps: list[Step]) -> Walk:
        answer = ""
        for step in steps:
            answer = (yield from self.take(step)) or answer
            if answer in ("returned", "rejected"):
                break
        return answer

    def take(self, step: Step) -> Walk:
        label = step["at"]
        match step["kind"]:
            case "do":
                self.settled.discard(label)
                if label in self.reused:
                    self.emit("activity_reused", label)
                    result = self.reused.pop(label)
                else:
                    self.emit("activity_scheduled", label)
                    result = yield from self.wait("call", label, "activity_cancelled")
                if result is None and not step["catch"]:
                    raise Impossible(f"A3: the failure of {label} is in the history, and nobody handles it")
                self.note(step, result if result is not None else "failed")
            case "pause":
                self.emit("timer_set", label)
                yield from self.wait("timer", label, "timer_cancelled")
                self.note(step, "rested")
            case "get":
                self.note(step, (yield from self.get(step["name"], label)))
            case "ask":
                self.emit("task_opened", label)
                answer, expired = yield from self.wait("task", label, "task_withdrawn")
                self.note(step, f"{answer}{'!' if expired else ''}")
                return str(answer)
            case "need":
                if self.memo is None:
                    self.emit("task_opened", "memo")
                    yield from self.wait("memo", "memo", "task_withdrawn")
                    self.emit("task_met", "memo")
                self.note(step, "given")
            case "all":
                yield "fork", label
                self.note(step, "joined")
            case "race":
                yield from self.race(step)
            case "child":
                self.emit("child_started", label)
                self.note(step, (yield from self.wait("child", label, "child_released")))
            case "undo":
                self.emit("undo_requested", "")
                yield from self.wait("undo", "", "")
                self.note(step, "undone")
        return ""

    def get(self, name: str, label: str) -> Generator[tuple[str, str], Any, str]:
        """B6: the oldest kept signal at once, unless somebody else waits for one of that name."""
        first = next((kept for kept in self.signals if kept[0] == name), None)
        if first is None or any(waiting == name for waiting, _, _ in self.receivers):
            self.emit("receive_opened", label)
            first = yield from self.wait("signal", label, "receive_closed")
        assert first is not None
        self.emit("signal_consumed", f"{label}<{first[1]}")
        self.signals.remove(first)
        self.used.append(first)
        return first[2]

    def race(self, step: Step) -> Walk:
        label = f"timeout {describe_span(timedelta(seconds=round(step['seconds'], 6)))}"
        self.emit("timer_set", label)
        yield "scope", label
        try:
            yield from self.run(step["steps"])
        except Gone as gone:
            self.scopes.pop(label, None)
            if gone.scope != label:
                self.emit("timer_cancelled", label)
                raise
            self.note(step, "late")
            return ""
        self.scopes.pop(label)
        self.emit("timer_cancelled", label)
        self.note(step, "won")
        return ""

    # -- moving strands --------------------------------------------------------------------------------

    def move(self, strand: Strand, value: Any = None, gone: Gone | None = None) -> None:
        """Let a strand go on until it waits for something."""
        strand.wait = None
        self.receivers = [entry for entry in self.receivers if entry[2] is not strand]
        while True:
            try:
                asked = strand.walk.throw(gone) if gone is not None else strand.walk.send(value)
            except StopIteration as end:
                strand.answer = end.value or ""
                self.ended(strand)
                return
            value = gone = None
            match asked:
                case ("scope", label):
                    self.scopes[label] = strand
                case ("fork", label):
                    strand.wait = asked
                    step = self.find(label)
                    strand.branches = [Strand(self.run(steps), strand) for steps in step["branches"]]
                    # A task starts when those before it have had their turn.
                    self.ready.extend(partial(self.move, branch) for branch in strand.branches)
                    return
                case ("signal", label):
                    strand.wait = asked
                    self.receivers.append((self.find(label)["name"], label, strand))
                    return
                case _:
                    strand.wait = asked
                    return

    def ended(self, strand: Strand) -> None:
        parent = strand.parent
        if parent is None:
            self.returned = self.returned or strand is self.root
            return  # what follows from it follows at rest
        parent.branches.remove(strand)
        if not parent.branches and parent.wait is not None:
            # The end of its last task is told to a group, and by it to whoever waits: others have their turns between.
            self.ready.append(lambda: self.ready.append(partial(self.move, parent)))

    def cancel(self, strand: Strand, scope: str) -> None:
        """End a strand from inside out; where `scope` is its own timeout it goes on after that."""
        strand.wait = None
        branches, strand.branches = strand.branches, []
        for branch in branches:
            with suppress(Gone):
                self.cancel_branch(branch)
        self.move(strand, gone=Gone(scope))

    def cancel_branch(self, branch: Strand) -> None:
        for inner in branch.branches:
            with suppress(Gone):
                self.cancel_branch(inner)
        self.receivers = [entry for entry in self.receivers if entry[2] is not branch]
        branch.walk.throw(Gone())

    def find(self, label: str) -> Step:
        def within(steps: list[Step]) -> Iterator[Step]:
            for step in steps:
                yield step
                yield from within(step.get("steps", []) if step["kind"] == "race" else [])
                for branch in step.get("branches", []):
                    yield from within(branch)

        plans = [*self.plan.values(), *self.jots.values()]
        return next(step for steps in plans for step in within(steps) if step["at"] == label)

    def everyone(self) -> list[Strand]:
        return [*self.strands(self.root), *self.strands(self.beside)]

    def strands(self, strand: Strand | None) -> Iterator[Strand]:
        if strand is not None:
            yield strand
            for branch in strand.branches:
                yield from self.strands(branch)

    # -- stages ----------------------------------------------------------------------------------------

    def enter(self, stage: str) -> None:
        self.visit += 1
        self.stage = stage
        if self.restarting:  # B6: a restart returns what its visit consumed, in order
            self.signals = [kept for kept in self.arrived if kept in self.signals or kept in self.used]
            self.begun |= {ident for name, ident, _ in self.used if name == "jot"}
        else:
            self.begun = set()
        self.restarting = False
        self.used = []
        self.scopes.clear()
        self.receivers.clear()
        self.beside, self.returned, self.told = None, False, False
        self.emit("stage_entered", stage)
        steps = self.plan.get(stage) or [{"kind": "undo", "at": ""}]
        self.root = Strand(self.run(steps) if stage in self.plan else self.path())
        self.move(self.root)

    def path(self) -> Walk:
        self.emit("undo_requested", "")
        yield from self.wait("undo", "", "")
        return ""

    def rest(self) -> bool:
        """B8: where nothing moves any more handlers end and begin, and a stage is left; False if nothing came of it."""
        if self.beside is not None and self.beside.wait is None:
            self.emit("handler_ended", "jotted")
            self.beside = None
        jots = [kept for kept in self.signals if kept[0] == "jot" and (not self.returned or kept[1] in self.begun)]
        if self.beside is None and jots and self.root is not None and self.stage in ("first", "second"):
            self.emit("handler_started", jots[0][1])
            self.signals.remove(jots[0])
            self.used.append(jots[0])
            self.beside = Strand(self.run(self.jots[jots[0][1]]))
            self.move(self.beside)
            return True
        if not self.returned or self.root is None:
            return False
        where = self.following(self.root.answer)
        if self.beside is None:
            self.root = None
            (self.enter if where in ("first", "second") else self.close)(where)
            return True
        if not self.told:
            self.emit("stage_returned", where)
            self.told = True
        return False

    def following(self, answer: str) -> str:
        """Name the stage or the close that a stage's answer leads to."""
        if self.stage in ("only", "halted", "cancel"):
            return {"only": "made", "halted": "halted", "cancel": "cancelled"}[self.stage]
        if answer == "returned" and self.visit < VISITS:
            return "first"
        if answer == "rejected":
            return "declined"
        return "second" if self.stage == "first" else "done"

    def close(self, name: str) -> None:
        self.closed = name
        self.emit("case_closed", name)

    # -- inputs ----------------------------------------------------------------------------------------

    def give(self, kind: str, label: str, value: Any) -> None:
        found = [s for s in self.everyone() if s.wait == (kind, label)]
        if not found:
            raise Impossible(f"{kind} {label} came, and nobody waits for it")
        self.move(found[0], value)

    def apply(self, event: Event, label: str) -> None:
        """Take one input, and go on until nothing moves."""
        self.take_input(event, label)
        moving = True
        while moving:
            while self.ready:
                self.ready.popleft()()
            moving = self.rest()

    def take_input(self, event: Event, label: str) -> None:
        data = event.data
        match event.type:
            case "case_started":
                self.enter("first" if "first" in self.plan else "only")
            case "activity_completed":
                self.give("call", label, data["result"])
            case "activity_failed":
                self.give("call", label, None)
            case "timer_fired" if label in self.scopes:
                self.cancel(self.scopes[label], label)
            case "timer_fired":
                self.give("timer", label, None)
            case "task_decided":
                self.give("task", label, (data["answer"], data["expired"]))
            case "signal_received":
                self.signals.append((data["signal"], data["id"], data["body"]["text"]))
                self.jots[data["id"]] = data["body"].get("steps", [])
                self.arrived.append(self.signals[-1])
                for name, _, strand in list(self.receivers):
                    if name == data["signal"]:
                        self.move(strand, next(kept for kept in self.signals if kept[0] == name))
                        break
            case "child_closed":
                self.give("child", label, data["name"])
            case "undo_finished":
                self.give("undo", "", None)
            case "moved":
                self.restarting = bool(data["restart"])
            case "interrupted":
                self.restarting = self.restarting and data["by"] == "move"
                self.root = None
                self.enter(data["path"])
            case "corrected":
                self.memo = data["patch"].get("memo", self.memo)
                for strand in [] if self.leaving else self.everyone():
                    if strand.wait == ("memo", "memo") and self.memo is not None:
                        self.move(strand)


def labels(events: Sequence[Event]) -> list[str]:
    """Name every event by the step of the plan it belongs to."""
    timers: dict[str, str] = {}
    found: list[str] = []
    for event in events:
        data = event.data
        label = event.node.rpartition(":")[2]
        match event.type:
            case "timer_set":
                if data["kind"] == "timeout":
                    label = f"timeout {data['span']}"
                timers[data["timer"]] = label
            case "timer_fired" | "timer_cancelled":
                label = timers[data["timer"]]
            case "object_changed":
                label = data["patch"]["trace"][-1]
            case "signal_consumed":
                label = f"{label}<{data['id']}"
            case "handler_started":
                label = data["id"]
            case "handler_ended":
                label = data["handler"]
            case "stage_entered":
                label = data["stage"]
            case "case_closed":
                label = data["close"]
            case "undo_requested" | "undo_finished":
                label = ""
        found.append(label)
    return found


def compare(state: CaseState, events: Sequence[Event]) -> list[str]:
    """Walk the model along the history; return the first difference."""
    model = Model(events[0].data["object"])
    name = state.address
    named = deque(zip(events, labels(events), strict=True))
    try:
        while named:
            group = [named.popleft()]
            while named and CATALOGUE[named[0][0].type].road in (
                "record",
                *(("outside",) if _is_outside(group) else ()),
            ):
                group.append(named.popleft())
            recorded: Counter[Fact] = Counter()
            model.reused = {}
            emitted = []
            while named and CATALOGUE[named[0][0].type].road in ("emitted", "record"):
                emitted.append(named.popleft())
            interrupted = any(event.type == "interrupted" for event, _ in group)
            entered = False
            for event, label in emitted:
                entered = entered or event.type == "stage_entered"
                if CATALOGUE[event.type].road == "emitted" and (
                    not interrupted or entered or event.type not in BY_INTERRUPT
                ):
                    recorded[event.type, label] += 1
                if event.type == "activity_reused":
                    model.reused[label] = event.data["result"]
            model.facts = Counter()
            # A visit that is to end by a move sees nothing any more.
            model.leaving = any(event.type == "moved" for event, _ in group) or (not recorded and _is_refused(group))
            # A turn answers a whole run of outside events, and sees the object as the last one leaves it.
            for event, label in sorted(group, key=lambda entry: entry[0].type == "case_started"):
                if CATALOGUE[event.type].road != "record":
                    model.apply(event, label)
                _settle(model, event, label)
            if model.facts != recorded:
                missing, more = model.facts - recorded, recorded - model.facts
                at = group[0][0]
                return [
                    f"{name}: model: after event {at.seq} {at.type}: expected {dict(missing)}, recorded {dict(more)}"
                ]
            for event, label in emitted:
                _settle(model, event, label)
    except Impossible as wrong:
        return [f"{name}: model: {wrong}"]
    if model.closed != (state.close or {}).get("name", ""):
        return [f"{name}: model: closed {model.closed!r}, recorded {state.close}"]
    if model.trace != state.object.get("trace", []):
        return [f"{name}: model: trace {model.trace}, recorded {state.object.get('trace')}"]
    return []


def _is_refused(group: list[tuple[Event, str]]) -> bool:
    """Tell whether an incident holds back what the turn after these events did."""
    told = [event for event, _ in group if event.type in ("incident_opened", "incident_closed")]
    told = [event for event in told if event.data.get("how") != "answered"]
    return bool(told) and told[-1].type == "incident_opened" and bool(told[-1].data["blocks"])


def _is_outside(group: list[tuple[Event, str]]) -> bool:
    return any(CATALOGUE[event.type].road == "outside" for event, _ in group)


def _settle(model: Model, event: Event, label: str) -> None:
    over = event.type == "result_late" or (event.type == "attempt_failed" and event.data.get("final"))
    if over and event.data["call"].partition(".")[0] == str(model.visit):
        model.settled.add(label)
