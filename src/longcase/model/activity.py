"""Activities: machine work that touches the world, with an owner, a contract and a policy."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypeVar, overload

from longcase.errors import DefinitionError, UsageError
from longcase.model.codec import Codec, Json, codec_for
from longcase.model.expected import check_kind, check_names, check_one_of, declared_with
from longcase.model.host import Attempt, current_attempt, current_host
from longcase.model.names import check_name
from longcase.model.people import Owner, System
from longcase.model.policy import Retry, check_limits, check_timeouts
from longcase.model.queue import Queue, as_queue, check_priority
from longcase.model.transaction import DEFAULT_LIMIT, Transaction, check_transaction, check_where_it_goes

P = ParamSpec("P")
R = TypeVar("R")
Effect = Literal["none", "repeatable", "once"]
OncePer = Literal["call", "visit", "case"]
OnCancel = Literal["abandon", "wait"]

DEFAULT_TIMEOUT = timedelta(minutes=5)
DEFAULT_RETRY = Retry()
NO_RETRY = Retry(max_attempts=1)


class NotHappened:
    """What a `verify` function returns when the effect did not take place; the call is then safe to repeat."""

    def __repr__(self) -> str:
        return "NOT_HAPPENED"


NOT_HAPPENED = NotHappened()


class _Injected:
    def __repr__(self) -> str:
        return "injected()"


_INJECTED = _Injected()


def injected() -> Any:
    """Mark a keyword parameter that Longcase fills in: `*, idempotency_key: str = injected()`.

    The key is made once per call, stored with the command and the same on every attempt
    (SEMANTICS A5). Tests that call `.fn` pass it themselves.
    """
    return _INJECTED


def attempt() -> Attempt:
    """Return the running attempt: `.idempotency_key`, `.number`, `.heartbeat(details)`, `.previous_details`.

    Raises:
        UsageError: called outside a running activity.
    """
    running = current_attempt.get()
    if running is None:
        raise UsageError("attempt() was called outside a running activity", hint="call it inside an @activity function")
    return running


class Activity(Generic[P, R]):
    """A declared activity. Calling it inside a stage is durable; `.fn` is the raw function.

    Effects of a call: one `activity_scheduled` event before the first attempt, one event when its
    outcome is recorded, and one for every further attempt.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        owner: Owner,
        name: str | None = None,
        was: tuple[str, ...] = (),
        system: System | None = None,
        timeout: timedelta | None = None,
        schedule_to_start: timedelta | None = None,
        schedule_to_close: timedelta | None = None,
        heartbeat: timedelta | None = None,
        retry: Retry | None = None,
        effect: Effect | None = None,
        verify: Callable[..., Any] | None = None,
        once_per: OncePer = "call",
        cancel: OnCancel = "abandon",
        concurrency: int | None = None,
        rate: tuple[int, timedelta] | None = None,
        queue: Queue | str | None = None,
        priority: int = 0,
        transaction: bool = False,
        label: str | None = None,
    ) -> None:
        self.name = check_name(name or str(getattr(fn, "__name__", "")), "activity")
        what = f"activity {self.name}"
        attempts = retry if isinstance(retry, int) else 5
        check_kind(what, "transaction", transaction, bool, "True or False", "transaction=True")
        check_kind(what, "retry", retry, Retry, "a Retry", f"retry=Retry(max_attempts={attempts})")
        check_kind(what, "system", system, System, "a System", 'system=System("erp", owner=...)')
        check_one_of(what, "effect", effect, typing.get_args(Effect))
        check_one_of(what, "once_per", once_per, typing.get_args(OncePer))
        check_one_of(what, "cancel", cancel, typing.get_args(OnCancel))
        check_timeouts(
            what, timeout=timeout, schedule_to_start=schedule_to_start, schedule_to_close=schedule_to_close,
            heartbeat=heartbeat,
        )  # fmt: skip
        check_names(what, "was", was)
        self.transaction = transaction
        if transaction:
            check_transaction(what, fn, timeout, heartbeat, effect, verify)
        self.was = was
        self.owner = owner
        self.system = system
        self.timeout = timeout or (DEFAULT_LIMIT if transaction else DEFAULT_TIMEOUT)
        self.schedule_to_start = schedule_to_start
        self.schedule_to_close = schedule_to_close
        self.heartbeat = heartbeat
        self.declared_retry = retry
        self.retry = retry or (NO_RETRY if effect == "once" else DEFAULT_RETRY)
        self.effect = effect
        self.once_per = once_per
        self.cancel = cancel
        self.concurrency = concurrency
        self.rate = rate
        self.queue = as_queue(queue, what)
        self.priority = check_priority(what, priority)
        if priority and self.queue is None:
            raise DefinitionError(
                f"{what}: priority={priority} without a queue; it orders the calls within one", hint='queue="batch"'
            )
        self.label = label
        # The longest a call may take by its own policy: what its wait is expected to end by.
        self.longest: timedelta = schedule_to_close or self.retry.longest(self.timeout)
        self.undo_activity: Activity[..., Any] | None = None
        self.undoes: Activity[..., Any] | None = None
        self.verify_function = verify
        self._raw = fn
        self.is_async = inspect.iscoroutinefunction(fn)
        if not isinstance(owner, Owner):
            raise DefinitionError(
                f"activity {self.name}: owner is {owner!r}, expected a Team", hint='owner=Team("client-desk")'
            )
        check_limits(what, concurrency, rate)
        self._read_signature(fn)
        functools.update_wrapper(self, fn, updated=())

    def _read_signature(self, fn: Callable[..., Any]) -> None:
        self.signature = inspect.signature(fn)
        if self.transaction:  # whoever calls it does not pass the transaction
            _, *given = self.signature.parameters.values()
            self.signature = self.signature.replace(parameters=given)
        self.injects_key = False
        self._parameters: dict[str, inspect.Parameter] = {}
        for name, parameter in self.signature.parameters.items():
            if parameter.default is _INJECTED:
                if name != "idempotency_key":
                    raise DefinitionError(
                        f"activity {self.name}: {name} = injected(), only idempotency_key can be injected",
                        hint="*, idempotency_key: str = injected()",
                    )
                self.injects_key = True
            elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise DefinitionError(
                    f"activity {self.name}: *{name} has no declared type to record",
                    hint="name each parameter and annotate it",
                )
            else:
                self._parameters[name] = parameter
        self._codecs: dict[str, Codec] | None = None
        self._result_codec: Codec | None = None

    def _resolve(self) -> dict[str, Codec]:
        """Build the codecs at the first use: annotations may name types declared further down."""
        try:
            hints = typing.get_type_hints(self._raw, include_extras=True)
        except NameError as error:
            raise DefinitionError(
                f"activity {self.name}: {error}", hint="import the type at module level, not under TYPE_CHECKING"
            ) from None
        check_where_it_goes(f"activity {self.name}", self._raw, hints, self.transaction)
        missing = [name for name in (*self._parameters, "return") if name not in hints]
        if missing:
            raise DefinitionError(
                f"activity {self.name}: no type for {', '.join(missing)}",
                hint="annotate every parameter and the result",
            )
        self._codecs = {name: codec_for(hints[name]) for name in self._parameters}
        self._result_codec = codec_for(hints["return"])
        return self._codecs

    @property
    def codecs(self) -> dict[str, Codec]:
        """The codec of each recorded parameter, in order."""
        return self._codecs if self._codecs is not None else self._resolve()

    @property
    def result_codec(self) -> Codec:
        """The codec of the declared result."""
        if self._result_codec is None:
            self._resolve()
        assert self._result_codec is not None
        return self._result_codec

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Perform the activity durably from a stage; returns its typed result.

        Raises:
            InvalidInput: an argument does not fit its declared type; nothing was scheduled.
            ActivityFailed: attempts, budget or time are exhausted.
            UsageError: called outside a stage.
        """
        host = current_host.get()
        if host is None:
            raise UsageError(
                f"activity {self.name} was called outside a stage",
                hint=f"await {self.name}(...) inside a stage, or call the raw function: {self.name}.fn(...)",
            )
        recorded = await host.perform(self, self.label, self.encode_arguments(args, kwargs))
        return typing.cast(R, self.result_codec.decode(recorded, f"recorded result of {self.name}"))

    @property
    def fn(self) -> Callable[P, Any]:
        """The raw function, for tests and for use outside a case."""
        if not self.injects_key:
            return self._raw

        @functools.wraps(self._raw)
        def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            if "idempotency_key" not in kwargs:
                raise TypeError(
                    f'{self.name}.fn needs idempotency_key outside a case: {self.name}.fn(..., idempotency_key="t-1")'
                )
            return self._raw(*args, **kwargs)

        return call

    def labelled(self, label: str) -> Activity[P, R]:
        """Return the same activity under its own place on the map, for a second use in one stage."""
        twin: Activity[P, R] = Activity.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.label = check_name(label, "label")
        return twin

    @overload
    def undo(self, fn: Callable[Concatenate[R, P], object], /) -> Activity[Concatenate[R, P], Any]: ...
    @overload
    def undo(
        self, *, was: tuple[str, ...], transaction: Literal[False] = False
    ) -> Callable[[Callable[Concatenate[R, P], object]], Activity[Concatenate[R, P], Any]]: ...
    @overload
    def undo(
        self, *, was: tuple[str, ...] = (), transaction: Literal[True]
    ) -> Callable[[Callable[Concatenate[Transaction, R, P], object]], Activity[Concatenate[R, P], Any]]: ...
    def undo(
        self, fn: Callable[..., object] | None = None, *, was: tuple[str, ...] = (), transaction: bool = False
    ) -> Any:
        """Declare the compensation, `def` or `async def`: it gets the original's result, then its arguments.

        It is registered with the command, before the first attempt (SEMANTICS A4), and run by
        `case.undo()` in reverse order of command, as an activity with its own key and attempts.

        Args:
            was: earlier names, so that open cases find it after a renaming.
            transaction: it runs in a transaction of the store, as `activity(transaction=True)`, and gets that first.
        """

        def declare(fn: Callable[..., object]) -> Activity[Concatenate[R, P], Any]:
            undo: Activity[Concatenate[R, P], Any] = Activity(
                fn,
                owner=self.owner,
                was=was,
                system=self.system,
                timeout=self.timeout if self.transaction == transaction else None,
                retry=self.declared_retry,
                effect="repeatable",
                queue=self.queue,
                priority=self.priority,
                transaction=transaction,
            )
            undo.undoes = self
            self.undo_activity = undo
            return undo

        return declare if fn is None else declare(fn)

    def verify(self, fn: Callable[P, Awaitable[R | NotHappened]]) -> Callable[P, Awaitable[R | NotHappened]]:
        """Declare how to find out whether an `effect="once"` call of unknown outcome took place.

        The function gets the original arguments and the same idempotency key; it returns the result
        if the effect happened and `NOT_HAPPENED` if it did not.
        """
        self.verify_function = fn
        return fn

    # -- for the engine and the worker -----------------------------------------------------------

    def encode_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Json]:
        """Bind and encode the arguments of a call; an argument that does not fit raises InvalidInput."""
        codecs = self.codecs
        if not kwargs and len(args) == len(codecs):
            given = dict(zip(codecs, args, strict=True))
        else:
            signature = self.signature
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError as error:
                raise UsageError(f"activity {self.name}: {error}", hint=f"its parameters are {signature}") from None
            bound.apply_defaults()
            given = {name: bound.arguments[name] for name in codecs}
        return {name: codecs[name].encode(value, f"{self.name}({name})") for name, value in given.items()}

    def decode_arguments(self, arguments: dict[str, Json], key: str) -> dict[str, Any]:
        """Return the keyword arguments the raw function is called with."""
        values = {name: codec.decode(arguments[name], f"{self.name}({name})") for name, codec in self.codecs.items()}
        if self.injects_key:
            values["idempotency_key"] = key
        return values

    def decode_undo_arguments(self, result: Json, arguments: dict[str, Json], key: str) -> dict[str, Any]:
        """Return the keyword arguments of an undo: the original's result under its first parameter."""
        first = next(iter(self.codecs))
        return self.decode_arguments({**arguments, first: result}, key)

    @property
    def raw(self) -> Callable[..., Any]:
        """The function as declared, without the check for the injected key."""
        return self._raw

    def __repr__(self) -> str:
        return f"<activity {self.name}>"


class _MakeActivity(Protocol):
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Activity[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Activity[P, R]: ...


class _MakeTransactional(Protocol):
    def __call__(self, fn: Callable[Concatenate[Transaction, P], R], /) -> Activity[P, R]: ...


@overload
def activity(
    *,
    owner: Owner,
    transaction: Literal[True],
    name: str | None = None,
    was: tuple[str, ...] = (),
    system: System | None = None,
    timeout: timedelta | None = None,
    schedule_to_start: timedelta | None = None,
    schedule_to_close: timedelta | None = None,
    retry: Retry | None = None,
    effect: Literal["none", "repeatable"] | None = None,
    once_per: OncePer = "call",
    cancel: OnCancel = "abandon",
    concurrency: int | None = None,
    rate: tuple[int, timedelta] | None = None,
    queue: Queue | str | None = None,
    priority: int = 0,
) -> _MakeTransactional: ...
@overload
def activity(
    *,
    owner: Owner,
    name: str | None = None,
    was: tuple[str, ...] = (),
    system: System | None = None,
    timeout: timedelta | None = None,
    schedule_to_start: timedelta | None = None,
    schedule_to_close: timedelta | None = None,
    heartbeat: timedelta | None = None,
    retry: Retry | None = None,
    effect: Effect | None = None,
    verify: Callable[..., Any] | None = None,
    once_per: OncePer = "call",
    cancel: OnCancel = "abandon",
    concurrency: int | None = None,
    rate: tuple[int, timedelta] | None = None,
    queue: Queue | str | None = None,
    priority: int = 0,
    transaction: Literal[False] = False,
) -> _MakeActivity: ...
@declared_with('@activity(owner=Team("client-desk"))')
def activity(
    *,
    owner: Owner,
    name: str | None = None,
    was: tuple[str, ...] = (),
    system: System | None = None,
    timeout: timedelta | None = None,
    schedule_to_start: timedelta | None = None,
    schedule_to_close: timedelta | None = None,
    heartbeat: timedelta | None = None,
    retry: Retry | None = None,
    effect: Effect | None = None,
    verify: Callable[..., Any] | None = None,
    once_per: OncePer = "call",
    cancel: OnCancel = "abandon",
    concurrency: int | None = None,
    rate: tuple[int, timedelta] | None = None,
    queue: Queue | str | None = None,
    priority: int = 0,
    transaction: bool = False,
) -> Any:
    """Declare a unit of machine work; decorates an `async def`, or a `def` that runs in a thread.

    Args:
        owner: the team that gets the incident when the activity is finally lost.
        name: its name in history and on the map; the function's name unless given. Renaming needs
            `was=("old_name",)`, so that open cases find it.
        system: the outside system it touches.
        timeout: start-to-close, of one attempt; 5 minutes unless given.
        schedule_to_start: longest wait for the first attempt to begin.
        schedule_to_close: longest time over all attempts.
        heartbeat: an attempt that has not called `attempt().heartbeat()` for so long is lost.
        retry: the policy; 5 attempts unless given, 1 for `effect="once"`.
        effect: "none" (only reads), "repeatable" (safe under its idempotency key), or "once"
            (never repeated while an earlier attempt's outcome is unknown).
        verify: for "once": asks the world whether the effect took place (see `Activity.verify`).
        once_per: the scope of the idempotency key; "case" returns the recorded result on a later visit.
        cancel: "wait" makes a cancelled await wait for the attempt's end.
        concurrency: most attempts at once in one worker.
        rate: most attempts begun in a span in one worker, as `(count, span)`.
        queue: its attempts run only on workers that serve this queue; any worker unless given.
        priority: within the queue, -1000 to 1000; higher goes first.
        transaction: for a plain `def f(tx: Transaction, ...)`: it runs in a transaction of the store's own database
            that commits its statements and its result together, or neither. Exactly once, for tables of that
            database and for nothing else. `timeout` is then 1 second unless given, and at most 5; `heartbeat`,
            `verify` and `effect="once"` are refused. See `docs/howto/write-to-your-tables.md`.
    """

    options = dict(locals())  # by name: Activity takes the same

    def make(fn: Callable[..., Any]) -> Activity[..., Any]:
        return Activity(fn, **options)

    return make
