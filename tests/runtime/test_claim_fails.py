"""A store that fails while a worker claims new cases: what the worker has in hand already is not lost."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.runtime.common import Thing, desk
from tests.support.waiting import BOUND

from longcase import Case, Longcase, Next, Workflow, activity, days
from longcase.errors import StoreUnavailable
from longcase.runtime.worker import Worker
from longcase.store.records import CaseRef

things = Workflow("things", object=Thing, key="id", owner=desk, expect=days(1))


@activity(owner=desk)
async def slow(what: str) -> str:
    gate.reached.set()
    await gate.opened.wait()
    return what


@things.stage(expect=days(1))
async def only(case: Case[Thing]) -> Next:
    await slow(case.key)
    return things.close("done")


class Gate:
    """Holds the activity until the test lets it end."""

    def __init__(self) -> None:
        self.reached, self.opened = asyncio.Event(), asyncio.Event()


gate = Gate()


class Failing:
    """A store whose next claims fail; all else is the real store's."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.failures = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def ready(self, *args: Any) -> list[int]:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("the store did not answer")
        found: list[int] = await self._store.ready(*args)
        return found


def test_an_outcome_survives_a_claim_that_fails() -> None:
    async def run() -> str:
        global gate
        gate = Gate()
        longcase = await Longcase([things], url="sqlite:///:memory:").open()
        failing = Failing(longcase.store)
        worker = Worker(failing, longcase.env, longcase.codes)
        running = asyncio.create_task(worker.run())
        try:
            await longcase.service.start(things, Thing(id="T-1"))
            worker.wake(1)
            await asyncio.wait_for(gate.reached.wait(), BOUND)
            failing.failures = 1
            worker.agenda.store_at = None  # another process has committed: the next round claims
            gate.opened.set()
            async with asyncio.timeout(BOUND):
                while failing.failures or (await status(longcase)) == "open":
                    await asyncio.sleep(0.01)
            return await status(longcase)
        finally:
            worker.abort()
            await running
            await longcase.close()

    assert asyncio.run(run()) == "closed"


async def status(longcase: Longcase) -> str:
    row = await longcase.store.load(CaseRef(0, "things", "T-1"))
    assert row is not None
    return row.state.status
