"""A worker has the garbage collector look rarer while it runs, and leaves the program's own setting alone.

What it takes away by that it must not need itself: a visit that has ended is freed without the collector.
"""

from __future__ import annotations

import ast
import asyncio
import gc
from collections.abc import Iterator

import pytest
from pydantic import BaseModel
from tests.runtime.common import Thing, desk

from longcase import ActivityFailed, Case, Longcase, Next, Retry, Workflow, activity, days, hours
from longcase.engine.loop import VisitLoop
from longcase.engine.track import Track
from longcase.model.map import forget_sources
from longcase.runtime.garbage import OBJECTS, OLDER, rarer
from longcase.testing.simulate import Simulation


@pytest.fixture(autouse=True)
def _kept() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_the_collector_looks_rarer_while_a_worker_runs_and_as_before_afterwards() -> None:
    gc.set_threshold(700, 10, 5)
    with rarer():
        assert gc.get_threshold() == (OBJECTS, OLDER, OLDER)
        with rarer():  # a second worker of the process
            assert gc.get_threshold() == (OBJECTS, OLDER, OLDER)
        assert gc.get_threshold() == (OBJECTS, OLDER, OLDER)
    assert gc.get_threshold() == (700, 10, 5)


@pytest.mark.parametrize("own", [(0, 10, 10), (OBJECTS * 2, 10, 10)])
def test_a_program_that_has_turned_it_off_or_made_it_rarer_still_keeps_its_setting(own: tuple[int, int, int]) -> None:
    gc.set_threshold(*own)
    with rarer():
        assert gc.get_threshold() == own
    assert gc.get_threshold() == own


def test_what_the_program_sets_meanwhile_stays() -> None:
    gc.set_threshold(700, 10, 10)
    with rarer():
        gc.set_threshold(5_000, 10, 10)
    assert gc.get_threshold() == (5_000, 10, 10)


class Word(BaseModel):
    text: str


@activity(owner=desk, retry=Retry(max_attempts=1))
async def measured(name: str) -> int:
    if name == "broken":
        raise ValueError("out of reach")
    return len(name)


things = Workflow("things", object=Thing, key="id", owner=desk, expect=days(1))
word = things.signal("word", Word, owner=desk)
stop = things.signal("stop", Word, owner=desk)


@things.stage(expect=days(1))
async def measuring(case: Case[Thing]) -> Next:
    await asyncio.gather(*(measured(name) for name in ("a", "b", "c")))
    async with asyncio.TaskGroup() as group:
        group.create_task(measured("d"))
        group.create_task(measured("e"))
    try:
        await measured("broken")
    except ActivityFailed:
        case.log("as expected")
    return one_word


@things.stage(expect=days(1))
async def one_word(case: Case[Thing]) -> Next:
    try:
        async with asyncio.timeout(1800):
            await case.receive(word, within=hours(1))
    except TimeoutError:
        return case.again()
    return things.close("done")


@things.on(stop, owner=desk)
async def stopping(case: Case[Thing], stopped: Word) -> Next:
    await case.pause(hours(1), because="cooling off")
    return things.close("stopped", reason=stopped.text)


def test_a_visit_that_has_ended_in_whatever_way_does_not_wait_for_the_collector() -> None:
    """Returned, gone back, interrupted, forgotten above the bound on live cases: none is left in memory."""
    with Simulation([things], live=2) as simulation:
        gc.collect()
        gc.disable()
        try:
            cases = [simulation.start(things, Thing(id=f"t{number}")) for number in range(6)]
            simulation.advance(hours(2))  # three timeouts of one_word, and as many new visits
            assert simulation.state(cases[0]).visit > 3
            assert _visits() == 2  # the bound
            for case in cases[:3]:
                simulation.signal(case, word, Word(text="hello"))
            for case in cases[3:]:
                simulation.signal(case, stop, Word(text="enough"))
            simulation.advance(hours(2))
            closed = [simulation.state(case).close for case in cases]
            assert [close and close["name"] for close in closed] == ["done"] * 3 + ["stopped"] * 3
            assert _visits() == 0
        finally:
            gc.enable()


def _visits() -> int:
    """Count visits and their loops; no two visits share one."""
    found = [type(thing) for thing in gc.get_objects() if isinstance(thing, (Track, VisitLoop))]
    assert sum(issubclass(kind, Track) for kind in found) == found.count(VisitLoop)
    return found.count(VisitLoop)


def _trees() -> int:
    gc.collect()
    return sum(isinstance(one, ast.Module) for one in gc.get_objects())


async def test_a_worker_keeps_no_syntax_tree_of_the_sources_its_maps_were_drawn_from(url: str) -> None:
    drawn = Workflow("drawn", object=Thing, key="id", owner=desk, expect=days(1))

    @drawn.stage
    async def only(case: Case[Thing]) -> Next:
        return drawn.close("done")

    async with Longcase([drawn], url=url) as longcase:
        forget_sources()  # what other tests have drawn
        before = _trees()
        await longcase.record_maps()
        assert _trees() > before
        longcase.new_worker()
        assert _trees() == before
