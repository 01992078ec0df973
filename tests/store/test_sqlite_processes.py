"""Several processes on one file, and processes that die: what was acknowledged is there, once."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.cases import do, entered, new_case, noted, receive, turn
from tests.support.processes import line, process, tell

from longcase.env import Env
from longcase.insight.verify import verify
from longcase.store.records import CaseRef
from longcase.store.sqlite import SqliteStore, open_sqlite

BUSY = """
store = await open_sqlite(path, Env())
shared, = await store.start([new_case("shared")])
async def one(number):
    base, = await store.start([new_case(f"{arg1}-{number}")])
    await store.write([turn(base, entered(), receive())])
    for again in range(3):
        await store.edit(CaseRef(shared.case_no), do(noted(f"{arg1}-{number}-{again}")))
await asyncio.gather(*(one(number) for number in range(30)))
await store.close()
say("done")
"""

ACKNOWLEDGING = """
store = await open_sqlite(path, Env())
async def one(number):
    while True:
        base, = await store.start([new_case(f"{number}-{env.new_id()}")])
        say(base.case_no, 1)
        await store.write([turn(base, entered(), receive())])
        say(base.case_no, 3)
        await store.edit(CaseRef(base.case_no), do(inputs=[signal("s")]))
        say(base.case_no, "s")
env = Env()
await asyncio.gather(*(one(number) for number in range(8)))
"""


async def check(path: str) -> SqliteStore:
    store = await open_sqlite(path, Env())
    assert [str(finding) async for finding in verify(store)] == []
    return store


async def test_two_processes_write_to_one_file_and_nothing_is_lost(path: str) -> None:
    with process(BUSY, path, "a") as first, process(BUSY, path, "b") as second:
        assert (line(first), line(second)) == ("done", "done")
    store = await check(path)
    shared = await store.load(CaseRef(workflow="onboarding", key="shared"))
    assert shared is not None
    assert shared.state.seq == 1 + 2 * 30 * 3
    assert await store.query("SELECT count(*) AS n FROM cases") == [{"n": 61}]
    await store.close()


@pytest.mark.parametrize("after", [1, 40, 300])
async def test_inv_06_what_was_acknowledged_survives_a_kill(path: str, after: int) -> None:
    acknowledged = []
    with process(ACKNOWLEDGING, path) as child:
        for _ in range(after):
            acknowledged.append(line(child).split())
        child.kill()
        assert child.stdout is not None
        acknowledged += [rest.split() for rest in child.stdout.read().splitlines() if rest.count(" ") == 1]
    store = await check(path)
    for case_no, what in acknowledged:
        row = await store.load(CaseRef(int(case_no)))
        assert row is not None
        assert row.pending == 1 if what == "s" else row.state.seq >= int(what)
    await store.close()


@pytest.mark.parametrize(("point", "cases"), [("before_commit", 1), ("after_commit", 2)])
async def test_inv_05_a_transaction_is_there_wholly_or_not_at_all(path: str, point: str, cases: int) -> None:
    body = """
store = await open_sqlite(path, Env())
await store.start([new_case("k1")])
say("acknowledged")
await store.start([new_case("k2")])
say("never said")
"""
    with process(body, path, LONGCASE_FAULT=f"{point}:2") as child:
        assert (line(child), line(child)) == ("acknowledged", "")
        assert child.wait() == 137
    store = await check(path)
    assert await store.query("SELECT count(*) AS n FROM cases") == [{"n": cases}]
    await store.close()


async def test_the_commit_of_another_process_is_noticed(store: SqliteStore, path: str) -> None:
    await store.start([new_case("k1")])
    assert not store.changed()
    body = """
store = await open_sqlite(path, Env())
await store.edit(CaseRef(workflow="onboarding", key="k1"), do(noted()))
say("done")
"""
    with process(body, path) as child:
        assert line(child) == "done"
    assert store.changed()
    assert not store.changed()
    row = await store.load(CaseRef(workflow="onboarding", key="k1"))
    assert row is not None
    assert row.state.seq == 2


async def test_a_writer_waits_for_another_process_without_stopping_its_loop(store: SqliteStore, path: str) -> None:
    (base,) = await store.start([new_case("k1")])
    body = """
import apsw
connection = apsw.Connection(path)
connection.execute("BEGIN IMMEDIATE")
say("locked")
sys.stdin.readline()
connection.execute("ROLLBACK")
say("free")
"""
    with process(body, path) as child:
        assert line(child) == "locked"
        waiting = asyncio.create_task(store.write([turn(base, entered(), receive())]))
        for _ in range(100):
            await asyncio.sleep(0)  # the loop goes on
        assert not waiting.done()
        assert (await store.load(CaseRef(base.case_no))) is not None  # and so do reads
        tell(child)
        assert line(child) == "free"
        assert [written.outcome for written in await waiting] == ["done"]


async def test_a_process_sees_what_another_wrote_just_before(store: SqliteStore, path: str) -> None:
    body = """
store = await open_sqlite(path, Env())
for number in range(20):
    key = sys.stdin.readline().strip()
    row = await store.load(CaseRef(workflow="onboarding", key=key))
    say(row.state.seq)
    await store.edit(CaseRef(row.case_no), do(noted()))
    say("edited")
"""
    with process(body, path) as child:
        for number in range(20):
            (base,) = await store.start([new_case(f"k{number}")])
            await store.edit(CaseRef(base.case_no), do(noted()))
            tell(child, f"k{number}")
            assert line(child) == "2"
            assert line(child) == "edited"
            row = await store.load(CaseRef(base.case_no))
            assert row is not None
            assert row.state.seq == 3
