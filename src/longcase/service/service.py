"""Commands and queries over a store, for every face: the Python API, the CLI, later HTTP.

Everything that is accepted is durable when the call returns. A face adds words and colours, never
a rule. Reading never runs user code.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from longcase.engine import repair as repairs
from longcase.engine.advance import blocked
from longcase.engine.code import WorkflowCode
from longcase.engine.repair import Repair
from longcase.engine.start import case_started
from longcase.engine.tasks import Actor, Answered, answer_task, claim_task, due_actions, expiry_outcome, release_task
from longcase.env import Env
from longcase.errors import (
    AlreadyDecided,
    AlreadyExpired,
    CaseClosed,
    CaseNotFound,
    InvalidInput,
    LongcaseError,
    TaskNotFound,
    UnknownSignal,
    UsageError,
    WorkflowNotFound,
)
from longcase.history.event import Event
from longcase.history.state import CaseState, Task, apply
from longcase.history.waits import Wait, not_taken_up, waits
from longcase.model.codec import Codec, Json, codec_for, digest
from longcase.model.names import check_idempotency_key, check_key, check_name
from longcase.model.signal import Signal
from longcase.model.strict_json import check_json
from longcase.model.workflow import Stage, Workflow
from longcase.service import queries
from longcase.store.port import CaseRef, CaseRow, DedupKey, Edit, Input, Locked, NewCase, Started, Store


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to a start. `differs` names the fields in which an existing case's object differs."""

    address: str
    case_no: int
    existing: bool
    status: str
    differs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer to a signal, a decision or a repair. `duplicate` means it had been accepted before."""

    address: str
    duplicate: bool = False
    did: str = ""
    remaining: int = 0  # answers still needed


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task as its candidates see it."""

    address: str
    ref: str
    task: Task


@dataclass(frozen=True, slots=True)
class CaseView:
    """What one screen says of a case: where it is, what it waits for, whose move it is, since when."""

    address: str
    case_no: int
    state: CaseState
    waits: list[Wait]
    pending: int
    lease: int
    wake_at: str
    exits: tuple[str, ...] = field(default=())

    @property
    def blocked(self) -> bool:
        return blocked(self.state)


class Service:
    """The door. `on_change(case_no)` tells a worker of the same process that a case wants to move."""

    def __init__(
        self,
        store: Store,
        env: Env,
        codes: Mapping[str, WorkflowCode],
        *,
        tenant: str = "main",
        actor: Actor | None = None,
        on_change: Callable[[int], None] | None = None,
    ) -> None:
        self.store = store
        self.env = env
        self.codes = codes
        self.tenant = tenant
        self.actor = actor or Actor("service:api")
        self.on_change = on_change
        self.starter: Callable[[Sequence[NewCase]], Awaitable[list[Started]]] | None = None

    # -- addressing --------------------------------------------------------------------------------

    def ref(self, address: str) -> CaseRef:
        """Return the reference of `workflow/key`: the live case of that key, else the newest."""
        workflow, slash, key = address.partition("/")
        if not slash:
            raise UsageError(
                f"{address!r} addresses no case, expected workflow/key", hint="longcase show client-onboarding/C-1042"
            )
        check_name(workflow, "workflow")
        return CaseRef(0, workflow, check_key(key), self.tenant)

    def code_of(self, workflow: str) -> WorkflowCode | None:
        """Return the workflow's code if it is loaded here."""
        return self.codes.get(workflow)

    async def row(self, address: str) -> CaseRow:
        """Return the row of a case, or raise CaseNotFound."""
        row = await self.store.load(self.ref(address))
        if row is None:
            raise CaseNotFound(f"no case {address}", hint=f"longcase list --workflow {address.partition('/')[0]}")
        return row

    def _changed(self, case_no: int) -> None:
        if self.on_change is not None:
            self.on_change(case_no)

    # -- starting ------------------------------------------------------------------------------------

    async def start(
        self,
        workflow: Workflow[Any] | str,
        body: BaseModel | Mapping[str, Json],
        *,
        again: bool = False,
        idempotency_key: str | None = None,
        actor: Actor | None = None,
    ) -> Receipt:
        """Start a case, or return the one that has the key.

        Effects: one row and one `case_started` event, durable on return.
        Raises: InvalidInput, IdempotencyConflict, WorkflowNotFound.
        """
        new = self.new_case(workflow, body, again=again, idempotency_key=idempotency_key, actor=actor)
        return (await self.start_prepared([new]))[0]

    def new_case(
        self,
        workflow: Workflow[Any] | str,
        body: BaseModel | Mapping[str, Json],
        *,
        again: bool = False,
        idempotency_key: str | None = None,
        actor: Actor | None = None,
    ) -> NewCase:
        """Validate a start without accepting it; several are accepted at once by `start_prepared`."""
        name = workflow if isinstance(workflow, str) else workflow.name
        code = self.codes.get(name)
        if code is None:
            raise WorkflowNotFound(
                f"workflow {name} is not loaded",
                hint=f"loaded: {', '.join(self.codes) or 'none'}; name its module with --app",
            )
        codec = code.workflow.codec
        what = f"object of {name}"
        data = _encoded(codec, body, what)
        check_key(data[code.workflow.key_field])
        started = case_started(
            code.workflow,
            data,
            uid=self.env.new_id(),
            tenant=self.tenant,
            now=self.env.now(),
            actor=actor or self.actor,
        )
        dedup = None
        if idempotency_key is not None:
            dedup = DedupKey(f"start:{name}", check_idempotency_key(idempotency_key), digest(data))
        return NewCase(started, dedup, again)

    async def start_prepared(self, new: Sequence[NewCase]) -> list[Receipt]:
        """Accept validated cases in one transaction; receipts in the order given."""
        started = await (self.starter or self.store.start)(new)
        receipts: list[Receipt] = []
        for answer in started:
            if not answer.existing:
                self._changed(answer.case_no)
            receipts.append(
                Receipt(answer.state.address, answer.case_no, answer.existing, answer.state.status, answer.differs)
            )
        return receipts

    # -- signals ---------------------------------------------------------------------------------------

    async def signal(
        self,
        address: str,
        signal: Signal[Any] | str,
        body: BaseModel | Mapping[str, Json],
        *,
        idempotency_key: str | None = None,
        actor: Actor | None = None,
    ) -> Accepted:
        """Send a signal to a case; accepted means durable, a repeat under the same key is harmless.

        Raises: CaseNotFound; CaseClosed (the refusal stands in the case's history); UnknownSignal;
        InvalidInput; IdempotencyConflict.
        """
        ref = self.ref(address)
        name = signal if isinstance(signal, str) else signal.name
        data = self._signal_body(ref.workflow, name, body)
        who = actor or self.actor
        dedup = None
        if idempotency_key is not None:
            dedup = DedupKey(f"signal:{address}:{name}", check_idempotency_key(idempotency_key), digest([name, data]))
        identity = f"{name}:{idempotency_key}" if idempotency_key is not None else self.env.new_id()

        def closed(close: str) -> CaseClosed:
            return CaseClosed(f"{address} is closed: {close}; the signal {name} stands in its history as refused")

        def decide(locked: Locked) -> Edit[Accepted]:
            state = locked.state
            if locked.duplicate is not None:
                ignored = {"signal": name, "key": idempotency_key, "sender": who.name}
                before = (
                    None if locked.duplicate["accepted"] else closed(locked.duplicate["close"])
                )  # the same answer again
                repeat = self._record("duplicate_ignored", ignored, who, state)
                return Edit(Accepted(address, duplicate=True), [repeat], refusal=before)
            if state.status == "closed":
                close = (state.close or {}).get("name", "")
                refused = {"signal": name, "body": data, "sender": who.name, "id": identity, "close": close}
                return Edit(
                    Accepted(address), [self._record("signal_refused", refused, who, state)],
                    dedup=dedup, answer={"accepted": False, "close": close}, refusal=closed(close),
                )  # fmt: skip
            sent = Input(
                identity, "signal_received", {"signal": name, "body": data, "sender": who.name}, who.name, who.channel,
                on_behalf=who.on_behalf,
            )  # fmt: skip
            return Edit(Accepted(address), inputs=[sent], dedup=dedup, answer={"accepted": True}, wake=True)

        return await self._edit(ref, decide, dedup)

    def _signal_body(self, workflow: str, name: str, body: BaseModel | Mapping[str, Json]) -> Json:
        code = self.codes.get(workflow)
        if code is None:
            raise WorkflowNotFound(
                f"workflow {workflow} is not loaded",
                hint=f"loaded: {', '.join(self.codes) or 'none'}; name its module with --app",
            )
        declared = code.workflow.signals.get(name)
        if declared is None:
            known = ", ".join(code.workflow.signals) or "none"
            raise UnknownSignal(f"{workflow} declares no signal {name}", hint=f"declared: {known}")
        codec = declared.codec
        what = f"signal {name}"
        return _encoded(codec, body, what)

    # -- tasks -----------------------------------------------------------------------------------------

    async def open_tasks(self, address: str) -> list[TaskView]:
        """Return the open tasks of a case, oldest first."""
        row = await self.row(address)
        return [
            TaskView(row.state.address, ref, task)
            for ref, task in row.state.tasks.items()
            if task["status"] in ("ready", "reserved")
        ]

    async def decide(
        self,
        address: str,
        answer: Json,
        *,
        task: str | None = None,
        reason: str = "",
        actor: Actor | None = None,
        shown: str | None = None,
    ) -> Accepted:
        """Answer a task of a case.

        Args:
            answer: one of its answers, or the filled form as JSON.
            task: its reference or the last part of its place; not needed if only one is open.
            shown: the digest of what was shown; if it has changed since, StaleDecision.
        Raises: TaskNotFound, AlreadyDecided, AlreadyExpired, StaleDecision, RefusedError: every one is
            recorded in the case's history.
        """
        who = actor or self.actor
        ref = self.ref(address)
        row = await self.row(address)
        try:
            target = await self._task_of(row, task)
        except (AlreadyDecided, AlreadyExpired, TaskNotFound) as error:
            return await self._refuse_late(row, task, answer, reason, who, error)
        form = self._check_form(row.state, target, answer)

        def decide(locked: Locked) -> Edit[Accepted]:
            events, state, inputs = self._run_clocks(locked)
            if target not in state.tasks:
                raise TaskNotFound(f"{address} has no open task {target}", hint=f"longcase show {address}")
            answered: Answered = answer_task(state, target, who, form, reason, shown, locked.now)
            events.extend(answered.events)
            if answered.outcome is not None:
                inputs.append(
                    Input(
                        f"decided-{target}",
                        "task_decided",
                        answered.outcome,
                        who.name,
                        who.channel,
                        on_behalf=who.on_behalf,
                    )
                )
            did = "decided" if answered.outcome is not None else "recorded"
            return Edit(
                Accepted(address, duplicate=not answered.events, did=did, remaining=answered.remaining),
                events, inputs, wake=bool(inputs), refusal=answered.refusal,
            )  # fmt: skip

        try:
            return await self._edit(ref, decide)
        except TaskNotFound as error:  # it was over by the time its case was locked
            return await self._refuse_late(row, target, answer, reason, who, error)

    async def _refuse_late(
        self, row: CaseRow, task: str | None, answer: Json, reason: str, who: Actor, error: LongcaseError
    ) -> Accepted:
        """Refuse an answer to a task that is over, and record that; only refuse it if there never was such a task."""
        over = await self._last_end(row, task)
        if over is None:
            raise error
        told, end = over
        data = {
            "task": end.data["task"],
            "by": who.person,
            "answer": check_json(answer, what="answer"),
            "reason": reason,
            "refused": told.code,
            "why": told.message,
        }

        def refuse(locked: Locked) -> Edit[Accepted]:
            event = self._record("vote_refused", data, who, locked.state)
            event.node, event.n, event.strand, event.cause = end.node, end.n, end.strand, end.seq
            return Edit(Accepted(row.state.address), [event], refusal=told)

        return await self._edit(CaseRef(row.case_no), refuse)

    async def claim(
        self, address: str, *, task: str | None = None, actor: Actor | None = None, release: bool = False
    ) -> Accepted:
        """Take a task for yourself, or give it back."""
        who = actor or self.actor
        row = await self.row(address)
        target = await self._task_of(row, task)

        def decide(locked: Locked) -> Edit[Accepted]:
            event = (release_task if release else claim_task)(locked.state, target, who)
            return Edit(Accepted(address, did="released" if release else "claimed"), [event])

        return await self._edit(self.ref(address), decide)

    def _run_clocks(self, locked: Locked) -> tuple[list[Event], CaseState, list[Input]]:
        """Let the tasks' own clocks take effect before anything else: an expiry beats a later answer (B1)."""
        state = CaseState.from_json(deepcopy(locked.state.to_json()))
        events: list[Event] = []
        inputs: list[Input] = []
        for _ in range(1_000):
            due = sorted(due_actions(state, locked.now), key=lambda found: found[0])
            if not due:
                break
            event = due[0][1]
            event.seq = state.seq + 1
            event.at = locked.now
            apply(state, event)
            events.append(event)
            if event.type == "task_expired":
                ref = event.data["task"]
                inputs.append(
                    Input(f"expired-{ref}", "task_decided", expiry_outcome(state.tasks[ref], ref), "timer", "engine")
                )
        return events, state, inputs

    async def _task_of(self, row: CaseRow, task: str | None) -> str:
        state = row.state
        opened = {ref: entry for ref, entry in state.tasks.items() if entry["kind"] != "require"}
        if task is None:
            if len(opened) == 1:
                return next(iter(opened))
            if not opened:
                over = await self._last_end(row)
                raise (
                    over[0]
                    if over
                    else TaskNotFound(f"{state.address} has no open task", hint=f"longcase show {state.address}")
                )
            names = ", ".join(f"{ref} ({entry['question']})" for ref, entry in opened.items())
            raise UsageError(
                f"{state.address} has {len(opened)} open tasks: {names}", hint=f"name one: --task {next(iter(opened))}"
            )
        for ref, entry in opened.items():
            if task in (ref, entry["node"], entry["node"].rpartition(":")[2]):
                return ref
        over = await self._last_end(row, task)
        raise (
            over[0]
            if over
            else TaskNotFound(f"{state.address} has no open task {task}", hint=f"longcase show {state.address}")
        )

    async def _last_end(self, row: CaseRow, task: str | None = None) -> tuple[LongcaseError, Event] | None:
        """Return what to tell somebody who answers a task that is over, and the event that ended it."""
        address = row.state.address
        for event in reversed(await self.store.events(row.case_no)):
            if event.type not in ("task_decided", "task_withdrawn") or (
                task is not None and task not in (event.data["task"], event.node, event.node.rpartition(":")[2])
            ):
                continue
            if event.type == "task_withdrawn":
                return TaskNotFound(
                    f"{address}: the task was withdrawn at {event.at}: {event.data['reason']}",
                    hint=f"longcase show {address}",
                ), event
            if event.data["expired"]:
                return AlreadyExpired(f"{address}: already expired at {event.at}: {event.data['answer']} stands"), event
            return AlreadyDecided(
                f"{address}: already decided by {', '.join(event.data['by'])} at {event.at}: {event.data['answer']}"
            ), event
        return None

    def _check_form(self, state: CaseState, task: str, answer: Json) -> Json:
        """Check a filled form against its schema's required fields; the stage decodes it fully."""
        record = state.tasks[task]
        check_json(answer, what="answer")
        if record["kind"] != "task":
            return answer
        if not isinstance(answer, Mapping):
            raise InvalidInput(
                f'"{record["question"]}": expected the filled form as a JSON object', reason="not_an_object"
            )
        form = record["form"] or {}
        properties = form.get("properties", {})
        problems = [(f"/{name}", "missing") for name in form.get("required", ()) if name not in answer]
        problems += [(f"/{name}", "unknown field") for name in answer if name not in properties]
        if problems:
            listed = "; ".join(f"{place}: {problem}" for place, problem in problems)
            raise InvalidInput(f'"{record["question"]}": {listed}', problems=problems, reason="does_not_fit")
        return dict(answer)

    # -- data and repairs ------------------------------------------------------------------------------

    async def set_fields(
        self, address: str, fields: Mapping[str, Json], *, actor: Actor | None = None, reason: str = "data provided"
    ) -> Accepted:
        """Provide data a case has been waiting for; wakes it with no further click."""
        return await self.correct(address, fields, reason=reason, actor=actor, pin=False)

    async def correct(
        self, address: str, fields: Mapping[str, Json], *, reason: str, actor: Actor | None = None, pin: bool = True
    ) -> Accepted:
        """Correct fields of the object: recorded with who, why, before and after.

        With `pin`, a write of the running visit to the same fields becomes an incident instead of
        overwriting the correction (SEMANTICS B9).
        """
        who = actor or self.actor
        ref = self.ref(address)
        code = self.codes.get(ref.workflow)
        _stated("correct", reason)

        def judge(locked: Locked) -> Repair:
            patch = self._valid_patch(code, locked.state, fields)
            key_field = code.workflow.key_field if code is not None else ""
            return repairs.correct(locked.state, patch, who, reason, pin=pin, key_field=key_field)

        return await self._repair(address, judge, who)

    def _valid_patch(self, code: WorkflowCode | None, state: CaseState, fields: Mapping[str, Json]) -> dict[str, Json]:
        check_json(dict(fields), what=f"correction of {state.address}")
        if code is None:
            unknown = [name for name in fields if name not in state.object]
            if unknown:
                raise InvalidInput(f"{state.address}: unknown field {', '.join(unknown)}", reason="does_not_fit")
            return dict(fields)
        codec = codec_for(code.workflow.object)
        what = f"correction of {state.address}"
        whole = codec.encode(codec.decode({**state.object, **fields}, what), what)
        return {name: whole[name] for name in fields}

    async def retry(
        self, address: str, *, incident: str | None = None, reason: str = "", actor: Actor | None = None
    ) -> Accepted:
        """Try the incident's call again with fresh attempts under the same key, or its input once more."""
        who = actor or self.actor
        return await self._repair(
            address, lambda locked: repairs.retry(locked.state, incident, who, reason, locked.now), who
        )

    async def skip(
        self, address: str, *, incident: str | None = None, reason: str | None = None, actor: Actor | None = None
    ) -> Accepted:
        """Go on without the incident's call, where its result may be None."""
        why = "" if reason is None else _stated("skip", reason)
        who = actor or self.actor
        code = self.codes.get(self.ref(address).workflow)
        return await self._repair(address, lambda locked: repairs.skip(locked.state, incident, who, why, code), who)

    async def set_result(
        self,
        address: str,
        result: Json,
        *,
        incident: str | None = None,
        reason: str | None = None,
        actor: Actor | None = None,
    ) -> Accepted:
        """Supply the result of the incident's call."""
        why = "" if reason is None else _stated("set-result", reason)
        check_json(result, what="result")
        who = actor or self.actor
        code = self.codes.get(self.ref(address).workflow)
        return await self._repair(
            address, lambda locked: repairs.set_result(locked.state, incident, result, who, why, code), who
        )

    async def move(self, address: str, stage: Stage[Any] | str, *, reason: str, actor: Actor | None = None) -> Accepted:
        """Move a case to another stage; its visit ends, nothing is undone."""
        _stated("move", reason)
        who = actor or self.actor
        name = stage if isinstance(stage, str) else stage.name
        code = self.codes.get(self.ref(address).workflow)
        earlier = await self._last_visit_of(address, name)
        return await self._repair(
            address, lambda locked: repairs.move(locked.state, name, who, reason, code, earlier), who
        )

    async def _last_visit_of(self, address: str, stage: str) -> list[Event]:
        """Return the events of the case's latest visit of a stage, if there was one."""
        row = await self.row(address)
        events = await self.store.events(row.case_no)
        visits = [event.visit for event in events if event.type == "stage_entered" and event.data["stage"] == stage]
        return [event for event in events if visits and event.visit == visits[-1]]

    async def restart(self, address: str, *, reason: str, actor: Actor | None = None) -> Accepted:
        """Begin the current visit anew, reusing what its calls have already returned."""
        _stated("restart", reason)
        who = actor or self.actor
        code = self.codes.get(self.ref(address).workflow)
        row = await self.row(address)
        events = await self.store.events(row.case_no, visit=row.state.visit)

        def judge(locked: Locked) -> Repair:
            if locked.state.visit != row.state.visit or locked.state.seen_seq != row.state.seen_seq:
                raise UsageError(f"{address} has moved meanwhile", hint=f"longcase show {address}, then again")
            return repairs.restart(locked.state, events, who, reason, code)

        return await self._repair(address, judge, who)

    async def cancel(self, address: str, *, reason: str, actor: Actor | None = None) -> Accepted:
        """Cancel a case by its cancel path."""
        _stated("cancel", reason)
        who = actor or self.actor
        return await self._repair(address, lambda locked: repairs.cancel(locked.state, who, reason), who)

    async def _repair(self, address: str, judge: Callable[[Locked], Repair], who: Actor) -> Accepted:
        def decide(locked: Locked) -> Edit[Accepted]:
            repair = judge(locked)
            inputs = [
                Input(
                    f"repair-{locked.state.seq}-{position}", kind, data, who.name, who.channel, on_behalf=who.on_behalf
                )
                for position, (kind, data) in enumerate(repair.inputs)
            ]
            return Edit(Accepted(address, did=repair.did), repair.events, inputs, wake=True)

        return await self._edit(self.ref(address), decide)

    async def _edit(
        self, ref: CaseRef, decide: Callable[[Locked], Edit[Accepted]], dedup: DedupKey | None = None
    ) -> Accepted:
        touched: list[int] = []

        def noting(locked: Locked) -> Edit[Accepted]:
            touched[:] = [locked.case_no]
            return decide(locked)

        answer = await self.store.edit(ref, noting, dedup)
        for case_no in touched:
            self._changed(case_no)
        return answer

    def _record(self, kind: str, data: dict[str, Json], who: Actor, state: CaseState) -> Event:
        return Event(kind, data, state.visit, actor=who.name, channel=who.channel, on_behalf=who.on_behalf)

    # -- asking -----------------------------------------------------------------------------------------

    async def show(self, address: str) -> CaseView:
        """Return what one screen says of a case."""
        row = await self.row(address)
        exits = await queries.next_steps(self.store, row.state)
        found = await queries.with_children(self.store, row.state, waits(row.state) or not_taken_up(row.state))
        return CaseView(row.state.address, row.case_no, row.state, found, row.pending, row.lease, row.wake_at, exits)

    async def cases(self, which: queries.Which) -> Sequence[dict[str, Any]]:
        """Return cases as one line each says of them, oldest first; one more than asked for if there are more."""
        if which.workflow:
            await queries.check_workflow(self.store, self.tenant, which.workflow, self.codes)
        return await queries.list_cases(self.store, self.tenant, which)

    async def tasks(self, *, of: str = "", limit: int = 200, address: str = "") -> Sequence[dict[str, Any]]:
        """Return open tasks of all cases, or of one, the earliest expected first."""
        case_no = (await self.row(address)).case_no if address else 0
        return await queries.list_tasks(self.store, self.tenant, of=of, limit=limit, case_no=case_no)

    async def history(self, address: str, *, after: int = 0, limit: int | None = None) -> list[Event]:
        """Return a case's events in order."""
        row = await self.row(address)
        return await self.store.events(row.case_no, after=after, limit=limit)

    async def query(self, sql: str, parameters: Mapping[str, Any] | Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Read from the documented views."""
        return await self.store.query(sql, parameters)


def _encoded(codec: Codec, body: BaseModel | Mapping[str, Json], what: str) -> Json:
    """Return a body as it is stored: typed, and storable whatever the type lets pass (NUL, 2^63, NaN)."""
    if isinstance(body, BaseModel):
        return check_json(codec.encode(body, what), what=what)
    return codec.encode(codec.decode(check_json(dict(body), what=what), what), what)


def _stated(command: str, reason: str) -> str:
    """Return the reason of a repair; whoever reads the history later has nothing else to go by."""
    if not reason.strip():
        raise UsageError(f"{command} was given an empty reason", hint="--reason 'agreed with the customer by phone'")
    return reason
