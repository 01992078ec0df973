"""What the tests of the rules share: a business object, teams, and `in_both`, which runs a scenario twice.

Once with the coroutines kept in memory and once with eviction at every await; both runs must leave
the same history, event by event (SEMANTICS A9, INVARIANTS I4).
"""

from __future__ import annotations

import linecache
from collections.abc import Awaitable, Callable
from itertools import count
from textwrap import dedent
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from longcase import Team
from longcase.history.event import Event
from longcase.model.codec import Json
from longcase.testing import Simulation

desk, sales, credit, banking, director = (Team(n) for n in ("desk", "sales", "credit", "banking", "director"))


class Order(BaseModel):
    """The business object of these tests."""

    id: str
    amount: int = 0
    note: str | None = None
    extra: str | None = None


class Go(BaseModel):
    """The body of a signal."""

    n: int = 0


class VendorDown(Exception):
    """What a vendor does."""


Scenario = Callable[[Simulation], None]
_modules = count(1)


def in_both(scenario: Scenario, *workflows: Any, **options: Any) -> None:
    """Run the scenario resident and evicted at every await, and compare what history says."""
    histories = []
    for live in (512, 0):
        with Simulation(workflows, live=live, seed=11, **options) as sim:
            scenario(sim)
            histories.append(everything(sim))
    resident, evicted = histories
    assert evicted == resident


def everything(sim: Simulation) -> dict[str, list[Json]]:
    """Return what happened to every case of the store, comparable between runs."""
    found = sim.query("SELECT workflow, key FROM cases ORDER BY case_no")
    return {f"{row['workflow']}/{row['key']}": outline(sim.history(f"{row['workflow']}/{row['key']}")) for row in found}


def outline(events: list[Event]) -> list[Json]:
    """Return events as plain data without what differs by design (salt, hash)."""
    return [(e.seq, e.type, e.visit, e.at, e.node, e.n, e.strand, e.cause, e.actor, e.data) for e in events]


def first(sim: Simulation, case: str, kind: str) -> Event:
    """Return the first event of a type; fails naming what is there."""
    return every(sim, case, kind)[0]


def every(sim: Simulation, case: str, kind: str) -> list[Event]:
    """Return the events of a type; fails if there is none."""
    history = sim.history(case)
    found = [event for event in history if event.type == kind]
    assert found, f"no {kind} in {[event.type for event in history]}"
    return found


def closed(sim: Simulation, case: str) -> str:
    """Return the name of the case's close; fails with what it waits for if it is open."""
    state = sim.state(case)
    assert state.status == "closed", f"{case} is open: {[wait.what for wait in sim.waits(case)]}"
    assert state.close is not None
    return str(state.close["name"])


def incident(sim: Simulation, case: str) -> Any:
    """Return the only open incident of the case."""
    incidents = sim.state(case).incidents
    assert len(incidents) == 1, f"{len(incidents)} incidents; {sim.types(case)}; {sim.state(case).close}"
    return next(iter(incidents.values()))


def do(sim: Simulation, work: Any) -> Any:
    """Let a call of the door take effect without moving any case."""
    return sim._do(work)


def later(sim: Simulation, seconds: float) -> None:
    """Let time pass while nothing moves, as if every worker were down."""
    from datetime import timedelta

    sim.clock.advance(timedelta(seconds=seconds))


def fails(times: int, then: Any = None, error: type[Exception] = VendorDown) -> Callable[..., Any]:
    """Return a fake that fails so often and then answers."""
    left = [times]

    def fake(**_: Any) -> Any:
        if left[0] > 0:
            left[0] -= 1
            raise error("no answer")
        return then

    return fake


class Between:
    """The store, with something happening between the computing of a turn and its commit."""

    def __init__(self, sim: Simulation, happens: Callable[[], Awaitable[Any]], *, times: int = 1) -> None:
        self._store = sim._turns.store
        self._happens = happens
        self.left = times
        sim._turns.store = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def write(self, writes: Any, **options: Any) -> Any:
        if self.left > 0:
            self.left -= 1
            await self._happens()
        return await self._store.write(writes, **options)


PRELUDE = """
import asyncio
from typing import Literal
from pydantic import BaseModel
from longcase import *
from longcase import Case, Next, Retry, Team, Workflow, activity, days, decision, hours, minutes, seconds
from tests.rules.support import Go, Order, VendorDown, banking, credit, desk, director, sales
once = Retry(max_attempts=1)
wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))
"""


def declare(source: str) -> ModuleType:
    """Return a module made from source text: one version of a workflow named `wf`."""
    name = f"version_{next(_modules)}"
    text = PRELUDE + dedent(source)
    linecache.cache[f"<{name}>"] = (len(text), None, text.splitlines(keepends=True), f"<{name}>")
    module = ModuleType(name)
    module.__dict__["__name__"] = name
    import sys

    sys.modules[name] = module
    exec(compile(text, f"<{name}>", "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - our own source
    return module
