"""What is seen of attempts and queues from outside: who was given which call, what runs where, and how much at once.

It counts for itself, by what `take` answers and by what reaches the vendors. Of the store's own table it asks
only what waits.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tests.simulation.plans import ACTIVITIES
from tests.simulation.simloop import here

from longcase import attempt
from longcase.history.event import instant_of, instant_text
from longcase.model.queue import Queue
from longcase.store.records import QueueLimits, Taken

if TYPE_CHECKING:
    from tests.simulation.fleet import Fleet
    from tests.simulation.processes import Process

QUEUES: dict[str, Queue] = {made.queue.name: made.queue for made in ACTIVITIES.values() if made.queue is not None}
_WAITING = """
SELECT queued.case_no, call, due, data ->> 'activity' FROM queued JOIN history ON history.case_no = queued.case_no
WHERE worker = 0 AND type IN ('activity_scheduled', 'undo_started') AND data ->> 'call' = call
"""
_HELD = "SELECT queue, count(*) FROM queued WHERE worker <> 0 GROUP BY queue"
_BEGUN = """
SELECT 1 FROM history
WHERE case_no = ? AND type = 'attempt_started' AND data ->> 'call' = ? AND data ->> 'attempt' = ?
"""
_STANDING = "SELECT case_no, call FROM queued WHERE worker = ? AND worker <> 0 AND begun = 0"
_UNLEASED = "SELECT 1 FROM cases WHERE workflow = ? AND key = ? AND status = 'open' AND lease = 0"
Given = tuple[int, str]  # case and call
Waiting = dict[Given, tuple[str, int, str]]  # its queue, its priority, when it is due


@dataclass(frozen=True)
class Claim:
    """A call that was given to a worker, and whose attempt was not yet seen to begin."""

    worker: int
    number: int  # of the taking
    attempt: int
    queue: str
    at: str
    asks: bool  # the attempt has begun before: what became of it is to be asked


@dataclass(eq=False)
class Attempt:
    """An attempt as the vendors see it: from its request to the end of its coroutine, or of its process."""

    activity: str
    process: Process
    worker: int


class QueueWitness:
    """Looks on at the queues, and accuses."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._claims: dict[Given, Claim] = {}
        self._counted: defaultdict[str, list[Claim]] = defaultdict(list)  # by queue: what its rate counts
        self._running: dict[Attempt, None] = {}

    # -- attempts --------------------------------------------------------------------------------------

    @contextmanager
    def watched(self, name: str) -> Iterator[None]:
        """Count an attempt while it runs, and judge its beginning (I19)."""
        process: Process | None = here.get()  # type: ignore[assignment]
        if process is None or process.worker is None:
            self._fleet.witness.accuse(f"an attempt of {name} runs outside of all workers")
            yield
            return
        mine = Attempt(name, process, process.worker.number)
        self._running[mine] = None
        if not self._overlaps(mine):
            self._judge(mine)
        try:
            yield
        finally:
            del self._running[mine]

    def _judge(self, mine: Attempt) -> None:
        activity, process = ACTIVITIES[mine.activity], mine.process
        if activity.queue is None and self._fleet.store._read(_UNLEASED, attempt().case.split("/")):
            self._accuse(f"{attempt().case}: {mine.activity} runs on {process.name}, and nobody's death wakes the case")
        served = self._fleet.serves[process.short]
        bound = activity.queue.name if activity.queue is not None else "default"
        if bound not in served:
            self._accuse(f"{mine.activity}, bound to {bound}, runs on {process.short}, which serves {served}")
        others = [other for other in self._running if not self._overlaps(other)]
        here_alone = [ACTIVITIES[other.activity] for other in others if other.process is process]
        counts: Counter[str] = Counter()
        for other in others:
            queue = ACTIVITIES[other.activity].queue
            counts[queue.name if queue is not None else ""] += 1
        if activity.queue is not None and counts[bound] > (activity.queue.concurrency or len(others)):
            self._accuse(f"I19: {counts[bound]} attempts of queue {bound} run at once")
        system = activity.system
        if system is not None and sum(a.system is system for a in here_alone) > (system.concurrency or len(others)):
            self._accuse(f"I19: more attempts at system {system.name} than {system.concurrency} on {process.name}")
        if sum(a is activity for a in here_alone) > (activity.concurrency or len(others)):
            self._accuse(f"I19: more attempts of {activity.name} than {activity.concurrency} on {process.name}")

    def _overlaps(self, one: Attempt) -> bool:
        """Tell whether an attempt's worker is taken for dead: it may go on a while beside its successor."""
        return one.process.dead or one.worker in self._fleet.witness.gone

    # -- claims ----------------------------------------------------------------------------------------

    def waiting(self) -> Waiting:
        """Return what nobody has; its queue and priority are those that its activity was declared with."""
        found: Waiting = {}
        for case_no, call, due, name in self._fleet.store._read(_WAITING):
            activity = ACTIVITIES[name]
            assert activity.queue is not None
            found[case_no, call] = (activity.queue.name, activity.priority, due)
        return found

    def taken(
        self, process: Process, worker: int, asked: Sequence[QueueLimits], now: str, limit: int, taken: Taken,
        before: Waiting,
    ) -> None:  # fmt: skip
        """Judge what a worker was given.

        Args:
            before: what nobody had until then.
        """
        left = dict(before)
        for case_no, call, number in taken.calls:
            given, known = (case_no, call), self._claims.get((case_no, call))
            if given in left:
                queue, _, due = left.pop(given)
                self._fleet.counts["queued calls taken"] += 1
                claim = Claim(worker, taken.claim, number, queue, now, self._has_begun(given, number))
                self._count(claim)
                if due > now:
                    self._accuse(f"I21: {call} of case {case_no} is given to worker {worker} at {now}, due {due}")
                if queue not in self._fleet.serves[process.short]:
                    self._accuse(f"{call} of case {case_no}, in {queue}, is given to {process.short}")
            elif known is None or known.worker != worker:
                self._accuse(f"{call} of case {case_no} is given to worker {worker}, and was not waiting")
                continue
            else:
                claim = replace(known, number=taken.claim)  # its answer was lost
                self._counted[known.queue] = [claim if one is known else one for one in self._counted[known.queue]]
            self._claims[given] = claim
        for case_no, call, _ in taken.calls:
            if (case_no, call) in before:
                queue, priority, _ = before[case_no, call]
                better = [
                    one for one, (of, high, due) in left.items() if of == queue and high > priority and due <= now
                ]
                if better:
                    self._accuse(f"{call} of case {case_no} is given before {better}, of a higher priority")
        for queue, count in self._fleet.store._read(_HELD) if taken.calls else ():
            if count > (QUEUES[queue].concurrency or count):
                self._accuse(f"I19: {count} calls of {queue} are claimed or run")
        names = {queue.name for queue in asked}
        for given, (queue, _, due) in left.items():
            room = QUEUES[queue].concurrency is None and not self._opens(queue, now)
            if queue in names and due <= now and room and len(taken.calls) < limit:
                self._accuse(f"{given} waits in {queue} at {now}, which has room, and worker {worker} is not given it")

    def given_back(self, worker: int, calls: Sequence[tuple[int, str, int]], standing: set[Given]) -> None:
        """Note that claims have ended before their attempts began: the rate counts them no more."""
        for case_no, call, number in calls:
            claim = self._claims.get((case_no, call))
            if claim is not None and (claim.worker, claim.number) == (worker, number):
                self._end((case_no, call), claim, (case_no, call) in standing)

    def standing(self, worker: int) -> set[Given]:
        """Return the claims that the store has of an incarnation, to be told of when they end.

        A claim whose call was cancelled meanwhile is not among them, and its rate goes on counting it.
        """
        return set(self._fleet.store._read(_STANDING, (worker,)))

    def gone(self, worker: int, standing: set[Given]) -> None:
        """Note that an incarnation has left, or was forgotten: what it had is free."""
        for given, claim in list(self._claims.items()):
            if claim.worker == worker:
                self._end(given, claim, given in standing)

    def _end(self, given: Given, claim: Claim, stood: bool) -> None:
        del self._claims[given]
        if stood and (claim.asks or not self._has_begun(given, claim.attempt)):
            self._counted[claim.queue] = [one for one in self._counted[claim.queue] if one is not claim]
            self._fleet.counts["queued calls given back"] += 1

    def _has_begun(self, given: Given, attempt: int) -> bool:
        return bool(self._fleet.store._read(_BEGUN, (*given, attempt)))

    def _count(self, claim: Claim) -> None:
        rate = QUEUES[claim.queue].rate
        if rate is None:
            return
        horizon = instant_text(instant_of(claim.at) - rate[1])
        # What is past is past, also when the clock goes back.
        counted = self._counted[claim.queue] = [one for one in self._counted[claim.queue] if one.at > horizon]
        counted.append(claim)
        begun = sorted(one.at for one in counted if one.at <= claim.at)
        if len(begun) > rate[0]:
            self._accuse(f"I19: {len(begun)} calls of {claim.queue} begin within {rate[1]}: {begun}")

    def _opens(self, queue: str, now: str) -> str:
        """Return when the rate of a queue lets the next call begin, "" if it is open now."""
        rate = QUEUES[queue].rate
        if rate is None:
            return ""
        recent = sorted(one.at for one in self._counted[queue] if instant_of(one.at) + rate[1] > instant_of(now))
        return instant_text(instant_of(recent[0]) + rate[1]) if len(recent) >= rate[0] else ""

    # -- rest ------------------------------------------------------------------------------------------

    def next_due(self, now: str) -> str:
        """Return when the next call that waits may begin, "" if none will by time alone."""
        found = [self._opens(queue, now) or (due if due > now else "") for queue, _, due in self.waiting().values()]
        return min((instant for instant in found if instant), default="")

    def at_rest(self, now: str, living: Collection[int]) -> bool:
        """Tell whether nothing in a queue can begin at this instant, and nobody who is gone holds anything of one.

        Args:
            living: the incarnations there are.
        """
        held = self._fleet.store._read("SELECT worker, begun FROM queued WHERE worker <> 0")
        if any(not begun or worker not in living for worker, begun in held):
            return False
        return all(due > now or self._opens(queue, now) for queue, _, due in self.waiting().values())

    def _accuse(self, text: str) -> None:
        self._fleet.witness.accuse(text)
