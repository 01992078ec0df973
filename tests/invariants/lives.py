"""Evidence for the invariants: lives of the seeded simulation, kept for looking at and for tampering.

A life is full of trouble (crashes, lost commit answers, doubled reports, zombies, failing vendors,
late and double answers); `evidence()` runs some of them once and keeps all that is stored, what the
world saw and what the clients were told. A test first shows that nothing is wrong with them and that
what it is about did happen, then breaks a copy by hand and shows that the check says so.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from tests.simulation import checks
from tests.simulation.life import Life
from tests.simulation.shuffle import Shuffle
from tests.simulation.world import World

from longcase.history.event import Event
from longcase.insight.invariants import CaseFacts, Finding
from longcase.insight.verify import verify
from longcase.store.records import CaseRow, Stored
from longcase.store.sqlite import SqliteStore

SEEDS = range(1_000, 1_036)


@dataclass
class Kept:
    """A life that is over, as data."""

    seed: int
    store: SqliteStore  # closed: only its pure functions are used
    stored: list[Stored]
    rows: dict[str, CaseRow]
    histories: dict[str, list[Event]]
    anchors: dict[int, dict[int, bytes]]  # hashes as they were noted in the middle of the life
    world: World
    sent: list[dict[str, Any]]
    latest: str
    looks: int  # at how many moments the whole store was verified
    findings: list[str] = field(default_factory=list)


class Watched(Shuffle):
    """A life whose store is verified every now and then, in the middle of the trouble."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.looks = 0
        self.findings: list[str] = []
        self.noted: dict[int, dict[int, bytes]] = {}
        self.kept: Kept | None = None

    async def note_prefixes(self) -> None:
        await super().note_prefixes()
        self.looks += 1
        self.findings += [str(finding) async for finding in verify(self.store, anchors=self.noted)]
        for case_no, hashes in self.prefixes.items():
            self.noted[case_no] = dict(enumerate(hashes, 1))

    async def judge(self, life: Life) -> None:
        noted = copy.deepcopy(self.noted)
        await super().judge(life)
        stored = await self.store.stored(0, 1_000)
        rows = await self.store.load_many([case.case_no for case in stored])
        self.kept = Kept(
            self.seed, self.store, stored, {row.state.address: row for row in rows.values()},
            {rows[case.case_no].state.address: case.events for case in stored}, noted, self.world,
            [vars(sent) for sent in self.sent], self.latest, self.looks, self.findings,
        )  # fmt: skip


@lru_cache(maxsize=1)
def evidence() -> list[Kept]:
    """Run the lives, once for all tests."""
    found = []
    for seed in SEEDS:
        sim = Watched(seed)
        life = asyncio.run(sim.run())
        assert not life.problems, f"seed {seed}: {life.problems}"
        assert sim.kept is not None
        found.append(sim.kept)
    return found


def facts(life: Kept, stored: Stored) -> CaseFacts:
    return CaseFacts(stored, life.store.folded_row, life.store.folded_tasks)


def cases() -> Iterator[tuple[Kept, Stored]]:
    """Return every case of the evidence."""
    for life in evidence():
        for stored in life.stored:
            yield life, stored


def findings(check: Callable[[CaseFacts], Iterator[Finding]]) -> list[Finding]:
    """Return what a check finds in the evidence as it is."""
    return [finding for life, stored in cases() for finding in check(facts(life, stored))]


def happened(*types: str) -> int:
    """Return how many events of these types the evidence holds."""
    return sum(event.type in types for _, stored in cases() for event in stored.events)


def a_case(wanted: Callable[[list[Event]], bool]) -> tuple[Kept, Stored]:
    """Return a copy, free to be broken, of the first case whose history is as wanted."""
    for life, stored in cases():
        if wanted(stored.events):
            return life, copy.deepcopy(stored)
    raise AssertionError("no case of the evidence is of the wanted kind: the test would prove nothing")


def with_events(*types: str) -> Callable[[list[Event]], bool]:
    """Return the wish for a history that has events of all these types."""
    return lambda events: {event.type for event in events} >= set(types)


def first(stored: Stored, kind: str) -> Event:
    """Return the first event of a type."""
    return next(event for event in stored.events if event.type == kind)


def inserted(stored: Stored, event: Event, after: Event) -> Stored:
    """Put a copy of an event right after another one, and number the history anew."""
    stored.events.insert(stored.events.index(after) + 1, copy.deepcopy(event))
    return renumbered(stored)


def renumbered(stored: Stored) -> Stored:
    """Number the events anew, as a forger would."""
    for number, event in enumerate(stored.events, 1):
        event.seq = number
    return stored


def broken(life: Kept, stored: Stored) -> set[str]:
    """Return the invariants that the simulation's checks find broken in one case."""
    row = copy.deepcopy(next(row for row in life.rows.values() if row.case_no == stored.case_no))
    return ids(checks.case_checks(row, stored.events, life.latest))


def ids(problems: list[str]) -> set[str]:
    """Return the invariants named by a list of problems."""
    return {
        part
        for problem in problems
        for part in problem.replace(":", " ").split()
        if part[:1] == "I" and part[1:].isdigit()
    }
