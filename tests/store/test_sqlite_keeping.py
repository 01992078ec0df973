"""Purging on SQLite: only a recorded purge deletes, a kill leaves each case whole or gone, work goes on meanwhile."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import apsw
import pytest
from tests.support.cases import NOON, closed, entered, new_case, turn
from tests.support.processes import line, process

from longcase.app import Longcase
from longcase.env import Env, VirtualClock
from longcase.errors import FileMissing, StoreCorrupt, UsageError
from longcase.insight.verify import verify
from longcase.service.retention import Period
from longcase.store.records import CaseRef
from longcase.store.sqlite import open_sqlite
from longcase.store.sqlite.maintenance import backup

CASES = 12
UNGUARD = "DROP TRIGGER history_is_never_changed"

PURGING = """
from datetime import UTC, datetime
from longcase.app import Longcase
from longcase.env import VirtualClock

env = Env(VirtualClock(datetime(2026, 3, 20, 12, tzinfo=UTC)), seed=1)
async with Longcase(url=f"sqlite:///{path}", env=env) as longcase:
    (due,) = await longcase.retention.due()
    while gone := await longcase.retention.purge_some(due, "the period is over", 3):
        say(len(gone))
"""


async def fill(path: str, folder: Path, cases: int = CASES, *, secret: str = "") -> Longcase:
    """Return an open store of closed and exported cases that are old enough to go, and one living case."""
    clock = VirtualClock(NOON)
    longcase = Longcase(url=f"sqlite:///{path}", env=Env(clock, seed=5))
    await longcase.open()
    started = await longcase.store.start([new_case(f"k{n}", secret=secret) for n in range(cases)])
    await longcase.store.write([turn(base, entered(), closed()) for base in started])
    await longcase.store.start([new_case("living")])
    await longcase.retention.keep("onboarding", Period(days=10))
    clock.advance(timedelta(days=18))
    if cases:
        exporter = longcase.exporter
        await exporter.to_file(str(folder / "a.jsonl"), await exporter.wanted())
    return longcase


async def sound(path: str) -> tuple[int, int]:
    """Return how many cases and how many tombstones a store has; it must verify, and hold nothing of what is gone."""
    store = await open_sqlite(path, Env(VirtualClock(NOON + timedelta(days=18)), seed=9), create=False)
    assert [str(finding) async for finding in verify(store)] == []
    for table in ("history", "tasks", "inbox", "dedup", "heartbeats", "exported_cases"):
        assert await store.query(f"SELECT case_no FROM {table} WHERE case_no IN (SELECT case_no FROM purged)") == []
    cases = await store.query("SELECT count(*) AS n FROM cases")
    gone = await store.query("SELECT count(*) AS n FROM purged")
    await store.close()
    return cases[0]["n"], gone[0]["n"]


@pytest.mark.parametrize("point", ["before_commit", "after_commit"])
@pytest.mark.parametrize("hit", [1, 2, 3])
async def test_inv_02_a_purge_killed_in_the_middle_is_gone_on_with(
    path: str, tmp_path: Path, point: str, hit: int
) -> None:
    await (await fill(path, tmp_path)).close()
    with process(PURGING, path, LONGCASE_FAULT=f"{point}:{hit}") as child:
        assert child.wait(60) == 137
    done = 3 * (hit - (point == "before_commit"))
    assert await sound(path) == (CASES + 1 - done, done)
    with process(PURGING, path) as child:
        assert child.wait(60) == 0
    assert await sound(path) == (1, CASES)


async def test_inv_07_a_backup_in_the_middle_of_a_purge_is_one_committed_state(path: str, tmp_path: Path) -> None:
    longcase = await fill(path, tmp_path, 200)
    copy = str(tmp_path / "copy.db")
    (due,) = await longcase.retention.due()
    loop = asyncio.get_running_loop()
    began = asyncio.Event()

    def tick(done: int, total: int) -> None:
        loop.call_soon_threadsafe(began.set)

    copying = asyncio.create_task(asyncio.to_thread(backup, path, copy, progress=tick))
    await longcase.retention.purge_some(due, "x", 10)
    while await longcase.retention.purge_some(due, "x", 10):
        await asyncio.sleep(0)
    await copying
    await longcase.close()
    assert began.is_set()
    cases, gone = await sound(copy)
    assert cases + gone == 201
    assert await sound(path) == (1, 200)


async def test_others_write_between_two_batches_of_a_purge(path: str, tmp_path: Path) -> None:
    """The longest a start waits for a purge is one of its transactions."""
    longcase = await fill(path, tmp_path, 60)
    (due,) = await longcase.retention.due()
    started = 0
    with process("store = await open_sqlite(path, Env())\n"
                 "for number in range(20):\n"
                 "    await store.start([new_case(f'new{number}')])\n"
                 "    say('started')\n"
                 "await store.close()", path) as child:  # fmt: skip
        while await longcase.retention.purge_some(due, "x", 2):
            started += line(child) == "started"
        while line(child):
            started += 1
        assert child.wait(60) == 0
    await longcase.close()
    assert started == 20
    assert await sound(path) == (21, 60)


def sql(path: str, statement: str) -> None:
    connection = apsw.Connection(path)
    try:
        connection.pragma("foreign_keys", True)
        connection.execute(statement).fetchall()
    finally:
        connection.close()


async def test_inv_02_only_a_recorded_purge_deletes(path: str, tmp_path: Path) -> None:
    longcase = await fill(path, tmp_path)
    living = await longcase.store.load(CaseRef(workflow="onboarding", key="living"))
    assert living is not None
    await longcase.close()
    stone = (
        "INSERT INTO tombstones "
        "SELECT case_no, tenant, workflow, key, uid, close_name, started_at, closed_at, seq, hash, parent_case, 1, at, "
        "'person:eve', 'x' FROM cases WHERE case_no = "
    )
    with pytest.raises(apsw.ConstraintError, match="deleted only by the purge of its case"):
        sql(path, "DELETE FROM history WHERE case_no = 1")
    with pytest.raises(apsw.ConstraintError, match="only a closed case that was exported"):
        sql(path, stone + str(living.case_no))
    with pytest.raises(apsw.ConstraintError, match="FOREIGN KEY"):
        sql(path, "DELETE FROM cases WHERE case_no = 1")
    sql(path, stone + "1")
    assert ["has a tombstone and is still there" in found for found in await findings(path)] == [True]
    for statement in ("UPDATE tombstones SET actor = 'person:ada'", "DELETE FROM tombstones"):
        with pytest.raises(apsw.ConstraintError, match="a tombstone is never"):
            sql(path, statement)


async def findings(path: str) -> list[str]:
    store = await open_sqlite(path, Env(VirtualClock(NOON), seed=9), create=False)
    found = [str(finding) async for finding in verify(store)]
    await store.close()
    return found


async def test_a_purged_case_is_overwritten_and_not_only_unlinked(path: str, tmp_path: Path) -> None:
    secret = "a-name-that-must-not-stay" * 3
    longcase = await fill(path, tmp_path, secret=secret)
    (due,) = await longcase.retention.due()
    while await longcase.retention.purge_some(due, "x", 5):
        pass
    await longcase.close()  # the last connection folds the log in and removes it
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.jsonl", "longcase.db"]
    assert secret.encode() in (tmp_path / "a.jsonl").read_bytes()
    assert secret.encode() not in Path(path).read_bytes()


async def test_a_damaged_store_is_not_exported(path: str, tmp_path: Path) -> None:
    longcase = await fill(path, tmp_path)
    sql(path, UNGUARD)
    sql(path, "UPDATE history SET data = replace(data, 'onboarding', 'offboarding') WHERE case_no = 3 AND seq = 1")
    exporter = longcase.exporter
    with pytest.raises(StoreCorrupt, match="the export does not verify: I39: onboarding/k2"):
        await exporter.to_file(str(tmp_path / "b.jsonl"), await exporter.wanted(again=True))
    assert not list(tmp_path.glob("b.jsonl*"))
    assert len(await longcase.service.query("SELECT * FROM receipts")) == 1
    await longcase.close()


async def test_an_export_is_written_where_it_may_be(path: str, tmp_path: Path) -> None:
    longcase = await fill(path, tmp_path)
    exporter = longcase.exporter
    wanted = await exporter.wanted(again=True)
    with pytest.raises(UsageError, match="is there already") as there:
        await exporter.to_file(str(tmp_path / "a.jsonl"), wanted)
    assert "--force" in there.value.hint
    with pytest.raises(FileMissing, match=r"there is no folder .*/nowhere") as missing:
        await exporter.to_file(str(tmp_path / "nowhere" / "b.jsonl"), wanted)
    assert missing.value.hint == f"mkdir -p {tmp_path / 'nowhere'}"
    number, _ = await exporter.to_file(str(tmp_path / "a.jsonl"), wanted, force=True)
    assert number == 2
    await longcase.close()


async def test_an_export_that_finds_no_room_leaves_no_file(path: str, tmp_path: Path) -> None:
    await (await fill(path, tmp_path, 60)).close()
    body = """
import resource
from longcase.app import Longcase
from longcase.errors import StorageFull
async with Longcase(url=f"sqlite:///{path}", inline=True) as longcase:
    wanted = await longcase.exporter.wanted(again=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        await longcase.exporter.to_file(arg1, wanted)
    except StorageFull as error:
        say(error.code, os.path.exists(arg1), os.path.exists(arg1 + ".part"))
"""
    with process(body, path, str(tmp_path / "b.jsonl")) as child:
        assert line(child) == "storage_full False False"
    store = await open_sqlite(path, Env(VirtualClock(NOON), seed=9))
    assert len(await store.query("SELECT * FROM receipts")) == 1
    await store.close()


async def test_an_export_is_its_owners_alone(path: str, tmp_path: Path) -> None:
    await (await fill(path, tmp_path)).close()
    assert (tmp_path / "a.jsonl").stat().st_mode & 0o077 == 0


async def test_a_purge_finds_its_cases_by_an_index(path: str, tmp_path: Path) -> None:
    longcase = await fill(path, tmp_path, 0)
    await longcase.close()
    connection = apsw.Connection(path)
    plan = connection.execute(
        "EXPLAIN QUERY PLAN SELECT case_no FROM retention "
        "WHERE tenant = 'main' AND workflow = 'w' AND closed_at <= 'x' AND export IS NOT NULL AND held_by IS NULL "
        "AND coalesce(newest_key_at, '') <= 'x' "
        "ORDER BY closed_at, case_no LIMIT 5"
    ).fetchall()
    connection.close()
    steps = [str(row[3]) for row in plan]
    assert any("cases_closed" in step for step in steps), steps
    assert [step for step in steps if step.startswith("SCAN") and "VIRTUAL TABLE" not in step] == [], steps
