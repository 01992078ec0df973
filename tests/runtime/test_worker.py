"""The worker on a real loop and a real file: one bad case never stops the others, and nothing that ended is lost."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from pydantic import BaseModel
from tests.runtime.common import desk
from tests.support.waiting import BOUND, until

from longcase import Case, Longcase, Next, Retry, Workflow, activity, days, seconds


class Thing(BaseModel):
    id: str
    text: str = ""


done: list[str] = []


@activity(owner=desk)
async def note(text: str) -> str:
    done.append(text)
    return text


children = Workflow("children", object=Thing, key="id", owner=desk, expect=days(1))


@children.stage(expect=days(1))
async def growing(case: Case[Thing]) -> Next:
    return children.close("grown")


parents = Workflow("parents", object=Thing, key="id", owner=desk, expect=days(1))


@parents.stage(expect=days(1))
async def raising(case: Case[Thing]) -> Next:
    await note(case.key)
    await case.child(children, Thing(id=f"child-of-{case.key}"))
    return parents.close("done")


pausing = Workflow("pausing", object=Thing, key="id", owner=desk, expect=days(1))


@pausing.stage(expect=days(1))
async def waiting(case: Case[Thing]) -> Next:
    word = await note(case.key)
    if case.key == "bad":
        await case.pause(
            days(1), because=f"half a character \\ud800 {word}".encode().decode("unicode_escape"), label="odd"
        )
    return pausing.close("done", result=word)


class Gate:
    """How many threads were inside at once, and a door they wait at."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        self.inside = self.most = 0
        self.open = threading.Event()


gate = Gate()


@activity(owner=desk, effect="once", timeout=seconds(20), retry=Retry(max_attempts=1))
def pass_gate(name: str) -> str:
    with gate.lock:
        gate.inside += 1
        gate.most = max(gate.most, gate.inside)
    gate.open.wait(BOUND)
    with gate.lock:
        gate.inside -= 1
    return name


crowd = Workflow("crowd", object=Thing, key="id", owner=desk, expect=days(1))


@crowd.stage(expect=days(1))
async def crossing(case: Case[Thing]) -> Next:
    return crowd.close("through", result=await pass_gate(case.key))


@pytest.fixture
def url(store_url: str) -> str:
    done.clear()
    gate.reset()
    return store_url


async def test_a_child_of_a_workflow_that_is_not_loaded_holds_its_parent_and_nobody_else(url: str) -> None:
    async with Longcase([parents, pausing], url=url) as longcase, longcase.working():
        del longcase.codes["children"]  # loaded with its parent; a worker may still run the code from before it was
        await longcase.service.start(parents, Thing(id="p1"))
        await longcase.service.start(pausing, Thing(id="fine"))

        async def both() -> bool:
            parent = await longcase.service.show("parents/p1")
            fine = await longcase.service.show("pausing/fine")
            return bool(parent.state.incidents) and fine.state.status == "closed"

        await until(both)
        parent = await longcase.service.show("parents/p1")
        (incident,) = parent.state.incidents.values()
        assert "children is not loaded" in incident["message"]
    # With the module named, the repair goes on from the recorded result: the activity is not repeated.
    async with Longcase([parents, pausing, children], url=url) as longcase, longcase.working():
        await longcase.service.retry("parents/p1", reason="named the module")

        async def closed() -> bool:
            return (await longcase.service.show("parents/p1")).state.status == "closed"

        await until(closed)
    assert done.count("p1") == 1


async def test_an_outcome_whose_turn_cannot_be_stored_is_kept_in_the_incident_or_the_inbox(url: str) -> None:
    async with Longcase([pausing], url=url) as longcase, longcase.working():
        await longcase.service.start(pausing, Thing(id="bad"))

        async def held() -> Any:
            return (await longcase.service.show("pausing/bad")).state.incidents

        (incident,) = (await until(held)).values()
        assert incident["owner"] == "desk"
        assert incident["blocks"]
        view = await longcase.service.show("pausing/bad")
        kept = view.pending or incident["pending"]
        assert kept, "the result of the activity is nowhere"
    assert done == ["bad"]


async def test_starts_in_one_batch_do_not_share_the_fate_of_a_bad_one(url: str) -> None:
    async with Longcase([pausing], url=url) as longcase, longcase.working():
        service = longcase.service
        receipts = await service.start_prepared(
            [service.new_case(pausing, Thing(id=name)) for name in ("a", "bad", "b")]
        )
        assert [receipt.address for receipt in receipts] == ["pausing/a", "pausing/bad", "pausing/b"]

        async def closed() -> bool:
            states = [(await service.show(f"pausing/{name}")).state.status for name in ("a", "b")]
            return states == ["closed", "closed"]

        await until(closed)


async def test_a_thread_activity_is_not_begun_before_a_thread_is_free(url: str) -> None:
    async with Longcase([crowd], url=url) as longcase, longcase.working() as worker:
        service = longcase.service
        await service.start_prepared([service.new_case(crowd, Thing(id=f"c{n}")) for n in range(40)])

        async def full() -> bool:
            return gate.inside == 32

        await until(full)
        begun = await service.query("SELECT count(*) AS n FROM attempts")
        assert begun[0]["n"] == 32  # what has no thread has no attempt, and its clock does not run
        gate.open.set()

        async def through() -> bool:
            rows = await service.query("SELECT count(*) AS n FROM cases WHERE close_name = 'through'")
            return bool(rows[0]["n"] == 40)

        await until(through)
        assert gate.most == 32
        assert worker.running_attempts == 0


async def test_a_worker_that_is_told_to_stop_records_what_has_ended(url: str) -> None:
    for round_ in range(5):
        async with Longcase([pausing], url=url) as longcase:
            async with longcase.working():
                await longcase.service.start(pausing, Thing(id=f"s{round_}"))
            # Leaving drained the worker: the attempt that had begun is recorded, not lost.
            state = (await longcase.service.show(f"pausing/s{round_}")).state
            assert not [call for call in state.calls.values() if call["status"] == "running"]
    assert len(done) == len(set(done))
