"""`redo` in the middle of everything: on the shuffled mover, with attempts that fail, are lost, and end late.

Whoever corrects and redoes does so while attempts run, at moments that a seed chooses. What the outside holds in the
end is exactly what the stage was told: one account, opened with the arguments of the last call, and no other.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any, cast

import pytest
from pydantic import BaseModel

from longcase import Case, Longcase, Next, Retry, Team, Workflow, activity, attempt, days, injected, seconds
from longcase.env import Env, VirtualClock
from longcase.errors import RepairRefused
from longcase.history.event import instant_of, instant_text
from longcase.insight.conform import conform
from longcase.insight.verify import verify
from longcase.service.service import Service
from longcase.testing.shuffled import Abandoning, Chances, ShuffledMover

desk = Team("desk")
quickly = Retry(max_attempts=2, initial=seconds(1), jitter="none")
CASE = "accounts/1"
ROUNDS = 80
MOST = 6  # corrections of one case


class Client(BaseModel):
    id: str
    rating: int = 0


class World:
    """What happened outside, and somebody who corrects while it does."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.service: Service | None = None
        self.accounts: dict[str, int] = {}  # open ones by key, with the rating they were opened with
        self.said: dict[str, set[int]] = {}  # by idempotency key
        self.corrected = self.redone = 0
        self.saw: Counter[str] = Counter()

    async def meanwhile(self) -> None:
        """Correct the rating, now and then, and have every call made anew that was called with the old one."""
        assert self.service is not None
        if self.corrected >= MOST or self.random.random() > 0.5:
            return
        self.corrected += 1
        await self.service.correct(CASE, {"rating": self.corrected}, reason="typo")
        calls = (await self.service.show(CASE)).state.calls
        for ref in [ref for ref, call in calls.items() if "corrected" in call]:
            try:
                await self.service.redo(CASE, call=ref)
                self.redone += 1
            except RepairRefused as error:
                if "waits for a worker" not in error.message and "in flight" not in error.message:
                    raise


world = World(0)


@activity(owner=desk, effect="repeatable", retry=quickly)
async def open_account(client: Client, *, idempotency_key: str = injected()) -> str:
    await world.meanwhile()
    if world.random.random() < 0.2:
        raise ConnectionError("no answer")
    world.said.setdefault(idempotency_key, set()).add(client.rating)
    world.accounts[idempotency_key] = client.rating
    await world.meanwhile()
    return idempotency_key


@open_account.undo
async def close_account(account: str, client: Client) -> None:
    if world.random.random() < 0.2:
        raise ConnectionError("no answer")
    assert world.accounts.get(account, client.rating) == client.rating, "undone with other arguments than were used"
    world.accounts.pop(account, None)


@activity(owner=desk, effect="none", retry=quickly)
async def score(rating: int) -> int:
    await world.meanwhile()
    if attempt().number == 1 and world.random.random() < 0.3:
        raise ConnectionError("no answer")
    return rating


accounts = Workflow("accounts", object=Client, key="id", owner=desk, expect=days(9))


@accounts.stage(owner=desk, expect=days(9))
async def opening(case: Case[Client]) -> Next:
    first = await score(case.object.rating)
    account = await open_account(case.object)
    last = await score.labelled("again")(case.object.rating)
    return accounts.close("done", result=[first, account, last])


async def repair(service: Service) -> None:
    """Do what the owner of an incident does: look outside, and say what is there."""
    state = (await service.show(CASE)).state
    for number, opened in state.incidents.items():
        call = state.calls.get(opened["call"])
        world.saw[opened["kind"]] += 1
        if opened["kind"] == "outcome_unknown" and call is not None and call["key"] in world.accounts:
            await service.set_result(CASE, call["key"], incident=number, reason="found outside")
        else:
            await service.retry(CASE, incident=number, reason="again")


async def live(seed: int) -> dict[str, Any]:
    """Run one case to its close; returns how it closed."""
    clock = VirtualClock()
    chances = Chances(lose=0.2, double=0.3, repeat=0.3, evict=0.3, crash=0.03, unknown=0.1)
    async with Longcase([accounts], url="sqlite:///:memory:", env=Env(clock, seed=seed), inline=True) as app:
        mover = await ShuffledMover(cast(Abandoning, app.store), app.env, app.codes, seed=seed, chances=chances).open()
        app.service.on_change = mover.wake
        world.service = app.service
        await app.record_maps()
        await app.service.start(accounts, Client(id="1"))
        for _ in range(ROUNDS):
            await mover.come_to_rest()
            view = await app.service.show(CASE)
            if view.state.close is not None:
                assert [str(finding) async for finding in verify(app.store)] == []
                conformance = await conform(app.store)
                assert (conformance.off, conformance.order) == ([], [])
                return view.state.close
            await repair(app.service)
            wake = await app.store.next_wake(instant_text(clock.now()))
            clock.set(instant_of(wake)) if wake else None
        raise AssertionError(f"it does not come to its end: {view.waits}, {view.state.calls}, {view.state.redone}")


@pytest.mark.parametrize("seed", range(20))
async def test_rule_B9_what_the_outside_holds_is_what_the_stage_was_told(seed: int) -> None:
    world.__init__(seed)  # type: ignore[misc]  # the activities hold this object
    close = await live(seed)
    (account,) = world.accounts
    assert close["result"][1] == account
    assert all(len(ratings) == 1 for ratings in world.said.values()), "one key, two inputs"
