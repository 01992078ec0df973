"""What a fleet is seen to do, from outside: who was heard of when, who holds what, what was given to whom.

A witness believes neither the workers nor what the store says of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tests.simulation.processes import LEASE

if TYPE_CHECKING:
    from tests.simulation.fleet import Fleet


class Witness:
    """Looks on, and accuses."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.found: list[str] = []
        self.commits = 0
        self.heard: dict[int, float] = {}  # incarnation -> when the store last heard of it
        self.leases: dict[int, int] = {}  # case -> its holder, when somebody last looked
        self.gone: set[int] = set()  # incarnations that were killed, left, or were forgotten
        self.calm_since = 0.0
        self._shown: dict[int, int] = {}

    def committed(self, name: str, args: Sequence[Any] = (), result: Any = None) -> None:
        """Note that a call has taken effect."""
        self.commits += 1
        if self._fleet.lapse and name == "beat" and args[0] in self.gone:
            self.accuse(f"I14: worker {args[0]} was forgotten, and its beat was accepted")
        if name in ("join", "beat"):
            self.heard[result if name == "join" else args[0]] = self._fleet.loop.time() + self._fleet.lease_jump
        elif name == "leave":
            self.gone.add(args[0])
        leases = self.held()
        if name in ("leave", "recover"):
            worker = args[-1]
            for case_no, lease in self.leases.items():
                if lease != worker and leases.get(case_no, 0) != lease:
                    self.accuse(f"I14: {name} of worker {worker} gives up what worker {lease} holds, case {case_no}")
        self.leases = leases
        if self._fleet.lapse:
            for case_no, lease in leases.items():
                if lease not in self._fleet.shared.beats:
                    self.accuse(f"I14: case {case_no} is held by worker {lease}, which is not there (after {name})")
        if self._fleet.trace:
            self._show_events()

    def accuse(self, text: str) -> None:
        if text not in self.found:
            self._fleet.tell(text)
            self.found.append(text)

    def forgotten(self, worker: int) -> None:
        """I18: nobody is forgotten before his lease has lapsed, nor at all while nothing fails."""
        if self._fleet.lapse:
            now = self._fleet.loop.time()
            self._fleet.counts["forgotten"] += 1
            self._fleet.tell(f"worker {worker} is forgotten")
            if self.heard[worker] + LEASE > now + self._fleet.lease_jump:
                silent = now + self._fleet.lease_jump - self.heard[worker]
                self.accuse(f"I18: worker {worker} is forgotten {silent:.3f} s after a beat")
            alive = any(worker in process.numbers[-1:] for process in self._fleet.living("worker"))
            if not self._fleet.faults.on and alive and now > self.calm_since + 2 * LEASE:
                self.accuse(f"I18: worker {worker} is forgotten though it lives and nothing fails")
        self.gone.add(worker)

    def lost_attempts(self) -> None:
        """I18: an attempt is given up for lost only if its worker was killed, left, or was forgotten."""
        sql = "SELECT DISTINCT actor FROM history WHERE data LIKE '%\"WorkerLost\"%' AND actor LIKE 'worker:%'"
        for (actor,) in self._fleet.store._read(sql):
            if int(actor[7:]) not in self.gone:
                self.accuse(f"I18: an attempt of {actor} is given up for lost, and it was never away")

    def claimed(self, worker: int, found: Sequence[int], held: Mapping[int, int]) -> None:
        """I18: nobody is given a case that a worker holds whose lease has not lapsed.

        Args:
            held: who held which case before.
        """
        for case_no in found:
            holder = held.get(case_no, worker)
            if holder != worker and holder in self._fleet.shared.beats and not self._fleet.shared.lapsed(holder):
                self.accuse(f"I18: case {case_no} is given to worker {worker}, worker {holder} holds it")
        self._fleet.counts["claims"] += len(found)

    def look(self) -> None:
        """See who holds what, after cases were given out: some were taken over from workers that are gone."""
        self.leases = self.held()

    def held(self) -> dict[int, int]:
        """Return who holds which case now."""
        return dict(self._fleet.store._read("SELECT case_no, lease FROM cases WHERE lease <> 0"))

    def _show_events(self) -> None:
        rows = self._fleet.store._read("SELECT case_no, seq FROM cases ORDER BY case_no")
        for case_no, seq in rows:
            known = self._shown.get(case_no, 0)
            if seq > known:
                self._shown[case_no] = seq
                sql = "SELECT seq, type, node, actor, data FROM history WHERE case_no = ? AND seq > ? ORDER BY seq"
                for number, kind, node, actor, data in self._fleet.store._read(sql, (case_no, known)):
                    self._fleet.tell(f"  case {case_no} {number:3} {kind} {node} {actor} {_short(data)}")


def _short(text: str) -> str:
    return text if len(text) <= 160 else f"{text[:157]}..."
