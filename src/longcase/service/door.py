"""The frame of the door: how a case is addressed, and how something is written to it under its row's lock.

The door's parts stand on it: `answering` (people's answers), `mending` (corrections and repairs), and
`service`, which is all of them with starts, signals and questions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any, Final, cast

from longcase.engine.code import WorkflowCode
from longcase.engine.tasks import Actor
from longcase.env import Env
from longcase.errors import CaseNotFound, UsageError, WorkflowNotFound
from longcase.history.event import Event
from longcase.history.state import CaseState, Task, blocked
from longcase.history.waits import Wait
from longcase.model.codec import Json
from longcase.model.names import MAIN_TENANT, check_key, check_name, check_person, of_tenant, printable
from longcase.model.strict_json import check_json
from longcase.nearest import nearest
from longcase.record import record
from longcase.service.queries import check_workflow
from longcase.service.retention import tombstone
from longcase.store.port import Store
from longcase.store.records import CaseRef, CaseRow, DedupKey, Edit, Locked, NewCase, Started


@record
class Receipt:
    """The answer to a start. `differs` names the fields in which an existing case's object differs."""

    address: str
    case_no: int
    existing: bool
    status: str
    differs: tuple[str, ...] = ()


@record
class Accepted:
    """The answer to a signal, a decision or a repair. `duplicate` means it had been accepted before."""

    address: str
    duplicate: bool = False
    did: str = ""
    remaining: int = 0  # equal answers still needed


@record
class TaskView:
    """A task as its candidates see it."""

    address: str
    ref: str
    task: Task


@record
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
    unmoved: str = ""  # why no living worker moves it, where it waits for one
    untaken: Mapping[str, str] = field(default_factory=dict)  # queues from which no living worker takes its calls: why

    @property
    def unserved(self) -> bool:
        """Whether it waits for a worker, and none that lives will move it."""
        return bool(self.unmoved)

    @property
    def blocked(self) -> bool:
        return blocked(self.state)


REASON_LIMIT: Final = 2_000  # characters


def checked_reason(reason: object) -> str:
    """Return a reason that may be kept."""
    if not isinstance(reason, str):
        raise UsageError(
            f"{printable(reason)} is given as the reason, expected a text", hint='reason="agreed by phone"'
        )
    if len(reason) > REASON_LIMIT:
        told = f"a reason of {len(reason):,} characters, expected at most {REASON_LIMIT:,}"
        raise UsageError(told, hint="put the rest into the object")
    check_json(reason, what="reason")
    return reason


def checked_name(given: object, kind: type, what: str, known: Iterable[str]) -> str:
    """Return the name of a declared thing that is given itself or by name."""
    if isinstance(given, str):
        return given
    if isinstance(given, kind):
        return str(cast(Any, given).name)
    raise UsageError(
        f"{printable(given)} is given as the {what}, expected a {what} or its name",
        hint=f"one of {', '.join(known)}" if known else "Longcase([onboarding])",
    )


def checked_actor(actor: Actor | None) -> Actor | None:
    """Return who acts, if anybody is named.

    Raises:
        UsageError: it is a bare name, or one that cannot be read.
    """
    if actor is not None and not isinstance(actor, Actor):
        raise UsageError(
            f"{printable(actor)} is given as the actor, expected an Actor", hint='actor=Actor("person:anna.visser")'
        )
    if actor is None:
        return None
    name, on_behalf = check_person(actor.name), actor.on_behalf and check_person(actor.on_behalf)
    return actor if (name, on_behalf) == (actor.name, actor.on_behalf) else Actor(name, actor.channel, on_behalf)


def same_case(row: CaseRow) -> CaseRef:
    """Return the reference of just the case that was read; its address may name another one by now."""
    state = row.state
    return CaseRef(row.case_no, state.workflow, state.key, state.tenant)


class Door:
    """A store, and who comes to it."""

    def __init__(
        self,
        store: Store,
        env: Env,
        codes: Mapping[str, WorkflowCode],
        *,
        tenant: str = MAIN_TENANT,
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

    def ref(self, address: str) -> CaseRef:
        """Return the reference of `workflow/key`: the live case of that key, else the newest."""
        workflow, slash, key = address.partition("/") if isinstance(address, str) else ("", "", "")
        if not slash:
            raise UsageError(
                f"{address!r} addresses no case, expected workflow/key", hint="longcase list  # has the addresses"
            )
        check_name(workflow, "workflow")
        return CaseRef(0, workflow, check_key(key), self.tenant)

    def loaded(self, workflow: str) -> WorkflowCode:
        """Return the workflow's code.

        Raises:
            WorkflowNotFound: it is not loaded here; those that are stand in the hint.
        """
        code = self.codes.get(workflow)
        if code is None:
            near = nearest(workflow, self.codes)
            others = f"loaded: {', '.join(self.codes) or 'none'}; name its module with --app"
            raise WorkflowNotFound(
                f"workflow {workflow} is not loaded", hint=f"did you mean {near[0]}?" if near else others
            )
        return code

    async def row(self, address: str) -> CaseRow:
        """Return the row of a case, or raise CaseNotFound."""
        row = await self.store.load(self.ref(address))
        if row is None:
            if gone := await tombstone(self.store, self.ref(address)):
                raise gone
            workflow = address.partition("/")[0]
            await check_workflow(self.store, self.tenant, workflow, self.codes)
            raise CaseNotFound(
                f"no case {address}{of_tenant(self.tenant)}", hint=f"longcase list --workflow {workflow}"
            )
        return row

    def _who(self, actor: Actor | None) -> Actor:
        """Return who acts: the one that a call names, else the one this door was opened for."""
        return checked_actor(actor) or self.actor

    def _changed(self, case_no: int) -> None:
        if self.on_change is not None:
            self.on_change(case_no)

    async def _edit(
        self, ref: CaseRef, decide: Callable[[Locked], Edit[Accepted]], dedup: DedupKey | None = None
    ) -> Accepted:
        touched: list[int] = []

        def noting(locked: Locked) -> Edit[Accepted]:
            touched[:] = [locked.case_no]
            return decide(locked)

        try:
            answer = await self.store.edit(ref, noting, dedup)
        except CaseNotFound as error:
            raise await tombstone(self.store, ref) or error from None
        for case_no in touched:
            self._changed(case_no)
        return answer

    def _record(self, kind: str, data: dict[str, Json], who: Actor, state: CaseState) -> Event:
        return Event(kind, data, state.visit, actor=who.name, channel=who.channel, on_behalf=who.on_behalf)
