"""Running attempts of transactional activities: the user's writes and the attempt's result in one transaction.

    admit (is it still the current attempt?) -> the function -> its result, encoded -> admit again, record, COMMIT

The fence is the attempt's number, looked at under the lock of the case's row: an attempt that was lost, or that
nobody waits for, never commits. What was committed is a record in the history and an input in the inbox, which
the case's next turn applies; a turn computed without them is redone (SEMANTICS A2, A12, decision 0019).
"""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import Executor
from typing import Any, Final

from longcase.engine import attempts
from longcase.engine.attempts import Failure
from longcase.errors import StatementRefused, TransactionOver
from longcase.history.state import Call
from longcase.model.activity import Activity
from longcase.model.codec import Json
from longcase.model.host import current_attempt
from longcase.runtime.performing import Running, TimedOut, bounded, classify, decoded, encode_result, failure
from longcase.store.port import Statements, Transacting
from longcase.store.records import Edit, Input, Locked

_OUTCOMES: Final = frozenset({"activity_completed", "activity_failed"})


class Unwanted(Exception):
    """The attempt may not commit: it is no longer the current one, or its outcome is known, or nobody waits for it."""


class Unfit(Exception):
    """What the function returned cannot be recorded."""

    def __init__(self, failed: Failure) -> None:
        super().__init__(failed.message)
        self.failure = failed


async def transact(
    store: Transacting,
    activity: Activity[..., Any],
    running: Running,
    place: tuple[int, int, int],
    arguments: dict[str, Json],
    undone_result: Json,
    is_undo: bool,
    executor: Executor | None,
) -> Failure | None:
    """Run one attempt in a transaction of the store.

    Args:
        place: the case's number, the worker that runs the attempt, and the number of the map.
        executor: whose threads the function runs in; None where it runs inline, or in any.

    Returns:
        None once it is committed: the result is in the case's inbox. Else why it failed; nothing of it was written.
    """
    values = decoded(activity, running, arguments, undone_result, is_undo)
    if isinstance(values, Failure):
        return values
    token = current_attempt.set(running)
    try:
        await store.transact(place[0], Attempt(activity, running, place, values, executor))
    except BaseException as error:
        return _failure(activity, running, error)
    finally:
        running.ended = True
        current_attempt.reset(token)
    return None


class Attempt:
    """One attempt, as `store.port.Apart`."""

    def __init__(
        self,
        activity: Activity[..., Any],
        running: Running,
        place: tuple[int, int, int],
        values: dict[str, Any],
        executor: Executor | None,
    ) -> None:
        self._activity = activity
        self._running = running
        self._case_no, self._worker, self._map = place
        self._values = values
        self._executor = executor
        self._context = contextvars.copy_context()  # the store may run it in a task of its own
        self._result: Json = None

    def admit(self, locked: Locked) -> None:
        """Refuse an attempt that has been overtaken, or that nobody waits for any more."""
        self._call(locked)

    async def run(self, statements: Statements) -> None:
        """Call the function, in a thread where there are threads, within its limit; encode what it returns."""
        if statements.inline:
            self._encode(self._perform(statements))
            return
        loop = asyncio.get_running_loop()
        thread = loop.run_in_executor(self._executor, self._perform, statements)
        self._encode(await bounded(self._activity, self._running, thread))

    def record(self, locked: Locked) -> Edit[None]:
        """Write that the attempt is committed, and put its result where the next turn finds it."""
        running, call = self._running, self._call(locked)
        event = attempts.committed(locked.state, running.call, call, self._worker)
        event.map = self._map
        data: dict[str, Json] = {"call": running.call, "result": self._result}
        result = Input(
            f"end-{running.call}-{running.number}", "activity_completed", data, f"worker:{self._worker}", "engine"
        )
        return Edit(None, [event], [result])

    def _perform(self, statements: Statements) -> Any:
        return self._context.run(lambda: self._activity.raw(statements, **self._values))

    def _encode(self, value: Any) -> None:
        encoded = encode_result(self._activity, value)
        if isinstance(encoded, Failure):
            raise Unfit(encoded)
        self._result = encoded.result

    def _call(self, locked: Locked) -> Call:
        state, ref = locked.state, self._running.call
        call = state.calls.get(ref)
        if call is None or not attempts.outcome_counts(state, ref, self._running.number):
            raise Unwanted("it is no longer the call's current attempt")
        if call["worker"] != self._worker:
            raise Unwanted(f"it runs on worker {call['worker']}")
        if not call["undoes"] and (state.status != "open" or not call["awaited"]):
            raise Unwanted("nobody waits for it any more")
        if not call["undoes"] and state.move is not None:  # its visit ends, and a restarted one would call it again
            raise Unwanted("an operator has moved the case")
        if any(item.type in _OUTCOMES and item.data.get("call") == ref for item in locked.pending):
            raise Unwanted("the call has another outcome by now")
        return call


def _failure(activity: Activity[..., Any], running: Running, error: BaseException) -> Failure:
    """Return why an attempt failed. It was rolled back, so that no kind of failure leaves its outcome unknown."""
    if isinstance(error, Unfit):
        return error.failure
    if isinstance(error, Unwanted):
        return Failure("cancelled", "AttemptStopped", f"rolled back: {error}")
    if isinstance(error, TimedOut):
        return Failure("error", "AttemptTimeout", f"{error}; rolled back")
    if isinstance(error, (StatementRefused, TransactionOver)):
        return failure("non_retryable", error)
    if isinstance(error, asyncio.CancelledError) and running.stopping:
        return Failure("cancelled", "AttemptStopped", "rolled back: it was asked to stop, and had not ended in time")
    return classify(activity, error, running)
