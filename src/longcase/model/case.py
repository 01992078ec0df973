"""The case as a stage sees it: the typed face over a Host. It holds no state of its own."""

from __future__ import annotations

import asyncio
import builtins
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from random import Random
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, Protocol, TypeVar, cast
from uuid import UUID

import pydantic
from pydantic import BaseModel

from longcase.errors import InvalidInput, UsageError
from longcase.model.codec import Json, codec_for, invalid
from longcase.model.exits import Again
from longcase.model.host import Host, RequireRequest, TaskRequest
from longcase.model.ladder import Ladder, escalations
from longcase.model.names import check_key
from longcase.model.people import Owner
from longcase.model.selector import selected_field
from longcase.model.span import Span

if TYPE_CHECKING:
    from longcase.model.decision import Decision, Ruled
    from longcase.model.signal import Signal

O = TypeVar("O", bound=BaseModel)  # noqa: E741 - the business object, as in the design
O_co = TypeVar("O_co", bound=BaseModel, covariant=True)
C = TypeVar("C", bound=BaseModel)
E = TypeVar("E", bound=StrEnum)
M = TypeVar("M", bound=BaseModel)
S = TypeVar("S", bound=BaseModel)
T = TypeVar("T")
P = ParamSpec("P")
A = TypeVar("A", bound=str)
A_co = TypeVar("A_co", bound=str, covariant=True)

Verdict = Literal["approved", "rejected", "returned"]
VERDICTS: tuple[str, ...] = ("approved", "rejected", "returned")
OnClose = Literal["cancel", "leave", "refuse"]


class Named(Protocol):
    """A stage, as far as a case names it."""

    @property
    def name(self) -> str: ...


class CaseDefinition(Protocol[O_co]):
    """A workflow, as far as a case needs it: `Workflow` is one."""

    @property
    def name(self) -> str: ...
    @property
    def object(self) -> type[O_co]: ...
    @property
    def key_field(self) -> str: ...


class Approval(Generic[A_co]):
    """The outcome of a task with a closed answer set: `answer`, `reason`, `by`, `expired`."""

    __slots__ = ("_answer", "by", "expired", "reason")

    def __init__(self, answer: A_co, reason: str, by: tuple[str, ...], expired: bool) -> None:
        self._answer = answer
        self.reason = reason
        self.by = by
        self.expired = expired

    @property
    def answer(self) -> A_co:
        """What was decided, typed as the answers that were offered."""
        return self._answer


class Closed:
    """How a child case ended: the name of its close, its result and the reason given."""

    __slots__ = ("key", "name", "reason", "result")

    def __init__(self, key: str, name: str, result: Json, reason: str) -> None:
        self.key = key
        self.name = name
        self.result = result
        self.reason = reason


class Case(Generic[O]):
    """One running case, as its stages see it. Every await here becomes a stored wait."""

    def __init__(self, host: Host, workflow: CaseDefinition[O]) -> None:
        self._host = host
        self._workflow = workflow
        self._shown: tuple[Json, O] | None = None

    # -- what is known ---------------------------------------------------------------------------

    @property
    def key(self) -> str:
        """The business key."""
        return self._host.key()

    @property
    def visit(self) -> int:
        """The number of this stay in a stage, counted over the case from 1."""
        return self._host.visit()

    @property
    def object(self) -> O:
        """The business object as it is now: an immutable value; write with `change()` or `update()`."""
        data = self._host.object()
        if self._shown is None or self._shown[0] is not data:
            self._shown = (data, codec_for(read_only(self._workflow.object)).decode(data, f"object of {self.key}"))
        return self._shown[1]

    def now(self) -> datetime:
        """The instant of the input being applied: UTC, frozen until the next input (SEMANTICS A10)."""
        return self._host.now()

    def random(self) -> Random:
        """A generator seeded by the case and the visit: the same draws on replay."""
        return self._host.random()

    def uuid(self) -> UUID:
        """A new UUID, the same on replay."""
        return self._host.uuid()

    def log(self, message: str, **fields: Any) -> None:
        """Write to the worker's log; silent on replay and not part of the history."""
        self._host.log(message, fields)

    # -- changing the object -----------------------------------------------------------------------

    def change(self) -> AbstractContextManager[O]:
        """Edit the object: `with case.change() as client: client.rating = "A"`.

        On leaving, the whole is validated and the changed fields are recorded as one patch.
        """
        return self._change()

    @contextmanager
    def _change(self) -> Iterator[O]:
        model = self._workflow.object
        before = self._host.object()
        codec = codec_for(model)
        draft = codec.decode(before, f"object of {self.key}")
        yield draft
        self._record(before, draft)

    def update(self, **fields: Any) -> None:
        """Set fields of the object: `case.update(rating="A")`; names are checked by `longcase check`."""
        model = self._workflow.object
        unknown = [name for name in fields if name not in model.model_fields]
        if unknown:
            raise UsageError(
                f"{model.__name__} has no field {', '.join(unknown)}",
                hint=f"its fields are {', '.join(model.model_fields)}",
            )
        before = self._host.object()
        draft = codec_for(model).decode(before, f"object of {self.key}")
        for name, value in fields.items():
            setattr(draft, name, value)
        self._record(before, draft)

    def _record(self, before: Json, draft: O) -> None:
        model = self._workflow.object
        try:
            # Assignment is not validated by pydantic's default; the draft is validated as a whole here.
            valid = model.model_validate({name: getattr(draft, name) for name in model.model_fields}, strict=True)
        except pydantic.ValidationError as error:
            raise invalid(error, f"change of {self.key}") from None
        after = codec_for(model).encode(valid, f"change of {self.key}")
        patch = {name: value for name, value in after.items() if name not in before or before[name] != value}
        if patch:
            if self._workflow.key_field in patch:
                raise UsageError(
                    f"change of {self.key}: the key field {self._workflow.key_field} cannot change",
                    hint="start a new case",
                )
            self._host.change(patch)

    # -- waiting -----------------------------------------------------------------------------------

    async def require(
        self,
        field: Callable[[O], T | None],
        *,
        asked_of: Owner,
        within: Span,
        remind: Span | None = None,
        escalate: Ladder = (),
    ) -> T:
        """Wait until a field of the object has a value, and return it.

        Args:
            field: `lambda client: client.legal_entity`; nothing but attribute access.
            asked_of: whose move it is.
            within: when the wait is expected to end; then it is overdue, climbs its ladder, goes on.
            remind: how often they are reminded until then.
            escalate: levels as `(span, owner)`.
        """
        path = selected_field(field)
        request = RequireRequest(path, asked_of, within, remind, escalations(escalate))
        await self._host.require(request)
        return cast(T, field(self.object))

    async def approval(
        self,
        question: str,
        *,
        of: Owner,
        label: str | None = None,
        shows: BaseModel | Sequence[Callable[[O], Any]] | None = None,
        also_shows: dict[str, Any] | None = None,
        quorum: int = 1,
        within: Span | None = None,
        remind: Span | None = None,
        escalate: Ladder = (),
        expires: tuple[Span, Verdict] | None = None,
    ) -> Approval[Verdict]:
        """Ask people to approve, reject or return; answers are bound to a digest of what is shown.

        The first rejection or return decides; an approval needs `quorum` distinct people. Who has
        answered may answer otherwise until it is decided. Only a change of what is shown makes given
        answers stale (SEMANTICS A11).

        Args:
            question: as a person reads it.
            of: the candidates, whose move it is.
            label: the stable name of this place on the map, whatever the question's wording.
            shows: `case.object` for all fields, or selectors like `[lambda c: c.amount]`.
            also_shows: constants recorded as asked.
            quorum: how many distinct people must approve.
            within, remind, escalate: as in `require`.
            expires: `(span, answer)`: the answer that stands when nobody decides in time.
        """
        outcome = await self._ask(
            "approval", question, of, label, shows, also_shows, VERDICTS, quorum, within, remind, escalate, expires
        )
        return _approval(outcome, cast(Verdict, outcome["answer"]))

    async def choice(
        self,
        question: str,
        *,
        answers: type[E],
        of: Owner,
        label: str | None = None,
        shows: BaseModel | Sequence[Callable[[O], Any]] | None = None,
        also_shows: dict[str, Any] | None = None,
        quorum: int = 1,
        within: Span | None = None,
        remind: Span | None = None,
        escalate: Ladder = (),
        expires: tuple[Span, E] | None = None,
    ) -> Approval[E]:
        """Ask people to choose among the members of a StrEnum; `quorum` equal answers decide.

        Where people disagree, the wait says how their answers stand, and each may answer otherwise.
        """
        values = tuple(str(member.value) for member in answers)
        lapse = (expires[0], str(expires[1].value)) if expires else None
        outcome = await self._ask(
            "choice", question, of, label, shows, also_shows, values, quorum, within, remind, escalate, lapse
        )
        return _approval(outcome, answers(outcome["answer"]))

    async def ask(
        self,
        question: str,
        *,
        answer: type[M],
        of: Owner,
        within: Span,
        label: str | None = None,
        shows: BaseModel | Sequence[Callable[[O], Any]] | None = None,
        also_shows: dict[str, Any] | None = None,
        remind: Span | None = None,
        escalate: Ladder = (),
    ) -> M:
        """Ask a person to fill in a form made from a model, and return the filled model."""
        codec = codec_for(answer)
        request = TaskRequest(
            "task", question, label, of, (), codec.schema(), self._fields_shown(shows), dict(also_shows or {}),
            1, within, remind, escalations(escalate), None,
        )  # fmt: skip
        outcome = await self._host.ask(request)
        try:
            return cast(M, codec.decode(outcome["answer"], f'answer to "{question}"'))
        except InvalidInput as error:  # what the form's schema does not say, a validator of its author does
            case = f"{self._workflow.name}/{self.key}"
            anew = f"longcase restart {case} --reason 'the answer does not fit'  # asks anew"
            raise InvalidInput(error.message, problems=error.problems, reason=error.reason, hint=anew) from error

    async def _ask(
        self,
        kind: Literal["approval", "choice"],
        question: str,
        of: Owner,
        label: str | None,
        shows: BaseModel | Sequence[Callable[[O], Any]] | None,
        also_shows: dict[str, Any] | None,
        answers: tuple[str, ...],
        quorum: int,
        within: Span | None,
        remind: Span | None,
        escalate: Ladder,
        expires: tuple[Span, str] | None,
    ) -> Any:
        if quorum < 1:
            raise UsageError(f'"{question}": quorum={quorum}, expected at least 1', hint="quorum=1")
        request = TaskRequest(
            kind, question, label, of, answers, None, self._fields_shown(shows), dict(also_shows or {}),
            quorum, within, remind, escalations(escalate), expires,
        )  # fmt: skip
        return await self._host.ask(request)

    def _fields_shown(self, shows: BaseModel | Sequence[Callable[[O], Any]] | None) -> tuple[str, ...] | None:
        if shows is None:
            return None
        if isinstance(shows, BaseModel):
            if not isinstance(shows, self._workflow.object):
                raise UsageError(
                    f"shows={type(shows).__name__}: only the case's object can be shown whole",
                    hint="shows=case.object, or also_shows={...} for other values",
                )
            return tuple(self._workflow.object.model_fields)
        return tuple(selected_field(selector) for selector in shows)

    async def receive(self, signal: Signal[S], *, within: Span | None = None, label: str | None = None) -> S:
        """Wait for a signal and return its body; early ones are kept and come first, in order.

        Args:
            within: when it is expected; then the wait is overdue, and goes on.
        """
        return cast(S, signal.codec.decode(await self._host.receive(signal, within, label), f"signal {signal.name}"))

    async def pause(self, span: Span, *, because: str, label: str | None = None) -> None:
        """Wait for a length of time, with the reason on the record."""
        await self._host.pause(span, because, label)

    async def child(
        self,
        workflow: CaseDefinition[C],
        body: C,
        *,
        within: Span | None = None,
        on_close: OnClose = "cancel",
        label: str | None = None,
    ) -> Closed:
        """Start a case of another workflow and wait until it closes; returns how it closed."""
        data = self._child_body(workflow, body)
        outcome = await self._host.child(workflow, data, within, on_close, label)
        return Closed(outcome["key"], outcome["name"], outcome.get("result"), outcome.get("reason") or "")

    def spawn(
        self, workflow: CaseDefinition[C], body: C, *, on_close: OnClose = "leave", label: str | None = None
    ) -> str:
        """Start a case of another workflow without waiting; returns its business key."""
        data = self._child_body(workflow, body)
        return self._host.spawn(workflow, data, on_close, label)

    def _child_body(self, workflow: CaseDefinition[C], body: C) -> Json:
        """Return a child's object as stored; its key is looked at here, where the code that made it is named."""
        what = f"child of {self.key}"
        data = codec_for(workflow.object).encode(body, what)
        try:
            check_key(data[workflow.key_field])
        except UsageError as error:
            told = f"{what}, a case of {workflow.name}: {workflow.key_field}: {error.message}"
            raise InvalidInput(told, hint=error.hint, reason="key") from None
        return data

    async def undo(self, since: Named | None = None) -> None:
        """Undo what the case did, newest command first, after settling every call (SEMANTICS A4, B12).

        Args:
            since: only what was commanded since the last entry of that stage.
        """
        await self._host.undo(since)

    async def as_completed(self, awaitables: Sequence[Awaitable[T]]) -> AsyncIterator[T]:
        """Yield results as they come, in an order that replays (asyncio.as_completed does not)."""
        pending = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in pending if task in done]:
                pending.remove(task)
                yield await task

    # -- deciding and leaving ------------------------------------------------------------------------

    def rule_again(self, decision: Decision[P, A], *args: P.args, **kwargs: P.kwargs) -> Ruled[A]:
        """Rule anew under the policy in force now, and record it beside the earlier ruling."""
        return decision.rule_again(args, kwargs)

    def again(self) -> Again:
        """Return this to begin a fresh visit of the same stage, counted as continuation (SEMANTICS B20)."""
        return Again()


def _approval(outcome: Any, answer: A) -> Approval[A]:
    return Approval(answer, outcome.get("reason") or "", tuple(outcome.get("by") or ()), bool(outcome.get("expired")))


@lru_cache(maxsize=256)
def read_only(model: type[O]) -> type[O]:
    """Return a subclass whose instances refuse assignment, so that a lost write is an error instead."""

    def refuse(self: BaseModel, name: str, value: Any) -> typing.NoReturn:
        raise UsageError(
            f"case.object is read-only: {model.__name__}.{name} was assigned",
            hint=f"with case.change() as draft:\n    draft.{name} = ...",
        )

    def equal(self: BaseModel, other: builtins.object) -> bool:
        return isinstance(other, model) and {n: getattr(self, n) for n in model.model_fields} == {
            n: getattr(other, n) for n in model.model_fields
        }

    namespace = {
        "__module__": model.__module__,
        "__qualname__": model.__qualname__,
        "__doc__": model.__doc__,
        "__setattr__": refuse,
        "__eq__": equal,
        "__hash__": None,
    }
    metaclass: Any = type(model)
    return cast(type[O], metaclass(model.__name__, (model,), namespace))
