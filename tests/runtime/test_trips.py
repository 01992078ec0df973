"""What a worker asks a store for one case: each question is a round trip where the store is a server."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel
from tests.runtime.common import Thing, desk
from tests.support.waiting import BOUND

from longcase import Case, Longcase, Next, Workflow, activity, days
from longcase.store.records import CaseRef

CASES = 5


class Go(BaseModel):
    note: str


@activity(owner=desk)
async def step(what: str) -> str:
    return what


quick = Workflow("quick", object=Thing, key="id", owner=desk, expect=days(1))


@quick.stage(expect=days(1))
async def only(case: Case[Thing]) -> Next:
    await step(case.key)
    return quick.close("done")


waiting = Workflow("waiting", object=Thing, key="id", owner=desk, expect=days(1))
go = waiting.signal("go", Go)


@waiting.stage(expect=days(1))
async def until_told(case: Case[Thing]) -> Next:
    await case.receive(go, within=days(1))
    return waiting.close("done")


class Counting:
    """The real store, and how often each of its methods was called."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.store, name)
        if not callable(found):
            return found

        def counted(*args: Any, **options: Any) -> Any:
            self.calls[name] += 1
            answer = found(*args, **options)
            if answer is True:
                self.calls[f"{name}: yes"] += 1
            return answer

        return counted


async def closed(store: Counting, workflow: str, key: str) -> None:
    """Return when a case has closed; looks past the counting."""
    async with asyncio.timeout(BOUND):
        while True:
            row = await store.store.load(CaseRef(0, workflow, key))
            if row is not None and row.state.status == "closed":
                return
            await asyncio.sleep(0.005)


def counted(url: str, work: Callable[[Longcase, Counting], Any]) -> Counter[str]:
    """Run `work` beside a worker; returns what the worker has asked the store since it joined."""

    async def run() -> Counter[str]:
        async with Longcase([quick, waiting], url=url) as longcase:
            store = Counting(longcase.store)
            longcase._store = store  # what the worker is given
            async with longcase.working() as worker:
                async with asyncio.timeout(BOUND):
                    while not (worker.accepts and store.calls["next_wake"]):
                        await asyncio.sleep(0.005)
                store.calls.clear()
                await work(longcase, store)
                return store.calls.copy()

    return asyncio.run(run())


def test_a_case_that_is_begun_as_it_is_accepted_is_written_and_never_read(url: str) -> None:
    async def work(longcase: Longcase, store: Counting) -> None:
        for number in range(CASES):
            await longcase.service.start(quick, Thing(id=f"T-{number}"))
            await closed(store, "quick", f"T-{number}")

    calls = counted(url, work)
    assert calls["write"] == 2 * CASES  # the start with its first turn; the outcome with the close
    assert calls["load_many"] == 0
    # Nobody else's case was touched: the store is asked what is due only where another process may have committed.
    assert calls["ready"] <= calls["changed: yes"]


def test_a_signal_is_read_once_with_its_case(url: str) -> None:
    async def work(longcase: Longcase, store: Counting) -> None:
        for number in range(CASES):
            await longcase.service.start(waiting, Thing(id=f"T-{number}"))
        for number in range(CASES):
            await longcase.service.signal(f"waiting/T-{number}", go, Go(note="now"))
            await closed(store, "waiting", f"T-{number}")

    calls = counted(url, work)
    assert calls["write"] == 2 * CASES
    assert calls["load_many"] == CASES
    assert calls["inboxes"] == (CASES if url.startswith("sqlite") else 0)
