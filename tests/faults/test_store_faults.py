"""F13, F16, F19, F22, F24, F36: what may happen to the file, its locks and its commits."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
from tests.crash import program
from tests.crash.inspection import Inspection
from tests.faults.frame import FaultReport, by_length
from tests.faults.life import BOUND, check_orders, living
from tests.store import test_sqlite_migrate
from tests.support.cases import do, new_case, signal

from longcase import backoff
from longcase.env import Env
from longcase.errors import StoreUnavailable
from longcase.store.records import CaseRef
from longcase.store.sqlite import commit as commit_module
from longcase.store.sqlite import connection as connection_module
from longcase.store.sqlite import doctor as doctor_module
from longcase.store.sqlite import open_sqlite
from longcase.store.sqlite import reading as reading_module
from longcase.store.sqlite.commit import Committer

pytestmark = pytest.mark.timeout(by_length(300, 900))

MEGA = 2**20


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(program, "LEDGER", str(tmp_path / "ledger"))
    monkeypatch.setattr(backoff, "CAP", 0.01)  # and so the first pause
    return tmp_path / "ledger"


async def orders(url: str, keys: list[str]) -> None:
    async with living(url) as life:
        for key in keys:
            await life.order(key)
        await life.all_closed()


# -- F13 -------------------------------------------------------------------------------------------------


def test_fault_F13_a_flipped_bit_in_a_payload_is_found_and_its_case_and_event_named(
    tmp_path: Path, ledger: Path, fault_report: FaultReport
) -> None:
    path = tmp_path / "cases.db"
    url = f"sqlite:///{path}"
    keys = [f"o{n}" for n in range(4)]
    asyncio.run(orders(url, keys))
    assert Inspection(url).broken_invariants() == []
    draw = random.Random(13)
    payloads: list[Any] = (
        apsw.Connection(str(path), apsw.SQLITE_OPEN_READONLY)
        .execute("SELECT case_no, seq, data FROM history WHERE length(data) BETWEEN 60 AND 2000 ORDER BY case_no, seq")
        .fetchall()
    )
    sound = path.read_bytes()
    flips = unseen = 0
    # Two cases may have recorded the same words: only those that stand once in the file tell whose they are.
    alone = [found for found in payloads if sound.count(found[2].encode()) == 1]
    for case_no, seq, text in draw.sample(alone, min(by_length(20, 150), len(alone))):
        place = sound.find(text.encode())
        assert place > 0
        at = place + draw.choice([n for n, letter in enumerate(text) if letter.isalnum()])
        broken = bytearray(sound)
        broken[at] ^= 1 << draw.randrange(8)
        path.write_bytes(broken)
        with closing_it(apsw.Connection(str(path))) as looked:
            unseen += looked.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = Inspection(url).broken_invariants()
        named = [finding for finding in found if f"(case {case_no})" in finding and f"event {seq}" in finding]
        assert named, f"case {case_no}, event {seq}: {text[:80]}: {found}"
        flips += 1
    path.write_bytes(sound)
    assert Inspection(url).broken_invariants() == []
    fault_report(
        injected={"flipped bits": flips}, useful={"orders done": len(keys)},
        found=f"verify named every one; SQLite's own check saw {flips - unseen} of them",
    )  # fmt: skip


@contextmanager
def closing_it(connection: apsw.Connection) -> Iterator[apsw.Connection]:
    try:
        yield connection
    finally:
        connection.close()


# -- F16, F24 --------------------------------------------------------------------------------------------


async def test_fault_F16_a_reader_that_pins_the_log_is_told_and_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault_report: FaultReport
) -> None:
    path, written = str(tmp_path / "cases.db"), by_length(12, 100)  # MiB
    monkeypatch.setattr(connection_module, "WAL_LIMIT", MEGA)
    monkeypatch.setattr(doctor_module, "WAL_BYTES", 4 * MEGA)
    monkeypatch.setattr(reading_module, "SECONDS", 0.3)
    store = await open_sqlite(path, Env())

    def log() -> int:
        return os.path.getsize(f"{path}-wal")

    async def write(megabytes: int) -> None:
        (case,) = await store.start([new_case(f"k{env.new_id()}")])
        for _ in range(megabytes * 4):
            await store.edit(CaseRef(case.case_no), do(inputs=[signal(env.new_id(), {"text": "x" * 250_000})]))

    env = Env()
    await write(written)
    assert log() < 8 * MEGA, "without a reader the log is folded in"
    foreign = apsw.Connection(path)
    foreign.execute("BEGIN")
    before = foreign.execute("SELECT count(*) FROM cases").get
    await write(written)
    pinned = log()
    assert pinned > written * MEGA * 0.8
    told = [symptom for symptom in doctor_module.doctor(path, env) if symptom.name == "wal"]
    assert [symptom.level for symptom in told] == ["warning"]
    assert foreign.execute("SELECT count(*) FROM cases").get == before
    foreign.close()
    await write(1)
    await write(1)
    assert log() < 8 * MEGA, f"{log() / MEGA:.0f} MiB: the log is folded in again"
    # Our own questions cannot pin it: they are ended.
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n, cases"
    with pytest.raises(StoreUnavailable, match="was stopped"):
        await store.query(endless)
    await write(written)
    assert log() < 8 * MEGA
    await store.close()
    fault_report(
        injected={"readers that stay": 1, "endless questions": 1},
        useful={"MiB written": 3 * written},
        found=f"log of {pinned / MEGA:.0f} MiB while pinned, doctor says so; folded in as soon as it is let go",
    )


async def test_fault_F24_work_goes_on_beside_a_snapshot_that_is_held(
    tmp_path: Path, ledger: Path, fault_report: FaultReport
) -> None:
    path = tmp_path / "cases.db"
    keys = [f"o{n}" for n in range(by_length(6, 60))]
    async with living(f"sqlite:///{path}") as life:
        foreign = apsw.Connection(str(path))
        foreign.execute("BEGIN")
        seen = foreign.execute("SELECT count(*) FROM history").get
        for key in keys:
            await life.order(key)
        await life.all_closed()
        assert foreign.execute("SELECT count(*) FROM history").get == seen
        with closing_it(apsw.Connection(str(path))) as beside:
            _, pages, folded = beside.execute("PRAGMA wal_checkpoint(PASSIVE)").get
            assert folded < pages, "nothing was held back: the test would prove nothing"
            written = beside.execute("SELECT count(*) FROM history").get - seen
        foreign.close()
    effects = await asyncio.to_thread(check_orders, f"sqlite:///{path}", ledger, keys)
    fault_report(
        injected={"snapshots held": 1, "pages of log it holds back": pages - folded},
        useful={"orders done": len(keys), "effects": effects},
        found=f"all was through, {written} events, while it stood",
    )  # fmt: skip


# -- F19 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [2, 3, 7])
async def test_fault_F19_the_answer_of_a_commit_is_lost(
    tmp_path: Path, ledger: Path, monkeypatch: pytest.MonkeyPatch, fault_report: FaultReport, every: int
) -> None:
    """It is durable, and whoever waited is told that it failed: nothing may be done twice or left undone."""
    commit, lost = Committer._commit, 0
    seen = 0

    def committing(committer: Committer, cursor: apsw.Cursor) -> None:
        nonlocal lost, seen
        commit(committer, cursor)
        seen += 1
        if seen % every == 0 and lost < limit:
            lost += 1
            raise apsw.IOError("the answer is lost")

    url = f"sqlite:///{tmp_path / 'cases.db'}"
    keys = [f"o{n}" for n in range(by_length(10, 60))]
    limit = len(keys) * 4
    monkeypatch.setattr(Committer, "_commit", committing)
    async with living(url) as life:
        for key in keys:
            await life.order(key)
        await life.all_closed()
        refused = sum(life.refused.values())
    monkeypatch.setattr(Committer, "_commit", commit)
    effects = await asyncio.to_thread(check_orders, url, ledger, keys)
    fault_report(
        injected={"lost answers": lost}, useful={"orders done": len(keys), "effects": effects},
        found=f"{refused} calls were told so and repeated under their keys; nothing lost, nothing doubled",
    )  # fmt: skip


# -- F22 -------------------------------------------------------------------------------------------------


async def test_fault_F22_a_foreign_lock_that_outlasts_the_timeout(
    tmp_path: Path,
    ledger: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault_report: FaultReport,
) -> None:
    path = tmp_path / "cases.db"
    monkeypatch.setattr(commit_module, "BUSY_SECONDS", 0.2)
    keys = [f"o{n}" for n in range(by_length(4, 20))]
    locks = 0
    with caplog.at_level(logging.WARNING, "longcase.worker"):
        async with living(f"sqlite:///{path}") as life:
            foreign = apsw.Connection(str(path))
            foreign.set_busy_timeout(10_000)
            for key in keys:
                refused = sum(life.refused.values())
                await asyncio.to_thread(foreign.execute, "BEGIN IMMEDIATE")
                locks += 1
                turn = asyncio.create_task(life.order(key))
                async with asyncio.timeout(BOUND):
                    while sum(life.refused.values()) == refused:
                        await asyncio.sleep(0.005)
                assert await life.open_orders() >= 0  # reads go on
                foreign.execute("ROLLBACK")
                await turn
            await life.all_closed()
            foreign.close()
            assert set(life.refused) == {"store_unavailable"}
            refused = sum(life.refused.values())
    effects = await asyncio.to_thread(check_orders, f"sqlite:///{path}", ledger, keys)
    fault_report(
        injected={"locks held beyond the timeout": locks}, useful={"orders done": len(keys), "effects": effects},
        found=f"{refused} calls were told so; all went on when it was free",
    )  # fmt: skip


# -- F36 -------------------------------------------------------------------------------------------------


def test_fault_F36_making_a_store_is_killed_at_every_statement(tmp_path: Path, fault_report: FaultReport) -> None:
    """The upgrade of a store with cases in it: test_inv_36_an_upgrade_is_resumed_after_a_kill_at_every_statement."""
    done = subprocess.run(
        [sys.executable, "-c", test_sqlite_migrate.KILL_AT_EVERY_STATEMENT, str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    killed = int(done.stdout)
    fault_report(
        injected={"kills in a migration": killed}, useful={"stores made at the second try": killed},
        found="each was whole, or not there",
    )  # fmt: skip
