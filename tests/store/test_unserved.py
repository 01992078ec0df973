"""What the check-up says of workers, and of what waits for none of them, on both kinds of store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from tests.support.cases import NOON, NOON_TEXT, entered, new_case, new_env, receive, turn
from tests.support.workers import lapse

from longcase.env import Env, VirtualClock
from longcase.opening import open_store
from longcase.store.records import CaseRef, QueuedCall, QueueLimits
from longcase.store.serving import why_silent
from longcase.store.symptom import Symptom
from longcase.upkeep import examine_store

CODES = {"onboarding": "abc"}


@pytest.fixture
async def store(store_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    monkeypatch.setenv("LONGCASE_LEASE_SECONDS", "120")  # no worker of these tests beats
    opened = await open_store(store_url, new_env())
    yield opened
    await opened.close()


async def told(url: str, name: str = "worker") -> list[Symptom]:
    """Return what the doctor says under a name; two minutes have passed, if the store goes by our clock."""
    env = Env(VirtualClock(NOON + timedelta(minutes=2)))
    return [one for one in await asyncio.to_thread(examine_store, url, env) if one.name == name]


async def said(url: str, name: str = "worker") -> list[str]:
    """Return the warnings under a name but those of silence, which these workers have in common."""
    return [
        one.message for one in await told(url, name) if one.level == "warning" and "has been silent" not in one.message
    ]


async def waiting(store: Any, count: int, workflow: str = "onboarding") -> None:
    """Accept cases that nobody begins."""
    await store.start([new_case(f"k{number}", workflow=workflow) for number in range(count)])


async def queued(store: Any, queue: str, key: str = "q1") -> int:
    """Return a case with a call that waits in a queue, and nothing else to do."""
    (base,) = await store.start([new_case(key)])
    write = turn(base, entered(), receive(), wake_at="")
    write.queued = [QueuedCall("1.c1", queue, 0, 1, NOON_TEXT, NOON_TEXT)]
    await store.write([write])
    return int(base.case_no)


async def test_cases_of_a_workflow_that_no_living_worker_has_loaded_are_named(store: Any, store_url: str) -> None:
    await store.join("here", 1, codes={"claims": "abc"}, serves=["default"])
    await waiting(store, 2)
    await waiting(store, 1, "claims")
    (found,) = [one for one in await told(store_url) if "wait" in one.message]
    assert found.message == (
        f"2 cases of onboarding wait for a worker, the first since {NOON_TEXT}; "
        "worker 1 serves the queue default, but has not loaded onboarding"
    )
    assert (found.level, found.hint) == ("warning", "longcase worker APP")
    await store.join("here", 2, codes=CODES, serves=["default"])
    assert await said(store_url) == []


async def test_a_fleet_in_which_nobody_serves_default_is_told_so(store: Any, store_url: str) -> None:
    await store.join("here", 1, codes=CODES, serves=["gpu"])
    await waiting(store, 1)
    assert await said(store_url) == [
        f"1 case of onboarding waits for a worker, the first since {NOON_TEXT}; "
        "no living worker serves the queue default"
    ]


async def test_cases_wait_for_the_first_worker(store: Any, store_url: str) -> None:
    await waiting(store, 3)
    assert await said(store_url) == [
        f"3 cases of onboarding wait for a worker, the first since {NOON_TEXT}; no worker is alive"
    ]


async def test_a_queue_with_waiting_calls_is_named_until_somebody_serves_it_with_the_workflow(
    store: Any, store_url: str
) -> None:
    await store.join("here", 1, codes=CODES, serves=["default"])
    await queued(store, "gpu")
    (found,) = await told(store_url, "queue")
    assert found.message == (
        f"1 call of onboarding waits in queue gpu, the first since {NOON_TEXT}; no living worker serves it"
    )
    assert found.hint == "longcase worker APP --queue gpu"
    await store.join("here", 2, codes={"claims": "abc"}, serves=["gpu"])
    assert (await said(store_url, "queue"))[0].endswith("worker 2 serves it, but has not loaded onboarding")
    await store.join("here", 3, codes=CODES, serves=["gpu"])
    assert await told(store_url, "queue") == []


async def test_calls_whose_visit_no_worker_of_their_queue_replays_are_told_from_the_others(
    store: Any, store_url: str
) -> None:
    other = await store.join("here", 1, codes={"onboarding": "other"}, serves=["gpu"])
    declined = await queued(store, "gpu", "q1")
    await queued(store, "gpu", "q2")
    visit = (await store.load(CaseRef(declined))).state.visit
    await store.decline(declined, visit, "other", other)
    (found,) = await told(store_url, "queue")
    assert found.message == (
        f"1 call of onboarding waits in queue gpu, the first since {NOON_TEXT}; "
        "worker 1 serves it, but its code does not replay the visit: one of another release is missing"
    )
    assert found.hint == "longcase worker APP --queue gpu"
    await store.join("here", 2, codes=CODES, serves=["gpu"])
    assert await told(store_url, "queue") == []


async def test_dead_workers_are_named_with_what_they_hold(store: Any, store_url: str) -> None:
    dead = await store.join("there", 77, codes=CODES, serves=["default", "gpu"])
    started = await store.start([new_case(key) for key in ("k1", "k2")])
    await store.write([turn(base, entered(), receive(), lease=dead) for base in started])
    await queued(store, "gpu")
    await store.take(dead, [QueueLimits("gpu")], NOON_TEXT, 10)
    await lapse(store, dead)
    idle = await store.join("there", 78)
    await lapse(store, idle)
    (found,) = [one for one in await told(store_url) if "is dead" in one.message]
    assert found.message == (
        f"worker {dead} (pid 77 on there) is dead, last heard of at {NOON_TEXT}, and still holds 3 cases: "
        "3 of onboarding"
    )
    assert found.hint == "longcase worker APP"
    await store.join("here", 1, codes=CODES, serves=["default"])
    (found,) = [one for one in await told(store_url) if "is dead" in one.message]
    assert "set them free" in found.hint
    while await store.recover(dead):
        pass
    assert not [text for text in await said(store_url) if "is dead" in text]


async def test_workers_are_at_work_only_if_what_waits_is_theirs(store: Any, store_url: str) -> None:
    await store.join("here", 1, codes=CODES, serves=["default"])
    env = Env(VirtualClock(NOON + timedelta(seconds=10)))

    async def well() -> bool:
        found = await asyncio.to_thread(examine_store, store_url, env)
        return any(one.message == "1 worker at work" for one in found)

    assert await well()
    await queued(store, "gpu")
    assert not await well()


def test_those_who_serve_a_queue_are_named_if_all_of_them_are_silent() -> None:
    assert why_silent({}) == ""
    assert why_silent({3: 2.0, 4: 45.0}) == ""
    assert why_silent({4: 45.0}) == "the worker that serves it has been silent: 4 for 45 s"
    assert why_silent({3: 31.0, 4: 45.0}) == "the workers that serve it have been silent: 3 for 31 s, 4 for 45 s"
