"""F13: what was recorded is damaged where it lies, and a worker replays it: its case is held, the others go on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from pydantic import BaseModel
from tests.crash.inspection import Inspection
from tests.faults.frame import FaultReport
from tests.faults.life import BOUND
from tests.support.postgres import run_sql

from longcase import Case, Longcase, Next, Team, Workflow, activity, days
from longcase.errors import StoreCorrupt
from longcase.insight.verify import verify

desk = Team("desk")


class Thing(BaseModel):
    id: str


things = Workflow("things", object=Thing, key="id", owner=desk, expect=days(9))
go = things.signal("go", Thing)


@activity(owner=desk, effect="repeatable")
async def stamp(thing: str) -> str:
    return thing


@things.stage(expect=days(9))
async def waiting(case: Case[Thing]) -> Next:
    stamped = await stamp(case.key)
    await case.receive(go)
    return things.close("gone", result=stamped)


GOOD = [f"g{number}" for number in range(8)]
DAMAGES = {  # to a payload; where PostgreSQL itself would refuse what is no JSON: what it takes
    "another value": (lambda text: text.replace("t", "u", 1), "overlay(data::text placing 'u' from 4 for 1)"),
    "another shape": (lambda text: "z" + text, "'1'"),
    "cut off": (lambda text: text[:40], "'{}'"),
}
WAITING = "SELECT count(*) AS n FROM cases WHERE wait_what = 'signal go'"
CLOSED = "SELECT count(*) AS n FROM cases WHERE status = 'closed'"
OPENED = "SELECT count(*) AS n FROM history WHERE type = 'incident_opened'"


def damage(url: str, case_no: int, kind: str, how: str) -> None:
    """Change the payload of a case's first event of a type, past the triggers that forbid it to SQL."""
    change, in_sql = DAMAGES[how]
    where = f"WHERE case_no = {case_no} AND type = '{kind}'"
    if url.startswith("postgres"):
        run_sql(url, "SET session_replication_role = replica", f"UPDATE history SET data = ({in_sql})::json {where}")
        return
    connection = apsw.Connection(url.removeprefix("sqlite:///"))
    try:
        (text,) = connection.execute(f"SELECT data FROM history {where}").fetchone()
        connection.execute("DROP TRIGGER IF EXISTS history_is_never_changed")
        connection.execute(f"UPDATE history SET data = ? {where}", (change(text),))
        assert connection.changes() == 1
    finally:
        connection.close()


async def until(longcase: Longcase, query: str, count: int) -> None:
    """Wait until a query counts so many."""
    async with asyncio.timeout(BOUND):
        while (await longcase.service.query(query))[0]["n"] != count:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("kind", ["stage_entered", "activity_completed"])
async def test_fault_F13_a_case_whose_history_was_damaged_is_held_and_the_others_go_on(
    store_url: str, fault_report: FaultReport, kind: str, how: str
) -> None:
    async with Longcase([things], url=store_url) as longcase:
        async with longcase.working():
            for key in ("bad", *GOOD):
                await longcase.service.start(things, Thing(id=key))
            await until(longcase, WAITING, len(GOOD) + 1)
        (bad,) = await longcase.service.query("SELECT case_no FROM cases WHERE key = 'bad'")
        await asyncio.to_thread(damage, store_url, bad["case_no"], kind, how)
        for key in ("bad", *GOOD):  # all are due at once: one batch of the worker
            await longcase.service.signal(f"things/{key}", go, Thing(id=key))
        async with longcase.working():
            await until(longcase, CLOSED, len(GOOD))
            await until(longcase, OPENED, 1)
            view = await longcase.service.show("things/bad")
            (incident,) = view.state.incidents.values()
            assert (incident["kind"], incident["owner"]) == ("history_damaged", "desk")
            at = incident["details"]["event"]
            assert f"event {at} " in incident["message"]
            with pytest.raises(StoreCorrupt, match=f"event {at} "):
                await longcase.service.restart("things/bad", reason="what it returned cannot be taken over")
            assert view.pending == 1, "its signal is kept"
            await longcase.service.cancel("things/bad", reason="the damage cannot be mended")
            await until(longcase, CLOSED, len(GOOD) + 1)
    findings = await asyncio.to_thread(lambda: Inspection(store_url).broken_invariants())
    assert any(f"event {at}" in finding and "I39" in finding for finding in findings), findings
    assert all("things/bad" in finding for finding in findings), findings
    fault_report(
        injected={f"payload of {kind}: {how}": 1}, useful={"cases closed": len(GOOD)},
        found="the worker named the event and held its case; verify named it too",
    )  # fmt: skip


STATES = {
    "cut off": "substr(state, 1, 60)",
    "no UTF-8": "CAST(substr(CAST(state AS BLOB), 1, 60) || x'f0' || substr(CAST(state AS BLOB), 62) AS TEXT)",
}


@pytest.mark.parametrize("by_hand", [False, True], ids=["by the worker", "by hand"])
@pytest.mark.parametrize("how", STATES)
async def test_fault_F13_a_row_that_cannot_be_read_is_written_anew_from_the_history_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault_report: FaultReport, how: str, by_hand: bool
) -> None:
    """PostgreSQL takes nothing but JSON into these columns."""
    url = f"sqlite:///{tmp_path / 'cases.db'}"
    async with Longcase([things], url=url) as longcase:
        async with longcase.working():
            for key in ("bad", *GOOD):
                await longcase.service.start(things, Thing(id=key))
            await until(longcase, WAITING, len(GOOD) + 1)
        for key in ("bad", *GOOD):
            await longcase.service.signal(f"things/{key}", go, Thing(id=key))
        with closing(apsw.Connection(str(tmp_path / "cases.db"))) as connection:
            connection.execute(f"UPDATE cases SET state = {STATES[how]} WHERE key = 'bad'")
        with pytest.raises(StoreCorrupt, match="its row cannot be read") as told:
            await longcase.service.show("things/bad")
        assert told.value.hint == "longcase verify; longcase rebuild things/bad"
        found = [str(one) async for one in verify(longcase.store)]  # type: ignore[arg-type]
        assert [finding.partition(" holds")[0] for finding in found] == ["I3: things/bad (case 1): column state"]
        if by_hand:
            words = [sys.executable, "-m", "longcase", "rebuild", "things/bad", "--store", url]
            told_by = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True)
            assert told_by.stdout == "things/bad: rebuilt from its history\n", told_by.stderr
        async with longcase.working():
            await until(longcase, CLOSED, len(GOOD) + 1)
    named = "things/bad (case 1): its row cannot be read; it was rebuilt from the history" in caplog.text
    assert named is not by_hand
    assert await asyncio.to_thread(lambda: Inspection(url).broken_invariants()) == []
    fault_report(
        injected={f"a row's JSON {how}": 1}, useful={"cases closed": len(GOOD) + 1},
        found="verify names it; the worker, or rebuild, writes it anew",
    )  # fmt: skip


async def test_fault_F13_a_case_whose_row_and_history_cannot_be_read_stands_still_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault_report: FaultReport
) -> None:
    url = f"sqlite:///{tmp_path / 'cases.db'}"
    async with Longcase([things], url=url) as longcase:
        async with longcase.working():
            for key in ("bad", *GOOD):
                await longcase.service.start(things, Thing(id=key))
            await until(longcase, WAITING, len(GOOD) + 1)
        for key in ("bad", *GOOD):
            await longcase.service.signal(f"things/{key}", go, Thing(id=key))
        with closing(apsw.Connection(str(tmp_path / "cases.db"))) as connection:
            connection.execute("UPDATE cases SET state = '[' WHERE key = 'bad'")
            connection.execute("DROP TRIGGER history_is_never_changed")
            connection.execute("UPDATE history SET data = '{}' WHERE case_no = 1 AND seq = 1")
        async with longcase.working():
            await until(longcase, CLOSED, len(GOOD))
    assert "its row cannot be read, nor can it be rebuilt: case 1: event 1 is not what was recorded" in caplog.text
    fault_report(
        injected={"a row and an event": 1}, useful={"cases closed": len(GOOD)},
        found="the log names the case, and why it cannot be rebuilt",
    )  # fmt: skip
