"""Carrying out the commands of committed turns: attempts are run, `verify` is asked, attempts are told to stop.

Everything here happens after the commit that commanded it, in tasks of the worker's loop. What an
attempt comes to is reported to the pump, which makes a turn of it; nothing here touches a case.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

from longcase.backoff import Backoff
from longcase.engine.attempts import Failure, Success
from longcase.engine.work import Command, Ended, Item, Verified
from longcase.env import Env
from longcase.errors import StoreCorrupt, UnavailableError
from longcase.history.chain import is_sound
from longcase.history.event import Event
from longcase.history.state import Call
from longcase.model.activity import Activity
from longcase.model.codec import Json
from longcase.runtime.heartbeats import Heartbeats
from longcase.runtime.limits import THREADS
from longcase.runtime.moved import Moved
from longcase.runtime.performing import Deadlines, Running, failure, perform, verify
from longcase.runtime.pulse import Culprit
from longcase.runtime.transacting import transact
from longcase.store.port import Store, Transacting

log = logging.getLogger("longcase.worker")

HEARD = 0.05  # seconds between looks whether a worker that was silent for long has been heard again
STOP_GRACE = 10.0  # seconds an attempt that was asked to stop may go on
LEAVE_GRACE = 1.0  # seconds a cancelled attempt has to end when the worker leaves

T = TypeVar("T")
Key = tuple[int, str, int]  # case, call, number of the attempt


class Carrier:
    """The attempts of one worker.

    Args:
        now: the store's instant.
        report: told how an attempt, or a question to `verify`, ended.
        look: told of a case whose attempt's end is in the store.
        freed: told that an attempt of an activity no longer runs.
        holds: tells whether the worker's lease cannot have lapsed.
    """

    def __init__(
        self,
        store: Store,
        env: Env,
        now: Callable[[], str],
        report: Callable[[int, Item], None],
        look: Callable[[int], None],
        freed: Callable[[Activity[..., Any]], None],
        holds: Callable[[], bool],
    ) -> None:
        self.worker = 0  # the incarnation that attempts begun from now on belong to
        self.leaving = False
        self.running: dict[Key, Running] = {}
        self.under_way: set[asyncio.Task[Any]] = set()
        self._store = store
        self._env = env
        self._now = now
        self._report = report
        self._look = look
        self._freed = freed
        self._holds = holds
        self._beats = Heartbeats(store, env, self.spawn)
        self._deadlines = Deadlines()
        self._verifying: set[tuple[int, str]] = set()
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="longcase-activity")

    def carry_out(self, moved: Moved) -> None:
        """Begin what a committed turn commanded."""
        if moved.commands:
            inputs = {
                event.data["call"]: event
                for event in moved.events
                if event.type in ("activity_scheduled", "undo_started")
            }
            for command in moved.commands:
                call = moved.state.calls.get(command.call)
                match command.kind:
                    case "perform" if call is not None:
                        self._begin(self._attempt(moved, command, call, inputs.get(command.call), self.worker))
                    case "verify" if call is not None and (moved.case_no, command.call) not in self._verifying:
                        self._verifying.add((moved.case_no, command.call))
                        self._begin(self._verify(moved, command, call))
                    case "stop":
                        self.stop((moved.case_no, command.call, command.number))
        self._beats.forget_ended(moved.case_no, moved.state)

    def stop(self, key: Key) -> None:
        """Ask an attempt to stop; it is cut off if it has not ended in STOP_GRACE."""
        running = self.running.get(key)
        if running is None or running.stopping:
            return
        running.stopping = True
        if running.task is not None:
            asyncio.get_running_loop().call_later(STOP_GRACE, running.task.cancel)

    def abandon(self) -> None:
        """Cancel every attempt: their worker was forgotten. Those in threads go on, and are not believed."""
        self.worker = 0  # what was commanded and has not made its first step is not begun
        for (_, call, number), running in list(self.running.items()):
            if running.task is not None and not running.ended:
                log.info("%s: attempt %d of %s is abandoned", running.case, number, call)
                running.task.cancel()

    async def leave(self) -> None:
        """Cancel what still runs and wait for it a moment; nothing is reported from here on."""
        self.leaving = True
        for task in list(self.under_way):
            task.cancel()
        if self.under_way:
            await asyncio.wait(self.under_way, timeout=LEAVE_GRACE)

    def shut_down(self) -> None:
        """Let go of the threads."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def culprit(self, loop: asyncio.AbstractEventLoop) -> Culprit | None:
        """Name the attempt that runs on the loop right now, for a thread that sees the loop stand still."""
        task = asyncio.current_task(loop)
        for (_, call, _), running in list(self.running.items()):
            if running.task is task and task is not None:
                return f"{running.case}: attempt {running.number} of call {call}", running.limit
        return None

    # -- tasks -------------------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside the pump; it ends before the worker has drained."""
        self._begin(self._until_done(work))

    async def _until_done(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            self._forget(asyncio.current_task())

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self.under_way.add(asyncio.get_running_loop().create_task(work))

    def _forget(self, task: asyncio.Task[Any] | None) -> None:
        # By hand and not by a done callback: that would cost a turn of the loop for every attempt.
        if task is not None:
            self.under_way.discard(task)

    # -- attempts ----------------------------------------------------------------------------------------

    async def _attempt(self, moved: Moved, command: Command, call: Call, commanded: Event | None, worker: int) -> None:
        number = command.number
        case_no = moved.case_no
        activity = moved.code.activities.get(call["activity"])
        if activity is None:  # the stage has it from where no worker looks for a workflow's activities
            why = f"no activity named {call['activity']} is loaded"
            self._forget(asyncio.current_task())
            unknown = Failure("unknown_activity", "UnknownActivity", why)
            self._report(case_no, Ended(command.call, number, unknown, worker, self._now()))
            return
        running = Running(moved.state.address, command.call, number, call["key"], call.get("details"))
        if not activity.transaction:  # the store runs that in a task of its own: this one's end would not be its end
            running.deadlines = self._deadlines
        running.limit = activity.timeout.total_seconds()
        if activity.heartbeat is not None:
            self._beats.follow(case_no, running)
        if not activity.is_async:
            running.on_late = lambda late: self._report(case_no, Ended(command.call, number, late, worker, self._now()))
        key = (case_no, command.call, number)
        self.running[key] = running
        running.task = asyncio.current_task()
        try:
            outcome: Success | Failure | None
            if worker != self.worker:
                raise asyncio.CancelledError  # abandoned between its commit and its first step
            commanded = commanded or await self._event(case_no, call["seq"])
            if number > 1 and activity.heartbeat is not None:
                await self._read(lambda: self._beats.hand_over(case_no, call, running))
            self._env.signal_point("before_effect")
            undone: Json = None
            original = commanded
            if call["undoes"]:
                original = await self._event(case_no, commanded.data["of"])
                undone = (await self._event(case_no, commanded.data["result"])).data["result"]
            given = (original.data["input"], undone, bool(call["undoes"]), self._executor)
            if not self._holds():
                await self._until_heard()
            if activity.transaction:
                place = (case_no, worker, moved.code.map_number)
                outcome = await transact(cast(Transacting, self._store), activity, running, place, *given)
            else:
                outcome = await perform(activity, running, *given)
        except asyncio.CancelledError:  # while the store was asked, as `perform` lets none through: nothing has begun
            if running.stopping:
                outcome = Failure("cancelled", "AttemptStopped", "stopped as asked, before it had begun")
            else:
                outcome = Failure("lost", "WorkerStopped", "the worker stopped before the attempt had begun")
        except StoreCorrupt as error:  # what it is to be called with is not what was recorded
            outcome = failure("undecodable", error)
        except Exception as error:  # the store: nothing has been begun
            outcome = failure("error", error)
        else:
            self._env.signal_point("after_effect")
        finally:
            self._forget(running.task)
            self.running.pop(key, None)
            self._freed(activity)
        if self.leaving and isinstance(outcome, Failure) and outcome.kind == "lost":
            return  # the incarnation is leaving: whoever takes the case over settles the attempt
        if activity.transaction:
            self._look(case_no)  # its result is in the inbox; or an operator's, that overtook it
        if outcome is None:
            return
        self._report(case_no, Ended(command.call, number, outcome, worker, self._now()))

    async def _until_heard(self) -> None:
        """Wait until the worker holds its lease again; where it has lost it, the attempt is abandoned meanwhile.

        Others may have taken the attempt for lost, asked about it, and made it: it must not begin beside that.
        """
        while not self._holds():  # noqa: ASYNC110  # the lease is kept by another thread
            await asyncio.sleep(HEARD)

    async def _event(self, case_no: int, seq: int) -> Event:
        event = await self._read(lambda: self._store.event(case_no, seq))
        if not is_sound(event):
            raise StoreCorrupt(
                f"event {seq} ({event.type}) is not what was recorded",
                hint="longcase verify, then longcase restore BACKUP",
            )
        return event

    async def _read(self, read: Callable[[], Awaitable[T]]) -> T:
        """Read what an attempt begins with. A store that is away is waited for: nobody has been asked yet."""
        backoff = Backoff(self._env.random.random)
        while True:
            try:
                return await read()
            except UnavailableError as error:
                if not error.retryable:
                    raise
                log.warning("an attempt waits for the store: %s", error.message)
            await backoff.pause()

    async def _verify(self, moved: Moved, command: Command, call: Call) -> None:
        try:
            activity = moved.code.activities.get(call["activity"])
            if activity is None or activity.verify_function is None:
                answer = Verified(
                    command.call, command.number, "unknown", None, "there is no verify function", self._now()
                )
            else:
                commanded = await self._event(moved.case_no, call["seq"])
                running = Running(moved.state.address, command.call, command.number, call["key"])
                told, result, why = await verify(activity, running, commanded.data["input"], self._executor)
                answer = Verified(command.call, command.number, told, result, why, self._now())
        except Exception as error:  # nobody would ask again: say so, and a person is asked
            why = f"verify could not be asked: {failure('error', error).message}"
            answer = Verified(command.call, command.number, "unknown", None, why, self._now())
        finally:
            self._forget(asyncio.current_task())
            self._verifying.discard((moved.case_no, command.call))
        self._report(moved.case_no, answer)
