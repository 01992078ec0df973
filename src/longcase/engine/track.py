"""A running or replaying visit: its coroutine on its loop, what it waits for, and what it emits.

Live and on replay the same code runs. Live, what stage code does is emitted as events. On replay
each thing it does is set beside the recorded one; the first difference stops the visit and is never
an exception in stage code (SEMANTICS A6). A dead visit answers nothing and records nothing (A8).

Its handlers, which run beside the stage, are in `handling`; what stage code may ask for is in `visit`.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Any, Literal, NamedTuple, cast

from longcase.engine import guard
from longcase.engine.code import WorkflowCode
from longcase.engine.comparing import Fault, Mismatch, beside, is_same, outline, trailing_outside, where
from longcase.engine.loop import STEP_LIMIT, UNWIND_STEPS, StepLimit, VisitLoop, VisitTask
from longcase.errors import ActivityFailed, BugError, Nondeterministic, VisitInterrupted
from longcase.history.calls import last_attempt
from longcase.history.event import CATALOGUE, Event, instant_of, instant_text
from longcase.history.state import CaseState, apply
from longcase.model.calendar import due
from longcase.model.case import Case
from longcase.model.codec import Json
from longcase.model.host import Host, current_host
from longcase.model.names import text_of
from longcase.model.places import NodeKind, node_id
from longcase.model.span import Span, describe_span
from longcase.model.workflow import Stage

parts: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("longcase_parts", default=())

_node = lru_cache(maxsize=4096)(node_id)


class Run(NamedTuple):
    """One run of a handler: whose code it is, what its calls are counted under, and its place."""

    stage: Stage[Any]
    name: str  # by handler and signal: a restarted visit finds its calls again, in whatever order it comes to them
    place: tuple[str, int, str]


running: contextvars.ContextVar[Run | None] = contextvars.ContextVar("longcase_running", default=None)
"""The run of a handler in whose tasks we are; None in those of the stage."""

Begin = Callable[..., int]  # (activity, granted=False, lost=0): the worker that may begin an attempt now, or 0


class Track:
    """The engine's half of a visit."""

    def __init__(
        self, code: WorkflowCode, stage: Stage[Any], state: CaseState, begin: Begin, emitted: list[Event]
    ) -> None:
        self.code = code
        self.stage = stage
        self.state = state
        self.number = state.visit
        self.first_seq = state.seq
        self.records = 0  # events since then that replay does not compare
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
        self._tended = False  # whether something may run beside the stage
        guard.install()
        self.loop = VisitLoop(self)
        self.root: VisitTask | None = None

    # -- driving: what the turn asks of the visit --------------------------------------------------------

    def start(self, at: str, argument: Any = None) -> None:
        """Create the stage's coroutine and run it until it blocks."""
        self._set_now(at)
        context = self.loop.context
        context.run(current_host.set, cast(Host, self))
        case: Case[Any] = Case(cast(Host, self), self.code.workflow)  # the coroutine's alone: it would keep the visit
        coroutine = self.stage.fn(case) if argument is None else self.stage.fn(case, argument)
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
                self._resolve(data.get("asked_as") or data["call"], data["result"])
            case "activity_failed":
                self._fail(data.get("asked_as") or data["call"], data)
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
        if self._required:
            self._meet_requirements()
        self._run()

    def replay(self, recorded: Iterable[Event], argument: Any = None) -> None:
        """Re-run the visit over its events after `stage_entered`; folds them into the state.

        Afterwards the visit is live and parked where the record ends, or `mismatch` says why not.
        Trailing `outside` events that no turn has answered yet are applied live.
        """
        self._recorded.extend(recorded)
        trailing = trailing_outside(self._recorded)
        self.mode = "replay"
        self.start(self.at, argument)
        while self.mismatch is None and len(self._recorded) > trailing:
            event = self._recorded.popleft()
            road = CATALOGUE[event.type].road
            if road == "emitted":
                self._differ(event, None)
                return
            apply(self.state, event)
            if road == "record":
                self.records += 1
                continue
            if road == "outside":
                event = self._follow(event, trailing)
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
            else:
                self.records += 1
        return outside

    def interrupt(self) -> bool:
        """End the visit: cancel every task in creation order, then discard (A7). True if code resisted.

        Many tasks take many steps to end, and none of them resists by that: each is allowed a hundred. What
        waits again, or is still at work after that, does not let go.
        """
        self.mode = "unwinding"
        steps = min(UNWIND_STEPS * len(self.loop.live_tasks()), STEP_LIMIT)
        self.loop.cancel_live()  # not here: this frame lives on in the tasks' errors, and would keep a task it names
        try:
            self.loop.run(self.loop.time(), steps)
        except StepLimit:
            pass
        resisted = bool(self.loop.live_tasks())
        self.discard()
        return resisted

    def discard(self) -> None:
        """Destroy the coroutine at once; its cleanup changes nothing and is not heard (A8)."""
        self.mode = "dead"
        self.loop.destroy()
        self.root = None
        self._waiting.clear()
        self._fires.clear()

    @property
    def finished(self) -> bool:
        return self.root is not None and self.root.done()

    def dangling(self, of: VisitTask) -> str:
        """Name what the stage, or a handler, has left alive or failed unheard when it has returned (B3)."""
        own = "0" if of is self.root else f"{of.strand}."
        for task in self.loop.tasks:
            if task is of or not task.strand.startswith(own):
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
        self._drive()
        if self._tended:
            self._tend()

    def _tend(self) -> None:
        """Let what runs beside the stage begin and end, where the visit has come to rest; see `handling`."""

    def _drive(self) -> None:
        try:
            self.loop.run((self._instant - self.entered).total_seconds())
        except StepLimit:
            self._fault("stage_never_yields", "the stage did not come to rest within 100,000 steps of one turn")
        if self.loop.errors:
            for error in self.loop.errors:
                self._fault("stage_failed", f"{type(error).__name__}: {text_of(error)}")
            self.loop.errors.clear()
        self.loop.forget_done()

    def _set_now(self, at: str) -> None:
        if at > self.at:
            self.at = at
            self._instant = instant_of(at)

    def _fault(self, kind: str, message: str, details: dict[str, Json] | None = None, owner: str = "") -> None:
        if self.fault is None and self.mode in ("live", "replay"):
            self.fault = Fault(kind, message, details or {}, owner or self._here.owner.name)
        self.loop.stopped = True

    # -- resolving ---------------------------------------------------------------------------------------

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
                    data["activity"], error["type"], error["message"], attempts=last_attempt(data),
                    bases=error.get("bases", ()), call=data["call"],
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
        if name in self.code.workflow.handlers:
            return None  # it is its handler's alone, as one with an exception path is that path's
        return next((k for k in self.state.signals if k["signal"] == name and k["id"] not in self._assigned), None)

    def _meet_requirements(self) -> None:
        for ref, name in self._required.items():
            if self.state.object.get(name) is not None:
                self._resolve(ref, None)

    # -- emitting ----------------------------------------------------------------------------------------

    def _ref(self, kind: str) -> str:
        self._ordinal += 1
        return f"{self.number}.{kind}{self._ordinal}"

    def _place(self, kind: NodeKind, name: str = "", label: str | None = None) -> tuple[str, int, str]:
        run = running.get()
        here = self.stage if run is None else run.stage
        node, n = self._arrive(_node(here.name, parts.get(), kind, name, label))
        task = self._current_task()
        return node, n, task.strand if task is not None else "0"

    def _arrive(self, node: str) -> tuple[str, int]:
        """Return a node with the number of this arrival there."""
        if self.code.nodes and node not in self.code.nodes and self.mode == "live":
            self._fault("off_map", f"{node} is not on the map", {"node": node})
        n = self._arrivals.get(node, 0) + 1
        self._arrivals[node] = n
        return node, n

    @property
    def _here(self) -> Stage[Any]:
        """The stage, or the handler, whose code runs."""
        run = running.get()
        return self.stage if run is None else run.stage

    def _count(self, name: str) -> int:
        self._uses[name] = self._uses.get(name, 0) + 1
        return self._uses[name]

    def _current_task(self) -> VisitTask | None:
        if asyncio._get_running_loop() is not cast(Any, self.loop):
            return None
        task = asyncio.current_task(cast(Any, self.loop))
        return task if isinstance(task, VisitTask) else None

    def _emit(self, kind: str, data: dict[str, Json], place: tuple[str, int, str]) -> dict[str, Json]:
        """Record what stage code did; returns the data that counts: on replay the recorded one."""
        if self.mode == "live":
            state = self.state
            node, n, strand = place
            event = Event(
                kind, data, self.number, self.at, "engine", "", "engine", self.cause, self.code.map_number,
                node, n, strand, state.seq + 1,
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
            self.records += 1
        node, n, _ = place
        if not recorded or CATALOGUE[recorded[0].type].road != "emitted":
            self._mismatch("nothing more in this turn", outline(kind, data, node, n))
            return data
        event = recorded[0]
        if not is_same(event, kind, data, node, n):
            self._mismatch(*beside(event, kind, data, node, n))
            return data
        recorded.popleft()
        apply(self.state, event)
        self.cause = event.cause or self.cause
        return event.data

    def _differ(self, event: Event, attempted: str | None) -> None:
        done = "the stage ended" if self.finished else "the stage went quiet"
        self._mismatch(outline(event.type, event.data, event.node, event.n), attempted or done)

    def _mismatch(self, recorded: str, attempted: str) -> None:
        task = self._current_task()
        self.mismatch = Mismatch(recorded, attempted, where(task) if task is not None else "")
        # Everything the code still does in this step is void; it is discarded before its next one (A6).
        self.mode = "dead"
        self.loop.stopped = True

    def violation(self, error: Nondeterministic) -> None:
        """Hold the case for what cannot be replayed, even if stage code swallows the error."""
        self._fault("nondeterministic", error.message, {"hint": error.hint})

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
                "due": instant_text(self._instant + span), "whose": self._here.owner.name,
            },
            place,
        )  # fmt: skip
        self._fires[timer] = fire

        def disarm() -> None:
            if self._fires.pop(timer, None) is not None and timer in self.state.timers:
                self._emit("timer_cancelled", {"timer": timer}, place)

        return disarm

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
            del future  # an error that it brings would hold this frame, and this frame it, until the collector came

    def _guard(self) -> None:
        if self.mode == "unwinding":
            raise VisitInterrupted("the visit was interrupted; clean up in undo= or in the exception path")

    @property
    def _ends_here(self) -> bool:
        """Whether a cancelled await is the end of the visit and not a decision of stage code."""
        return self.mode in ("unwinding", "dead")

    def _due(self, span: Span, owner_calendar: Any) -> str:
        return instant_text(due(self._instant, span, owner_calendar))


def _nothing() -> None:
    return
