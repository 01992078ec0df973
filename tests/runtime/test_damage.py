"""Payloads and rows that are not what was recorded: the case is held and says so, and no other case notices (F13)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import apsw
import asyncpg
from pydantic import BaseModel
from tests.runtime.common import Thing, desk
from tests.support.waiting import BOUND

from longcase import Case, Longcase, Next, RetryAfter, Workflow, activity, days
from longcase.history.state import CaseState


class Word(BaseModel):
    text: str


things = Workflow("things", object=Thing, key="id", owner=desk, expect=days(1))
word = things.signal("word", Word, owner=desk)


@things.stage(expect=days(1))
async def only(case: Case[Thing]) -> Next:
    said = await case.receive(word, within=days(1))
    return things.close("done", result=said.text)


calls: list[str] = []


@activity(owner=desk)
async def asked(name: str) -> str:
    calls.append(name)
    raise RetryAfter(timedelta(seconds=1))


asking = Workflow("asking", object=Thing, key="id", owner=desk, expect=days(1))


@asking.stage(expect=days(1))
async def ask(case: Case[Thing]) -> Next:
    return asking.close("done", result=await asked("the vendor"))


async def by_hand(url: str, sqlite: str, postgres: str) -> None:
    """Change the tables past all guards, as a disk does that forgets a bit."""
    if url.startswith("sqlite"):
        connection = apsw.Connection(url.removeprefix("sqlite:///"))
        connection.set_busy_timeout(30_000)  # a worker may be at work
        connection.execute("DROP TRIGGER IF EXISTS history_is_never_changed")
        connection.execute(sqlite)
        connection.close()
        return
    server = await asyncpg.connect(url)
    await server.execute("ALTER TABLE history DISABLE TRIGGER history_is_never_changed")
    await server.execute(postgres)
    await server.close()


async def put_for(url: str, key: str, kind: str, old: str, new: str) -> None:
    """Put other words into the payload of a case's event of a kind."""
    where = f"type = '{kind}' AND case_no = (SELECT case_no FROM cases WHERE key = '{key}')"
    await by_hand(
        url,
        f"UPDATE history SET data = replace(data, '{old}', '{new}') WHERE {where}",
        f"UPDATE history SET data = replace(data::text, '{old}', '{new}')::json WHERE {where}",
    )


async def until(longcase: Longcase, address: str, fulfilled: Callable[[CaseState], bool]) -> CaseState:
    async with asyncio.timeout(BOUND):
        while not fulfilled(state := (await longcase.service.show(address)).state):
            await asyncio.sleep(0.01)
    return state


def is_closed(state: CaseState) -> bool:
    return state.status == "closed"


def is_parked(state: CaseState) -> bool:
    return bool(state.receives)


def is_held(state: CaseState) -> bool:
    return bool(state.incidents)


async def test_fault_F13_a_case_whose_history_was_damaged_goes_on_when_it_is_put_right(url: str) -> None:
    old, new = '"desk"', '"dest"'
    async with Longcase([things], url=url) as longcase:
        service = longcase.service
        async with longcase.working():
            for key in "abc":
                await service.start(things, Thing(id=key))
            for key in "abc":
                await until(longcase, f"things/{key}", is_parked)
        await put_for(url, "b", "stage_entered", old, new)
        for key in "abc":
            await service.signal(f"things/{key}", word, Word(text=key))
        async with longcase.working():
            held = await until(longcase, "things/b", is_held)
            for key in "ac":
                await until(longcase, f"things/{key}", is_closed)
            (incident,) = held.incidents.values()
            assert (incident["kind"], incident["repairs"]) == ("history_damaged", ["retry", "move", "cancel"])
            # The file is put right, as a restored backup would be: the case goes on with what it was told meanwhile.
            await put_for(url, "b", "stage_entered", new, old)
            await service.retry("things/b", reason="restored")
            closed = await until(longcase, "things/b", is_closed)
            assert closed.close is not None
            assert closed.close["result"] == "b"


async def test_fault_F13_an_attempt_is_not_made_with_arguments_that_are_not_what_was_recorded(url: str) -> None:
    calls.clear()
    async with Longcase([asking], url=url) as longcase, longcase.working():
        await longcase.service.start(asking, Thing(id="a"))
        await until(longcase, "asking/a", lambda state: any(call["next_try"] for call in state.calls.values()))
        await put_for(url, "a", "activity_scheduled", "the vendor", "the bender")
        held = await until(longcase, "asking/a", is_held)
        (incident,) = held.incidents.values()
        assert (incident["kind"], calls) == ("undecodable_payload", ["the vendor"])
        assert "set-result" in incident["repairs"]
