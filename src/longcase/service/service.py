"""Commands and queries over a store, for every face: the Python API, the CLI, later HTTP.

Everything that is accepted is durable when the call returns. A face adds words and colours, never
a rule. Reading never runs user code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from longcase.engine.start import case_started
from longcase.engine.tasks import Actor
from longcase.errors import CaseClosed, InvalidInput, UnknownSignal, UsageError
from longcase.history.event import Event, instant_text
from longcase.history.waits import for_a_worker, waits
from longcase.model.codec import Codec, Json, codec_for, digest
from longcase.model.names import check_idempotency_key, check_key, is_name, printable
from longcase.model.queue import DEFAULT_QUEUE
from longcase.model.signal import Signal
from longcase.model.strict_json import BODY_BYTES, SIGNAL_BYTES, check_json
from longcase.model.workflow import Workflow
from longcase.runtime.queues import declared_queues, limits_of
from longcase.service import known, queries
from longcase.service.answering import Answering
from longcase.service.door import Accepted, CaseView, Receipt, TaskView, checked_name
from longcase.service.fleet import FleetView, fleet, untaken, waiting_in
from longcase.service.mending import Mending
from longcase.store.records import CaseRow, DedupKey, Edit, Input, Locked, NewCase, WorkerRow
from longcase.store.serving import why_unserved

__all__ = ["Accepted", "CaseView", "Receipt", "Service", "TaskView"]


class Service(Answering, Mending):
    """The door. `on_change(case_no)` tells a worker of the same process that a case wants to move."""

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
        name = checked_name(workflow, Workflow, "workflow", self.codes)
        code = self.loaded(name)
        codec = code.workflow.codec
        what = f"object of {name}"
        data = _encoded(codec, body, what, BODY_BYTES)
        check_key(data[code.workflow.key_field])
        started = case_started(
            code.workflow,
            data,
            uid=self.env.new_id(),
            tenant=self.tenant,
            now=self.env.now(),
            actor=self._who(actor),
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
            if not answer.existing and self.starter is None:  # who begins them himself needs not be told
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

        Raises: CaseNotFound; CaseClosed and UnknownSignal (the refusal stands in the case's history);
        InvalidInput; IdempotencyConflict.
        """
        ref = self.ref(address)
        code = self.codes.get(ref.workflow)
        name = checked_name(signal, Signal, "signal", code.workflow.signals if code is not None else ())
        who = self._who(actor)
        declared = self.loaded(ref.workflow).workflow.signals
        if name not in declared:
            return await self._refuse_undeclared(address, name, body, declared, who)
        data = _encoded(declared[name].codec, body, f"signal {name}", SIGNAL_BYTES)
        dedup = None
        if idempotency_key is not None:
            dedup = DedupKey(f"signal:{address}:{name}", check_idempotency_key(idempotency_key), digest([name, data]))
        identity = f"{name}:{idempotency_key}" if idempotency_key is not None else self.env.new_id()

        def closed(close: str) -> CaseClosed:
            return CaseClosed(
                f"{address} is closed: {close}; the signal {name} stands in its history as refused",
                hint=f"longcase history {address}",
            )

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

    async def _refuse_undeclared(
        self, address: str, name: str, body: BaseModel | Mapping[str, Json], declared: Iterable[str], who: Actor
    ) -> Accepted:
        """Refuse a signal, on the record. Its key is free: a release that declares it takes it under that.

        What no workflow can declare a signal as is not kept.
        """
        ref = self.ref(address)
        hint = f"declared: {', '.join(declared) or 'none'}"
        if not is_name(name):
            raise UnknownSignal(f"{ref.workflow} declares no signal {printable(name)}", hint=hint)
        codec = codec_for(type(body) if isinstance(body, BaseModel) else dict)
        kept = _encoded(codec, body, f"signal {name}", SIGNAL_BYTES)
        refused: dict[str, Json] = {
            "signal": name, "body": kept, "sender": who.name, "id": self.env.new_id(), "close": "",
        }  # fmt: skip
        refusal = UnknownSignal(
            f"{ref.workflow} declares no signal {name}; it stands in the history of {address} as refused",
            hint=hint,
        )

        def decide(locked: Locked) -> Edit[Accepted]:
            event = self._record("signal_refused", refused, who, locked.state)
            return Edit(Accepted(address), [event], refusal=refusal)

        return await self._edit(ref, decide)

    # -- asking -----------------------------------------------------------------------------------------

    async def show(self, address: str) -> CaseView:
        """Return what one screen says of a case; nothing is written, and no code of a workflow runs.

        Raises: CaseNotFound; CasePurged, with what is left of it.
        """
        row = await self.row(address)
        state = row.state
        exits = await queries.next_steps(self.store, state)
        found = await queries.with_children(self.store, state, waits(state) or for_a_worker(state))
        due = bool(row.wake_at) and row.wake_at <= instant_text(self.env.now())
        wanted = bool(due or row.pending or row.lease or (found and found[0].kind == "worker"))
        asked = wanted or waiting_in(state)
        living = [worker for worker in await self.store.workers() if worker.alive] if asked else []
        return CaseView(
            state.address, row.case_no, state, found, row.pending, row.lease, row.wake_at, exits,
            self._unmoved(row, living) if wanted else "", await untaken(self.store, row, living),
        )  # fmt: skip

    def _unmoved(self, row: CaseRow, living: Sequence[WorkerRow]) -> str:
        """Return why no living worker moves a case that wants one, or is held by a dead one; "" if one does."""
        if row.lease in {worker.no for worker in living}:
            return ""
        return why_unserved(DEFAULT_QUEUE, row.state.workflow, (), living)

    async def cases(self, which: queries.Which) -> Sequence[dict[str, Any]]:
        """Return cases as one line each says of them, oldest first; one more than asked for if there are more.

        Raises: WorkflowNotFound, NotFoundError: nothing here has that workflow, or that stage.
        """
        if which.workflow:
            await queries.check_workflow(self.store, self.tenant, which.workflow, self.codes)
        rows = await queries.list_cases(self.store, self.tenant, which)
        if which.stage and not rows:
            await known.check_stage(self.store, self.tenant, which.stage, which.workflow, self.codes)
        return rows

    async def strangers(self, *names: str) -> list[str]:
        """Return a sentence for each name, if given, that is neither a team's nor a person's of this store."""
        return await known.strangers(self.store, self.tenant, [name for name in names if name], self.codes)

    async def tasks(self, *, of: str = "", limit: int = 200, address: str = "") -> Sequence[dict[str, Any]]:
        """Return open tasks of all cases, or of one, the earliest expected first."""
        case_no = (await self.row(address)).case_no if address else 0
        return await queries.list_tasks(self.store, self.tenant, of=of, limit=limit, case_no=case_no)

    async def workers(self) -> FleetView:
        """Return who moves cases, of all tenants: the workers, what each runs and holds, and the queues.

        Of calls that wait in a queue it says why nobody takes them. That a queue's own limits are reached is known
        only where the code is loaded that declares them.
        """
        declared = declared_queues(self.codes.values())
        return await fleet(self.store, {name: limits_of(queue) for name, queue in declared.items()})

    async def history(self, address: str, *, after: int = 0, limit: int | None = None) -> list[Event]:
        """Return a case's events in order.

        Args:
            after: only those with a greater `seq`.
            limit: at most so many; all of them if None.
        """
        row = await self.row(address)
        return await self.store.events(row.case_no, after=after, limit=limit)

    async def query(self, sql: str, parameters: Mapping[str, Any] | Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Read from the documented views: of all tenants, unless the SQL says `WHERE tenant = ...`."""
        if isinstance(parameters, str | bytes):
            raise UsageError(
                f"{parameters!r} is given as the parameters, expected a list or a dict of them",
                hint=f"[{parameters!r}]",
            )
        return await self.store.query(sql, parameters)


def _encoded(codec: Codec, body: BaseModel | Mapping[str, Json], what: str, max_bytes: int) -> Json:
    """Return a body as it is stored: typed, and storable whatever the type lets pass (NUL, 2^63, NaN)."""
    if isinstance(body, BaseModel):
        return check_json(codec.encode(body, what), what=what, max_bytes=max_bytes)
    if not isinstance(body, Mapping):
        fields = ", ".join(f'"{name}": ...' for name in codec.schema().get("properties", {}))
        raise InvalidInput(
            f"{what}: expected an object or a dict of its fields, got {printable(body)}",
            reason="not_an_object",
            hint=f"{{{fields}}}",
        )
    return codec.encode(codec.decode(check_json(dict(body), what=what, max_bytes=max_bytes), what), what)
