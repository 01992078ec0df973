"""The world of the attempts' tests: activities that fail, hang, beat and crowd as told, and their workflows.

Run as `python -m tests.runtime.attempts URL` it is a worker over that store, to be killed.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any

from pydantic import BaseModel
from tests.runtime.common import Thing, desk
from tests.support.waiting import BOUND, until

from longcase import ActivityFailed, Case, Longcase, Next, Retry, Workflow, activity, attempt, days
from longcase.history.event import Event
from longcase.model.activity import Activity


def ms(count: float) -> timedelta:
    return timedelta(milliseconds=count)


class Word(BaseModel):
    n: int = 0


class World:
    """What the activities did, and doors they wait at."""

    def __init__(self) -> None:
        self.notes: dict[str, list[Any]] = defaultdict(list)
        self.inside: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.door = threading.Event()
        self.lock = threading.Lock()

    @contextmanager
    def crowd(self, *names: str) -> Iterator[None]:
        """Count who is inside at once, under each name."""
        with self.lock:
            for name in names:
                self.inside[name] += 1
                self.most[name] = max(self.most[name], self.inside[name])
        try:
            yield
        finally:
            with self.lock:
                for name in names:
                    self.inside[name] -= 1

    async def at_the_door(self) -> None:
        end = time.monotonic() + BOUND
        while not self.door.is_set() and time.monotonic() < end:
            await asyncio.sleep(0.005)


world = World()


NEVER = timedelta(seconds=BOUND)
once_only = Retry(max_attempts=1)
at_once = Retry(max_attempts=4, initial=ms(1), factor=1, jitter="none")


def reset() -> None:
    world.__init__()  # type: ignore[misc]  # the activities hold this object


def calling(called: Activity[..., Any]) -> Workflow[Thing]:
    """Return a workflow whose cases call the activity once and say how it went."""
    flow = Workflow(called.name.replace("_", "-"), object=Thing, key="id", owner=desk, expect=days(1))

    @flow.stage(expect=days(1))
    async def call(case: Case[Thing]) -> Next:
        try:
            result = await called(case.key)
        except ActivityFailed as error:
            return flow.close("lost", reason=f"{error.error_type}: {error.error_message}", result=error.attempts)
        return flow.close("done", result=result)

    call.fn.__globals__.setdefault(called.name, called)  # where a worker looks for a workflow's activities
    return flow


def giving_up_on(called: Activity[..., Any]) -> Workflow[Thing]:
    """Return a workflow whose cases give the call up after half a second."""
    flow = Workflow(f"giving-up-on-{called.name.replace('_', '-')}", object=Thing, key="id", owner=desk, expect=days(1))

    @flow.stage(expect=days(1))
    async def impatient(case: Case[Thing]) -> Next:
        try:
            async with asyncio.timeout(0.5):
                await called(case.key)
        except TimeoutError:
            return flow.close("gave-up")
        return flow.close("done")

    impatient.fn.__globals__.setdefault(called.name, called)  # where a worker looks for a workflow's activities
    return flow


class Cases:
    """A worker at work over a store of the test, and what its cases say."""

    def __init__(self, longcase: Longcase) -> None:
        self.longcase = longcase

    async def start(self, flow: Workflow[Thing], *keys: str) -> None:
        for key in keys or ("1",):
            await self.longcase.service.start(flow, Thing(id=key))

    async def events(self, flow: Workflow[Thing], kind: str = "", key: str = "1") -> list[Event]:
        shown = await self.longcase.service.show(f"{flow.name}/{key}")
        found = await self.longcase.store.events(shown.case_no)
        return [event for event in found if event.type == kind] if kind else found

    async def seen(self, flow: Workflow[Thing], kind: str, key: str = "1") -> Event:
        """Wait for an event of a type."""
        found: list[Event] = await until(lambda: self.events(flow, kind, key))
        return found[-1]

    async def closed(self, flow: Workflow[Thing], key: str = "1") -> tuple[str, Any, str]:
        """Wait for the close; returns its name, result and reason."""
        await self.seen(flow, "case_closed", key)
        close: Any = (await self.longcase.service.show(f"{flow.name}/{key}")).state.close
        return close["name"], close["result"], close["reason"]

    async def incident(self, flow: Workflow[Thing]) -> dict[str, Any]:
        return dict((await self.seen(flow, "incident_opened")).data)

    async def errors(self, flow: Workflow[Thing]) -> list[dict[str, Any]]:
        """Return the errors of all attempts that failed, in order."""
        return [event.data["error"] for event in await self.events(flow) if "error" in event.data]

    async def beats(self, attempt: int = 0) -> list[tuple[int, Any]]:
        """Return the heartbeats that are kept, as (attempt, details); of one attempt, if it is named."""
        rows = await self.longcase.store.query("SELECT attempt, details FROM heartbeats")
        kept = [(row["attempt"], json.loads(row["details"])) for row in rows]
        return [beat for beat in kept if attempt in (0, beat[0])]

    async def no_beats(self) -> bool:
        return await self.beats() == []


@asynccontextmanager
async def at_work(url: str, *flows: Workflow[Thing]) -> AsyncIterator[Cases]:
    async with Longcase(flows, url=url) as longcase, longcase.working():
        try:
            yield Cases(longcase)
        finally:
            world.door.set()


# For a worker that is killed: the first attempt fails leaving details, the second
# leaves newer ones by heartbeat only and dies with its worker, the third says what it was handed.
@activity(owner=desk, timeout=NEVER, heartbeat=NEVER, retry=at_once)
async def survives(key: str) -> list[Any]:
    number = attempt().number
    if number == 3:
        return [number, attempt().previous_details]
    attempt().heartbeat({"row": number})
    if number == 1:
        raise OSError("the line is down")
    await asyncio.Event().wait()
    return []


resuming = calling(survives)


if __name__ == "__main__":

    async def main(url: str) -> None:
        async with Longcase([resuming], url=url) as longcase, longcase.working():
            await asyncio.sleep(BOUND)

    asyncio.run(main(sys.argv[1]))
