"""I7 on PostgreSQL: what `longcase backup` and `restore` advise is typed as it stands, under load."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
from pathlib import Path

import pytest
from tests.support.cases import NOON, closed, entered, new_case, turn
from tests.support.postgres import Databases, find_binaries

from longcase.app import Longcase
from longcase.env import Env, VirtualClock
from longcase.errors import UsageError
from longcase.insight.verify import verify
from longcase.service.retention import Period
from longcase.upkeep import backup_store, restore_store


def advised(url: str, file: str, *, restore: bool = False) -> list[str]:
    """Return the command that is advised."""
    with pytest.raises(UsageError) as told:
        restore_store(url, file, Env()) if restore else backup_store(url, file)
    return shlex.split(next(part for part in told.value.hint.split(";") if "pg_" in part))


def run(command: list[str]) -> None:
    program = find_binaries() / command[0]
    if not program.exists():
        pytest.skip(f"this PostgreSQL brings no {command[0]}")
    environment = {**os.environ, "LC_ALL": "C"}
    ended = subprocess.run([str(program), *command[1:]], capture_output=True, text=True, timeout=100, env=environment)
    assert ended.returncode == 0, ended.stderr


async def sound(url: str) -> tuple[int, int]:
    """Return how many cases and how many tombstones a store has; it must verify."""
    async with Longcase(url=url, env=Env(VirtualClock(NOON), seed=9), create=False) as longcase:
        store = longcase.exporter._store
        assert [str(finding) async for finding in verify(store)] == []
        cases = await longcase.service.query("SELECT count(*) AS n FROM cases")
        gone = await longcase.service.query("SELECT count(*) AS n FROM purged")
        return int(cases[0]["n"]), int(gone[0]["n"])


async def test_inv_07_a_dump_under_load_restores_to_one_committed_state(
    postgres_url: str, databases: Databases, tmp_path: Path
) -> None:
    clock = VirtualClock(NOON)
    async with Longcase(url=postgres_url, env=Env(clock, seed=3)) as longcase:
        started = await longcase.store.start([new_case(f"old{n}") for n in range(20)])
        await longcase.store.write([turn(base, entered(), closed()) for base in started])
        await longcase.retention.keep("onboarding", Period(days=1))
        clock.set(NOON.replace(month=6))
        exporter = longcase.exporter
        await exporter.to_file(str(tmp_path / "a.jsonl"), await exporter.wanted())
        (due,) = await longcase.retention.due()
        dump = str(tmp_path / "monday.dump")
        dumping = asyncio.create_task(asyncio.to_thread(run, advised(postgres_url, dump)))
        number = 0
        while not dumping.done():
            await longcase.store.start([new_case(f"new{number}")])
            number += 1
            await longcase.retention.purge_some(due, "x", 2)
        await dumping
    assert number > 0, "nothing happened meanwhile"
    target = databases.new(empty=True)
    try:
        await asyncio.to_thread(run, advised(target, dump, restore=True))
        cases, gone = await sound(target)
        assert 20 <= cases + gone <= 20 + number
        assert gone <= 20
        async with Longcase(url=target, env=Env(clock, seed=4)) as restored:
            (again,) = await restored.store.start([new_case("after")])
            assert not again.existing
    finally:
        databases.drop(target)
