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
from datetime import datetime
from functools import partial
from typing import Any

from longcase.engine.advance import Item
from longcase.engine.code import WorkflowCode
from longcase.env import Env, RealClock
from longcase.errors import LongcaseError, StoreGone, UnavailableError, WorkerForgotten
from longcase.history.event import instant_of, instant_text
from longcase.model.activity import Activity
from longcase.model.queue import DEFAULT_QUEUE
from longcase.runtime.carrying import Carrier
from longcase.runtime.garbage import rarer
from longcase.runtime.limits import ATTEMPTS_AT_ONCE, Slots
from longcase.runtime.moved import Moved
from longcase.runtime.pulse import Pulse
from longcase.runtime.queues import Queues
from longcase.runtime.turns import LIVE_CASES, Turns
from longcase.store.port import NewCase, Started, Store

log = logging.getLogger("longcase.worker")

BATCH = 64  # cases moved in one commit: bounds what a crash repeats, and costs 2 % of a commit each
RESERVED = 8  # places of a batch kept for what other processes have accepted
IN_FLIGHT = 2 * BATCH  # attempts and outcomes above which new cases are accepted but not begun at once
POLL = 0.05  # seconds between looks at what other processes have committed
READ_CLOCK = 0.0005  # seconds one reading of the clock is good for; an instant is then late, never early
CLOCK_JUMP = 2.0  # seconds the clock may drift between two sweeps before it is called a jump
SWEEP = 1.0  # seconds between looks for dead workers
DRAIN = 30.0  # seconds a stopping worker waits for its attempts
RETRY_STORE = 0.5  # seconds before trying again after the store was unavailable
BEAT_WORKER = 5.0  # seconds between a worker's own signs of life, one small commit each


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
        queues: Sequence[str] = (DEFAULT_QUEUE,),
        attempts: int = ATTEMPTS_AT_ONCE,
    ) -> None:
        self.store = store
        self.env = env
        self.codes = codes
        self.batch = batch
        self.number = 0
        self._live = live
        self._slots = Slots(env.now, limit=attempts)
        self._queues = Queues(queues, codes)
        self._queue_again: str | None = None  # when to look into the queues again; None: now, "": when told
        self._pulse: Pulse | None = None
        self._beats_here = True
        self._forgotten = False
        self._turns: Turns | None = None
        self._outcomes: dict[int, list[Item]] = {}
        self._queue: deque[int] = deque()
        self._look: dict[int, None] = {}
        self._bell = asyncio.Event()
        self._carrier = Carrier(store, env, self._now, self._report, self._freed)
        self._stopping = False
        self._draining = False
        self._starting = 0  # starts of this process that are being written
        self._due_known: str | None = None
        self._sweep_at = 0.0
        self._poll_at = 0.0
        self._beat_at = 0.0
        self._clocks: tuple[datetime, float] | None = None
        self._clock_read = 0.0
        self._instant = ""

    @property
    def turns(self) -> Turns:
        assert self._turns is not None
        return self._turns

    @property
    def running_attempts(self) -> int:
        return len(self._carrier.running)

    # -- running ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Join the store and move cases until `stop`. Outlives an unavailable store by waiting for it."""
        with rarer():
            await self._run()

    async def _run(self) -> None:
        try:
            while not self._stopping:
                try:
                    if not self.number:
                        if self._draining:
                            break
                        await self.join()
                    if self._forgotten:
                        await self._join_anew()
                    if not await self._round():
                        if self._draining and self._drained:
                            break
                        await self._idle()
                except WorkerForgotten:
                    self._forget_me(self.number)
                except UnavailableError as error:
                    if not error.retryable:
                        raise
                    log.warning("store unavailable, trying again: %s", error.message)
                    if self._turns is not None:
                        self._turns_reset()
                    await asyncio.sleep(RETRY_STORE)
        finally:
            await self._leave()

    async def join(self) -> None:
        """Register this incarnation; the first round looks for cases whose worker is dead."""
        self._loop = asyncio.get_running_loop()
        codes = {name: code.fingerprint for name, code in self.codes.items() if code.fingerprint}
        self.number = await self.store.join(socket.gethostname(), os.getpid(), codes=codes, serves=self._queues.serves)
        self._carrier.worker = self.number
        self._turns = Turns(
            self.store, self.env, self.codes, self.number, self._slots, live=self._live, queues=self._queues
        )
        self._turns.watchdog.start()
        heart = self.store.heart(self.number)
        forgotten = partial(self._forget_me, self.number)
        self._pulse = Pulse(heart, self.env, partial(self._carrier.culprit, self._loop), forgotten)
        # Where the lease is kept by the pulse, the pump need not; elsewhere its beat is for the eye.
        self._beats_here = not self._pulse.start(self._loop) or heart is None
        self._sweep_at = 0.0  # the first round looks for dead workers
        self._wake_all()

    async def _join_anew(self) -> None:
        """Go on as another incarnation: others have taken over what this one held.

        Its attempts are cancelled, those in threads cannot be. Whatever they report comes under the old
        number, and is refused and recorded where somebody has settled the attempt meanwhile (I14).
        """
        log.warning("worker %d was forgotten by the store: it gives up what it held and joins anew", self.number)
        if self._pulse is not None:
            self._pulse.stop()
        self.turns.watchdog.stop()
        self.turns.give_up()
        self._queues.give_up()
        self._queues.reopen()
        self._carrier.abandon()
        await asyncio.sleep(0)
        await self.join()
        self._forgotten = False  # only now: until it has joined it tries again

    def _forget_me(self, incarnation: int) -> None:
        """Note that the store has forgotten an incarnation; if it is this one, the pump joins anew first of all."""
        if incarnation == self.number:  # else the answer to an earlier one's beat came late
            self._forgotten = True
            self._bell.set()

    def stop(self) -> None:
        """Ask the worker to stop: begin nothing new, let running attempts end, record them, then leave."""
        self._draining = True
        self._slots.closed = True
        self._bell.set()
        asyncio.get_running_loop().call_later(DRAIN, self.abort)

    @property
    def _drained(self) -> bool:
        running = self._carrier.running or self._carrier.tasks or self._starting
        return not (running or self._queue or self._outcomes)

    def abort(self) -> None:
        """Stop now; running attempts are lost and will be tried again."""
        self._stopping = self._carrier.leaving = True
        self._bell.set()

    def wake(self, case_no: int) -> None:
        """Hint that the store holds something for a case (from this process)."""
        self._look[case_no] = None
        self._bell.set()

    @property
    def accepts(self) -> bool:
        """Whether cases may be started by this worker: it has joined, moves cases, and is not draining."""
        ready = self._turns is not None and not self._forgotten and self._queues.general
        return ready and not self._draining and not self._stopping

    async def start(self, new: Sequence[NewCase]) -> list[Started]:
        """Accept cases of this process's workflows, BATCH to a transaction.

        Each is begun as it is accepted, one commit for both, unless enough work is in flight already:
        then it is only accepted and begun in its turn, so that what is begun is also finished.
        """
        number = self.number
        self._starting += 1
        try:
            return await self._start(new)
        except WorkerForgotten:
            self._forget_me(number)
            raise
        finally:
            self._starting -= 1
            self._bell.set()

    async def _start(self, new: Sequence[NewCase]) -> list[Started]:
        started: list[Started] = []
        for begin in range(0, len(new), self.batch):
            some = new[begin : begin + self.batch]
            if len(self._carrier.tasks) + len(self._queue) >= IN_FLIGHT:
                accepted = await self.store.start(some)
                self._wake_new(accepted)
                started.extend(accepted)
                self._due_known = None
            else:
                turns = self.turns
                answers, moved = await turns.start(some)
                started.extend(answers)
                if turns is not self._turns or self._forgotten or self._stopping:
                    turns.give_up(moved)  # begun by an incarnation that others take over from
                    moved = []
                if len(moved) < len(answers):
                    self._due_known = None  # some were only accepted
                    begun = {entry.case_no for entry in moved}
                    self._wake_new([answer for answer in answers if answer.case_no not in begun])
                for entry in moved:
                    self._carry_out(entry)
            self._bell.set()
            if len(new) > self.batch:
                await asyncio.sleep(0)
        return started

    def _wake_new(self, started: Sequence[Started]) -> None:
        for answer in started:
            if not answer.existing:
                self.wake(answer.case_no)

    async def _leave(self) -> None:
        self._stopping = True  # also where an error ended it: what begins from here on would run under no worker
        await self._carrier.leave()
        if self._pulse is not None:
            self._pulse.stop()
        if self._turns is not None:
            self._turns.evict_all()
            self._turns.watchdog.stop()
            try:
                await self.store.leave(self.number)
            except UnavailableError as error:
                log.warning("could not give leases back: %s", error.message)
        self._carrier.shut_down()

    def _turns_reset(self) -> None:
        """Forget what was computed but perhaps not committed; outcomes stay and are applied again."""
        self.turns.evict_all()
        self._due_known = None

    # -- one round ---------------------------------------------------------------------------------------

    async def _round(self) -> bool:
        """Move one batch; False if there was nothing to move."""
        await self._keep_watch()
        for waiting in self._slots.spare():
            self.wake(waiting)
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
        try:
            await self._claim(cases, look)
            if not cases:
                return False
            self.env.signal_point("before_record")
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

    async def _claim(self, cases: dict[int, list[Item]], look: set[int]) -> None:
        """Add what the store holds for this worker, as far as the batch has room."""
        general = self._queues.general and not self._draining
        if general and len(cases) < self.batch and self._store_may_have_more():
            self.env.signal_point("before_claim")
            now, room = self._now(), self.batch - len(cases)
            self._due_known = ""  # whoever changes it from here on knows of more than this look sees
            more: str | None = None
            try:
                ready = await self.store.ready(now, self.number, room, tuple(self.codes))
                for case_no in ready:
                    cases.setdefault(case_no, [])
                    look.add(case_no)
                if len(ready) < room:
                    # After the instant of that look: what falls due in between must be in one of them.
                    more = await self.store.next_wake(now)
            finally:
                self._due_known = _sooner(self._due_known, more)
        if self._queues.limits and not self._draining:
            await self._take(cases, look)

    async def _take(self, cases: dict[int, list[Item]], look: set[int]) -> None:
        """Take calls from the queues this worker serves, as many as it has room for."""
        if self._queue_again is not None and (not self._queue_again or self._queue_again > self._now()):
            return
        room = min(self.batch - len(cases), self._slots.room - self._queues.granted)
        if room <= 0:
            return
        self._queue_again = ""  # as above
        more: str | None = None
        try:
            taken = await self.store.take(
                self.number, self._queues.open_limits, self._now(), room, tuple(self.codes), self._queues.known
            )
            if len(taken.calls) < room:
                more = taken.again
        finally:
            self._queue_again = _sooner(self._queue_again, more)
        for case_no in self._queues.grant(taken):
            cases.setdefault(case_no, [])
            look.add(case_no)

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
        if not self._draining:  # else what is due is for others to take, and must not keep this one awake
            if self._due_known:
                wait = min(wait, self.env.clock.seconds_until(instant_of(self._due_known)))
            if self._slots.retry_at is not None:
                wait = min(wait, self.env.clock.seconds_until(self._slots.retry_at))
            if self._queue_again:
                wait = min(wait, self.env.clock.seconds_until(instant_of(self._queue_again)))
        handle = loop.call_later(wait, self._bell.set)
        await self._bell.wait()
        handle.cancel()
        if self._draining:
            return
        for case_no in self._slots.due():
            self.wake(case_no)
            self._queues.reopen()
            self._queue_again = None

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
                self._queue_again = None
                if self._queues.limits and self._carrier.running:
                    for stopped in await self.store.stops(self.number):
                        self._carrier.stop(stopped)
        if time >= self._sweep_at:
            # Whether or not anybody told: a commit of this process whose caller gave up tells nobody.
            self._due_known = self._queue_again = None
            self._notice_clock_jump()
            await self._recover()
            for case_no in await self.turns.settle_starts():
                self.wake(case_no)
        if time >= self._beat_at and self._beats_here:
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
        self._queue_again = None
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
            try:
                count = await self.store.recover(dead)
            except UnavailableError as error:
                if not error.retryable:
                    raise
                log.warning("worker %d not recovered, trying again: %s", dead, error.message)
                continue
            except Exception:  # one worker's leases, perhaps of one that lives after all: nothing else waits for them
                log.exception("worker %d not recovered", dead)
                continue
            if count:
                # Not "go on here": who moves them is whoever has loaded their workflow and comes first.
                log.warning("worker %d is dead; cases set free for the workers of their workflows: %d", dead, count)
            self._wake_all()

    # -- commands ----------------------------------------------------------------------------------------

    def _carry_out(self, moved: Moved) -> None:
        if moved.again:
            self._look[moved.case_no] = None  # one that came meanwhile stays: it may tell of a later commit
        if moved.wake_at and self._due_known is not None and (not self._due_known or moved.wake_at < self._due_known):
            self._due_known = moved.wake_at
        if moved.others:
            self._due_known = None
        if moved.left:
            self._put_back(moved.case_no, moved.left)
        self._carrier.carry_out(moved)
        if moved.queued:
            self._queue_again = None
        if not moved.refused:
            for waiting in self._slots.looked_at(moved.case_no, moved.commands):
                self.wake(waiting)
        else:
            self._slots.hold(moved.case_no, moved.refused)
            if back := self._queues.refuse(moved.case_no, moved.state):
                self._carrier.spawn(self._give_back(self.number, back))

    async def _give_back(self, worker: int, calls: list[tuple[int, str]]) -> None:
        """Let other workers have the queued calls this one has no slot for."""
        try:
            await self.store.give_back(worker, calls)
        except LongcaseError as error:
            log.warning("%d queued calls not given back, they are taken anew: %s", len(calls), error.message)
        finally:
            self._queues.returned(calls)

    def _freed(self, activity: Activity[..., Any]) -> None:
        """Let those that waited for the slot of an attempt that has ended have it."""
        self._slots.give_back(activity)
        if self._queues.limits:
            self._queues.reopen()
            self._queue_again = None
        for waiting in self._slots.freed_by(activity):
            self.wake(waiting)

    def _report(self, case_no: int, item: Item) -> None:
        waiting = self._outcomes.get(case_no)
        if waiting is None:
            self._outcomes[case_no] = [item]
            self._queue.append(case_no)
        else:
            waiting.append(item)
        self._bell.set()


def _sooner(one: str | None, other: str | None) -> str | None:
    """Return the sooner of two instants to look again at: None is now, "" is when told."""
    if one is None or other is None:
        return None
    return min(filter(None, (one, other)), default="")
