"""The worker: leases and moves the cases of a store, runs their attempts, and sleeps when nothing is due.

One pump takes up to a batch of cases (those with outcomes of this process first, so that work in
flight is finished before new work is begun), moves them in one transaction, and carries out their
commands. Nothing is polled in process; other processes' commits are noticed by a cheap look at the
store every `POLL` seconds.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from longcase.engine.advance import Command, Ended, Item, Verified
from longcase.engine.attempts import Failure, Success
from longcase.engine.code import WorkflowCode
from longcase.env import Env, RealClock
from longcase.errors import LongcaseError, StoreGone, UnavailableError
from longcase.history.event import Event, instant_of, instant_text
from longcase.history.state import Call
from longcase.model.codec import Json
from longcase.runtime.limits import THREADS, Slots
from longcase.runtime.performing import Deadlines, Running, failure, perform, verify
from longcase.runtime.turns import LIVE_CASES, Moved, Turns
from longcase.store.port import NewCase, Started, Store

log = logging.getLogger("longcase.worker")

BATCH = 64  # cases moved in one commit: bounds what a crash repeats, and costs 2 % of a commit each
RESERVED = 8  # places of a batch kept for what other processes have accepted
IN_FLIGHT = 2 * BATCH  # attempts and outcomes above which new cases are accepted but not begun at once
POLL = 0.05  # seconds between looks at what other processes have committed
READ_CLOCK = 0.0005  # seconds one reading of the clock is good for; an instant is then late, never early
CLOCK_JUMP = 2.0  # seconds the clock may drift between two sweeps before it is called a jump
SWEEP = 1.0  # seconds between looks for dead workers
STOP_GRACE = 10.0  # seconds an attempt that was asked to stop may go on
DRAIN = 30.0  # seconds a stopping worker waits for its attempts
RETRY_STORE = 0.5  # seconds before trying again after the store was unavailable
BEAT_EVERY = 1.0  # seconds between heartbeat details made durable for one attempt
BEAT_WORKER = 5.0  # seconds between a worker's own signs of life, one small commit each


_MOVES_OTHERS = frozenset({"child_started", "child_released", "case_closed", "interrupted"})


class Worker:
    """Moves cases until told to stop."""

    def __init__(
        self,
        store: Store,
        env: Env,
        codes: Mapping[str, WorkflowCode],
        *,
        live: int = LIVE_CASES,
        batch: int = BATCH,
    ) -> None:
        self.store = store
        self.env = env
        self.codes = codes
        self.batch = batch
        self.number = 0
        self._live = live
        self._slots = Slots(env.now)
        self._turns: Turns | None = None
        self._outcomes: dict[int, list[Item]] = {}
        self._queue: deque[int] = deque()
        self._look: dict[int, None] = {}
        self._bell = asyncio.Event()
        self._attempts: dict[tuple[int, str, int], Running] = {}
        self._deadlines = Deadlines()
        self._verifying: set[tuple[int, str]] = set()
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="longcase-activity")
        self._stopping = False
        self._draining = False
        self._due_known: str | None = None
        self._sweep_at = 0.0
        self._poll_at = 0.0
        self._beat_at = 0.0
        self._beaten: dict[int, set[str]] = {}  # case -> calls of which the store holds a heartbeat
        self._clocks: tuple[datetime, float] | None = None
        self._clock_read = 0.0
        self._instant = ""
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def turns(self) -> Turns:
        assert self._turns is not None
        return self._turns

    @property
    def running_attempts(self) -> int:
        return len(self._attempts)

    # -- running ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Join the store and move cases until `stop`. Outlives an unavailable store by waiting for it."""
        await self.join()
        try:
            while not self._stopping:
                try:
                    if not await self._round():
                        if self._draining and self._drained:
                            break
                        await self._idle()
                except UnavailableError as error:
                    if not error.retryable:
                        raise
                    log.warning("store unavailable, trying again: %s", error.message)
                    self._turns_reset()
                    await asyncio.sleep(RETRY_STORE)
        finally:
            await self._leave()

    async def join(self) -> None:
        """Register this incarnation and look for cases whose worker is dead."""
        self.number = await self.store.join(socket.gethostname(), os.getpid())
        self._turns = Turns(self.store, self.env, self.codes, self.number, self._slots, live=self._live)
        self._loop = asyncio.get_running_loop()
        self._turns.watchdog.start()
        await self._recover()
        self._wake_all()

    def stop(self) -> None:
        """Ask the worker to stop: begin nothing new, let running attempts end, record them, then leave."""
        self._draining = True
        self._slots.closed = True
        self._bell.set()
        asyncio.get_running_loop().call_later(DRAIN, self.abort)

    @property
    def _drained(self) -> bool:
        return not (self._attempts or self._tasks or self._queue or self._outcomes)

    def abort(self) -> None:
        """Stop now; running attempts are lost and will be tried again."""
        self._stopping = True
        self._bell.set()

    def wake(self, case_no: int) -> None:
        """Hint that the store holds something for a case (from this process)."""
        self._look[case_no] = None
        self._bell.set()

    @property
    def accepts(self) -> bool:
        """Whether cases may be started by this worker: it has joined and is not draining."""
        return self._turns is not None and not self._draining and not self._stopping

    async def start(self, new: Sequence[NewCase]) -> list[Started]:
        """Accept cases of this process's workflows, BATCH to a transaction.

        Each is begun as it is accepted, one commit for both, unless enough work is in flight already:
        then it is only accepted and begun in its turn, so that what is begun is also finished.
        """
        started: list[Started] = []
        for begin in range(0, len(new), self.batch):
            some = new[begin : begin + self.batch]
            if len(self._tasks) + len(self._queue) >= IN_FLIGHT:
                started.extend(await self.store.start(some))
                self._due_known = None
            else:
                answers, moved = await self.turns.start(some)
                started.extend(answers)
                if len(moved) < len(answers):
                    self._due_known = None  # some were only accepted
                for entry in moved:
                    self._carry_out(entry)
            self._bell.set()
            if len(new) > self.batch:
                await asyncio.sleep(0)
        return started

    async def _leave(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
        if self._turns is not None:
            self._turns.evict_all()
            self._turns.watchdog.stop()
            try:
                await self.store.leave(self.number)
            except UnavailableError as error:
                log.warning("could not give leases back: %s", error.message)
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _turns_reset(self) -> None:
        """Forget what was computed but perhaps not committed; outcomes stay and are applied again."""
        self.turns.evict_all()
        self._due_known = None

    # -- one round ---------------------------------------------------------------------------------------

    async def _round(self) -> bool:
        """Move one batch; False if there was nothing to move."""
        await self._keep_watch()
        cases: dict[int, list[Item]] = {}
        look: set[int] = set()
        # Some room is left for what the store holds, so that cases that never rest do not starve the others.
        room = self.batch - RESERVED if self._store_may_have_more() else self.batch
        while self._queue and len(cases) < room:
            case_no = self._queue.popleft()
            items = self._outcomes.pop(case_no, None)
            if items:
                cases[case_no] = items
        while self._look and len(cases) < self.batch:
            case_no = next(iter(self._look))
            del self._look[case_no]
            cases.setdefault(case_no, [])
            look.add(case_no)
        if len(cases) < self.batch and self._store_may_have_more() and not self._draining:
            self.env.signal_point("before_claim")
            ready = await self.store.ready(self._now(), self.number, self.batch - len(cases), tuple(self.codes))
            for case_no in ready:
                cases.setdefault(case_no, [])
                look.add(case_no)
            if len(ready) < self.batch - len(cases) or not ready:
                self._due_known = await self.store.next_wake(self._now())
        if not cases:
            return False
        self.env.signal_point("before_record")
        try:
            moved = await self.turns.advance(cases, look)
        except LongcaseError:
            for case_no, items in cases.items():
                self._put_back(case_no, items)
            raise
        self.env.signal_point("after_record")
        for entry in moved:
            self._carry_out(entry)
        # Attempts of this batch start, and those that do not wait end, before the next batch is taken.
        await asyncio.sleep(0)
        return True

    def _put_back(self, case_no: int, items: list[Item]) -> None:
        if items:
            self._outcomes[case_no] = items + self._outcomes.get(case_no, [])
            self._queue.append(case_no)
        else:
            self._look[case_no] = None

    def _store_may_have_more(self) -> bool:
        if self._due_known is None:
            return True
        return bool(self._due_known) and self._due_known <= self._now()

    async def _idle(self) -> None:
        """Sleep until something of this process, another process's commit, or the next due instant."""
        self._bell.clear()
        if self._queue or self._look:
            return
        loop = asyncio.get_running_loop()
        wait = POLL
        if self._due_known:
            wait = min(wait, self.env.clock.seconds_until(instant_of(self._due_known)))
        if self._slots.retry_at is not None:
            wait = min(wait, self.env.clock.seconds_until(self._slots.retry_at))
        handle = loop.call_later(wait, self._bell.set)
        await self._bell.wait()
        handle.cancel()
        for case_no in self._slots.due():
            self.wake(case_no)

    async def _keep_watch(self) -> None:
        """Notice other processes' commits and deaths, however busy this one is."""
        time = asyncio.get_running_loop().time()
        if time >= self._sweep_at and self.store.gone():
            raise StoreGone(
                f"the store {self.store.url} was deleted or replaced under this worker",
                hint="put its file back, then start the worker",
            )
        if time >= self._poll_at:
            self._poll_at = time + POLL
            if self.store.changed():
                self._due_known = None
        if time >= self._sweep_at:
            self._notice_clock_jump()
            await self._recover()
            for case_no in await self.turns.settle_starts():
                self.wake(case_no)
        if time >= self._beat_at:
            self._beat_at = time + BEAT_WORKER
            await self.store.beat(self.number)

    def _notice_clock_jump(self) -> None:
        """Log when the wall clock and the machine's steady one disagree (I22): what is due moves with the former."""
        seen = (self.env.now(), self.env.monotonic())
        before, self._clocks = self._clocks, seen
        if before is None or not isinstance(self.env.clock, RealClock):
            return
        jump = (seen[0] - before[0]).total_seconds() - (seen[1] - before[1])
        if abs(jump) > CLOCK_JUMP:
            log.warning("clock_jump: the clock moved %+.1f s beside the time that passed; due instants follow it", jump)
            self._wake_all()

    def _wake_all(self) -> None:
        self._due_known = None
        self._bell.set()

    def _now(self) -> str:
        """Return the store's instant, read at most once in READ_CLOCK: it is asked for at every attempt's end."""
        time = asyncio.get_running_loop().time()
        if time - self._clock_read >= READ_CLOCK:
            self._clock_read = time
            self._instant = instant_text(self.env.now())
        return self._instant

    async def _recover(self) -> None:
        """Void the leases of dead workers, so that their cases are ready and their attempts settled."""
        self._sweep_at = asyncio.get_running_loop().time() + SWEEP
        for dead in await self.store.dead_workers():
            count = await self.store.recover(dead)
            if count:
                log.warning("worker %d is dead; %d of its cases go on here", dead, count)
            self._wake_all()

    # -- commands ----------------------------------------------------------------------------------------

    def _carry_out(self, moved: Moved) -> None:
        self._look.pop(moved.case_no, None) if not moved.again else self._look.setdefault(moved.case_no)
        if moved.wake_at and self._due_known is not None and (not self._due_known or moved.wake_at < self._due_known):
            self._due_known = moved.wake_at
        if any(event.type in _MOVES_OTHERS for event in moved.events):
            self._due_known = None  # the same commit may have made another case ready
        if moved.left:
            self._put_back(moved.case_no, moved.left)
        inputs = {
            event.data["call"]: event for event in moved.events if event.type in ("activity_scheduled", "undo_started")
        }
        for command in moved.commands:
            call = moved.state.calls.get(command.call)
            match command.kind:
                case "perform" if call is not None:
                    self._spawn(self._attempt(moved, command, call, inputs.get(command.call)))
                case "verify" if call is not None and (moved.case_no, command.call) not in self._verifying:
                    self._verifying.add((moved.case_no, command.call))
                    self._spawn(self._verify(moved, command, call))
                case "stop":
                    self._stop_attempt((moved.case_no, command.call, command.number))
        if self._beaten and moved.case_no in self._beaten:
            self._forget_beats(moved)
        if moved.refused:
            self._slots.hold(moved.case_no, moved.refused)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)

    def _forget(self, task: asyncio.Task[Any] | None) -> None:
        # By hand and not by a done callback: that would cost a turn of the loop for every attempt.
        if task is not None:
            self._tasks.discard(task)

    async def _attempt(self, moved: Moved, command: Command, call: Call, commanded: Event | None) -> None:
        activity = moved.code.activities[call["activity"]]
        number = command.number
        case_no = moved.case_no
        running = Running(moved.state.address, command.call, number, call["key"], call.get("details"))
        running.deadlines = self._deadlines
        if activity.heartbeat is not None:
            running.on_beat = lambda beating: self._beat(case_no, beating)
        if not activity.is_async:
            running.on_late = lambda late: self._report(
                case_no, Ended(command.call, number, late, self.number, self._now())
            )
        key = (case_no, command.call, number)
        self._attempts[key] = running
        running.task = asyncio.current_task()
        try:
            outcome: Success | Failure
            commanded = commanded or await self.store.event(case_no, call["seq"])
            if number > 1 and activity.heartbeat is not None:
                kept = await self.store.last_beat(case_no, command.call)
                if kept is not None:
                    self._beaten.setdefault(case_no, set()).add(command.call)
                    # The details of a failure are the last of its attempt; those kept of a later one are newer.
                    if kept[0] > call.get("details_of", 0):
                        running.previous_details = kept[1]
            self.env.signal_point("before_effect")
            if call["undoes"]:
                original = await self.store.event(case_no, commanded.data["of"])
                done = await self.store.event(case_no, commanded.data["result"])
                outcome = await perform(
                    activity, running, original.data["input"], done.data["result"], True, self._executor
                )
            else:
                outcome = await perform(activity, running, commanded.data["input"], None, False, self._executor)
        except Exception as error:  # the store, or an event that is not as it should be: nothing has been begun
            outcome = failure("error", error)
        else:
            self.env.signal_point("after_effect")
        finally:
            self._forget(running.task)
            self._attempts.pop(key, None)
            self._slots.give_back(activity)
        if self._stopping and isinstance(outcome, Failure) and outcome.kind == "lost":
            return  # the incarnation is leaving: whoever takes the case over settles the attempt
        self._report(case_no, Ended(command.call, number, outcome, self.number, self._now()))
        for waiting in self._slots.freed_by(activity):
            self.wake(waiting)

    def _beat(self, case_no: int, running: Running) -> None:
        """Make heartbeat details durable, at most once in BEAT_EVERY; called from the attempt's own thread."""
        now = self.env.monotonic()
        if running.details is not None and now - running.kept_at >= BEAT_EVERY:
            running.kept_at = now
            self._loop.call_soon_threadsafe(self._keep_beat, case_no, running, running.details)

    def _keep_beat(self, case_no: int, running: Running, details: Json) -> None:
        if not running.ended:
            self._beaten.setdefault(case_no, set()).add(running.call)
            self._spawn(self._store_beat(case_no, running, details))

    async def _store_beat(self, case_no: int, running: Running, details: Json) -> None:
        try:
            await self.store.keep_beat(case_no, running.call, running.number, details)
            if running.call not in self._beaten.get(case_no, ()):  # the call has ended meanwhile
                await self.store.forget_beats(case_no, [running.call])
        except LongcaseError as error:
            log.warning("%s: heartbeat details not kept: %s", running.case, error.message)
        finally:
            self._forget(asyncio.current_task())

    def _forget_beats(self, moved: Moved) -> None:
        """Remove the kept heartbeats of the case's calls that are over."""
        kept = self._beaten[moved.case_no]
        over = sorted(kept - moved.state.calls.keys())
        kept.difference_update(over)
        if not kept:
            del self._beaten[moved.case_no]
        if over:
            self._spawn(self._remove_beats(moved.case_no, over))

    async def _remove_beats(self, case_no: int, calls: list[str]) -> None:
        try:
            await self.store.forget_beats(case_no, calls)
        except LongcaseError as error:
            log.warning("case %d: heartbeats of calls that are over stay: %s", case_no, error.message)
        finally:
            self._forget(asyncio.current_task())

    async def _verify(self, moved: Moved, command: Command, call: Call) -> None:
        try:
            activity = moved.code.activities.get(call["activity"])
            if activity is None or activity.verify_function is None:
                answer = Verified(
                    command.call, command.number, "unknown", None, "there is no verify function", self._now()
                )
            else:
                commanded = await self.store.event(moved.case_no, call["seq"])
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

    def _report(self, case_no: int, item: Item) -> None:
        waiting = self._outcomes.get(case_no)
        if waiting is None:
            self._outcomes[case_no] = [item]
            self._queue.append(case_no)
        else:
            waiting.append(item)
        self._bell.set()

    def _stop_attempt(self, key: tuple[int, str, int]) -> None:
        running = self._attempts.get(key)
        if running is None:
            return
        running.stopping = True
        if running.task is not None:
            asyncio.get_running_loop().call_later(STOP_GRACE, running.task.cancel)
