"""What a worker is not told: callers gave up, answers were lost, the store hangs, it was forgotten or has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from tests.runtime.attempts import NEVER, Cases, Word, at_work, calling, giving_up_on, ms, world
from tests.runtime.common import Thing, desk
from tests.support.waiting import until, until_true

from longcase import Case, Longcase, Next, Queue, Retry, Workflow, activity, attempt, days
from longcase.errors import BugError, StoreUnavailable
from longcase.model.activity import Activity
from longcase.runtime.worker import Worker

HOUR = timedelta(hours=1)


@asynccontextmanager
async def serving(url: str, *flows: Workflow[Thing]) -> AsyncIterator[tuple[Cases, Worker]]:
    """Have one worker serve every queue of the flows, the default one too."""
    async with Longcase(flows, url=url) as longcase, longcase.working(longcase.all_queues()) as worker:
        await until_true(lambda: worker.number)
        try:
            yield Cases(longcase), worker
        finally:
            world.door.set()


# -- a caller that gave up ----------------------------------------------------------------------------

listening = Workflow("listening", object=Thing, key="id", owner=desk, expect=days(1))
heard = listening.signal("heard", Word, owner=desk)


@listening.stage(expect=days(1))
async def listen(case: Case[Thing]) -> Next:
    async with asyncio.timeout(HOUR.total_seconds()):
        word = await case.receive(heard, within=days(1))
    return listening.close("done", result=word.n)


async def test_a_signal_whose_caller_gave_up_after_its_commit_is_not_slept_over(url: str) -> None:
    async with serving(url, listening) as (cases, worker):
        service, store = cases.longcase.service, cases.longcase.store
        await cases.start(listening)
        await until_true(lambda: worker.agenda.store_at)  # it has looked: nothing is to be done within the hour
        edit, committed = store.edit, asyncio.Event()

        async def committing(*values: Any) -> Any:
            await edit(*values)
            committed.set()
            await asyncio.Event().wait()  # the caller does not stay to hear of it

        store.edit = committing  # type: ignore[method-assign,assignment]
        caller = asyncio.create_task(service.signal("listening/1", heard, Word(n=7)))
        await committed.wait()
        caller.cancel()
        assert await cases.closed(listening) == ("done", 7, "")


# -- queues ---------------------------------------------------------------------------------------------


def queued(name: str, queue: Queue, **limits: Any) -> Activity[..., Any]:
    @activity(owner=desk, name=name, queue=queue, timeout=NEVER, **limits)
    async def work(key: str) -> str:
        world.notes["began"].append(key)
        await world.at_the_door()
        return key

    return work


lonely = calling(queued("lonely", Queue("lonely", concurrency=1)))
alone = calling(queued("alone", Queue("alone"), concurrency=1))
rated = calling(queued("rated", Queue("rated", rate=(3, HOUR)), concurrency=1))


async def test_a_call_whose_claim_was_not_answered_is_taken_once_more_within_the_limits(url: str) -> None:
    async with serving(url, lonely) as (cases, _):
        take, lost = cases.longcase.store.take, list[Any]()

        async def taking(*values: Any) -> Any:
            taken = await take(*values)
            if taken.calls and not lost:
                lost.extend(taken.calls)
                raise StoreUnavailable("the answer was lost")
            return taken

        cases.longcase.store.take = taking  # type: ignore[method-assign,assignment]
        world.door.set()
        await cases.start(lonely)
        assert (await cases.closed(lonely))[0] == "done"
        assert len(lost) == 1
        assert world.notes["began"] == ["1"]


async def test_calls_that_could_not_be_given_back_run_when_their_worker_has_a_slot(url: str) -> None:
    async with serving(url, alone) as (cases, _):
        failed = list[Any]()

        async def giving_back(*values: Any) -> None:
            failed.append(values)
            raise StoreUnavailable("no connection")

        cases.longcase.store.give_back = giving_back  # type: ignore[method-assign,assignment]
        await cases.start(alone, "1", "2")
        await until_true(lambda: failed and world.notes["began"])
        assert len(world.notes["began"]) == 1
        world.door.set()
        for key in ("1", "2"):
            assert (await cases.closed(alone, key))[0] == "done"
        assert sorted(world.notes["began"]) == ["1", "2"]


async def test_inv_19_a_rate_is_not_used_up_by_calls_that_found_no_slot(url: str) -> None:
    async with serving(url, rated) as (cases, _):
        world.door.set()
        keys = ["1", "2", "3"]
        new = [cases.longcase.service.new_case(rated, Thing(id=key)) for key in (*keys, "4")]
        await cases.longcase.service.start_prepared(new)

        async def three() -> bool:
            rows = await cases.longcase.service.query("SELECT count(*) AS n FROM cases WHERE status = 'closed'")
            return bool(rows[0]["n"] == 3)

        await until(three)
        (row,) = await cases.longcase.service.query("SELECT status FROM queued_calls")
        assert row["status"] == "waiting"  # the fourth waits for the hour to pass
        assert len(world.notes["began"]) == 3


# -- what happens while the pump waits for the store -----------------------------------------------------


async def test_a_case_made_ready_while_the_worker_reads_when_to_look_again_is_looked_at(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longcase.runtime.sweep.SWEEP", NEVER.total_seconds() * 100)  # nothing else may find it
    async with serving(url, listening) as (cases, worker):
        store, read = cases.longcase.store, list[str]()
        next_wake = store.next_wake

        async def reading(after: str) -> str:
            found = await next_wake(after)
            if not read:
                await store.start([cases.longcase.service.new_case(listening, Thing(id="1"))])
                worker.agenda.store_at = None  # as a start does whose first turn makes other cases ready
                read.append(found)
            return found

        store.changed = lambda: False  # type: ignore[method-assign]
        store.next_wake = reading  # type: ignore[method-assign]
        worker.agenda.look_everywhere()
        await until_true(lambda: read)
        await cases.seen(listening, "stage_entered")


# -- a worker that has ended, or was forgotten -----------------------------------------------------------


@activity(owner=desk, timeout=NEVER)
async def notes(key: str) -> int:
    world.notes["began"].append(attempt().number)
    if attempt().number == 1:
        await world.at_the_door()
    return attempt().number


noting = calling(notes)


async def test_a_worker_that_ended_by_an_error_begins_no_more_cases(url: str) -> None:
    async with Longcase([noting], url=url) as longcase:
        cases, worker, store = Cases(longcase), longcase.new_worker(), longcase.store
        running = asyncio.create_task(worker.run())
        await until_true(lambda: worker.accepts)
        changed = store.changed

        def breaking() -> bool:
            raise BugError("the pump breaks")

        store.changed = breaking  # type: ignore[method-assign]
        with pytest.raises(BugError):
            await running
        store.changed = changed  # type: ignore[method-assign]
        assert not worker.accepts
        world.door.set()
        await cases.start(noting)
        assert (await longcase.service.show("notes/1")).state.status == "open"
        assert world.notes["began"] == []
    async with at_work(url, noting) as cases:
        assert await cases.closed(noting) == ("done", 1, "")


async def test_a_case_started_while_its_worker_leaves_is_begun_by_the_next_one_alone(url: str) -> None:
    async with Longcase([noting], url=url) as longcase:
        worker, store = longcase.new_worker(), longcase.store
        running = asyncio.create_task(worker.run())
        await until_true(lambda: worker.accepts)
        write = store.write

        async def writing(writes: Any, *, partial: bool = False) -> Any:
            written = await write(writes, partial=partial)
            if any(one.new for one in writes):  # the start is durable, its attempt is not begun yet
                worker.abort()
                await running
            return written

        store.write = writing  # type: ignore[method-assign]
        await Cases(longcase).start(noting)
        await asyncio.sleep(0)  # what was begun would make its first step
        assert world.notes["began"] == []
    async with at_work(url, noting) as cases:
        world.door.set()
        assert (await cases.closed(noting))[0] == "done"
        assert len(world.notes["began"]) == 1


async def test_an_attempt_commanded_before_its_worker_was_forgotten_is_not_begun_after_it(url: str) -> None:
    async with at_work(url, noting) as cases:
        worker = cases.longcase.worker
        assert worker is not None
        await until_true(lambda: worker.accepts)
        first, carrier = worker.number, worker._carrier
        carry_out = carrier.carry_out

        def carrying(moved: Any) -> None:
            carry_out(moved)
            if moved.commands and worker.number == first:
                carrier.abandon()  # before the task has made its first step
                worker._membership.forget(first)

        carrier.carry_out = carrying  # type: ignore[method-assign]
        await cases.start(noting)
        assert await cases.closed(noting) == ("done", 2, "")
        assert world.notes["began"] == [2]
        assert worker.number != first


# -- a store that hangs -----------------------------------------------------------------------------------

failing_first = Retry(max_attempts=2, initial=ms(1), factor=1, jitter="none")


@activity(owner=desk, timeout=NEVER, retry=failing_first, cancel="wait")
async def fails_first(key: str) -> str:
    world.notes["began"].append(attempt().number)
    if attempt().number == 1:
        raise OSError("the line is down")
    return "done"


hanging = giving_up_on(fails_first)


async def test_an_attempt_that_is_cut_off_while_the_store_hangs_is_settled(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longcase.runtime.carrying.STOP_GRACE", 0.05)
    async with at_work(url, hanging) as cases:

        async def hang(*values: Any) -> Any:
            await asyncio.Event().wait()

        cases.longcase.store.event = hang  # type: ignore[method-assign,assignment]
        await cases.start(hanging)
        assert (await cases.closed(hanging))[0] == "gave-up"
        assert [error["kind"] for error in await cases.errors(hanging)] == ["error", "cancelled"]
        assert world.notes["began"] == [1]


needing_two = calling(fails_first)


async def test_a_store_that_is_away_before_an_attempt_begins_costs_none_of_its_attempts(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longcase.backoff.FIRST", 0.01)
    async with at_work(url, needing_two) as cases:
        read, refusals = cases.longcase.store.event, iter(range(3))

        async def away(case_no: int, seq: int) -> Any:
            for number in refusals:
                raise StoreUnavailable(f"the server is restarted ({number})")
            return await read(case_no, seq)

        monkeypatch.setattr(cases.longcase.store, "event", away)
        await cases.start(needing_two)
        assert (await cases.closed(needing_two))[:2] == ("done", "done")
        assert [error["type"] for error in await cases.errors(needing_two)] == ["OSError"]
        assert world.notes["began"] == [1, 2]
        assert next(refusals, None) is None, "it was away when the second attempt was to begin"


# -- an activity that nobody finds --------------------------------------------------------------------------


def hidden() -> Workflow[Thing]:
    @activity(owner=desk)
    async def unseen(key: str) -> str:
        return key

    flow = Workflow("hidden", object=Thing, key="id", owner=desk, expect=days(1))

    @flow.stage(expect=days(1))
    async def only(case: Case[Thing]) -> Next:
        return flow.close("done", result=await tools["unseen"](case.key))

    tools = {"unseen": unseen}
    return flow


concealed = hidden()


async def test_a_call_of_an_activity_that_the_worker_does_not_find_is_an_incident(url: str) -> None:
    async with at_work(url, concealed) as cases:
        await cases.start(concealed)
        assert (await cases.incident(concealed))["kind"] == "unknown_activity"
        worker = cases.longcase.worker
        assert worker is not None
        await until_true(lambda: not worker._carrier.under_way)
        assert worker._slots.running == 0
        assert await cases.events(concealed, "attempt_started") == []
