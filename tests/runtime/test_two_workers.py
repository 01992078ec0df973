"""Two workers of one store: what one of them learns reaches the attempts of the other."""

from __future__ import annotations

import asyncio

import pytest
from tests.runtime.common import Thing, desk
from tests.support.waiting import until

from longcase import Case, Longcase, Next, Workflow, activity, attempt, days, seconds


class World:
    """What the attempts saw."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.told_to_stop: list[str] = []


world = World()


@activity(owner=desk, timeout=seconds(60))
async def errand(name: str) -> str:
    world.begun.append(name)
    while not attempt().cancelled():
        await asyncio.sleep(0.01)
    world.told_to_stop.append(name)
    return "stopped"


errands = Workflow("errands", object=Thing, key="id", owner=desk, expect=days(1))
recall = errands.signal("recall", Thing, owner=desk)


@errands.stage(expect=days(1))
async def running(case: Case[Thing]) -> Next:
    return errands.close("done", result=await errand(case.key))


@errands.on(recall)
async def recalled(case: Case[Thing], thing: Thing) -> Next:
    return errands.close("recalled")


@pytest.fixture(autouse=True)
def fresh() -> None:
    world.__init__()  # type: ignore[misc]  # the activities hold this object


async def test_an_attempt_is_asked_to_stop_although_another_worker_interrupts_its_case(store_url: str) -> None:
    async with (
        Longcase([errands], url=store_url) as first,
        first.working() as running_there,
        Longcase([errands], url=store_url) as second,
    ):
        await first.service.start(errands, Thing(id="a"))

        async def begun() -> bool:
            return world.begun == ["a"]

        await until(begun)
        async with second.working() as other:
            # Through the second one's door: its own worker hears of it first.
            await second.service.signal("errands/a", recall, Thing(id="a"))

            async def stopped() -> bool:
                return world.told_to_stop == ["a"]

            await until(stopped)
            state = (await second.service.show("errands/a")).state
            assert (state.close or {})["name"] == "recalled"
            interrupted = [
                event for event in await second.service.history("errands/a") if event.type == "stage_entered"
            ][-1]
            assert interrupted.data["kind"] == "path"
            assert other.number != running_there.number

            async def late() -> bool:
                events = await second.service.history("errands/a")
                return any(event.type == "result_late" for event in events)

            await until(late)
