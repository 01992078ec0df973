"""A lone write is committed at once; many that come together share their commits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from longcase.env import Env
from longcase.errors import InvalidInput
from longcase.store.sqlite import SqliteStore, open_sqlite


class Counting(Env):
    """Counts commits."""

    commits = 0

    def signal_point(self, name: str) -> None:
        self.commits += name == "before_commit"


@asynccontextmanager
async def store_of(path: Path) -> AsyncIterator[tuple[SqliteStore, Counting]]:
    env = Counting()
    store = await open_sqlite(str(path / "cases.db"), env)
    quick(store)
    env.commits = 0
    try:
        yield store, env
    finally:
        await store.close()


def quick(store: SqliteStore) -> None:
    """Say that the disk is quick, whatever it was just now."""
    store._committer._commit_took = 0.0


async def test_a_lone_write_is_durable_without_a_round_of_the_loop(tmp_path: Path) -> None:
    async with store_of(tmp_path) as (store, env):
        rounds: list[int] = []
        asyncio.get_running_loop().call_soon(rounds.append, 1)
        await store.set_setting("colour", "red")
        assert (rounds, env.commits) == ([], 1)


async def test_of_many_writes_at_once_the_first_goes_alone_and_the_others_share_a_commit(tmp_path: Path) -> None:
    async with store_of(tmp_path) as (store, env):
        await asyncio.gather(*(store.set_setting(f"n{number}", number) for number in range(50)))
        assert env.commits == 2
        quick(store)
        await asyncio.gather(*(store.set_setting(f"n{number}", number) for number in range(50)))
        assert env.commits == 3, "where many came together none goes alone"
        quick(store)
        await store.set_setting("after", 1)
        quick(store)
        await store.set_setting("again", 1)
        assert env.commits == 5


async def test_a_write_that_fails_at_once_fails_alone(tmp_path: Path) -> None:
    async with store_of(tmp_path) as (store, _):
        with pytest.raises(InvalidInput, match="cannot be kept as JSON"):
            await store.set_setting("bad", float("nan"))
        await store.set_setting("good", 1)
        assert (await store.setting("bad"), await store.setting("good")) == (None, 1)


async def test_writes_one_after_another_let_others_run_in_between(tmp_path: Path) -> None:
    async with store_of(tmp_path) as (store, _):
        ran: list[int] = []
        others = asyncio.create_task(_count(ran))
        for number in range(20):
            quick(store)
            await store.set_setting("n", number)
        others.cancel()
        assert len(ran) >= 5


async def _count(ran: list[int]) -> None:
    while True:
        ran.append(1)
        await asyncio.sleep(0)
