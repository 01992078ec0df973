"""`redo` on real workers: an attempt that runs is stopped or awaited, undone, and the call made anew; through kills.

Run as `python -m tests.runtime.test_redo URL FOLDER` it is a worker over that store, to be killed.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tests.runtime.common import desk
from tests.support.waiting import BOUND, until, until_true

from longcase import Case, Longcase, Next, Queue, Workflow, activity, attempt, days, seconds
from longcase.insight.verify import verify
from longcase.runtime.performing import AttemptStopped

slow_lane = Queue("slow-lane")


class Client(BaseModel):
    id: str
    rating: int


class World:
    """What happened outside, and a door that attempts wait at."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.door = asyncio.Event()
        self.folder = Path()


world = World()


@activity(owner=desk, effect="repeatable")
async def open_account(client: Client) -> str:
    """Opens one in any case; does not hear that it should stop."""
    world.did.append(f"opening {client.rating}")
    if client.rating == 2:
        await world.door.wait()
    return f"account {client.rating}"


@open_account.undo
async def close_account(account: str, client: Client) -> None:
    world.did.append(f"closed {account} of {client.rating}")


@activity(owner=desk, effect="none", heartbeat=seconds(BOUND))
async def score(rating: int) -> str:
    """Hears that it should stop."""
    world.did.append(f"scoring {rating}")
    try:
        while rating == 2:
            attempt().heartbeat()
            await asyncio.sleep(0.005)
    except AttemptStopped:
        world.did.append(f"stopped {rating}")
        raise
    return f"score {rating}"


@activity(owner=desk, queue=slow_lane, effect="none", heartbeat=seconds(BOUND))
async def weigh(rating: int) -> str:
    world.did.append(f"weighing {rating}")
    while rating == 2:
        attempt().heartbeat()
        await asyncio.sleep(0.005)
    return f"weight {rating}"


@activity(owner=desk, effect="none")
async def ask_vendor(rating: int) -> str:
    """The first time it never answers: its worker is killed."""
    if rating == 2:
        (world.folder / "asked").touch()
        await asyncio.Event().wait()
    return f"vendor {rating}"


accounts = Workflow("accounts", object=Client, key="id", owner=desk, expect=days(1))
scores = Workflow("scores", object=Client, key="id", owner=desk, expect=days(1))
weights = Workflow("weights", object=Client, key="id", owner=desk, expect=days(1))
vendors = Workflow("vendors", object=Client, key="id", owner=desk, expect=days(1))
ALL = [accounts, scores, weights, vendors]


@accounts.stage(expect=days(1))
async def opens(case: Case[Client]) -> Next:
    return accounts.close("done", result=await open_account(case.object))


@scores.stage(expect=days(1))
async def rates(case: Case[Client]) -> Next:
    return scores.close("done", result=await score(case.object.rating))


@weights.stage(expect=days(1))
async def weighs(case: Case[Client]) -> Next:
    return weights.close("done", result=await weigh(case.object.rating))


@vendors.stage(expect=days(1))
async def asks(case: Case[Client]) -> Next:
    return vendors.close("done", result=await ask_vendor(case.object.rating))


@pytest.fixture(autouse=True)
def fresh() -> None:
    world.__init__()  # type: ignore[misc]  # the activities hold this object


class Desk:
    """A door of its own connection, beside whatever workers there are."""

    def __init__(self, door: Longcase) -> None:
        self.door = door

    async def start(self, flow: Workflow[Client]) -> str:
        return (await self.door.service.start(flow, Client(id="1", rating=2))).address

    async def redo(self, case: str) -> None:
        await self.door.service.correct(case, {"rating": 3}, reason="typo")
        await self.door.service.redo(case, reason="typo")

    async def result(self, case: str) -> Any:
        """Wait for the close; every invariant must hold then."""

        async def closed() -> Any:
            return (await self.door.service.show(case)).state.close

        close = await until(closed)
        assert [str(finding) async for finding in verify(self.door.store)] == []
        return close["result"]

    async def types(self, case: str) -> list[str]:
        return [event.type for event in await self.door.service.history(case)]


@asynccontextmanager
async def at_work(url: str, *queues: str) -> AsyncIterator[Desk]:
    async with (
        Longcase(ALL, url=url) as door,
        Longcase(ALL, url=url) as longcase,
        longcase.working(queues or ("default",)),
    ):
        try:
            yield Desk(door)
        finally:
            world.door.set()


async def test_rule_B9_an_attempt_that_runs_on_is_undone_before_the_call_is_made_anew(store_url: str) -> None:
    async with at_work(store_url) as desk:
        case = await desk.start(accounts)
        await until_true(lambda: world.did)
        await desk.redo(case)
        world.door.set()
        assert await desk.result(case) == "account 3"
        assert world.did == ["opening 2", "closed account 2 of 2", "opening 3"]
        assert "result_late" in await desk.types(case)


async def test_rule_B9_an_attempt_that_hears_of_it_stops_and_the_call_is_made_anew(store_url: str) -> None:
    async with at_work(store_url) as desk:
        case = await desk.start(scores)
        await until_true(lambda: world.did)
        await desk.redo(case)
        assert await desk.result(case) == "score 3"
        assert world.did == ["scoring 2", "stopped 2", "scoring 3"]


async def test_rule_B9_the_queue_is_told_too(store_url: str) -> None:
    async with at_work(store_url, "default", "slow-lane") as desk:
        case = await desk.start(weights)
        await until_true(lambda: world.did)
        await desk.redo(case)
        assert await desk.result(case) == "weight 3"
        assert world.did == ["weighing 2", "weighing 3"]
        assert await desk.door.service.query("SELECT * FROM queued_calls") == []


async def test_rule_B9_a_call_that_waits_in_a_queue_is_taken_from_it_with_the_new_arguments(store_url: str) -> None:
    async with at_work(store_url) as desk:
        case = await desk.start(weights)

        async def waits() -> Any:
            return await desk.door.service.query("SELECT * FROM queued_calls")

        await until(waits)
        await desk.redo(case)
        async with Longcase(ALL, url=store_url) as other, other.working(("slow-lane",)):
            assert await desk.result(case) == "weight 3"
        assert world.did == ["weighing 3"]


@pytest.mark.parametrize("killed", ["before the repair", "after the repair"])
async def test_rule_B9_a_killed_worker_does_not_lose_the_repair(killed: str, store_url: str, tmp_path: Path) -> None:
    async with Longcase(ALL, url=store_url) as door:
        desk = Desk(door)
        case = await desk.start(vendors)
        worker = [sys.executable, "-m", "tests.runtime.test_redo", store_url, str(tmp_path)]
        with subprocess.Popen(worker) as child:  # noqa: ASYNC220 - it is told nothing and asked nothing
            try:
                await until_true((tmp_path / "asked").exists)
                if killed == "after the repair":
                    await desk.redo(case)
            finally:
                child.send_signal(signal.SIGKILL)
        if killed == "before the repair":
            await desk.redo(case)
        async with Longcase(ALL, url=store_url) as other, other.working():
            assert await desk.result(case) == "vendor 3"
        types = await desk.types(case)
        assert types.count("attempt_lost") == 1
        assert types.index("call_redone") < types.index("attempt_lost") < types.index("attempt_started")


if __name__ == "__main__":

    async def main(url: str, folder: str) -> None:
        world.folder = Path(folder)
        async with Longcase(ALL, url=url) as longcase, longcase.working():
            await asyncio.sleep(BOUND)

    asyncio.run(main(*sys.argv[1:]))
