"""Decisions: named, owned, recorded pure functions with a closed set of answers."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Generic, Literal, ParamSpec, Protocol, TypeVar, cast, overload

from longcase.errors import DefinitionError
from longcase.model.codec import Codec, codec_for
from longcase.model.expected import declared_with
from longcase.model.host import current_host
from longcase.model.names import check_name
from longcase.model.people import Owner

P = ParamSpec("P")
A = TypeVar("A", bound=str)
A_co = TypeVar("A_co", bound=str, covariant=True)


class Ruled(Generic[A_co]):
    """An answer with the rule that gave it and why; what `decision.ruling(...)` returns."""

    __slots__ = ("_answer", "because", "rule")

    def __init__(self, answer: A_co, *, rule: str = "", because: str = "") -> None:
        self._answer = answer
        self.rule = rule
        self.because = because

    @property
    def answer(self) -> A_co:
        """The answer, one of those that the decision declares."""
        return self._answer

    def __repr__(self) -> str:
        return f"Ruled({self._answer!r}, rule={self.rule!r})"


class Decision(Generic[P, A]):
    """A declared decision point. Used in a stage, each ruling is recorded and never run again on
    replay (SEMANTICS B10); called outside a stage it is plain Python and records nothing."""

    def __init__(
        self, fn: Callable[..., Any], *, owner: Owner, question: str, policy: str, name: str | None = None
    ) -> None:
        self.name = check_name(name or fn.__name__, "decision")
        self.owner = owner
        self.question = question
        self.policy = policy
        self.label: str | None = None
        self._fn = fn
        if inspect.iscoroutinefunction(fn):
            raise DefinitionError(
                f"decision {self.name}: declared async def, a decision is a pure function",
                hint="read what it needs in an activity and pass it in",
            )
        if not isinstance(owner, Owner):
            raise DefinitionError(
                f"decision {self.name}: owner is {owner!r}, expected a Team", hint='owner=Team("risk")'
            )
        self._codecs: dict[str, Codec] | None = None
        self._answers: tuple[str, ...] = ()
        functools.update_wrapper(self, fn, updated=())

    def _resolve(self) -> dict[str, Codec]:
        hints = typing.get_type_hints(self._fn, include_extras=True)
        signature = inspect.signature(self._fn)
        missing = [name for name in (*signature.parameters, "return") if name not in hints]
        if missing:
            raise DefinitionError(
                f"decision {self.name}: no type for {', '.join(missing)}",
                hint='annotate its inputs, and the answers as -> Literal["yes", "no"]',
            )
        self._answers = answer_set(hints["return"], f"decision {self.name}")
        self._codecs = {name: codec_for(hints[name]) for name in signature.parameters}
        return self._codecs

    @property
    def raw(self) -> Callable[..., Any]:
        """The function as declared; calling it rules nothing and records nothing."""
        return self._fn

    @property
    def answers(self) -> tuple[str, ...]:
        """The closed set of answers, as declared by the return type."""
        if self._codecs is None:
            self._resolve()
        return self._answers

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> A:
        """Return the answer; inside a stage it is recorded with inputs, rule, policy and owner."""
        return self._rule(args, kwargs, again=False).answer

    def ruling(self, *args: P.args, **kwargs: P.kwargs) -> Ruled[A]:
        """Return the answer together with the rule that gave it and why."""
        return self._rule(args, kwargs, again=False)

    def labelled(self, label: str) -> Decision[P, A]:
        """Return the same decision under its own place on the map, for a second use in one stage."""
        twin: Decision[P, A] = Decision.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.label = check_name(label, "label")
        return twin

    def rule_again(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Ruled[A]:
        """Rule anew under the current policy; the engine's `case.rule_again` calls it."""
        return self._rule(args, kwargs, again=True)

    def _rule(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, again: bool) -> Ruled[A]:
        host = current_host.get()
        if host is None:
            return self._decide(args, kwargs)
        codecs = self._codecs if self._codecs is not None else self._resolve()
        bound = inspect.signature(self._fn).bind(*args, **kwargs)
        bound.apply_defaults()
        inputs = {name: codecs[name].encode(value, f"{self.name}({name})") for name, value in bound.arguments.items()}

        def decide() -> dict[str, str]:
            ruled = self._decide(args, kwargs)
            return {"answer": str(ruled.answer), "rule": ruled.rule, "because": ruled.because}

        recorded = host.rule(self, inputs, decide, again)
        return Ruled(self._typed(recorded["answer"]), rule=recorded["rule"], because=recorded["because"])

    def _decide(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Ruled[A]:
        outcome = self._fn(*args, **kwargs)
        ruled = outcome if isinstance(outcome, Ruled) else Ruled(outcome, rule=self.name)
        if str(ruled.answer) not in self.answers:
            raise DefinitionError(
                f"decision {self.name} answered {ruled.answer!r}, its declared answers are {', '.join(self.answers)}",
                hint="add the answer to its return type, or mend the rule",
            )
        return cast(Ruled[A], ruled)

    def _typed(self, answer: str) -> A:
        hints = typing.get_type_hints(self._fn)["return"]
        arguments = typing.get_args(hints)
        enum = arguments[0] if typing.get_origin(hints) is Ruled else hints
        return cast(A, enum(answer) if isinstance(enum, type) and issubclass(enum, StrEnum) else answer)

    def __repr__(self) -> str:
        return f"<decision {self.name}>"


def answer_set(annotation: Any, what: str) -> tuple[str, ...]:
    """Return the closed set of answers of a Literal, a StrEnum, or Ruled of either."""
    if typing.get_origin(annotation) is Ruled:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) is Literal and all(isinstance(a, str) for a in typing.get_args(annotation)):
        return typing.get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return tuple(str(member.value) for member in annotation)
    raise DefinitionError(
        f"{what}: answers are {annotation!r}, expected a closed set", hint='-> Literal["yes", "no"], or a StrEnum class'
    )


class _MakeDecision(Protocol):
    @overload
    def __call__(self, fn: Callable[P, Ruled[A]], /) -> Decision[P, A]: ...
    @overload
    def __call__(self, fn: Callable[P, A], /) -> Decision[P, A]: ...


@declared_with('@decision(owner=Team("risk"), question="Is it big?", policy="v1")')
def decision(*, owner: Owner, question: str, policy: str, name: str | None = None) -> _MakeDecision:
    """Declare a decision point: a synchronous function without side effects; its return type is the
    closed set of answers.

    Args:
        owner: the team accountable for the rule.
        question: what is decided, as a person would ask it.
        policy: the version of the policy the function implements; recorded with every ruling.
        name: its name in history and on the map; the function's name unless given.
    """

    def make(fn: Callable[..., Any]) -> Any:
        return Decision(fn, owner=owner, question=question, policy=policy, name=name)

    return cast(_MakeDecision, make)
