"""Running attempts in this process: arguments in, typed outcome out. Shared by every mover.

`perform` never raises for a user's mistake: whatever the function does becomes a Success or a
Failure that the engine can judge. The order is fixed: decode, begin, run, encode.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import field
from datetime import timedelta
from typing import Any, Literal

import pydantic

from longcase.engine.attempts import Failure, Success
from longcase.errors import DoNotRetry, InvalidInput, LongcaseError, RetryAfter
from longcase.model.activity import Activity, NotHappened
from longcase.model.codec import RESULT_LIMIT, Json, dump_json, invalid
from longcase.model.host import current_attempt
from longcase.model.names import storable, text_of
from longcase.record import record

_to_json = pydantic.TypeAdapter(Any).serializer.to_json


class AttemptStopped(Exception):
    """Raised by `attempt().heartbeat()` once the attempt has been asked to stop."""


@record(frozen=False)
class Running:
    """One attempt, as its function sees it (`attempt()`)."""

    case: str
    call: str
    number: int
    idempotency_key: str
    previous_details: Json = None
    details: Json = None
    beats: int = 0
    stopping: bool = False
    task: asyncio.Task[Any] | None = None
    on_beat: Callable[[Running], None] | None = field(default=None, repr=False)
    on_late: Callable[[Success | Failure], None] | None = field(default=None, repr=False)  # told of a zombie's end
    deadlines: Deadlines | None = field(default=None, repr=False)
    kept_at: float = 0.0  # when heartbeat details were last made durable
    timed_out: bool = False
    ended: bool = False
    limit: float = 0.0  # seconds it may run by its own declaration

    def heartbeat(self, details: Json = None) -> None:
        """Say that the attempt is alive; `details` are handed to the next attempt.

        Raises:
            AttemptStopped: the attempt was asked to stop, or its time is up: what it returns counts no more.
            InvalidInput: the details are no JSON.
        """
        if self.ended:
            raise AttemptStopped(f"{self.case}: attempt {self.number} was given up, its time was up")
        self.beats += 1
        if details is not None:
            self.details = _kept(details)
        if self.on_beat is not None:
            self.on_beat(self)
        if self.stopping:
            raise AttemptStopped(f"{self.case}: the attempt was asked to stop")

    def cancelled(self) -> bool:
        return self.stopping or self.ended


class Deadlines:
    """Start-to-close limits of one process's attempts: one loop timer per length, not one per attempt.

    All attempts with the same limit end in the order they began, so only the first of each queue needs
    a timer; the many that end in time cost one append.
    """

    def __init__(self) -> None:
        self._queues: dict[float, deque[tuple[float, Running]]] = {}
        self._armed: set[float] = set()

    def watch(self, running: Running, limit: float) -> None:
        """Cancel the attempt's task `limit` seconds from now, unless it has ended."""
        loop = asyncio.get_running_loop()
        queue = self._queues.get(limit)
        if queue is None:
            queue = self._queues[limit] = deque()
        while queue and queue[0][1].ended:
            queue.popleft()
        if limit not in self._armed:
            self._armed.add(limit)
            loop.call_later(limit, self._expire, limit)
        queue.append((loop.time() + limit, running))

    def _expire(self, limit: float) -> None:
        loop = asyncio.get_running_loop()
        queue = self._queues[limit]
        while queue and (queue[0][1].ended or queue[0][0] <= loop.time()):
            _, running = queue.popleft()
            if not running.ended and running.task is not None:
                running.timed_out = True
                running.task.cancel()
        if queue:
            loop.call_at(queue[0][0], self._expire, limit)
        else:
            self._armed.discard(limit)


def _kept(details: Json) -> Json:
    """Return heartbeat details as the next attempt will see them, whatever the attempt does to them afterwards."""
    try:
        text = dump_json(details)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        hint = "attempt().heartbeat(3), or a dict of plain values"
        raise InvalidInput(f"heartbeat details: {error}", reason="not_json", hint=hint) from None
    return json.loads(text)


async def perform(
    activity: Activity[..., Any],
    running: Running,
    arguments: dict[str, Json],
    undone_result: Json,
    is_undo: bool,
    executor: Executor | None,
) -> Success | Failure:
    """Run one attempt to its outcome."""
    values = decoded(activity, running, arguments, undone_result, is_undo)
    if isinstance(values, Failure):
        return values
    token = current_attempt.set(running)
    thread: Future[Any] | None = None
    try:
        if activity.is_async:
            value = await bounded(activity, running, activity.raw(**values))
        elif executor is None:
            value = activity.raw(**values)
        else:
            thread = executor.submit(contextvars.copy_context().run, lambda: activity.raw(**values))
            value = await bounded(activity, running, asyncio.wrap_future(thread))
    except BaseException as error:
        if thread is not None and isinstance(error, (TimedOut, asyncio.CancelledError)):
            _follow(activity, running, thread)
        return classify(activity, error, running)
    finally:
        running.ended = True
        current_attempt.reset(token)
    return encode_result(activity, value)


def decoded(
    activity: Activity[..., Any], running: Running, arguments: dict[str, Json], undone_result: Json, is_undo: bool
) -> dict[str, Any] | Failure:
    """Return what the function is called with, or why its recorded arguments do not fit it any more."""
    try:
        if is_undo:
            return activity.decode_undo_arguments(undone_result, arguments, running.idempotency_key)
        return activity.decode_arguments(arguments, running.idempotency_key)
    except Exception as error:
        return failure("undecodable", error)


def _follow(activity: Activity[..., Any], running: Running, thread: Future[Any]) -> None:
    """Tell `on_late` how a thread ends whose attempt was given up: it cannot be stopped, only refused."""
    loop, on_late = asyncio.get_running_loop(), running.on_late
    if on_late is None:
        return

    def ended(thread: Future[Any]) -> None:
        if thread.cancelled():
            return  # it never began
        error = thread.exception()
        outcome = encode_result(activity, thread.result()) if error is None else failure("error", error)
        with suppress(RuntimeError):  # the loop is closed: the worker has left
            loop.call_soon_threadsafe(on_late, outcome)

    thread.add_done_callback(ended)


def encode_result(activity: Activity[..., Any], value: Any) -> Success | Failure:
    """Check an attempt's result against the declared type and the size that can be kept."""
    try:
        result = activity.result_codec.encode(value, f"result of {activity.name}")
        size = _size(result)
        if size <= RESULT_LIMIT:
            return Success(result)
        what = f"{size:,} bytes, at most {RESULT_LIMIT:,} are kept; keep it elsewhere and return where"
        message = f"result of {activity.name}: {what}"
        return Failure("not_encodable", "ResultTooLarge", message)
    except InvalidInput as error:
        if error.problems:
            place, problem = error.problems[0]
            name = place.replace("/", ".") or "."
            return Failure(
                "contract_changed", "ContractChanged", problem if name == "." else f"{name} {problem}", field=name
            )
        return failure("not_encodable", error)
    except Exception as error:
        return failure("not_encodable", error)


def _size(value: Json) -> int:
    """Return the bytes of a result, as JSON where it is more than plain text; a lone surrogate raises."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode())
    if isinstance(value, (dict, list)):
        return len(_to_json(value))
    return 0  # a number or a truth value


def classify(activity: Activity[..., Any], error: BaseException, running: Running) -> Failure:
    """Turn what an attempt raised into the failure the policy is asked about."""
    details = running.details
    if isinstance(error, TimedOut):
        return Failure(error.kind, "AttemptTimeout", str(error), details=details)
    if isinstance(error, AttemptStopped) and running.stopping:
        return Failure("cancelled", "AttemptStopped", "stopped as asked", details=details)
    if isinstance(error, asyncio.CancelledError) and running.stopping:
        # Cut off in the middle: what it did by then is not known, as after a timeout.
        kind: Literal["cancelled", "timeout"] = "cancelled" if activity.cancel == "wait" else "timeout"
        return Failure(
            kind, "AttemptStopped", "asked to stop, and cut off as it had not ended in time", details=details
        )
    if isinstance(error, RetryAfter):
        return failure("error", error, retry_after=error.delay, details=details)
    if isinstance(error, pydantic.ValidationError):
        shape = invalid(error, f"answer to {activity.name}")
        place, problem = shape.problems[0]
        name = place.replace("/", ".") or "."
        return Failure(
            "contract_changed",
            "ContractChanged",
            problem if name == "." else f"{name} {problem}",
            details=details,
            field=name,
        )
    if isinstance(error, (DoNotRetry, *activity.retry.non_retryable)):
        return failure("non_retryable", error, details=details)
    if isinstance(error, asyncio.CancelledError):
        if running.task is not None and not running.task.cancelling():
            return failure("error", error, details=details)  # nobody cancelled it: the function raised it by itself
        return Failure("lost", "WorkerStopped", "the worker stopped during the attempt", details=details)
    return failure("error", error, details=details)


def failure(
    kind: Literal["error", "non_retryable", "undecodable", "not_encodable"],
    error: BaseException,
    *,
    retry_after: timedelta | None = None,
    details: Json = None,
) -> Failure:
    """Return a failure with the exception's class names and a text that can be stored."""
    bases = tuple(base.__name__ for base in type(error).__mro__[1:-1] if base not in (Exception, BaseException))
    text = text_of(error)
    if isinstance(error, LongcaseError) and error.hint:
        text = storable(f"{error.message} (hint: {error.hint})")  # one line: it is shown in one
    return Failure(kind, type(error).__name__, text, bases, retry_after, details)


async def verify(
    activity: Activity[..., Any], running: Running, arguments: dict[str, Json], executor: Executor | None
) -> tuple[Literal["happened", "not_happened", "unknown"], Json, str]:
    """Ask the world whether an `effect="once"` call took place: answer, its result, and why not known."""
    function = activity.verify_function
    assert function is not None
    token = current_attempt.set(running)
    try:
        values = activity.decode_arguments(arguments, running.idempotency_key)
        if "idempotency_key" not in inspect.signature(function).parameters:
            values.pop("idempotency_key", None)
        limit = activity.timeout.total_seconds()
        if executor is None or inspect.iscoroutinefunction(function):
            answer = function(**values)
        else:
            thread = executor.submit(contextvars.copy_context().run, lambda: function(**values))
            answer = await asyncio.wait_for(asyncio.wrap_future(thread), limit)
        if inspect.isawaitable(answer):
            answer = await asyncio.wait_for(answer, limit)
    except TimeoutError as error:
        return (
            "unknown",
            None,
            storable(str(error) or f"verify did not answer within {activity.timeout.total_seconds():g} s"),
        )
    except Exception as error:
        return "unknown", None, f"{type(error).__name__}: {text_of(error)}"
    finally:
        current_attempt.reset(token)
    if isinstance(answer, NotHappened):
        return "not_happened", None, ""
    encoded = encode_result(activity, answer)
    if isinstance(encoded, Failure):
        return "unknown", None, f"verify returned what does not fit: {encoded.message}"
    return "happened", encoded.result, ""


class TimedOut(Exception):
    """An attempt's time is up."""

    def __init__(self, kind: Literal["timeout", "heartbeat"], message: str) -> None:
        super().__init__(message)
        self.kind: Literal["timeout", "heartbeat"] = kind


async def bounded(activity: Activity[..., Any], running: Running, awaitable: Any) -> Any:
    """Await within start-to-close and heartbeat timeouts. A thread that runs over goes on as a zombie."""
    limit = activity.timeout.total_seconds()
    if activity.heartbeat is None:
        if running.deadlines is not None:
            running.deadlines.watch(running, limit)
            try:
                return await awaitable
            except asyncio.CancelledError:
                if running.timed_out:
                    raise TimedOut("timeout", f"not done within {limit:g} s") from None
                raise
        try:
            async with asyncio.timeout(limit) as scope:
                return await awaitable
        except TimeoutError:
            if scope.expired():
                raise TimedOut("timeout", f"not done within {limit:g} s") from None
            raise
    work = asyncio.ensure_future(awaitable)
    beat = activity.heartbeat.total_seconds()
    loop = asyncio.get_running_loop()
    end = loop.time() + limit
    try:
        while True:
            seen = running.beats
            done, _ = await asyncio.wait({work}, timeout=min(beat, max(0.0, end - loop.time())))
            if done:
                return work.result()
            if loop.time() >= end:
                raise TimedOut("timeout", f"not done within {limit:g} s")
            if running.beats == seen:
                raise TimedOut("heartbeat", f"no heartbeat for {beat:g} s")
    finally:
        if not work.done():
            work.cancel()
