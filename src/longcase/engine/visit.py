"""One stay of a case in a stage: the coroutine, its loop, and the host that answers it.

Live and on replay the same code runs. Live, what stage code does is emitted as events. On replay
each thing it does is set beside the recorded one; the first difference stops the visit and is never
an exception in stage code (SEMANTICS A6). A dead visit answers nothing and records nothing (A8).
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from random import Random
from typing import Any, Literal, cast
from uuid import UUID

from longcase.engine import guard
from longcase.engine.code import WorkflowCode
from longcase.engine.loop import UNWIND_STEPS, StepLimit, VisitLoop, VisitTask
from longcase.engine.questions import question_record
from longcase.errors import ActivityFailed, BugError, Nondeterministic, VisitInterrupted
from longcase.history.event import CATALOGUE, Event, instant_of, instant_text, later_text
from longcase.history.state import CaseState, apply
from longcase.model.activity import Activity
from longcase.model.calendar import due
from longcase.model.case import Case
from longcase.model.codec import Json, digest, dump_json
from longcase.model.decision import Decision
from longcase.model.host import RequireRequest, TaskRequest, current_host
from longcase.model.places import NodeKind, node_id, slug
from longcase.model.signal import Signal
from longcase.model.span import Span, describe_span
from longcase.model.workflow import Stage, Workflow

log = logging.getLogger("longcase.case")

_parts: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("longcase_parts", default=())

# What of an emitted event must be the same on replay, besides type, node and occurrence. What is not
# named here may change between releases (a question's wording, an expectation, a policy).
_IDENTITY: dict[str, tuple[str, ...]] = {
    "object_changed": ("patch",),
    "ruling_recorded": ("decision", "nth", "digest"),
    "activity_scheduled": ("call", "activity", "digest"),
    "activity_reused": ("call", "activity", "digest"),
    "activity_cancelled": ("call",),
    "timer_set": ("timer", "kind", "span"),
    "timer_cancelled": ("timer",),
    "task_opened": ("task", "kind", "shape"),
    "task_met": ("task",),
    "task_withdrawn": ("task",),
    "receive_opened": ("receive", "signal"),
    "receive_closed": ("receive",),
    "signal_consumed": ("receive", "id", "signal"),
    "child_started": ("child", "workflow", "key"),
    "child_released": ("child",),
    "undo_requested": ("undo", "since"),
}

_node = lru_cache(maxsize=4096)(node_id)

Begin = Callable[[Activity[..., Any]], int]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Recorded past beside attempted present."""

    recorded: str
    attempted: str
    line: str = ""

    def __str__(self) -> str:
        return f"recorded: {self.recorded}; attempted: {self.attempted}"


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a turn cannot be committed, other than an exception of the stage."""

    kind: str
    message: str
    details: dict[str, Json] = field(default_factory=dict)


class Visit:
    """A running or replaying visit. Implements `longcase.model.host.Host`."""

    def __init__(
        self, code: WorkflowCode, stage: Stage[Any], state: CaseState, begin: Begin, emitted: list[Event]
    ) -> None:
        self.code = code
        self.stage = stage
        self.state = state
        self.number = state.visit
        self.first_seq = state.seq
        self.entered = instant_of(state.entered_at)
        self.at = state.entered_at
        self._instant = self.entered
        self.cause = state.seq
        self.emitted = emitted
        self.mode: Literal["live", "replay", "unwinding", "dead"] = "live"
        self.mismatch: Mismatch | None = None
        self.fault: Fault | None = None
        self._recorded: deque[Event] = deque()
        self._begin = begin
        self._ordinal = 0
        self._arrivals: dict[str, int] = {}
        self._uses: dict[str, int] = {}
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        self._fires: dict[str, Callable[[], None]] = {}
        self._receivers: list[tuple[str, str, asyncio.Future[Any]]] = []
        self._assigned: dict[str, str] = {}
        self._required: dict[str, str] = {}
        self._random: Random | None = None
        self._uuids = 0
        guard.install()
        self.loop = VisitLoop(self)
        self.case: Case[Any] = Case(self, code.workflow)
        self.root: VisitTask | None = None

    # -- driving: what the turn asks of the visit --------------------------------------------------

    def start(self, at: str, argument: Any = None) -> None:
        """Create the stage's coroutine and run it until it blocks."""
        self._set_now(at)
        context = self.loop.context
        context.run(current_host.set, self)
        coroutine = self.stage.fn(self.case) if argument is None else self.stage.fn(self.case, argument)
        self.root = cast(VisitTask, context.run(lambda: self.loop.create_task(coroutine, context=context)))
        self._run()

    def feed(self, event: Event) -> None:
        """Apply one input that the state has already folded, and run until quiet."""
        # Records may stand between an outside event and the turn that answers it: never before them.
        self._set_now(self.state.at)
        self.cause = event.seq
        data = event.data
        match event.type:
            case "activity_completed":
                self._resolve(data["call"], data["result"])
            case "activity_failed":
                self._fail(data["call"], data)
            case "timer_fired":
                fire = self._fires.pop(data["timer"], None)
                if fire is not None:
                    fire()
                else:
                    self._resolve(data["timer"], None)
            case "task_decided":
                self._resolve(data["task"], data)
            case "signal_received":
                self._offer_signals()
            case "child_closed":
                self._resolve(data["child"], data)
            case "undo_finished":
                self._resolve(data["undo"], None)
            case "corrected" | "moved" | "case_started":
                pass
            case unexpected:
                raise BugError(f"{self.state.address}: {unexpected} is no input of a visit")
        self._meet_requirements()
        self._run()

    def replay(self, recorded: Iterable[Event], argument: Any = None) -> None:
        """Re-run the visit over its events after `stage_entered`; folds them into the state.

        Afterwards the visit is live and parked where the record ends, or `mismatch` says why not.
        Trailing `outside` events that no turn has answered yet are applied live.
        """
        self._recorded.extend(recorded)
        trailing = _trailing_outside(self._recorded)
        self.mode = "replay"
        self.start(self.at, argument)
        while self.mismatch is None and len(self._recorded) > trailing:
            event = self._recorded.popleft()
            road = CATALOGUE[event.type].road
            if road == "emitted":
                self._differ(event, None)
                return
            apply(self.state, event)
            if road == "outside":
                event = self._follow(event, trailing)
            if road != "record":
                self.feed(event)
        if self.mismatch is not None:
            return
        self.mode = "live"
        if self._recorded:
            event = self._recorded.popleft()
            apply(self.state, event)
            self.feed(self._follow(event, 0))

    def _follow(self, outside: Event, trailing: int) -> Event:
        """Fold what was recorded right after an outside event; returns the last outside one of the run.

        A turn answers a whole run of them at once: it was redone when another one came in (A2).
        """
        while len(self._recorded) > trailing and CATALOGUE[self._recorded[0].type].road in ("outside", "record"):
            event = self._recorded.popleft()
            apply(self.state, event)
            if CATALOGUE[event.type].road == "outside":
                outside = event
        return outside

    def interrupt(self) -> bool:
        """End the visit: cancel every task in creation order, then discard (A7). True if code resisted."""
        self.mode = "unwinding"
        for task in self.loop.live_tasks():
            task.cancel()
        try:
            self.loop.run(self.loop.time(), UNWIND_STEPS)
        except StepLimit:
            pass
        resisted = bool(self.loop.live_tasks())
        self.discard()
        return resisted

    def discard(self) -> None:
        """Destroy the coroutine at once; its cleanup changes nothing and is not heard (A8)."""
        self.mode = "dead"
        self.loop.destroy()
        self._waiting.clear()
        self._fires.clear()

    @property
    def finished(self) -> bool:
        return self.root is not None and self.root.done()

    def dangling(self) -> str:
        """Name what is still alive, or failed unheard, when the stage has returned (B3)."""
        for task in self.loop.tasks:
            if task is self.root:
                continue
            if not task.done():
                return f"a task is still running: {where(task)}"
            # Asked first: exception() itself counts as hearing it.
            if getattr(task, "_log_traceback", False):
                return f"a task failed and nobody awaited it: {task.exception()!r}"
        return ""

    def deadlocked(self) -> str:
        """Name the line of each blocked task if nothing the store knows can wake the visit (B13)."""
        if self._waiting or self._fires:
            return ""
        return "; ".join(where(task) for task in self.loop.live_tasks()) or "no task"

    def _run(self) -> None:
        try:
            self.loop.run((self._instant - self.entered).total_seconds())
        except StepLimit:
            self._fault("stage_never_yields", "the stage did not come to rest within 100,000 steps of one turn")
        for error in self.loop.errors:
            self._fault("stage_failed", f"{type(error).__name__}: {error}")
        self.loop.errors.clear()
        self.loop.forget_done()

    def _set_now(self, at: str) -> None:
        if at > self.at:
            self.at = at
            self._instant = instant_of(at)

    def _fault(self, kind: str, message: str, details: dict[str, Json] | None = None) -> None:
        if self.fault is None and self.mode in ("live", "replay"):
            self.fault = Fault(kind, message, details or {})
        self.loop.stopped = True

    # -- resolving ---------------------------------------------------------------------------------

    def _resolve(self, ref: str, value: Any) -> None:
        future = self._waiting.get(ref)
        if future is not None and not future.done():
            future.set_result(value)

    def _fail(self, ref: str, data: Mapping[str, Json]) -> None:
        future = self._waiting.get(ref)
        if future is not None and not future.done():
            error = data["error"]
            future.set_exception(
                ActivityFailed(
                    data["activity"], error["type"], error["message"], attempts=data["attempt"],
                    bases=error.get("bases", ()), call=ref,
                )
            )  # fmt: skip

    def _offer_signals(self) -> None:
        """Assign kept signals to waiting receivers, first come first served on both sides."""
        for ref, name, future in self._receivers:
            if future.done():
                continue
            kept = self._kept_signal(name)
            if kept is not None:
                self._assigned[kept["id"]] = ref
                future.set_result(kept)

    def _kept_signal(self, name: str) -> Any:
        return next((k for k in self.state.signals if k["signal"] == name and k["id"] not in self._assigned), None)

    def _meet_requirements(self) -> None:
        for ref, name in self._required.items():
            if self.state.object.get(name) is not None:
                self._resolve(ref, None)

    # -- emitting ----------------------------------------------------------------------------------

    def _ref(self, kind: str) -> str:
        self._ordinal += 1
        return f"{self.number}.{kind}{self._ordinal}"

    def _place(self, kind: NodeKind, name: str = "", label: str | None = None) -> tuple[str, int, str]:
        node = _node(self.stage.name, _parts.get(), kind, name, label)
        if self.code.nodes and node not in self.code.nodes and self.mode == "live":
            self._fault("off_map", f"{node} is not on the map", {"node": node})
        n = self._arrivals.get(node, 0) + 1
        self._arrivals[node] = n
        task = self._current_task()
        return node, n, task.strand if task is not None else "0"

    def _emit(self, kind: str, data: dict[str, Json], place: tuple[str, int, str]) -> dict[str, Json]:
        """Record what stage code did; returns the data that counts: on replay the recorded one."""
        if self.mode == "live":
            state = self.state
            event = Event(
                kind, data, self.number, self.at, cause=self.cause, map=self.code.map_number,
                node=place[0], n=place[1], strand=place[2], seq=state.seq + 1,
            )  # fmt: skip
            apply(state, event)
            self.emitted.append(event)
            return data
        if self.mode == "replay":
            return self._compare(kind, data, place)
        return data

    def _compare(self, kind: str, data: dict[str, Json], place: tuple[str, int, str]) -> dict[str, Json]:
        recorded = self._recorded
        while recorded and CATALOGUE[recorded[0].type].road == "record":
            apply(self.state, recorded.popleft())
        attempted = _outline(kind, data, place[0], place[1])
        if not recorded or CATALOGUE[recorded[0].type].road != "emitted":
            self._mismatch("nothing more in this turn", attempted)
            return data
        event = recorded[0]
        if _outline(event.type, event.data, event.node, event.n) != attempted:
            self._mismatch(_outline(event.type, event.data, event.node, event.n), attempted)
            return data
        recorded.popleft()
        apply(self.state, event)
        self.cause = event.cause or self.cause
        return event.data

    def _differ(self, event: Event, attempted: str | None) -> None:
        done = "the stage ended" if self.finished else "the stage went quiet"
        self._mismatch(_outline(event.type, event.data, event.node, event.n), attempted or done)

    def _mismatch(self, recorded: str, attempted: str) -> None:
        task = self._current_task()
        self.mismatch = Mismatch(recorded, attempted, where(task) if task is not None else "")
        # Everything the code still does in this step is void; it is discarded before its next one (A6).
        self.mode = "dead"
        self.loop.stopped = True

    def violation(self, error: Nondeterministic) -> None:
        """Hold the case for what cannot be replayed, even if stage code swallows the error."""
        self._fault("nondeterministic", error.message, {"hint": error.hint})

    async def _until(self, ref: str) -> Any:
        """Wait for a durable fact. A dead visit waits for ever, an unwinding one is interrupted."""
        future = self.loop.create_future()
        if self.mode == "dead":
            return await future
        self._waiting[ref] = future
        try:
            return await future
        finally:
            self._waiting.pop(ref, None)

    def _guard(self) -> None:
        if self.mode == "unwinding":
            raise VisitInterrupted("the visit was interrupted; clean up in undo= or in the exception path")

    @property
    def _ends_here(self) -> bool:
        """Whether a cancelled await is the end of the visit and not a decision of stage code."""
        return self.mode in ("unwinding", "dead")

    def _due(self, span: Span, owner_calendar: Any) -> str:
        return instant_text(due(self._instant, span, owner_calendar))

    # -- Host: what is known -----------------------------------------------------------------------

    def now(self) -> datetime:
        return self._instant

    def key(self) -> str:
        return self.state.key

    def visit(self) -> int:
        return self.number

    def object(self) -> Json:
        return self.state.object

    def random(self) -> Random:
        if self._random is None:
            self._random = Random(f"{self.state.uid}:{self.state.lineage}")  # noqa: S311 - must be repeatable
        return self._random

    def uuid(self) -> UUID:
        self._uuids += 1
        seed = hashlib.sha256(f"{self.state.uid}:{self.state.lineage}:{self._uuids}".encode()).digest()
        return UUID(bytes=seed[:16], version=4)

    def log(self, message: str, fields: Mapping[str, Any]) -> None:
        if self.mode == "live":
            log.info(
                "%s: %s",
                self.state.address,
                message,
                extra={"case": self.state.address, **{f"case_{k}": v for k, v in fields.items()}},
            )

    def enter_part(self, name: str) -> Callable[[], None]:
        token = _parts.set((*_parts.get(), name))

        def leave() -> None:
            try:
                _parts.reset(token)
            except ValueError:  # closed from another context when the visit is destroyed
                return

        return leave

    # -- Host: recorded at once ----------------------------------------------------------------------

    def change(self, patch: Mapping[str, Json]) -> None:
        self._guard()
        pinned = [name for name in patch if name in self.state.pins]
        if pinned and self.mode == "live":
            name = pinned[0]
            self._fault(
                "overrides_correction",
                f"the stage writes {name} = {dump_json(patch[name])} over the correction "
                f"{dump_json(self.state.object.get(name))}",
                {"field": name, "corrected": self.state.object.get(name), "written": patch[name]},
            )
            return
        before = {name: self.state.object.get(name) for name in patch}
        self._emit("object_changed", {"patch": dict(patch), "before": before}, self._place("change"))
        self._meet_requirements()

    def rule(self, decision: Decision[Any, Any], inputs: Json, decide: Callable[[], Json], again: bool) -> Json:
        self._guard()
        place = self._place("decision", decision.name, decision.label)
        nth = self._count(f"decision:{decision.name}")
        taken = digest(inputs)
        if self.mode == "replay":
            # The record is the ruling; the function is not run again (B10).
            ruled: Json = {"answer": "", "rule": "", "because": ""}
        else:
            ruled = decide()
        data = self._emit(
            "ruling_recorded",
            {
                "decision": decision.name, "nth": nth, "digest": taken, "inputs": inputs, **ruled,
                "question": decision.question, "policy": decision.policy, "owner": decision.owner.name, "again": again,
            },
            place,
        )  # fmt: skip
        return data if data["answer"] else {**decide()}

    def spawn(self, workflow: Workflow[Any], body: Json, on_close: str, label: str | None) -> str:
        self._guard()
        self._start_child("spawn", workflow, body, None, on_close, label)
        return str(body[workflow.key_field])

    def _current_task(self) -> VisitTask | None:
        if asyncio._get_running_loop() is not cast(Any, self.loop):
            return None
        task = asyncio.current_task(cast(Any, self.loop))
        return task if isinstance(task, VisitTask) else None

    def _count(self, name: str) -> int:
        self._uses[name] = self._uses.get(name, 0) + 1
        return self._uses[name]

    # -- Host: durable waits -------------------------------------------------------------------------

    async def perform(self, activity: Activity[Any, Any], label: str | None, arguments: Json) -> Json:
        self._guard()
        place = self._place("activity", activity.name, label)
        nth = self._count(f"activity:{activity.name}")
        taken = digest(arguments)
        call = self._ref("c")
        key = self._key(activity, nth)
        state = self.state
        if key in state.once:
            return self._reuse(call, activity, taken, key, "", state.once[key]["result"], place)
        known = (f"{name}#{nth}" for name in (activity.name, *activity.was))
        earlier = next((name for name in known if name in state.reuse and state.reuse[name]["digest"] == taken), "")
        if earlier:
            kept = state.reuse[earlier]
            key = kept["key"]
            if "result" in kept:
                return self._reuse(call, activity, taken, key, earlier, kept["result"], place)
        data: dict[str, Json] = {
            "call": call, "activity": activity.name, "digest": taken, "input": arguments, "key": key,
            "nth": nth, "owner": activity.owner.name, "system": activity.system.name if activity.system else "",
            "expected": later_text(self.at, activity.longest),
            "deadline": later_text(self.at, activity.schedule_to_close) if activity.schedule_to_close else "",
            "start_by": later_text(self.at, activity.schedule_to_start) if activity.schedule_to_start else "",
        }  # fmt: skip
        if activity.undo_activity is not None:
            data["undo"] = activity.undo_activity.name
        elif activity.effect in ("once", "repeatable"):
            data["undo"] = ""
        worker = self._begin(activity) if self.mode == "live" else 0
        data["attempt"] = 1 if worker else 0
        data["worker"] = worker
        self._emit("activity_scheduled", data, place)
        try:
            return await self._until(call)
        except asyncio.CancelledError:
            if self._ends_here or call not in state.calls:
                raise
            waits = activity.cancel == "wait" and state.calls[call]["status"] == "running"
            if self._emit("activity_cancelled", {"call": call, "waits": waits}, place)["waits"]:
                try:
                    await self._until(call)
                except ActivityFailed:
                    pass
            raise

    def _key(self, activity: Activity[Any, Any], nth: int) -> str:
        state = self.state
        match activity.once_per:
            case "case":
                return f"{state.uid}-{activity.name}"
            case "visit":
                return f"{state.uid}-{state.lineage}-{activity.name}"
            case _:
                return f"{state.uid}-{state.lineage}-{activity.name}-{nth}"

    def _reuse(
        self,
        call: str,
        activity: Activity[Any, Any],
        taken: str,
        key: str,
        reuse: str,
        result: Json,
        place: tuple[str, int, str],
    ) -> Json:
        data = {"call": call, "activity": activity.name, "digest": taken, "key": key, "reuse": reuse, "result": result}
        return self._emit("activity_reused", data, place)["result"]

    async def pause(self, span: Span, because: str, label: str | None) -> None:
        self._guard()
        place = self._place("pause", label or slug(because))
        timer = self._ref("t")
        owner = self.stage.owner
        self._emit(
            "timer_set",
            {
                "timer": timer, "kind": "pause", "span": describe_span(span), "because": because,
                "due": self._due(span, owner.calendar), "whose": owner.name,
            },
            place,
        )  # fmt: skip
        try:
            await self._until(timer)
        except asyncio.CancelledError:
            if not self._ends_here and timer in self.state.timers:
                self._emit("timer_cancelled", {"timer": timer}, place)
            raise

    def arm_timeout(self, after: float, fire: Callable[[], None]) -> Callable[[], None]:
        """Make a timer of `asyncio.timeout` and its kin durable (called by the loop)."""
        if self.mode in ("dead", "unwinding"):
            return _nothing
        place = self._place("timeout")
        timer = self._ref("t")
        span = timedelta(seconds=round(after, 6))
        self._emit(
            "timer_set",
            {
                "timer": timer, "kind": "timeout", "span": describe_span(span), "because": "timeout",
                "due": instant_text(self._instant + span), "whose": self.stage.owner.name,
            },
            place,
        )  # fmt: skip
        self._fires[timer] = fire

        def disarm() -> None:
            if self._fires.pop(timer, None) is not None and timer in self.state.timers:
                self._emit("timer_cancelled", {"timer": timer}, place)

        return disarm

    async def receive(self, signal: Signal[Any], within: Span | None, label: str | None) -> Json:
        self._guard()
        place = self._place("receive", signal.name, label)
        kept = self._kept_signal(signal.name)
        if kept is not None and not any(name == signal.name and not f.done() for _, name, f in self._receivers):
            self._assigned[kept["id"]] = ""
            self._emit("signal_consumed", {"receive": "", "id": kept["id"], "signal": signal.name}, place)
            return kept["body"]
        ref = self._ref("r")
        expected = self._due(within, signal.owner.calendar or self.stage.owner.calendar) if within else ""
        self._emit(
            "receive_opened",
            {"receive": ref, "signal": signal.name, "expected": expected, "whose": signal.owner.name},
            place,
        )
        future = self.loop.create_future()
        if self.mode == "dead":
            return await future
        receiver = (ref, signal.name, future)
        self._waiting[ref] = future
        self._receivers.append(receiver)
        try:
            kept = await future
        except asyncio.CancelledError:
            # A message already handed over goes back to its old place (B6).
            self._assigned = {i: r for i, r in self._assigned.items() if r != ref}
            self._receivers.remove(receiver)
            if not self._ends_here:
                self._emit("receive_closed", {"receive": ref}, place)
                self._offer_signals()
            raise
        finally:
            self._waiting.pop(ref, None)
        self._receivers.remove(receiver)
        self._emit("signal_consumed", {"receive": ref, "id": kept["id"], "signal": signal.name}, place)
        return kept["body"]

    async def ask(self, request: TaskRequest) -> Mapping[str, Json]:
        self._guard()
        place = self._place(request.kind, request.label or slug(request.question))
        task = self._ref("q")
        record, shape = question_record(request, self.stage.owner, self._instant, self.state.object)
        outcome: Mapping[str, Json] = await self._await_task(task, request.kind, record, shape, place)
        return outcome

    async def require(self, request: RequireRequest) -> Json:
        self._guard()
        place = self._place("require", request.field)
        if self.state.object.get(request.field) is not None:
            return None
        task = self._ref("q")
        record, shape = question_record(request, self.stage.owner, self._instant, self.state.object)
        self._required[task] = request.field
        try:
            await self._await_task(task, "require", record, shape, place)
        finally:
            self._required.pop(task, None)
        self._emit(
            "task_met", {"task": task, "field": request.field, "value": self.state.object.get(request.field)}, place
        )
        return None

    async def _await_task(
        self, task: str, kind: str, record: dict[str, Json], shape: str, place: tuple[str, int, str]
    ) -> Any:
        number = self.state.rounds.get(place[0], 0) + 1
        self._emit(
            "task_opened", {"task": task, "kind": kind, "shape": shape, "round": number, "request": record}, place
        )
        try:
            return await self._until(task)
        except asyncio.CancelledError:
            if not self._ends_here and task in self.state.tasks:
                self._emit("task_withdrawn", {"task": task, "reason": "the stage no longer waits for it"}, place)
            raise

    async def child(
        self, workflow: Workflow[Any], body: Json, within: Span | None, on_close: str, label: str | None
    ) -> Mapping[str, Json]:
        self._guard()
        ref, place = self._start_child("child", workflow, body, within, on_close, label)
        try:
            outcome: Mapping[str, Json] = await self._until(ref)
        except asyncio.CancelledError:
            if not self._ends_here and ref in self.state.children:
                released = {
                    "child": ref,
                    "cancel": on_close == "cancel",
                    "workflow": workflow.name,
                    "key": body[workflow.key_field],
                }
                self._emit("child_released", released, place)
            raise
        return outcome

    def _start_child(
        self,
        kind: Literal["child", "spawn"],
        workflow: Workflow[Any],
        body: Json,
        within: Span | None,
        on_close: str,
        label: str | None,
    ) -> tuple[str, tuple[str, int, str]]:
        place = self._place(kind, workflow.name, label)
        ref = self._ref("k")
        expected = self._due(within or workflow.expect, workflow.owner.calendar or self.stage.owner.calendar)
        self._emit(
            "child_started",
            {
                "child": ref, "workflow": workflow.name, "key": body[workflow.key_field], "body": body,
                "awaited": kind == "child", "on_close": on_close, "expected": expected,
                "stage": workflow.entry.name, "owner": workflow.entry.owner.name,
            },
            place,
        )  # fmt: skip
        return ref, place

    async def undo(self, since: Stage[Any] | None) -> None:
        self._guard()
        place = self._place("undo")
        ref = self._ref("u")
        self._emit("undo_requested", {"undo": ref, "since": since.name if since else ""}, place)
        await self._until(ref)


def _trailing_outside(recorded: deque[Event]) -> int:
    """Count the events at the end of the record that no turn has answered: outside ones and records."""
    trailing = 0
    for position, event in enumerate(reversed(recorded), start=1):
        road = CATALOGUE[event.type].road
        if road in ("input", "emitted"):
            break
        if road == "outside":
            trailing = position
    return trailing


def _outline(kind: str, data: Mapping[str, Json], node: str, n: int) -> str:
    shown = ", ".join(f"{name}={dump_json(data.get(name))}" for name in _IDENTITY.get(kind, ()))
    return f"{kind} {node}#{n} ({shown})"


def where(task: asyncio.Task[Any]) -> str:
    """Name the innermost line of user code a suspended task stands at."""
    awaiting: Any = task.get_coro()
    line = ""
    while awaiting is not None:
        frame = getattr(awaiting, "cr_frame", None) or getattr(awaiting, "ag_frame", None)
        if (
            frame is not None
            and "/asyncio/" not in frame.f_code.co_filename
            and "/longcase/" not in frame.f_code.co_filename
        ):
            line = f"{frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno} in {frame.f_code.co_name}"
        awaiting = getattr(awaiting, "cr_await", None) or getattr(awaiting, "ag_await", None)
    return line or f"{task.get_name()} in {getattr(task.get_coro(), '__qualname__', 'a coroutine')}"


def _nothing() -> None:
    return
