"""One stay of a case in a stage, as stage code sees it: the host that answers what it asks for.

Awaitable requests become recorded facts before anything happens. How the coroutine is driven, emits
and replays is in `track`, its handlers in `handling`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from random import Random
from typing import Any, Literal
from uuid import UUID

from longcase.engine.attempts import undo_named, where_run
from longcase.engine.code import WorkflowCode
from longcase.engine.handling import Handling
from longcase.engine.questions import question_record
from longcase.engine.track import Begin, parts, running
from longcase.errors import ActivityFailed
from longcase.history.event import Event, later_text
from longcase.history.redoing import standing_for
from longcase.history.state import CaseState
from longcase.model.activity import Activity
from longcase.model.codec import Json, digest, dump_json
from longcase.model.decision import Decision
from longcase.model.host import RequireRequest, TaskRequest
from longcase.model.places import slug
from longcase.model.signal import Signal
from longcase.model.span import Span, describe_span
from longcase.model.workflow import Stage, Workflow

log = logging.getLogger("longcase.case")


class Visit(Handling):
    """A running or replaying visit. Implements `longcase.model.host.Host`."""

    def __init__(
        self, code: WorkflowCode, stage: Stage[Any], state: CaseState, begin: Begin, emitted: list[Event]
    ) -> None:
        super().__init__(code, stage, state, begin, emitted)
        self._randoms: dict[str, Random] = {}  # by run of a handler, "" for the stage
        self._uuids: dict[str, int] = {}
        self._undo_at_work: asyncio.Lock | None = None

    # -- what is known -----------------------------------------------------------------------------------

    def now(self) -> datetime:
        return self._instant

    def key(self) -> str:
        return self.state.key

    def visit(self) -> int:
        return self.number

    def object(self) -> Json:
        return self.state.object

    def random(self) -> Random:
        run = self._run_name
        if run not in self._randoms:
            seed = f"{self.state.uid}:{self.state.lineage}" + (f":{run}" if run else "")
            self._randoms[run] = Random(seed)  # noqa: S311 - must be repeatable
        return self._randoms[run]

    def uuid(self) -> UUID:
        run = self._run_name
        number = self._uuids[run] = self._uuids.get(run, 0) + 1
        seed = hashlib.sha256(f"{self.state.uid}:{self.state.lineage}:{run}{number}".encode()).digest()
        return UUID(bytes=seed[:16], version=4)

    @property
    def _run_name(self) -> str:
        """What the calls of the code that runs are counted under: the handler's run, "" for the stage.

        The order in which a stage and its handlers come to their calls is another one after a restart, and their
        keys and ids must not be (A5, B24).
        """
        run = running.get()
        return "" if run is None else run.name

    def log(self, message: str, fields: Mapping[str, Any]) -> None:
        if self.mode == "live":
            log.info(
                "%s: %s",
                self.state.address,
                message,
                extra={"case": self.state.address, **{f"case_{k}": v for k, v in fields.items()}},
            )

    def enter_part(self, name: str) -> Callable[[], None]:
        token = parts.set((*parts.get(), name))

        def leave() -> None:
            try:
                parts.reset(token)
            except ValueError:  # closed from another context when the visit is destroyed
                return

        return leave

    # -- recorded at once --------------------------------------------------------------------------------

    def change(self, patch: Mapping[str, Json]) -> None:
        self._guard()
        pinned = [name for name in patch if name in self.state.pins]
        if pinned and self.mode == "live":
            name, run = pinned[0], running.get()
            who = "the stage" if run is None else f"handler {run.stage.name}"
            self._fault(
                "overrides_correction",
                f"{who} writes {name} = {dump_json(patch[name])} over the correction "
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

    # -- durable waits -----------------------------------------------------------------------------------

    async def perform(self, activity: Activity[Any, Any], label: str | None, arguments: Json) -> Json:
        self._guard()
        place = self._place("activity", activity.name, label)
        run = self._run_name
        nth = self._count(f"activity:{run}{activity.name}")
        taken = digest(arguments)
        call = self._ref("c")
        key = self._key(activity, run, nth)
        state = self.state
        if key in state.once:
            return self._reuse(call, activity, taken, key, "", state.once[key]["result"], place)
        instead = after = ""
        earlier = self._earlier(activity, run, nth, taken) if state.reuse else ""
        if earlier:
            kept = state.reuse[earlier]
            key = kept["key"]
            if "result" in kept:
                return self._reuse(call, activity, taken, key, earlier, kept["result"], place)
        elif activity.once_per == "call" and f"{run}{activity.name}#{nth}" in state.reuse:
            # That key stands for the call of a restarted visit, with other arguments: this is a new one (A5).
            key = f"{state.uid}-{state.visit}-{run}{activity.name}-{nth}"
            instead = f"{run}{activity.name}#{nth}"
        if state.reuse:
            after = self._unsettled(earlier or f"{run}{activity.name}#{nth}")
        data: dict[str, Json] = {
            "call": call, "activity": activity.name, "digest": taken, "input": arguments, "key": key,
            "nth": nth, "owner": activity.owner.name, "system": activity.system.name if activity.system else "",
            "expected": later_text(self.at, activity.longest),
            "deadline": later_text(self.at, activity.schedule_to_close) if activity.schedule_to_close else "",
            "start_by": later_text(self.at, activity.schedule_to_start) if activity.schedule_to_start else "",
        }  # fmt: skip
        if run:
            data["run"] = run
        if instead and "rows" in state.reuse[instead]:
            data["instead"] = {"name": instead, **state.reuse[instead]["rows"]}
        if after:  # it begins when that one is settled, and is not late before
            data["after"], data["start_by"] = after, ""
        data |= undo_named(activity)
        data |= where_run(activity)
        # One that is not loaded nobody could run here, nor give its slot back: its call becomes an incident.
        known = activity.name in self.code.activities
        worker = self._begin(activity) if self.mode == "live" and known and not after else 0
        data["attempt"] = 1 if worker else 0
        data["worker"] = worker
        self._emit("activity_scheduled", data, place)
        try:
            return await self._until(call)
        except asyncio.CancelledError:
            asked_as, call = call, standing_for(state, call)
            if self._ends_here or call not in state.calls or call in state.redone:
                raise
            waits = activity.cancel == "wait" and state.calls[call]["status"] == "running"
            if self._emit("activity_cancelled", {"call": call, "waits": waits}, place)["waits"]:
                try:
                    await self._until(asked_as)
                except ActivityFailed:
                    pass
            raise

    def _earlier(self, activity: Activity[Any, Any], run: str, nth: int, taken: str) -> str:
        """Name the call of an earlier visit that this one is again, if its arguments are the same."""
        reuse = self.state.reuse
        known = (f"{run}{name}#{nth}" for name in (activity.name, *activity.was))
        return next((name for name in known if name in reuse and reuse[name]["digest"] == taken), "")

    def _unsettled(self, name: str) -> str:
        """Return what a call of the visit that was begun anew was asked as, if what it was before is not settled."""
        after: str = self.state.reuse.get(name, {}).get("after", "")
        return after if any(redone["asked_as"] == after for redone in self.state.redone.values()) else ""

    def _key(self, activity: Activity[Any, Any], run: str, nth: int) -> str:
        state = self.state
        if activity.once_per == "call":
            return f"{state.uid}-{state.lineage}-{run}{activity.name}-{nth}"
        if activity.once_per == "visit":
            return f"{state.uid}-{state.lineage}-{activity.name}"
        return f"{state.uid}-{activity.name}"

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
        owner = self._here.owner
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

    async def receive(self, signal: Signal[Any], within: Span | None, label: str | None) -> Json:
        self._guard()
        place = self._place("receive", signal.name, label)
        kept = self._kept_signal(signal.name)
        if kept is not None and not any(name == signal.name and not f.done() for _, name, f in self._receivers):
            self._assigned[kept["id"]] = ""
            self._emit("signal_consumed", {"receive": "", "id": kept["id"], "signal": signal.name}, place)
            return kept["body"]
        ref = self._ref("r")
        expected = self._due(within, signal.owner.calendar or self._here.owner.calendar) if within else ""
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
        record, shape = question_record(request, self._here.owner, self._instant, self.state.object)
        outcome: Mapping[str, Json] = await self._await_task(task, request.kind, record, shape, place)
        return outcome

    async def require(self, request: RequireRequest) -> Json:
        self._guard()
        place = self._place("require", request.field)
        if self.state.object.get(request.field) is not None:
            return None
        task = self._ref("q")
        record, shape = question_record(request, self._here.owner, self._instant, self.state.object)
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
        expected = self._due(within or workflow.expect, workflow.owner.calendar or self._here.owner.calendar)
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
        self._undo_at_work = self._undo_at_work or asyncio.Lock()
        async with self._undo_at_work:  # one at a time: a stage and its handlers may both ask for it
            self._guard()
            ref = self._ref("u")
            self._emit("undo_requested", {"undo": ref, "since": since.name if since else ""}, place)
            await self._until(ref)
