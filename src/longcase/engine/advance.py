"""In which order things take effect: due timers first, then the input, by instant (SEMANTICS B1).

`advance` takes everything that has happened to one case since it was last moved (outcomes of
attempts, accepted inputs, clocks) and turns it, one at a time, into events and commands. It asks
nothing of the world; the runtime commits what it returns and carries out the commands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from longcase.engine import attempts
from longcase.engine.attempts import Failure, Success, Verdict
from longcase.engine.incidents import TurnDiscarded, incident
from longcase.engine.tasks import due_actions, expiry_outcome, shown_again
from longcase.engine.turn import Resident
from longcase.history.event import Event, instant_of, instant_text
from longcase.history.state import UNKNOWN_KINDS, Call, CaseState
from longcase.history.waits import all_due, next_due
from longcase.model.activity import Activity
from longcase.model.codec import Json
from longcase.model.workflow import ExceptionPath


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt of this process ended; `at` is when."""

    call: str
    number: int
    outcome: Success | Failure
    worker: int
    at: str


@dataclass(frozen=True, slots=True)
class Verified:
    """The world was asked about a call of unknown outcome."""

    call: str
    number: int
    answer: Literal["happened", "not_happened", "unknown"]
    result: Json
    why: str
    at: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """An input from the inbox."""

    no: int
    id: str
    type: str
    data: dict[str, Json]
    actor: str
    channel: str
    on_behalf: str
    cause: int | None
    at: str


Item = Ended | Verified | Accepted


@dataclass(slots=True)
class Work:
    """What there is to do for one case, and the little the engine may ask of the runtime.

    Attributes:
        now: the store's clock, as text.
        items: in the order they were accepted or ended.
        dead: tells whether a worker incarnation is certainly dead.
        draw: uniform in [0, 1), for jitter.
        limit: apply at most so many items and due clocks; the rest stays for the next advance.
    """

    now: str
    items: Sequence[Item] = ()
    dead: Callable[[int], bool] = lambda worker: False
    draw: Callable[[], float] = lambda: 0.5
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """What the runtime must do once the events are durable.

    perform: run attempt `number` of `call`; verify: ask the world about it; stop: ask the attempt to
    stop; start: a child case, in the same transaction (the runtime hands it to the store).
    """

    kind: Literal["perform", "verify", "stop"]
    case_no: int
    call: str
    number: int


@dataclass(slots=True)
class Advance:
    """The outcome: what was applied and what is to be carried out. The events are the resident's."""

    taken: list[int] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    kept: list[Item] = field(default_factory=list)  # could not be applied now; must not be lost
    again: bool = False  # an input that had to wait can be applied now
    applied: int = 0  # items and clocks that took effect
    items_applied: int = 0


class Stopped(Exception):
    """The limit of this advance is reached."""


def advance(resident: Resident, work: Work) -> Advance:
    """Apply the work to the case, one input a turn.

    Raises:
        TurnDiscarded: an input's turn must not be committed; `Advance.applied` inputs before it are
            lost with the resident. The caller rebuilds it, advances with `limit=applied`, and opens the
            incident when the same input comes first (`refuse_input`).
    """
    run = _Run(resident, work)
    try:
        run.all()
    except Stopped:
        run._begin()  # what the turns before the limit have begun must be carried out
    except TurnDiscarded as discarded:
        discarded.applied = run.result.applied
        discarded.item = run.current
        raise
    return run.result


def refuse_input(resident: Resident, work: Work, discarded: TurnDiscarded, item: Item | None) -> Advance:
    """Open the incident of a turn that was discarded. The resident is fresh and has no visit.

    The input stays unapplied: in the inbox if it came from there (the incident names it, and it is not
    tried again while that is open), else inside the incident.
    """
    state = resident.state
    now = instant_of(work.now)
    result = Advance()
    pending: Json = None
    if isinstance(item, Ended):
        call = state.calls.get(item.call)
        if call is not None and attempts.outcome_counts(state, item.call, item.number):
            if isinstance(item.outcome, Failure):
                failed = attempts.failed_attempt(
                    state, item.call, call, item.outcome, Verdict("unknown"), f"worker:{item.worker}"
                )
                resident.append(failed, work.now)
                if not discarded.call:
                    pending = {"type": "activity_failed", "call": item.call, "error": item.outcome.to_json()}
            else:
                pending = {"type": "activity_completed", "call": item.call, "result": item.outcome.result}
    elif isinstance(item, Verified):
        pending = {"type": "activity_completed", "call": item.call, "result": item.result}
    elif isinstance(item, Accepted):
        discarded.details = {**discarded.details, "input": item.id}
    event = incident(state, discarded, now, pending=pending)
    resident.append(event, work.now)
    return result


def blocked(state: CaseState) -> bool:
    """Tell whether an incident keeps every input waiting."""
    return any(opened["blocks"] for opened in state.incidents.values())


def wake_at(state: CaseState, now: str) -> str:
    """Return when the case wants to be advanced again by its clocks alone, or "".

    What is due by now has either taken effect or cannot: an incident keeps it waiting (its repair
    wakes the case) or no slot is free for an attempt (the worker comes back when one is).
    """
    due = next_due(state)
    if not due or due > now:
        return due
    return min((instant for instant in all_due(state) if instant > now), default="")


class _Run:
    """One advance in progress."""

    def __init__(self, resident: Resident, work: Work) -> None:
        self.resident = resident
        self.work = work
        self.result = Advance()
        self.current: Item | None = None
        self.past: tuple[str, ...] = ()  # inputs that were refused where an operator moved the case away

    @property
    def state(self) -> CaseState:
        return self.resident.state

    def all(self) -> None:
        self._sweep_dead()
        state = self.state
        if state.visit == 0 and state.status == "open" and state.move is None and not blocked(state):
            self.resident.enter_first(self.work.now)
            self.result.applied += 1
        self._moved()
        # Turns of this advance happen at `now`, so clocks they arm are not due before a later item.
        earliest = next_due(self.state)
        waiting = refused = behind = False
        for item in self.work.items:
            if earliest and earliest <= item.at:
                self._clocks(item.at)
                earliest = next_due(self.state)
            if refused and isinstance(item, Accepted) and self._is_plain_signal(item):
                behind = True  # one that came earlier was refused until just now: it goes first (I11)
                self.result.items_applied += 1
                continue
            self._step()
            self.current = item
            done = self._apply(item)
            if isinstance(item, Accepted):
                if done:
                    self.result.taken.append(item.no)
                else:
                    waiting = True
                    refused = refused or self._is_plain_signal(item)
            self.result.applied += 1
            self.result.items_applied += 1
            self.current = None
        self._clocks(self.work.now)
        if waiting and self.state.status == "closed":
            self._list_waiting()
        for ref in self.state.tasks:
            stale = shown_again(self.state, ref)
            if stale is not None:
                self.resident.append(stale, self.work.now)
        if self.state.undoing is not None:
            self._step()
            self._undo()
        self._begin()
        if self.state.status == "closed":
            self._stop_all()
        # An exception that queued behind a handler fires when the handler has returned a stage (B7).
        self.result.again = (behind or (waiting and self.state.kind == "stage")) and not blocked(self.state)

    def _is_plain_signal(self, item: Accepted) -> bool:
        return item.type == "signal_received" and item.data["signal"] not in self.resident.code.workflow.paths

    def _list_waiting(self) -> None:
        """List what queued behind a handler that then closed the case (B7, B17)."""
        for item in self.work.items:
            if isinstance(item, Accepted) and item.no not in self.result.taken and self._accepted(item):
                self.result.taken.append(item.no)

    def _step(self) -> None:
        if self.work.limit is not None and self.result.applied >= self.work.limit:
            raise Stopped

    # -- inputs --------------------------------------------------------------------------------------

    def _apply(self, item: Item) -> bool:
        """Apply one item; False leaves an accepted input where it is."""
        match item:
            case Ended():
                self._ended(item)
                return True
            case Verified():
                self._verified(item)
                return True
            case Accepted():
                return self._accepted(item)

    def _accepted(self, item: Accepted) -> bool:
        state = self.state
        if state.status == "closed":
            self._unhandled(item, f"case closed: {(state.close or {}).get('name', '')}")
            return True
        if any(opened["details"].get("input") == item.id for opened in state.incidents.values()):
            return False  # refused, and nothing has been repaired since: what comes after it may go first
        match item.type:
            case "signal_received":
                path = self.resident.code.workflow.paths.get(item.data["signal"])
                if path is not None:
                    return self._exception(item, path)
            case "interrupted":
                if state.kind == "path" and not blocked(state):
                    return False  # handlers are not interruptible: it waits for the handler's end (B7)
                self._interrupt(item, self.resident.code.cancel_path, "", None)
                return True
            case "activity_completed" | "activity_failed":
                return self._outcome(item)
            case "task_decided":
                if item.data["task"] not in state.tasks:
                    self._unhandled(item, "the task is no longer open")
                    return True
            case "child_closed":
                if item.data["child"] not in state.children:
                    self._unhandled(item, "nobody waits for the child")
                    return True
            case "child_refused":
                self._child_refused(item)
                return True
        if blocked(state):
            return False
        self._turn(self._event(item), item.at)
        return True

    def _turn(self, event: Event, at: str) -> None:
        """Give the stage an input; without a coroutine (before the first stage) only the fold sees it."""
        self.resident.turn(event, max(at, self.work.now) if at else self.work.now)
        self._undo()

    def _event(self, item: Accepted) -> Event:
        data = dict(item.data)
        if item.type == "signal_received":
            data["accepted_at"] = item.at
            data["id"] = item.id
        event = Event(
            item.type, data, actor=item.actor, channel=item.channel, on_behalf=item.on_behalf, cause=item.cause
        )
        place: Any = self.state.tasks.get(data.get("task", "")) or self.state.children.get(data.get("child", ""))
        if place is not None:
            event.node, event.n, event.strand = place["node"], place.get("n", 1), place.get("strand", "0")
            event.cause = item.cause or place["seq"]
        return event

    def _outcome(self, item: Accepted) -> bool:
        """Apply an operator's outcome of a call, or one that waited behind an incident."""
        state = self.state
        ref = item.data["call"]
        call = state.calls.get(ref)
        if call is None:
            self._unhandled(item, "the call is no longer open")
            return True
        if blocked(state) and call["awaited"] and not call["undoes"]:
            if not attempts.left_open(state, ref):
                return False
            call = {**call, "awaited": False}
        number = call["attempt"]
        if item.type == "activity_completed":
            more: dict[str, Json] = {"by": item.actor, "why": item.data.get("why", "")}
            if self._is_once(call):
                more["once"] = True
            event = attempts.completed(state, ref, call, number, item.data["result"], item.actor, **more)
            if call["status"] == "running":
                self.result.commands.append(Command("stop", self.resident.case_no, ref, number))
        else:
            error = item.data["error"]
            failure = Failure(error["kind"], error["type"], error["message"], tuple(error.get("bases", ())))
            event = attempts.lost(state, ref, call, failure, item.actor)
        event.channel = item.channel
        if event.type in ("activity_completed", "activity_failed"):
            self._turn(event, item.at)
        else:
            self.resident.append(event, self.work.now)
        return True

    def _child_refused(self, item: Accepted) -> None:
        """A child's key names a live case of somebody else: nobody will ever tell the stage of its close (B22)."""
        state = self.state
        child = state.children.get(item.data["child"])
        if child is None:
            self._unhandled(item, "the child is no longer wanted")
            return
        address = f"{child['workflow']}/{child['key']}"
        taken = TurnDiscarded(
            "child_key_taken", f"child {address} was not started: a live case that is not this one's child has its key",
            owner=state.owner, node=child["node"],
            details={"child": item.data["child"], "workflow": child["workflow"], "key": child["key"]},
        )  # fmt: skip
        now = instant_of(self.work.now)
        # Where stage code waits for the child only a restart, a move or a cancel can go on.
        event = incident(state, taken, now, cause=child["seq"], blocks=child["awaited"])
        if not child["awaited"]:
            event.data["repairs"] = ["skip", *event.data["repairs"]]
        self.resident.append(event, self.work.now)

    def _unhandled(self, item: Accepted, why: str) -> None:
        data = {
            "id": item.id,
            "signal": item.data.get("signal", item.type),
            "why": why,
            "body": item.data.get("body", item.data),
        }
        event = Event(
            "signal_unhandled", data, actor=item.actor, channel=item.channel, on_behalf=item.on_behalf, cause=item.cause
        )
        self.resident.append(event, self.work.now)

    # -- exception paths, cancel, moves ----------------------------------------------------------------

    def _exception(self, item: Accepted, path: ExceptionPath[Any]) -> bool:
        state = self.state
        if item.id in self.past:
            self._unhandled(item, f"its path {path.stage.name} could not begin, and an operator moved the case")
            return True
        if state.kind == "path":
            return False
        if path.during and state.stage not in [stage.name for stage in path.during]:
            self._unhandled(item, f"no exception path for {item.data['signal']} during {state.stage}")
            return True
        self._interrupt(item, path.stage, item.data["signal"], item.data["body"])
        return True

    def _interrupt(self, item: Accepted, stage: Any, signal: str, body: Json) -> None:
        data: dict[str, Json] = {
            "by": "signal" if signal else "cancel", "path": stage.name, "signal": signal, "id": item.id,
            "why": signal or item.data.get("reason", "") or "cancelled", "body": body,
            "sender": item.data.get("sender", ""),
            "accepted_at": item.at,
        }  # fmt: skip
        event = self.resident.interrupt(
            data, self.work.now, actor=item.actor, channel=item.channel, on_behalf=item.on_behalf, cause=item.cause
        )
        why = str(data["why"]) if self.resident.code.is_told_why(stage) else ""
        self.resident.enter(stage, "exception", "", self.work.now, cause=event.seq, signal=signal, body=body, why=why)
        self.resident.settle(instant_of(self.work.now))

    def _moved(self) -> None:
        """Carry out an operator's move: end the visit and enter the stage it names."""
        move = self.state.move
        if move is None or self.state.status == "closed":
            return
        stage = self.resident.stage_named(str(move["to"]))
        lineage = self.state.lineage if move["restart"] else 0
        reuse = move["reuse"]
        self.past = tuple(move.get("past", ()))
        data: dict[str, Json] = {
            "by": "move",
            "path": stage.name,
            "signal": "",
            "id": "",
            "why": "moved by an operator",
            "body": None,
        }
        event = self.resident.interrupt(
            data, self.work.now, actor="engine", channel="engine", on_behalf="", cause=move["seq"]
        )
        reason = "restart" if move["restart"] else "moved"
        self.resident.enter(stage, reason, "", self.work.now, cause=event.seq, lineage=lineage, reuse=reuse)
        self.resident.settle(instant_of(self.work.now))
        self.result.applied += 1

    def _stop(self, calls: list[tuple[str, int]]) -> None:
        self.result.commands.extend(Command("stop", self.resident.case_no, ref, number) for ref, number in calls)

    def _stop_all(self) -> None:
        self._stop([(ref, call["attempt"]) for ref, call in self.state.calls.items() if call["status"] == "running"])

    # -- attempts --------------------------------------------------------------------------------------

    def _activity(self, call: Call) -> Activity[..., Any] | None:
        return self.resident.code.activities.get(call["activity"])

    def _is_once(self, call: Call) -> bool:
        activity = self._activity(call)
        return activity is not None and activity.once_per != "call"

    def _ended(self, item: Ended) -> None:
        state = self.state
        call = state.calls.get(item.call)
        if call is None or not attempts.outcome_counts(state, item.call, item.number):
            result = item.outcome.result if isinstance(item.outcome, Success) else None
            kind = "success" if isinstance(item.outcome, Success) else "failure"
            self.resident.append(
                attempts.refused(state, item.call, item.number, kind, item.worker, result), self.work.now
            )
            return
        if isinstance(item.outcome, Failure):
            self._failed(item.call, call, item.outcome, item.worker)
            return
        if blocked(state) and call["awaited"] and not call["undoes"]:
            if not attempts.left_open(state, item.call):
                self.result.kept.append(item)
                return
            call = {**call, "awaited": False}
        more: dict[str, Json] = {"once": True} if self._is_once(call) else {}
        event = attempts.completed(
            state, item.call, call, item.number, item.outcome.result, f"worker:{item.worker}", **more
        )
        if event.type == "activity_completed":
            self._turn(event, item.at)
            return
        activity = self._activity(call)
        self.resident.append(event, self.work.now)
        if (
            event.type == "result_late"
            and state.status == "open"
            and activity is not None
            and activity.undo_activity is None
            and activity.effect in ("once", "repeatable")
        ):
            late = TurnDiscarded(
                "late_effect",
                f"{call['activity']} took effect after the case had stopped waiting for it, and has no undo",
                owner=activity.owner.name, node=call["node"], details={"result": item.outcome.result},
            )  # fmt: skip
            self.resident.append(
                incident(state, late, instant_of(self.work.now), cause=event.seq, blocks=False), self.work.now
            )
        self._undo()

    def _failed(self, ref: str, call: Call, failure: Failure, worker: int) -> None:
        state = self.state
        activity = self._activity(call)
        now = instant_of(self.work.now)
        verdict = attempts.judge(activity, call, failure, now, self.work.draw())
        if blocked(state) and attempts.left_open(state, ref):
            call = {**call, "awaited": False}
        actor = f"worker:{worker}"
        if verdict.follow == "lost" and call["awaited"] and not call["undoes"]:
            if blocked(state):
                self.result.kept.append(Ended(ref, call["attempt"], failure, worker, self.work.now))
                return
            self._turn(attempts.lost(state, ref, call, failure, actor), self.work.now)
            return
        if verdict.follow in ("again", "lost") and not call["awaited"] and not call["undoes"]:
            # The stage stopped waiting: a failed attempt is not tried again for nobody.
            unknown = failure.kind in UNKNOWN_KINDS and attempts.undo_entry(state, ref) is not None
            verdict = Verdict("unknown" if unknown else "lost")
        event = self.resident.append(attempts.failed_attempt(state, ref, call, failure, verdict, actor), self.work.now)
        owner = activity.owner.name if activity is not None else call["owner"]
        details: dict[str, Json] = {
            "error": failure.to_json(),
            "attempt": call["attempt"],
            "activity": call["activity"],
        }
        message = f"{call['activity']}: {failure.type}: {failure.message}"
        kind = ""
        if verdict.follow == "incident":
            kind = verdict.incident
        elif verdict.follow == "unknown":
            if activity is not None and activity.verify_function is not None:
                self.result.commands.append(Command("verify", self.resident.case_no, ref, call["attempt"]))
            else:
                kind = "outcome_unknown"
                message = f"{call['activity']}: attempt {call['attempt']} may have taken effect ({failure.message})"
        elif verdict.follow == "lost" and call["undoes"]:
            kind = "activity_failed"
        if kind:
            self._call_incident(kind, message, owner, ref, call, details, event.seq)
        if verdict.follow == "lost":
            self._undo()

    def _call_incident(
        self, kind: str, message: str, owner: str, ref: str, call: Call, details: dict[str, Json], cause: int
    ) -> None:
        opened = TurnDiscarded(kind, message, owner=owner, node=call["node"], call=ref, details=details)
        self.resident.append(incident(self.state, opened, instant_of(self.work.now), cause=cause), self.work.now)

    def _verified(self, item: Verified) -> None:
        state = self.state
        call = state.calls.get(item.call)
        if call is None or call["attempt"] != item.number or call["status"] != "unknown":
            return
        if item.answer == "happened":
            if blocked(state) and call["awaited"] and not call["undoes"]:
                self.result.kept.append(item)
                return
            event = attempts.completed(state, item.call, call, item.number, item.result, "engine", verified=True)
            if event.type == "activity_completed":
                self._turn(event, item.at)
            else:
                self.resident.append(event, self.work.now)
                self._undo()
            return
        if item.answer == "not_happened":
            again = call["awaited"] or bool(call["undoes"])
            data: dict[str, Json] = {
                "call": item.call,
                "attempt": item.number,
                "happened": False,
                "next_try": self.work.now if again else "",
            }
            self.resident.append(attempts.place(state, call, Event("attempt_verified", data)), self.work.now)
            if not again:
                self.resident.append(
                    Event("undo_skipped", {"call": item.call, "status": "nothing", "drop": item.call}), self.work.now
                )
                self._undo()
            return
        message = (
            f"{call['activity']}: attempt {call['attempt']} may have taken effect, "
            f"and verify could not tell: {item.why}"
        )
        self._call_incident(
            "outcome_unknown",
            message,
            call["owner"],
            item.call,
            call,
            {"attempt": item.number, "why": item.why},
            state.seq,
        )

    def _sweep_dead(self) -> None:
        """Settle the attempts of workers that are certainly dead, and ask about unknown outcomes again."""
        for ref, call in list(self.state.calls.items()):
            if call["status"] == "running" and self.work.dead(call["worker"]):
                worker = call["worker"]
                failure = Failure("lost", "WorkerLost", f"worker {worker} died during attempt {call['attempt']}")
                self._failed(ref, call, failure, worker)
            elif call["status"] == "unknown" and not self._has_incident(ref) and self._wants_answer(call):
                self.result.commands.append(Command("verify", self.resident.case_no, ref, call["attempt"]))

    def _wants_answer(self, call: Call) -> bool:
        """Tell whether somebody waits for the outcome now; an unawaited call is asked about when an undo needs it."""
        activity = self._activity(call)
        can_tell = activity is not None and activity.verify_function is not None
        return call["awaited"] or bool(call["undoes"]) or can_tell

    def _has_incident(self, ref: str) -> bool:
        return any(opened["call"] == ref for opened in self.state.incidents.values())

    def _begin(self) -> None:
        """Begin what waits for an attempt, and hand over what this advance has begun."""
        for ref, call in list(self.state.calls.items()):
            waiting = call["status"] == "ready" or (call["status"] == "backoff" and call["next_try"] <= self.work.now)
            if waiting and (self.state.status == "open" or call["undoes"]):
                activity = self._activity(call)
                if activity is None:
                    failure = Failure(
                        "unknown_activity", "UnknownActivity", f"no activity named {call['activity']} is loaded"
                    )
                    self._failed(ref, call, failure, 0)
                    continue
                worker = self.resident.begin(activity)
                if worker:
                    self.resident.append(attempts.begun(self.state, ref, call, worker), self.work.now)
        for event in self.resident.emitted:
            if event.type == "attempt_started" or (
                event.type in ("activity_scheduled", "undo_started") and event.data["attempt"] == 1
            ):
                ref = event.data["call"]
                started = self.state.calls.get(ref)
                if (
                    started is not None
                    and started["status"] == "running"
                    and started["attempt"] == event.data["attempt"]
                ):
                    self.result.commands.append(Command("perform", self.resident.case_no, ref, started["attempt"]))
        if self.state.status == "open":
            # An await that was cancelled, by stage code or by an interrupt, asks its attempt to stop (B4).
            cancelled = [event.data["call"] for event in self.resident.emitted if event.type == "activity_cancelled"]
            running = [(ref, self.state.calls[ref]) for ref in cancelled if ref in self.state.calls]
            self._stop([(ref, call["attempt"]) for ref, call in running if call["status"] == "running"])

    # -- clocks -----------------------------------------------------------------------------------------

    def _clocks(self, until: str) -> None:
        """Let everything due by `until` take effect, in due order."""
        for _ in range(10_000):
            earliest = next_due(self.state)
            if not earliest or earliest > until:
                return
            first = min(self._due(until), key=lambda found: found[0], default=None)
            if first is None:
                return
            self._step()
            first[1]()
            self.result.applied += 1

    def _due(self, until: str) -> Iterator[tuple[tuple[str, int], Callable[[], None]]]:
        state = self.state
        stopped = blocked(state)
        if not stopped:
            for ref, timer in state.timers.items():
                if timer["due"] <= until:
                    yield (timer["due"], timer["seq"]), lambda ref=ref, timer=timer: self._fire(ref, timer)  # type: ignore[misc]
        for at, event in due_actions(state, until):
            if event.type == "task_expired" and stopped:
                continue
            yield (at, event.cause or 0), lambda event=event: self._task_clock(event)  # type: ignore[misc]
        for ref, call in state.calls.items():
            bounded = call["status"] in ("ready", "backoff") or (call["status"] == "running" and call["awaited"])
            if bounded and not stopped:
                start_by = call["start_by"] if call["attempt"] == 0 else ""
                limit = min((instant for instant in (call["deadline"], start_by) if instant), default="")
                if limit and limit <= until:
                    yield (limit, call["seq"]), lambda ref=ref, call=call, limit=limit: self._too_late(ref, call, limit)  # type: ignore[misc]

    def _fire(self, ref: str, timer: Any) -> None:
        late = (instant_of(self.work.now) - instant_of(timer["due"])).total_seconds()
        data: dict[str, Json] = {"timer": ref, "due": timer["due"], "late_s": round(late, 6)}
        event = attempts.place(self.state, timer, Event("timer_fired", data, actor="timer"))
        self._turn(event, self.work.now)

    def _task_clock(self, event: Event) -> None:
        ref = event.data["task"]
        task = self.state.tasks[ref]
        self.resident.append(event, self.work.now)
        if event.type == "task_expired":
            decided = Event(
                "task_decided",
                expiry_outcome(task, ref),
                actor="timer",
                cause=event.seq,
                node=task["node"],
                n=task["n"],
                strand=task["strand"],
            )
            self._turn(decided, self.work.now)

    def _too_late(self, ref: str, call: Call, limit: str) -> None:
        if limit == call["deadline"]:
            failure = Failure("timeout", "ScheduleToClose", f"not done by {limit}")
        else:
            failure = Failure("timeout", "ScheduleToStart", f"no attempt had begun by {limit}")
        if call["status"] == "running":
            self._stop([(ref, call["attempt"])])
            activity = self._activity(call)
            if activity is not None and activity.effect == "once":
                self._failed(ref, call, failure, call["worker"])  # it may have taken effect: that is asked first
                return
        if call["awaited"] and not call["undoes"]:
            self._turn(attempts.lost(self.state, ref, call, failure, "timer"), self.work.now)
        else:
            data: dict[str, Json] = {"call": ref, "status": "nothing", "drop": ref}
            self.resident.append(Event("undo_skipped", data, actor="timer"), self.work.now)

    # -- undo --------------------------------------------------------------------------------------------

    def _undo(self) -> None:
        """Move a running undo as far as it goes: one compensation at a time, newest command first."""
        for _ in range(10_000):
            state = self.state
            if state.undoing is None or state.status == "closed" or blocked(state):
                return
            step, ref = attempts.undo_steps(state)
            if step == "start":
                self._start_undo(ref)
                return
            if step == "unknown":
                self._settle_unknown(ref)
                return
            if step == "wait":
                return
            undone = [entry["activity"] for entry in reversed(state.undo.values()) if entry["status"] == "undone"]
            data: dict[str, Json] = {"undo": state.undoing["undo"], "undone": undone}
            event = attempts.place(state, state.undoing, Event("undo_finished", data))
            self.resident.turn(event, self.work.now)

    def _start_undo(self, ref: str) -> None:
        state = self.state
        entry = state.undo[ref]
        undo = self.resident.code.activities.get(entry["undo"])
        now = instant_of(self.work.now)
        call = f"{ref}-undo"
        worker = self.resident.begin(undo) if undo is not None else 0
        undoing = state.undoing
        assert undoing is not None
        data: dict[str, Json] = {
            "call": call, "activity": entry["undo"], "undoes": ref, "of": entry["seq"], "result": entry["result"],
            "key": f"{state.uid}-undo-{ref}", "owner": undo.owner.name if undo else state.owner,
            "system": undo.system.name if undo and undo.system else "",
            "expected": instant_text(now + undo.longest) if undo else "", "deadline": "", "start_by": "",
            "attempt": 1 if worker else 0, "worker": worker,
        }  # fmt: skip
        self.resident.append(attempts.place(state, undoing, Event("undo_started", data)), self.work.now)

    def _settle_unknown(self, ref: str) -> None:
        """A call whose outcome is unknown stops the undo until `verify` or a person settles it."""
        call = self.state.calls[ref]
        if call["status"] == "backoff":
            # Its last attempt is known to have failed, and nobody waits for another one.
            data: dict[str, Json] = {"call": ref, "status": "nothing", "drop": ref}
            self.resident.append(Event("undo_skipped", data), self.work.now)
            self._undo()
        elif call["status"] in ("unknown", "incident") and not self._has_incident(ref):
            # An incident of the call that the interrupt superseded has left the outcome as unknown as it was.
            activity = self._activity(call)
            if call["status"] == "incident" or activity is None or activity.verify_function is None:
                message = (
                    f"{call['activity']}: attempt {call['attempt']} may have taken effect; undo waits for the answer"
                )
                self._call_incident(
                    "outcome_unknown", message, call["owner"], ref, call, {"attempt": call["attempt"]}, self.state.seq
                )
