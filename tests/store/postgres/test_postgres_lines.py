"""Lines that break or fall silent (F18, F20): who listens listens again, and what was idle beside is given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from tests.store.postgres.test_postgres_faults import CUT
from tests.support.cases import do, new_case
from tests.support.postgres import run_sql
from tests.support.wire_proxy import WireProxy

from longcase.env import Env
from longcase.errors import StoreUnavailable
from longcase.store.postgres import PostgresStore, connection, hints, open_postgres
from longcase.store.records import CaseRef


@pytest.fixture
def wire(postgres_url: str) -> Iterator[WireProxy]:
    with WireProxy(postgres_url) as proxy:
        yield proxy


@pytest.fixture
async def distant(wire: WireProxy, env: Env, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PostgresStore]:
    """A store over a line that can be harmed, with little patience."""
    monkeypatch.setattr(hints, "PROBE", 0.2)
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.5)
    opened = await open_postgres(wire.url, env)
    yield opened
    await opened.close()


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not reached():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("harm", ["cut", "silent"])
async def test_who_listens_over_a_line_that_is_lost_listens_again(
    distant: PostgresStore, store: PostgresStore, wire: WireProxy, postgres_url: str, harm: str
) -> None:
    distant._hints._monotonic, distant._hints._looked = (lambda: 0.0), 0.0  # no poll falls due
    (base,) = await store.start([new_case("k1")])
    distant.changed()
    await until(lambda: distant._hints._proven)
    lost = distant._hints._listener
    if harm == "cut":
        await asyncio.to_thread(run_sql, postgres_url, CUT)
    else:
        await asyncio.to_thread(wire.hang_all)
    await until(lambda: distant._hints._listener not in (lost, None) and not distant._hints._listener.is_closed())
    await until(lambda: bool(distant._hints._listener._listeners))
    distant.changed()
    assert not distant.changed()
    while True:  # its own line may have been cut too
        try:
            await store.edit(CaseRef(base.case_no), do(wake=True))
            break
        except StoreUnavailable:
            pass
    await until(distant.changed)


async def test_of_the_lines_that_fell_silent_together_only_the_first_is_waited_for(
    distant: PostgresStore, wire: WireProxy
) -> None:
    async def ask() -> list[BaseException]:
        asked = await asyncio.gather(*(distant.load(CaseRef(n)) for n in range(1, 5)), return_exceptions=True)
        return [answer for answer in asked if isinstance(answer, BaseException)]

    await distant.start([new_case("k1")])
    assert await ask() == []
    assert wire.connections > 4
    await asyncio.to_thread(wire.hang_all)
    with pytest.raises(StoreUnavailable, match="nothing came in time"):
        await distant.load(CaseRef(1))
    assert await ask() == []
    await distant.start([new_case("k2")])
