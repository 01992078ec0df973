"""The worker: leases and moves the cases of a store, runs their attempts, and sleeps when nothing is due.

One pump takes up to a batch of cases (those with outcomes of this process first, so that work in
flight is finished before new work is begun), moves them in one transaction, and carries out their
commands. Nothing is polled in process; other processes' commits are noticed by a cheap look at the
store every `POLL` seconds. What waits is kept by `Agenda`, the worker's standing in the store by
`Membership`, what is looked for without being told by `Sweep`, attempts by `Carrier`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from longcase.backoff import Backoff
from longcase.engine.code import WorkflowCode
from longcase.engine.work import Item
from longcase.env import Env
from longcase.errors import LongcaseError, UnavailableError, WorkerForgotten
from longcase.history.event import instant_of, instant_text
from longcase.model.activity import Activity
from longcase.model.queue import DEFAULT_QUEUE
from longcase.runtime.agenda import Agenda, come, sooner
from longcase.runtime.carrying import Carrier
from longcase.runtime.garbage import rarer
from longcase.runtime.limits import ATTEMPTS_AT_ONCE, Slots
from longcase.runtime.membership import Membership
from longcase.runtime.moved import Moved
from longcase.runtime.queues import Claim, Queues
from longcase.runtime.sweep import Sweep
from longcase.runtime.turns import LIVE_CASES, Turns
from longcase.store.port import Store
from longcase.store.records import NewCase, Started

log = logging.getLogger("longcase.worker")

BATCH = 64  # cases moved in one commit: bounds what a crash repeats, and costs 2 % of a commit each
RESERVED = 8  # places of a batch kept for what other processes have accepted
IN_FLIGHT = 2 * BATCH  # attempts and outcomes above which new cases are accepted but not begun at once
POLL = 0.05  # seconds between looks at what other processes have committed
READ_CLOCK = 0.0005  # seconds one reading of the clock is good for; an instant is then late, never early
DRAIN = 30.0  # seconds a stopping worker waits for its attempts


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
        self.agenda = Agenda()
        self._live = live
        self._slots = Slots(env.now, limit=attempts)
        self._queues = Queues(queues, codes)
        self._turns: Turns | None = None
        self._carrier = Carrier(
            store, env, self._now, self.agenda.report, self.agenda.settle, self._freed, lambda: self._membership.holds
        )
        self._membership = Membership(store, env, self._carrier.culprit, self.agenda.ring)
        self._sweep = Sweep(store, env, self.agenda.look_everywhere)
        self._backoff = Backoff(env.random.random)  # while the store is unavailable
        self._stopping = False
        self._draining = False
        self._starting = 0  # starts of this process that are being written
        self._poll_at = 0.0
        self._clock_read = -READ_CLOCK  # not yet
        self._instant = ""

    @property
    def number(self) -> int:
        """The incarnation it is registered as, 0 before it has joined."""
        return self._membership.number

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
                    if self._membership.forgotten:
                        await self._join_anew()
                    moved = await self._round()
                    self._backoff.reset()
                    if not moved:
                        if self._draining and self._drained:
                            break
                        await self._idle()
                except WorkerForgotten:
                    self._membership.forget(self.number)
                except UnavailableError as error:
                    if not error.retryable:
                        raise
                    log.warning("store unavailable, trying again: %s", error.message)
                    if self._turns is not None:
                        self._turns_reset()
                    if self._draining:
                        self._backoff.reset()  # it was told to stop while it asked: it does not sit out a long pause
                    if not self._stopping:
                        await self._backoff.pause()
        finally:
            await self._leave()

    async def join(self) -> None:
        """Register this incarnation; the first round looks for cases whose worker is dead."""
        number = await self._membership.join(self.codes, self._queues.serves)
        self._carrier.worker = number
        self._turns = Turns(self.store, self.env, self.codes, number, self._slots, live=self._live, queues=self._queues)
        self._turns.watchdog.start()
        self._sweep.soon()
        self.agenda.look_everywhere()

    async def _join_anew(self) -> None:
        """Go on as another incarnation: others have taken over what this one held.

        Its attempts are cancelled, those in threads cannot be. Whatever they report comes under the old
        number, and is refused and recorded where somebody has settled the attempt meanwhile (I14).
        """
        log.warning("worker %d was forgotten by the store: it gives up what it held and joins anew", self.number)
        self._membership.stop_pulse()
        self.turns.watchdog.stop()
        self.turns.give_up()
        self._queues.give_up()
        self._queues.reopen()
        self._carrier.abandon()
        await asyncio.sleep(0)
        await self.join()

    def stop(self) -> None:
        """Ask the worker to stop: begin nothing new, let running attempts end, record them, then leave."""
        self._draining = True
        self._slots.closed = True
        self._backoff.hurry()
        self.agenda.ring()
        asyncio.get_running_loop().call_later(DRAIN, self.abort)

    @property
    def _drained(self) -> bool:
        running = self._carrier.running or self._carrier.under_way or self._starting
        return not (running or self.agenda.ended)

    def abort(self) -> None:
        """Stop now; running attempts are lost and will be tried again."""
        self._stopping = self._carrier.leaving = True
        self._backoff.hurry()
        self.agenda.ring()

    def wake(self, case_no: int) -> None:
        """Hint that the store holds something for a case (from this process)."""
        self.agenda.wake(case_no)

    @property
    def accepts(self) -> bool:
        """Whether cases may be started by this worker: it has joined, moves cases, and is not draining."""
        ready = self._turns is not None and not self._membership.forgotten and self._queues.general
        return ready and not self._draining and not self._stopping

    async def start(self, new: Sequence[NewCase]) -> list[Started]:
        """Accept cases of this process's workflows.

        Each is begun as it is accepted, BATCH to a transaction and one commit for both, unless enough work is
        in flight already: then it is only accepted and begun in its turn, so that what is begun is also
        finished. Where no cases may be started by this worker, it accepts them for whoever moves them.
        """
        if not self.accepts:
            return await self._accept(new)
        number = self.number
        self._starting += 1
        try:
            return await self._begin(new)
        except WorkerForgotten:
            self._membership.forget(number)
            raise
        finally:
            self._starting -= 1
            self.agenda.ring()

    async def _begin(self, new: Sequence[NewCase]) -> list[Started]:
        """Accept cases, and begin those there is room for."""
        started: list[Started] = []
        for begin in range(0, len(new), self.batch):
            some = new[begin : begin + self.batch]
            if len(self._carrier.under_way) + self.agenda.ended >= IN_FLIGHT:
                started.extend(await self._accept(some))
                self.agenda.store_at = None
            else:
                turns = self.turns
                answers, moved = await turns.start(some)
                started.extend(answers)
                if turns is not self._turns or self._membership.forgotten or self._stopping:
                    turns.give_up(moved)  # begun by an incarnation that others take over from
                    moved = []
                if len(moved) < len(answers):
                    self.agenda.store_at = None  # some were only accepted
                    begun = {entry.case_no for entry in moved}
                    self._wake_new([answer for answer in answers if answer.case_no not in begun])
                for entry in moved:
                    self._carry_out(entry)
            self.agenda.ring()
            if len(new) > self.batch:
                await asyncio.sleep(0)
        return started

    async def _accept(self, new: Sequence[NewCase]) -> list[Started]:
        accepted = await self.store.start(new)
        self._wake_new(accepted)
        return accepted

    def _wake_new(self, started: Sequence[Started]) -> None:
        for answer in started:
            if not answer.existing:
                self.wake(answer.case_no)

    async def _leave(self) -> None:
        self._stopping = True  # also where an error ended it: what begins from here on would run under no worker
        await self._carrier.leave()
        self._membership.stop_pulse()
        if self._turns is not None:
            self._turns.evict_all()
            self._turns.watchdog.stop()
            await self._membership.leave()
        self._carrier.shut_down()

    def _turns_reset(self) -> None:
        """Forget what was computed but perhaps not committed; outcomes stay and are applied again."""
        self.turns.evict_all()
        self.agenda.store_at = None

    # -- one round ---------------------------------------------------------------------------------------

    async def _round(self) -> bool:
        """Move one batch; False if there was nothing to move."""
        await self._keep_watch()
        if self._slots.has_spare:
            self._let_begin(self._slots.spare())
        # Some room is left for what the store holds, so that cases that never rest do not starve the others.
        room = self.batch - RESERVED if come(self.agenda.store_at, self._now()) else self.batch
        cases, look = self.agenda.take(self.batch, room)
        try:
            await self._add_ready(cases, look)
            if not cases:
                return False
            self.env.signal_point("before_record")
            moved = await self.turns.advance(cases, look)
        except LongcaseError:
            for case_no, items in cases.items():
                self.agenda.put_back(case_no, items)
            raise
        self.env.signal_point("after_record")
        for entry in moved:
            self._carry_out(entry)
        # Attempts of this batch start, and those that do not wait end, before the next batch is taken.
        await asyncio.sleep(0)
        return True

    async def _add_ready(self, cases: dict[int, list[Item]], look: set[int]) -> None:
        """Add what the store holds for this worker, as far as the batch has room."""
        general = self._queues.general and not self._draining
        if general and len(cases) < self.batch and come(self.agenda.store_at, self._now()):
            self.env.signal_point("before_claim")
            now, room = self._now(), self.batch - len(cases)
            self.agenda.store_at = ""  # whoever changes it from here on knows of more than this look sees
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
                self.agenda.store_at = sooner(self.agenda.store_at, more)
        if self._queues.limits and not self._draining:
            await self._take(cases, look)

    async def _take(self, cases: dict[int, list[Item]], look: set[int]) -> None:
        """Take calls from the queues this worker serves, as many as it has room for."""
        if not come(self.agenda.queues_at, self._now()):
            return
        room = min(self.batch - len(cases), self._slots.room - self._queues.granted)
        if room <= 0:
            return
        self.agenda.queues_at = ""  # as above
        more: str | None = None
        try:
            taken = await self.store.take(
                self.number, self._queues.open_limits, self._now(), room, tuple(self.codes), self._queues.known
            )
            if len(taken.calls) < room:
                more = taken.again
        finally:
            self.agenda.queues_at = sooner(self.agenda.queues_at, more)
        for case_no in self._queues.grant(taken):
            cases.setdefault(case_no, [])
            look.add(case_no)

    async def _idle(self) -> None:
        """Sleep until something of this process, another process's commit, or the next due instant."""
        if self.agenda.busy:
            return
        wait = POLL
        if not self._draining:  # else what is due is for others to take, and must not keep this one awake
            due = [instant_of(at) for at in (self.agenda.store_at, self.agenda.queues_at) if at]
            if self._slots.retry_at is not None:
                due.append(self._slots.retry_at)
            wait = min([wait, *map(self.env.clock.seconds_until, due)])
        await self.agenda.sleep(wait)
        if self._draining:
            return
        for case_no in self._slots.due():
            self.wake(case_no)
            self._queues.reopen()
            self.agenda.queues_at = None

    async def _keep_watch(self) -> None:
        """Notice other processes' commits and deaths, however busy this one is."""
        time = asyncio.get_running_loop().time()
        if self._sweep.is_due(time):
            self._sweep.check_store()
        if time >= self._poll_at:
            self._poll_at = time + POLL
            if self.store.changed():
                self.agenda.store_at = self.agenda.queues_at = None
                if self._queues.limits and self._carrier.running:
                    for stopped in await self.store.stops(self.number):
                        self._carrier.stop(stopped)
        if self._sweep.is_due(time):
            # Whether or not anybody told: a commit of this process whose caller gave up tells nobody.
            self.agenda.store_at = self.agenda.queues_at = None
            self._sweep.notice_clock_jump()
            await self._sweep.recover()
            for case_no in await self.turns.look_up_starts():
                self.wake(case_no)
        await self._membership.beat(time)

    def _now(self) -> str:
        """Return the store's instant, read at most once in READ_CLOCK: it is asked for at every attempt's end."""
        time = asyncio.get_running_loop().time()
        if time - self._clock_read >= READ_CLOCK:
            self._clock_read = time
            self._instant = instant_text(self.env.now())
        return self._instant

    # -- commands ----------------------------------------------------------------------------------------

    def _carry_out(self, moved: Moved) -> None:
        if moved.again:
            self.agenda.name(moved.case_no)
        self.agenda.expect(moved.wake_at)
        if moved.others:
            self.agenda.store_at = None
        if moved.left:
            self.agenda.put_back(moved.case_no, moved.left)
        self._carrier.carry_out(moved)
        if moved.queued:
            self.agenda.queues_at = None
        if not moved.refused:
            for waiting in self._slots.looked_at(moved.case_no, moved.commands):
                self.wake(waiting)
        else:
            self._slots.keep_waiting(moved.case_no, moved.refused)
            if back := self._queues.refuse(moved.case_no, moved.state):
                self._carrier.spawn(self._give_back(self.number, back))
            # While the turn was written a slot may have come free, and nobody was waiting for it.
            if free := self._slots.free_again(moved.refused):
                self._let_begin(self._slots.first_of(free))

    async def _give_back(self, worker: int, calls: list[Claim]) -> None:
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
        self._let_begin(self._slots.freed_by(activity))

    def _let_begin(self, cases: Sequence[int]) -> None:
        """Look at cases for which there is a slot, and into the queues for more."""
        if self._queues.limits:
            self._queues.reopen()
            self.agenda.queues_at = None
        for waiting in cases:
            self.wake(waiting)
