"""Workflows: the business object, its stages, exits, signals and exception paths, declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Concatenate, Generic, Literal, ParamSpec, TypeVar, overload

from pydantic import BaseModel

from longcase.errors import DefinitionError
from longcase.model.case import Case, O
from longcase.model.codec import Codec, Json, codec_for
from longcase.model.exits import Again, Close
from longcase.model.expected import check_kind, check_span, check_text_key
from longcase.model.host import current_host
from longcase.model.names import check_name
from longcase.model.people import Owner
from longcase.model.signal import Signal
from longcase.model.span import Span
from longcase.record import record

S = TypeVar("S", bound=BaseModel)
P = ParamSpec("P")
R = TypeVar("R")


StageFn = Callable[[Case[O]], Coroutine[Any, Any, "Stage[O] | Close | Again"]]


class Stage(Generic[O]):
    """A named step of the value stream: a durable coroutine; the explicit state of a case."""

    def __init__(
        self,
        workflow: Workflow[O],
        fn: Callable[..., Coroutine[Any, Any, Any]],
        *,
        name: str | None,
        was: tuple[str, ...],
        owner: Owner | None,
        expect: Span | None,
        kind: Literal["stage", "path"],
    ) -> None:
        self.workflow = workflow
        self.fn = fn
        self.name = check_name(name or fn.__name__, "stage")
        self.was = was
        self.own_owner = owner
        self.expect = expect
        self.kind = kind
        if not inspect.iscoroutinefunction(fn):
            raise DefinitionError(
                f"{kind} {self.name} of {workflow.name}: declared def, a stage is a coroutine",
                hint=f"async def {self.name}(case: Case[{workflow.object.__name__}]) -> Next: ...",
            )
        what = f"{kind} {self.name} of {workflow.name}"
        if expect is not None:
            check_span(what, "expect", expect, "days", business=True)
        check_kind(what, "owner", owner, Owner, "a Team", 'owner=Team("client-desk")')
        self.__doc__ = fn.__doc__
        self.__module__ = fn.__module__
        self.__wrapped__ = fn

    @property
    def owner(self) -> Owner:
        """Who is accountable while a case is here: the stage's owner, else the workflow's."""
        return self.own_owner or self.workflow.owner

    def __repr__(self) -> str:
        return f"<{self.kind} {self.workflow.name}/{self.name}>"


Next = Stage[Any] | Close | Again


@record
class ExceptionPath(Generic[O]):
    """A modelled reaction to a signal, or to `cancel`, that interrupts the stages it covers."""

    signal: Signal[Any] | None  # None: the reaction to `cancel`
    stage: Stage[O]
    during: tuple[Stage[O], ...]


_Handler = Callable[[Case[O], S], Coroutine[Any, Any, "Stage[O] | Close | Again"]]


class Workflow(Generic[O]):
    """A workflow definition.

    Args:
        name: how it is known (`[A-Za-z0-9._:-]`, 1 to 128); part of every case's address.
        object: the business object, a pydantic model.
        key: the field of the object that is the business key.
        owner: who is accountable where a stage names nobody.
        expect: how long a case is expected to take.
        was: earlier names, so that open cases find it after a renaming.
    """

    def __init__(
        self, name: str, *, object: type[O], key: str, owner: Owner, expect: Span, was: tuple[str, ...] = ()
    ) -> None:
        self.name = check_name(name, "workflow")
        self.object = object
        self.key_field = key
        self.owner = owner
        self.expect = expect
        self.was = was
        self.stages: dict[str, Stage[O]] = {}
        self.paths: dict[str, ExceptionPath[O]] = {}  # by signal name; "" is the reaction to cancel
        self.signals: dict[str, Signal[Any]] = {}
        self.parts: dict[str, Part[O, ..., Any]] = {}
        self.module = inspect.currentframe().f_back.f_globals.get("__name__", "")  # type: ignore[union-attr]
        if not isinstance(object, type) or not issubclass(object, BaseModel):
            raise DefinitionError(
                f"workflow {name}: object={object!r}, expected a pydantic model class",
                hint="class Client(BaseModel): ...",
            )
        if key not in object.model_fields:
            raise DefinitionError(
                f"workflow {name}: {object.__name__} has no field {key!r} to be the key",
                hint=f"key={next(iter(object.model_fields), 'id')!r}",
            )
        if not isinstance(owner, Owner):
            raise DefinitionError(
                f"workflow {name}: owner is {owner!r}, expected a Team", hint='owner=Team("client-desk")'
            )
        check_text_key(f"workflow {name}", object, key)
        if expect is not None:  # without one, `longcase check` has a finding
            check_span(f"workflow {name}", "expect", expect, "days", business=True)

    @property
    def codec(self) -> Codec:
        """The codec of the business object."""
        return codec_for(self.object)

    @property
    def entry(self) -> Stage[O]:
        """The first stage: the one declared first."""
        for stage in self.stages.values():
            return stage
        raise DefinitionError(f"workflow {self.name} has no stage", hint=f"@{self.name.replace('-', '_')}.stage")

    @overload
    def stage(self, fn: StageFn[O], /) -> Stage[O]: ...
    @overload
    def stage(
        self,
        *,
        owner: Owner | None = None,
        expect: Span | None = None,
        name: str | None = None,
        was: tuple[str, ...] = (),
    ) -> Callable[[StageFn[O]], Stage[O]]: ...
    def stage(
        self,
        fn: StageFn[O] | None = None,
        *,
        owner: Owner | None = None,
        expect: Span | None = None,
        name: str | None = None,
        was: tuple[str, ...] = (),
    ) -> Stage[O] | Callable[[StageFn[O]], Stage[O]]:
        """Declare a stage; the first one declared is where cases start.

        A stage returns, lexically, another stage of the workflow, `workflow.close("name")`, or
        `case.again()`.
        """

        def declare(fn: StageFn[O]) -> Stage[O]:
            stage = Stage(self, fn, name=name, was=was, owner=owner, expect=expect, kind="stage")
            self._check_free(stage.name)
            self.stages[stage.name] = stage
            return stage

        return declare(fn) if fn is not None else declare

    def on(
        self,
        signal: Signal[S],
        *,
        during: Sequence[Stage[O]] = (),
        owner: Owner | None = None,
        expect: Span | None = None,
        name: str | None = None,
    ) -> Callable[[_Handler[O, S]], Stage[O]]:
        """Declare an exception path: what happens when `signal` comes, at any await of the stages it covers.

        Args:
            during: the stages covered; all of them if empty.
        """

        def declare(fn: _Handler[O, S]) -> Stage[O]:
            stage = Stage(self, fn, name=name, was=(), owner=owner, expect=expect, kind="path")
            self._check_free(stage.name)
            if signal.workflow != self.name:
                raise DefinitionError(
                    f"{stage.name}: signal {signal.name} belongs to {signal.workflow}, not {self.name}",
                    hint=f'make the signal with {self.name.replace("-", "_")}.signal("{signal.name}", ...)',
                )
            if signal.name in self.paths:
                raise DefinitionError(
                    f"{self.name}: two exception paths on signal {signal.name}", hint="keep one, and branch inside it"
                )
            self.paths[signal.name] = ExceptionPath(signal, stage, tuple(during))
            return stage

        return declare

    def on_cancel(
        self, *, owner: Owner | None = None, expect: Span | None = None, name: str | None = None
    ) -> Callable[[StageFn[O]], Stage[O]]:
        """Declare what happens when somebody cancels a case; without it: undo, then close "cancelled"."""

        def declare(fn: StageFn[O]) -> Stage[O]:
            stage = Stage(self, fn, name=name, was=(), owner=owner, expect=expect, kind="path")
            self._check_free(stage.name)
            self.paths[""] = ExceptionPath(None, stage, ())
            return stage

        return declare

    def signal(self, name: str, body: type[S], *, owner: Owner | None = None) -> Signal[S]:
        """Declare a signal; its owner gets what cannot be delivered."""
        check_name(name, "signal")
        if not isinstance(body, type) or not issubclass(body, BaseModel):
            raise DefinitionError(
                f"signal {name} of {self.name}: its body is {body!r}, expected a pydantic model class",
                hint="class Paid(BaseModel): ...",
            )
        check_kind(f"signal {name} of {self.name}", "owner", owner, Owner, "a Team", 'owner=Team("client-desk")')
        if name in self.signals:
            raise DefinitionError(f"{self.name}: two signals named {name}", hint="give one of them another name")
        signal = Signal(self.name, name, body, owner or self.owner)
        self.signals[name] = signal
        return signal

    def part(self, fn: Callable[Concatenate[Case[O], P], Coroutine[Any, Any, R]]) -> Part[O, P, R]:
        """Declare a helper coroutine that awaits durable work: it becomes a place of its own on the map."""
        part = Part(fn)
        if part.name in self.parts:
            raise DefinitionError(f"{self.name}: two parts named {part.name}", hint="rename one of them")
        self.parts[part.name] = part
        return part

    def close(self, name: str, *, result: Json = None, reason: str = "", leave: Sequence[str] = ()) -> Close:
        """End the case under a name that stands on the map.

        Args:
            result: JSON-able outcome, shown to whoever asks and returned to a waiting parent.
            reason: why, in words.
            leave: names of activities whose unsettled calls are left as they are (SEMANTICS A4).
        """
        return Close(check_name(name, "close"), result, reason, tuple(leave))

    def declared(self, name: str) -> Stage[O] | None:
        """Return the stage or exception path of that name (or of that earlier name), if any."""
        known = {**self.stages, **{path.stage.name: path.stage for path in self.paths.values()}}
        if name in known:
            return known[name]
        return next((stage for stage in known.values() if name in stage.was), None)

    def _check_free(self, name: str) -> None:
        for taken in [*self.stages, *(path.stage.name for path in self.paths.values())]:
            if taken.casefold() == name.casefold():
                raise DefinitionError(
                    f"{self.name}: two stages named {name}" + ("" if taken == name else f" (and {taken})"),
                    hint="give one of them another name",
                )

    def __repr__(self) -> str:
        return f"<workflow {self.name}>"


class Part(Generic[O, P, R]):
    """A helper coroutine of a workflow; calling it pushes its name on the path of the map's nodes."""

    def __init__(self, fn: Callable[Concatenate[Case[O], P], Coroutine[Any, Any, R]], label: str | None = None) -> None:
        self.fn = fn
        self.name = check_name(fn.__name__, "part")
        self.label = label
        self.__doc__ = fn.__doc__

    async def __call__(self, case: Case[O], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the part inside the calling stage."""
        host = current_host.get()
        leave = host.enter_part(f"{self.name}:{self.label}" if self.label else self.name) if host else None
        try:
            return await self.fn(case, *args, **kwargs)
        finally:
            if leave:
                leave()

    def labelled(self, label: str) -> Part[O, P, R]:
        """Return the same part under its own place on the map, for a second use in one stage."""
        return Part(self.fn, check_name(label, "label"))
