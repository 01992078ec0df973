"""The instant everything on PostgreSQL goes by: the database's, whatever the machine's own clock says."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest
from tests.support.cases import new_case
from tests.support.postgres import run_sql

from longcase.env import Env, RealClock
from longcase.store.postgres import PostgresStore, fleet, open_postgres


class AheadClock(RealClock):
    """The clock of a machine that is set five minutes ahead."""

    def uncorrected(self) -> datetime:
        return super().uncorrected() + timedelta(minutes=5)


async def test_inv_21_a_machine_whose_clock_is_ahead_goes_by_the_databases(postgres_url: str) -> None:
    env = Env(AheadClock())
    store = await open_postgres(postgres_url, env)
    try:
        (there,) = await asyncio.to_thread(run_sql, postgres_url, "SELECT clock_timestamp()")
        assert abs((env.now() - there[0]).total_seconds()) < 2
    finally:
        await store.close()


async def test_a_heart_corrects_the_clock_as_it_beats(store: PostgresStore, env: Env) -> None:
    clock = AheadClock()
    heart = store.heart(await store.join("here", 1))
    assert heart is not None
    env.clock = clock  # set while the worker runs
    await asyncio.to_thread(heart.beat)
    await asyncio.to_thread(heart.close)
    assert (clock.uncorrected() - clock.now()).total_seconds() == pytest.approx(300, abs=2)


async def test_a_write_reads_the_databases_clock_again_when_it_was_not_read_for_a_while(
    store: PostgresStore, env: Env, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process without a worker has no heart that does it."""
    env.clock = AheadClock()
    await store.start([new_case("k1")])
    monkeypatch.setattr(fleet, "MEASURE", 0.0)
    await store.start([new_case("k2")])
    sql = "SELECT at::timestamptz - clock_timestamp() AS off FROM history ORDER BY case_no"
    far, near = await asyncio.to_thread(run_sql, postgres_url, sql)
    assert far["off"].total_seconds() == pytest.approx(300, abs=60)
    assert near["off"].total_seconds() == pytest.approx(0, abs=60)
