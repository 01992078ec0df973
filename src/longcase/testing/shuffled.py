"""The shuffled mover: wake-ups shuffled, doubled and lost; several incarnations over one store.

It moves cases as badly as a mover may: every choice is drawn from one seed. Turns of different
incarnations interleave at each call of the store; an attempt begun by one is ended by another, late,
or twice; incarnations forget their coroutines, and die, at any call of the store. What is not in the
store is lost. Two runs of one seed are equal.

The conformance suite runs on this mover and on the worker; the seeded simulation runs on it too.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any, Protocol, cast

from longcase.engine.attempts import Failure, Success
from longcase.engine.code import WorkflowCode
from longcase.engine.work import Accepted, Item, Verified
from longcase.env import Env
from longcase.errors import BugError, StoreUnavailable, UnavailableError
from longcase.history.event import instant_text
from longcase.runtime.limits import Slots
from longcase.runtime.moved import Moved
from longcase.runtime.performing import Running, perform, verify
from longcase.runtime.seam import AskVerify, AttemptsOverTurns, Go
from longcase.runtime.transacting import transact
from longcase.runtime.turns import Turns
from longcase.store.port import Store, Transacting

STEPS = 3_000
WRITES = frozenset({"start", "write", "edit", "release", "leave", "recover"})


@dataclass(frozen=True, slots=True)
class Chances:
    """How likely each mischief is, at each occasion for it."""

    lose: float = 0.1  # a wake-up
    double: float = 0.1  # a wake-up
    repeat: float = 0.1  # the report of an attempt's end
    evict: float = 0.05  # the coroutines of an incarnation, per step
    crash: float = 0.0  # an incarnation, per call of the store
    fail: float = 0.0  # a call of the store, before it does anything
    unknown: float = 0.0  # a write that is committed, and reported as failed
    zombie: float = 0.5  # an attempt outlives its incarnation


CALM = Chances(0, 0, 0, 0)


class Abandoning(Store, Protocol):
    """A store whose incarnations can be made to die inside this process."""

    def abandon(self, worker: int) -> None: ...


class Killed(BaseException):
    """The incarnation died here. No `except Exception` of ours may go on after that."""


@types.coroutine
def breath() -> Generator[None, None, None]:
    """Let other incarnations go on."""
    yield


class Lens:
    """The store as one incarnation sees it: every call may be the moment at which others go on, or it dies."""

    def __init__(self, store: Store, hand: Hand, draw: Callable[[str], str]) -> None:
        self._store = store
        self._hand = hand
        self._draw = draw

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if not inspect.iscoroutinefunction(method):
            return method

        async def call(*args: Any, **kwargs: Any) -> Any:
            await breath()
            fault = self._draw(name)
            if self._hand.dead or fault == "crash":
                raise Killed
            if fault == "fail":
                raise StoreUnavailable(f"{name}: the store did not answer", hint="it was not reached")
            result = await method(*args, **kwargs)
            if fault == "crash after":
                raise Killed
            if fault == "unknown":
                raise StoreUnavailable(f"{name}: the answer was lost", hint="it may have been written")
            await breath()
            return result

        return call


@dataclass(eq=False)
class Hand:
    """One incarnation. Everything but its number is lost when it dies."""

    worker: int = 0
    dead: bool = False
    flight: Coroutine[Any, Any, Any] | None = None  # what it is in the middle of; one thing at a time
    again: list[int] = field(default_factory=list)  # cases whose last commit has an unknown outcome
    reporting: Job | None = None
    turns: Turns = field(init=False, repr=False)
    slots: Slots = field(init=False, repr=False)


@dataclass(eq=False)
class Job:
    """A command on its way to the world, or an outcome on its way back."""

    moved: Moved
    kind: str  # perform | verify
    call: str
    number: int
    hand: Hand
    go: Go | None = None
    outcome: Success | Failure | Verified | None = None
    item: Item | None = None  # given back by an advance that could not apply it yet


class ShuffledMover:
    """Moves the cases of a store. `await mover.come_to_rest()` after whatever a test does through the door."""

    def __init__(
        self,
        store: Abandoning,
        env: Env,
        codes: Mapping[str, WorkflowCode],
        *,
        seed: int = 0,
        hands: int = 3,
        chances: Chances | None = None,
        live: int = 512,
    ) -> None:
        self.store = store
        self.env = env
        self.codes = codes
        self.chances = chances or Chances()
        self.random = Random(seed)  # noqa: S311 - repeatable on purpose
        self.live = live
        self.hands: list[Hand] = []
        self.hints: list[int] = []
        self.jobs: list[Job] = []  # commanded, not performed yet
        self.ends: list[Job] = []  # performed, not reported yet
        self.counts: dict[str, int] = {}  # what happened how often: a run without mischief proves nothing
        self._wanted = hands

    async def open(self) -> ShuffledMover:
        """Let the incarnations join."""
        for _ in range(self._wanted):
            await self._join()
        return self

    async def _join(self) -> Hand:
        hand = Hand(await self.store.join("shuffled", len(self.hands)))
        lens = cast(Store, Lens(self.store, hand, self._fault))
        hand.slots = Slots(self.env.now)
        hand.turns = Turns(lens, self.env, self.codes, hand.worker, hand.slots, live=self.live)
        self.hands.append(hand)
        return hand

    # -- mischief --------------------------------------------------------------------------------------

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def _chance(self, what: str) -> bool:
        p: float = getattr(self.chances, what)
        if p and self.random.random() < p:
            self._count(what)
            return True
        return False

    def _fault(self, name: str) -> str:
        if self._chance("crash"):
            return "crash after" if name in WRITES and self.random.random() < 0.5 else "crash"
        if self._chance("fail"):
            return "fail"
        if name in WRITES and self._chance("unknown"):
            return "unknown"
        return ""

    async def crash(self, hand: Hand) -> None:
        """Kill an incarnation: its memory is gone, its lock is free, some of its attempts go on as zombies."""
        hand.dead = True
        if hand.flight is not None:
            hand.flight.close()
            hand.flight = None
        hand.turns.evict_all()
        if hand.reporting is not None and hand.reporting.hand is not hand:
            self.ends.append(hand.reporting)  # who ran the attempt has had no answer, and reports again
        self.store.abandon(hand.worker)
        self.hands.remove(hand)
        lost = [job for job in [*self.jobs, *self.ends] if job.hand is hand and not self._chance("zombie")]
        self.jobs = [job for job in self.jobs if job not in lost]
        self.ends = [job for job in self.ends if job not in lost]
        await self._join()

    # -- moving ----------------------------------------------------------------------------------------

    def wake(self, case_no: int) -> None:
        """Hint that the store holds something for a case; it may get lost, and is found by the sweep then."""
        if self._chance("lose"):
            return
        self.hints.append(case_no)
        if self._chance("double"):
            self.hints.append(case_no)

    async def come_to_rest(self) -> None:
        """Go on until nothing is left to do at this instant."""
        for _ in range(STEPS):
            if not await self.step() and not await self.sweep():
                return
        raise BugError("the shuffled mover does not come to rest", hint="a case is ready for ever; see its history")

    async def sweep(self) -> bool:
        """Look into the store for what no wake-up told of; False if there is nothing."""
        for worker in await self.store.dead_workers():
            await self.store.recover(worker)
        found: list[int] = []
        for hand in self.hands:
            ready = await self.store.ready(instant_text(self.env.now()), hand.worker, 64)
            found += [case_no for case_no in [*ready, *hand.slots.due()] if case_no not in found]
        self.hints += found
        return bool(found)

    async def step(self) -> bool:
        """Do one thing, drawn among all that could be done now; False if there is nothing."""
        for hand in list(self.hands):
            if self._chance("evict") and hand.flight is None:
                hand.turns.evict_all()
        idle = [hand for hand in self.hands if hand.flight is None]
        choices: list[str] = []
        if len(idle) < len(self.hands):
            choices += ["fly"] * 4
        if self.jobs:
            choices.append("perform")
        unsure = [hand for hand in idle if hand.again]
        if unsure:
            choices.append("again")
        if idle and self.hints:
            choices.append("advance")
        if idle and self.ends:
            choices.append("end")
        if not choices:
            return False
        match self.random.choice(choices):
            case "fly":
                await self._fly(self.random.choice([hand for hand in self.hands if hand.flight is not None]))
            case "perform":
                await self._perform(self._take(self.jobs))
            case "again":
                hand = self.random.choice(unsure)
                hand.flight = self._advance(hand, self._take(hand.again))
            case "advance":
                hand = self.random.choice(idle)
                hand.flight = self._advance(hand, self._take(self.hints))
            case "end":
                hand = self.random.choice(idle)
                hand.reporting = self._take(self.ends)
                hand.flight = self._end(hand, hand.reporting)
        return True

    def _take(self, bag: list[Any]) -> Any:
        return bag.pop(self.random.randrange(len(bag)))

    async def _fly(self, hand: Hand) -> None:
        """Let an incarnation go on to its next call of the store."""
        assert hand.flight is not None
        try:
            hand.flight.send(None)
        except StopIteration:
            hand.flight = hand.reporting = None
        except Killed:
            hand.flight = None
            await self.crash(hand)

    async def _advance(self, hand: Hand, case_no: int) -> None:
        try:
            moved = await hand.turns.advance({case_no: []}, {case_no})
        except UnavailableError:
            hand.again.append(case_no)
            return
        self._carry(hand, moved)
        self._count("advances")

    async def _end(self, hand: Hand, job: Job) -> None:
        if self._chance("repeat"):
            self.ends.append(job)
        try:
            if job.item is not None:
                moved = await hand.turns.advance({job.moved.case_no: [job.item]}, {job.moved.case_no})
            else:
                assert job.go is not None
                assert job.outcome is not None
                moved = (await AttemptsOverTurns(hand.turns).end(job.go, job.outcome)).moved
        except UnavailableError:
            self.ends.append(job)
            hand.again.append(job.moved.case_no)
            return
        self._carry(hand, moved)
        self._count("ends")

    def _carry(self, hand: Hand, moved: list[Moved]) -> None:
        for entry in moved:
            for command in entry.commands:
                if command.kind != "stop":
                    self.jobs.append(Job(entry, command.kind, command.call, command.number, hand))
            owner = hand.reporting.hand if hand.reporting is not None else hand
            self.ends += [
                Job(entry, "end", item.call, item.number, owner, item=item)
                for item in entry.left
                if not isinstance(item, Accepted)
            ]
            if entry.again:
                self.hints.append(entry.case_no)
            if entry.refused:
                hand.slots.keep_waiting(entry.case_no, entry.refused)

    def refused_until(self) -> datetime | None:
        """Return when the first limit that refused an attempt lets one begin; None if none says when."""
        return min((hand.slots.retry_at for hand in self.hands if hand.slots.retry_at is not None), default=None)

    async def _perform(self, job: Job) -> None:
        """Let a command take effect in the world. Its outcome waits to be reported, by anybody."""
        begun = await AttemptsOverTurns(Turns(self.store, self.env, self.codes, 0, job.hand.slots)).begin(
            job.moved.case_no, job.call, job.number
        )
        go = begun.go if isinstance(begun, AskVerify) else begun
        activity = job.moved.code.activities.get(go.activity) if isinstance(go, Go) else None
        if activity is None or not isinstance(go, Go) or (job.kind == "verify") != isinstance(begun, AskVerify):
            return
        job.go = go
        running = Running(go.address, go.call, go.number, go.key, go.details)
        if job.kind == "verify":
            answer: tuple[Any, Any, str] = ("unknown", None, "there is no verify function")
            if activity.verify_function is not None:
                answer = await verify(activity, running, go.input, None)
            job.outcome = Verified(go.call, go.number, *answer, instant_text(self.env.now()))
        else:
            given = (go.input, go.undone, go.undo, None)
            if activity.transaction:
                place = (go.case_no, job.hand.worker, job.moved.code.map_number)
                job.outcome = await transact(cast(Transacting, self.store), activity, running, place, *given)
            else:
                job.outcome = await perform(activity, running, *given)
            job.hand.slots.give_back(activity)
            self.hints += job.hand.slots.freed_by(activity)
            self._count("performed")
            if job.outcome is None:
                self.wake(go.case_no)  # its result is in the inbox
                return
        self.ends.append(job)
