"""I25, I26: what was judged by one case is written to it, though its key names another one by then."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tests.invariants.program import Paper, sign, signing

from longcase.errors import LongcaseError
from longcase.history.event import Event
from longcase.testing import Simulation

Act = Callable[[Simulation, str], Coroutine[Any, Any, Any]]


class BegunAnew:
    """The store, with the case closed and its key started again between what was read and what is written."""

    def __init__(self, sim: Simulation, case: str) -> None:
        self._sim, self._case = sim, case
        self._store = sim.service.store
        self.done = False
        sim.service.store = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def edit(self, *args: Any) -> Any:
        if not self.done:
            self.done = True
            sim = self._sim
            await sim.service.cancel(self._case, reason="the wrong paper")
            await self._come_to_rest()
            await sim.service.start(signing, Paper(id="1", text="another draft"), again=True)
            await self._come_to_rest()
        return await self._store.edit(*args)

    async def _come_to_rest(self) -> None:
        while ready := await self._sim._ready():
            await self._sim._run(ready)


async def decide(sim: Simulation, case: str) -> Any:
    return await sim.service.decide(case, "approved")


async def claim(sim: Simulation, case: str) -> Any:
    return await sim.service.claim(case)


async def restart(sim: Simulation, case: str) -> Any:
    return await sim.service.restart(case, reason="again")


async def move(sim: Simulation, case: str) -> Any:
    return await sim.service.move(case, sign, reason="again")


@pytest.mark.parametrize("act", [decide, claim, restart, move])
def test_what_was_judged_by_one_case_is_not_written_to_the_next_one_of_its_key(act: Act) -> None:
    with Simulation([signing]) as sim:
        case = sim.start(signing, Paper(id="1"))
        first = sim._do(sim.service.row(case)).case_no
        world = BegunAnew(sim, case)
        with pytest.raises(LongcaseError):
            sim._do(act(sim, case))
        assert world.done
        again = sim._do(sim.service.row(case))
        assert again.case_no != first
        types = [event.type for event in sim.history(case)]
        assert types == ["case_started", "stage_entered", "task_opened"], "the new case has heard of nothing"
        old: list[Event] = sim._do(sim.service.store.events(first))
        assert not {"vote_given", "task_claimed", "moved"} & {event.type for event in old}
        if act is decide:
            assert [event.type for event in old][-1] == "vote_refused", "a refusal is recorded where it belongs"
