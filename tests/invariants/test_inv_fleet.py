"""A fleet's worker dies with much in hand: who takes over begins no more than it may, and fairly."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel
from tests.support.waiting import until
from tests.support.workers import killed

from longcase import Case, Longcase, Next, Retry, Team, Workflow, activity, attempt, days

desk = Team("desk")
MANY, FEW = 150, 6
STEP = 40  # cases set free in one transaction, so that the many need several


class Thing(BaseModel):
    id: str


class World:
    """Attempts inside at once, and which cases came through in which order."""

    def __init__(self) -> None:
        self.begun = self.inside = self.most = 0
        self.through: list[str] = []


world = World()


@activity(owner=desk, retry=Retry(max_attempts=3))
async def hold(name: str) -> str:
    if attempt().number == 1:
        world.begun += 1
        await asyncio.Event().wait()  # ends with its worker
    world.inside += 1
    world.most = max(world.most, world.inside)
    for _ in range(5):
        await asyncio.sleep(0)
    world.inside -= 1
    world.through.append(name)
    return name


def flow(name: str) -> Workflow[Thing]:
    made = Workflow(name, object=Thing, key="id", owner=desk, expect=days(1))

    @made.stage(expect=days(1))
    async def holding(case: Case[Thing]) -> Next:
        return made.close("done", result=await hold(case.key))

    return made


big, small = flow("big"), flow("small")


@pytest.fixture(autouse=True)
def fresh() -> None:
    world.__init__()  # type: ignore[misc]  # the activities hold this object


async def test_inv_45_recovery_begins_no_more_at_once_than_configured_and_no_workflow_waits_for_another(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for store in ("sqlite", "postgres"):
        monkeypatch.setattr(f"longcase.store.{store}.workers.RECOVERY_CHUNK", STEP)
    async with Longcase([big, small], url=store_url) as longcase:
        working = longcase.working()
        first = await working.__aenter__()
        service = longcase.service
        await service.start_prepared([service.new_case(big, Thing(id=f"b{n}")) for n in range(MANY)])
        await service.start_prepared([service.new_case(small, Thing(id=f"s{n}")) for n in range(FEW)])

        async def all_begun() -> bool:
            return world.begun == MANY + FEW

        await until(all_begun)
        await killed(first)
        await working.__aexit__(None, None, None)

        async with Longcase([big, small], url=store_url) as other, other.working(attempts=8):

            async def all_through() -> bool:
                return len(world.through) == MANY + FEW

            await until(all_through)

            async def all_closed() -> bool:
                rows = await other.service.query("SELECT count(*) AS n FROM case_overview WHERE status = 'closed'")
                return bool(rows[0]["n"] == MANY + FEW)

            await until(all_closed)
        lost = await longcase.service.query("SELECT count(*) AS n FROM attempts WHERE outcome = 'lost'")
    assert lost[0]["n"] == MANY + FEW
    assert 2 <= world.most <= 8
    last_small = max(world.through.index(f"s{n}") for n in range(FEW))
    assert last_small < MANY / 2, "the few waited for the many"
