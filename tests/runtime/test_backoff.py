"""A store that is away is asked again after drawn pauses that grow up to a cap (F17), in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any, cast

import pytest
from tests.simulation.simloop import SimLoop

from longcase.backoff import CAP, FIRST, Backoff
from longcase.env import Env
from longcase.errors import StoreUnavailable
from longcase.runtime.worker import Worker
from longcase.store.port import Store
from longcase.store.sqlite import open_sqlite

AWAY = 60.0  # seconds


class Absent:
    """A store that does not answer a worker while it is away; all else is the real store's."""

    def __init__(self, store: Any, away: Callable[[], bool]) -> None:
        self._store = store
        self._away = away
        self.asked: list[float] = []  # when, while it was away
        self.asking: Callable[[], None] = lambda: None  # called while it is asked

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def ready(self, *args: Any) -> list[int]:
        if self._away():
            self.asked.append(asyncio.get_running_loop().time())
            self.asking()
            raise StoreUnavailable("the store did not answer")
        found: list[int] = await self._store.ready(*args)
        return found


def life(seed: int, *, stop_at: float = 0.0) -> tuple[list[float], float]:
    """Let a worker live through two outages; returns when it asked, and when it had ended.

    Args:
        stop_at: when it is aborted, in the middle of the first; 0: after both.
    """
    loop = SimLoop(Random(seed))
    outages = [(1.0, 1.0 + AWAY), (90.0, 95.0)]
    asked: list[float] = []

    async def main() -> None:
        env = Env(seed=seed)
        env.thread = lambda name, run: False  # type: ignore[method-assign]  # no threads in virtual time
        store = await open_sqlite(":memory:", env, inline=True)
        absent = Absent(store, lambda: any(begin <= loop.time() < end for begin, end in outages))
        worker = Worker(cast(Store, absent), env, {})
        absent.asked = asked
        running = asyncio.create_task(worker.run())
        look = asyncio.create_task(looking(worker))
        await asyncio.sleep(stop_at or 100.0)
        look.cancel()
        worker.abort()
        await running
        await store.close()

    async def looking(worker: Worker) -> None:
        """Another process commits all the time."""
        while True:
            worker.agenda.look_everywhere()
            await asyncio.sleep(0.2)

    loop.run(main())
    return asked, loop.time()


def pauses(asked: list[float], begin: float, end: float) -> list[float]:
    return [later - one for one, later in pairwise([at for at in asked if begin <= at < end])]


def test_pauses_grow_to_the_cap_and_a_try_that_went_well_makes_the_next_a_first_one() -> None:
    backoff = Backoff(lambda: 0.999)
    grown = [backoff.next() for _ in range(8)]
    assert grown == pytest.approx([0.5, 1, 2, 4, 5, 5, 5, 5], rel=0.01)
    backoff.reset()
    assert backoff.next() == pytest.approx(FIRST, rel=0.01)
    assert Backoff(lambda: 0.0).next() == FIRST / 2


def test_a_worker_asks_a_store_that_is_away_after_growing_drawn_pauses() -> None:
    asked, _ = life(1)
    first = pauses(asked, 0, 80)
    bounds = [0.5, 1.0, 2.0, 4.0, *[CAP] * len(first)]
    for pause, bound in zip(first, bounds, strict=False):
        assert bound / 2 <= pause <= bound + 0.1, first
    assert len({round(pause, 3) for pause in first[4:]}) == len(first[4:]) > 8, "every pause is drawn"
    again = pauses(asked, 80, 100)
    assert again[0] <= FIRST + 0.1, "a store that came back is asked soon when it goes anew"


def test_workers_that_lost_one_store_do_not_ask_it_in_the_same_instants_and_a_seed_asks_as_before() -> None:
    one, other = life(1)[0], life(2)[0]
    instants = {round(at, 2) for at in one[2:]} & {round(at, 2) for at in other[2:]}
    assert len(instants) <= 2, instants
    assert life(1)[0] == one


def test_a_worker_that_is_told_to_stop_does_not_sit_out_its_pause() -> None:
    asked, ended = life(3, stop_at=42.0)
    assert ended < 42.0 + 0.1, asked


def test_a_worker_that_is_told_to_stop_while_it_asks_leaves_soon() -> None:
    loop = SimLoop(Random(4))
    ended: list[float] = []

    async def main() -> None:
        env = Env(seed=4)
        env.thread = lambda name, run: False  # type: ignore[method-assign]
        store = await open_sqlite(":memory:", env, inline=True)
        absent = Absent(store, lambda: True)
        worker = Worker(cast(Store, absent), env, {})
        absent.asking = lambda: worker.stop() if loop.time() > 40 else None
        await worker.run()
        ended.extend([absent.asked[-1], loop.time()])
        await store.close()

    loop.run(main())
    told, left = ended
    assert left - told <= FIRST + 0.1
