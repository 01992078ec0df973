"""Workflows: the business object, its stages, exits, signals and exception paths, declared once."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Concatenate, Generic, Literal, ParamSpec, TypeVar, overload

from pydantic import BaseModel

from longcase.errors import DefinitionError
from longcase.model.case import Case, O
from longcase.model.codec import Codec, Json, codec_for
from longcase.model.exits import Again, Close
from longcase.model.expected import check_kind, check_span, check_text_key
from longcase.model.growth import HistoryLimits
from longcase.model.names import check_name, printable
from longcase.model.part import Part
from longcase.model.people import Owner
from longcase.model.signal import Signal
from longcase.model.span import Span
from longcase.nearest import nearest
from longcase.record import record

S = TypeVar("S", bound=BaseModel)
P = ParamSpec("P")
R = TypeVar("R")


DEFAULT_LIMITS = HistoryLimits()

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
        kind: Literal["stage", "path", "handler"],
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
                hint=f"async def {self.name}(case: Case[{workflow.object.__name__}]"
                + (", body) -> None: ..." if kind == "handler" else ") -> Next: ..."),
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


class Handler(Generic[O]):
    """A modelled reaction to a signal that runs beside the stages it covers, and interrupts none (SEMANTICS B8).

    It is no stage: a case is never in it, and no stage returns it. `stage` holds its code, owner and name.
    """

    def __init__(self, signal: Signal[Any], stage: Stage[O], during: tuple[Stage[O], ...]) -> None:
        self.signal = signal
        self.stage = stage
        self.during = during

    def covers(self, stage: Stage[Any]) -> bool:
        """Tell whether it runs while a case is in that stage; in an exception path it never does."""
        return stage.kind == "stage" and (not self.during or stage in self.during)

    def __repr__(self) -> str:
        return f"<handler {self.stage.workflow.name}/{self.stage.name}>"


_Reaction = Callable[[Case[O], S], Coroutine[Any, Any, "Stage[O] | Close | Again"]]
_Beside = Callable[[Case[O], S], Coroutine[Any, Any, None]]


class Workflow(Generic[O]):
    """A workflow definition.

    Args:
        name: how it is known (`[A-Za-z0-9._:-]`, 1 to 128); part of every case's address.
        object: the business object, a pydantic model.
        key: the field of the object that is the business key.
        owner: who is accountable where a stage names nobody.
        expect: how long a case is expected to take.
        was: earlier names, so that open cases find it after a renaming.
        history: at how many events a visit and a case warn and stop.
    """

    def __init__(
        self,
        name: str,
        *,
        object: type[O],
        key: str,
        owner: Owner,
        expect: Span,
        was: tuple[str, ...] = (),
        history: HistoryLimits = DEFAULT_LIMITS,
    ) -> None:
        self.name = check_name(name, "workflow")
        self.object = object
        self.key_field = key
        self.owner = owner
        self.expect = expect
        self.was = was
        self.history = history
        self.stages: dict[str, Stage[O]] = {}
        self.paths: dict[str, ExceptionPath[O]] = {}  # by signal name; "" is the reaction to cancel
        self.handlers: dict[str, Handler[O]] = {}  # by signal name
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
        if not isinstance(history, HistoryLimits):
            raise DefinitionError(
                f"workflow {name}: history={printable(history)}, expected HistoryLimits",
                hint="history=HistoryLimits(case_stops=200_000)",
            )
        if expect is not None:  # without one, `longcase check` has a finding
            check_span(f"workflow {name}", "expect", expect, "days", business=True)

    @property
    def variable(self) -> str:
        """The name it has in its module, for hints that are pasted; before it has one, its name as Python writes it."""
        there = vars(sys.modules[self.module]) if self.module in sys.modules else {}
        return next((name for name, held in there.items() if held is self), self.name.replace("-", "_"))

    @property
    def codec(self) -> Codec:
        """The codec of the business object."""
        return codec_for(self.object)

    @property
    def entry(self) -> Stage[O]:
        """The first stage: the one declared first."""
        for stage in self.stages.values():
            return stage
        raise DefinitionError(f"workflow {self.name} has no stage", hint=f"@{self.variable}.stage")

    @property
    def written(self) -> list[Stage[O]]:
        """Everything of the workflow that has code of its own: its stages, exception paths and handlers, in order."""
        return [*self.stages.values(), *(reaction.stage for reaction in self.reactions)]

    @property
    def reactions(self) -> list[ExceptionPath[O] | Handler[O]]:
        """Its exception paths, then its handlers."""
        return [*self.paths.values(), *self.handlers.values()]

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

    @overload
    def on(
        self,
        signal: Signal[S],
        *,
        during: Sequence[Stage[O]] = (),
        interrupts: Literal[True] = True,
        owner: Owner | None = None,
        expect: Span | None = None,
        name: str | None = None,
    ) -> Callable[[_Reaction[O, S]], Stage[O]]: ...
    @overload
    def on(
        self,
        signal: Signal[S],
        *,
        during: Sequence[Stage[O]] = (),
        interrupts: Literal[False],
        owner: Owner | None = None,
        expect: Span | None = None,
        name: str | None = None,
    ) -> Callable[[_Beside[O, S]], Handler[O]]: ...
    def on(
        self,
        signal: Signal[S],
        *,
        during: Sequence[Stage[O]] = (),
        interrupts: bool = True,
        owner: Owner | None = None,
        expect: Span | None = None,
        name: str | None = None,
    ) -> Callable[[_Reaction[O, S]], Stage[O]] | Callable[[_Beside[O, S]], Handler[O]]:
        """Declare what happens when `signal` comes while a case is in one of the stages covered.

        As it stands: an exception path, which ends the stage's visit at whatever await it is and says what comes
        next. With `interrupts=False`: a handler, which runs beside the stage as a task of its visit, one signal at a
        time in the order they came, and returns nothing. The stage's return waits until it has ended.

        Args:
            signal: of this workflow; one reaction each, and none for a signal that a stage receives.
            during: the stages covered; all of them if empty. What comes in another stage goes to the signal's owner
                as unhandled for an exception path, and is kept for the next stage covered for a handler.
            interrupts: whether the stage's visit ends.
            owner: who is accountable for what it waits on and for its incidents; the workflow's owner if not given.
            expect: how long it is expected to take.
            name: how it is known; the function's name if not given. Its places on the map begin with it.

        Effects: a handler begins when the stage waits: the event `handler_started` takes the signal, `handler_ended`
            follows in the turn in which it returns. What a stage returned before is `stage_returned`.

        Raises:
            DefinitionError: the signal is none, is another workflow's or has a reaction already, `during` holds
                what is no stage, or the name is taken; the author mends it.

        Source: SEMANTICS B7, B8; decision 0017.
        """

        self._check_reaction(signal, during, interrupts)

        def declare(fn: Callable[..., Coroutine[Any, Any, Any]]) -> Any:
            kind: Literal["path", "handler"] = "path" if interrupts else "handler"
            stage = Stage(self, fn, name=name, was=(), owner=owner, expect=expect, kind=kind)
            self._check_free(stage.name)
            if signal.workflow != self.name:
                raise DefinitionError(
                    f"{stage.name}: signal {signal.name} belongs to {signal.workflow}, not {self.name}",
                    hint=f'make the signal with {self.variable}.signal("{signal.name}", ...)',
                )
            if signal.name in self.paths or signal.name in self.handlers:
                what = "exception paths" if interrupts and signal.name in self.paths else "reactions"
                raise DefinitionError(
                    f"{self.name}: two {what} on signal {signal.name}", hint="keep one, and branch inside it"
                )
            if interrupts:
                self.paths[signal.name] = ExceptionPath(signal, stage, tuple(during))
                return stage
            handler = self.handlers[signal.name] = Handler(signal, stage, tuple(during))
            return handler

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

    def _check_reaction(self, signal: object, during: object, interrupts: object) -> None:
        """Refuse what `on` cannot take: texts in the place of a signal or of a stage, most of all."""
        own = self.variable
        if not isinstance(signal, Signal):
            name = signal if isinstance(signal, str) else "withdrawn"
            near = nearest(name, self.signals)
            hint = (
                f"name the variable that holds {own}.signal({near[0]!r}, ...), without quotes"
                if near
                else f'withdrawn = {own}.signal("withdrawn", Withdrawal), then @{own}.on(withdrawn)'
            )
            raise DefinitionError(f"{self.name}: on({printable(signal)}), expected a signal", hint=hint)
        what = f"reaction on {signal.name}"
        check_kind(what, "interrupts", interrupts, bool, "True or False", "interrupts=False")
        given: tuple[object, ...] = tuple(during) if isinstance(during, (tuple, list)) else (during,)
        wrong = [one for one in given if not isinstance(one, Stage)]
        if not wrong and isinstance(during, (tuple, list)):
            return
        named = (*wrong, *given)[0]
        near = nearest(str(getattr(named, "name", named)), self.stages, likeness=0)
        hint = f"during=({near[0] if near else 'intake'},)"
        raise DefinitionError(f"{what}: during={printable(during)}, expected a tuple of stages", hint=hint)

    def _check_free(self, name: str) -> None:
        for taken in [stage.name for stage in self.written]:
            if taken.casefold() == name.casefold():
                raise DefinitionError(
                    f"{self.name}: two stages named {name}" + ("" if taken == name else f" (and {taken})"),
                    hint="give one of them another name",
                )

    def __repr__(self) -> str:
        return f"<workflow {self.name}>"
