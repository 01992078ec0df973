"""The wire proxy does what fault tests rely on: a commit whose answer is lost is there, one that is cut is not."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from tests.support.postgres import Databases, run_sql
from tests.support.wire_proxy import Harm, Request, WireProxy


@pytest.fixture
def url(databases: Databases) -> Any:
    url = databases.new(empty=True)
    run_sql(url, "CREATE TABLE things (n integer)")
    yield url
    databases.drop(url)


def things(url: str) -> list[int]:
    return [row["n"] for row in run_sql(url, "SELECT n FROM things ORDER BY n")]


async def insert(url: str, *, within: bool, timeout: float = 5.0) -> None:
    connection = await asyncpg.connect(url)
    try:
        if within:
            async with connection.transaction():
                await connection.execute("INSERT INTO things VALUES ($1)", 1, timeout=timeout)
        else:
            await connection.execute("INSERT INTO things VALUES ($1)", 1, timeout=timeout)
    finally:
        connection.terminate()


GONE = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize(("harm", "kept"), [("lose", [1]), ("cut", [])])
async def test_a_commit_is_lost_after_it_is_done_or_cut_before(
    url: str, harm: Harm, kept: list[int], within: bool
) -> None:
    with WireProxy(url) as proxy:
        proxy.plan = lambda request: harm if request.commits else "pass"
        with pytest.raises(GONE):
            await insert(proxy.url, within=within)
        assert proxy.done[str(harm)] == 1
    assert things(url) == kept


async def test_the_end_of_a_transaction_that_only_read_is_no_commit(url: str) -> None:
    asked: list[Request] = []

    def noted(request: Request) -> Harm:
        asked.append(request)
        return "pass"

    with WireProxy(url) as proxy:
        proxy.plan = noted
        connection = await asyncpg.connect(proxy.url)
        for statement in ("SELECT n FROM things", "INSERT INTO things VALUES (1)", "SELECT n FROM things"):
            async with connection.transaction():
                await connection.execute(statement)
        connection.terminate()
    assert [request.commits for request in asked if request.sql == "COMMIT;"] == [False, True, False]


async def test_what_is_not_chosen_passes_and_a_delay_only_delays(url: str) -> None:
    asked: list[Request] = []

    def delayed(request: Request) -> Harm:
        asked.append(request)
        return 0.05 if request.commits else "pass"

    with WireProxy(url) as proxy:
        proxy.plan = delayed
        await insert(proxy.url, within=True)
        assert (proxy.done["delay"], proxy.done["lose"]) == (1, 0)
    assert things(url) == [1]
    assert [request.commits for request in asked if "INSERT" in request.sql] == [False]
    assert [request.sql for request in asked if request.commits] == ["COMMIT;"]


async def test_a_connection_that_hangs_stays_open_and_says_nothing(url: str) -> None:
    with WireProxy(url) as proxy:
        connection = await asyncpg.connect(proxy.url)
        assert proxy.hang_all() == 1
        with pytest.raises(asyncio.TimeoutError):
            await connection.execute("SELECT 1", timeout=0.2)
        async with asyncio.timeout(60):
            while proxy.connections > 1:  # the one over which asyncpg asked to cancel what got no answer
                await asyncio.sleep(0.005)
        assert proxy.connections == 1
        connection.terminate()
        await insert(proxy.url, within=False)  # a new one passes
        proxy.refusing = True
        with pytest.raises(GONE):
            await insert(proxy.url, within=False)
    assert things(url) == [1]
