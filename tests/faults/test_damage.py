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


BROKEN = {  # what happens to an input that waits: PostgreSQL takes nothing but JSON as data, and UTF-8 as text
    "no JSON": "data = substr(data, 1, 9)",
    "no UTF-8": "data = CAST(x'7b22f022' AS TEXT)",
    "another shape": "data = '1'",
    "a type that is no UTF-8": "type = CAST(x'73f0' AS TEXT)",
    "an instant that is no UTF-8": "accepted_at = CAST(x'32f0' AS TEXT)",
}


@pytest.mark.parametrize("repair", ["move", "cancel", "retry"])
@pytest.mark.parametrize("how", BROKEN)
async def test_fault_F13_a_case_whose_input_was_damaged_is_held_and_the_others_go_on(
    tmp_path: Path, fault_report: FaultReport, how: str, repair: str
) -> None:
    url = f"sqlite:///{tmp_path / 'cases.db'}"
    async with Longcase([things], url=url) as longcase:
        service = longcase.service
        async with longcase.working():
            for key in ("bad", *GOOD):
                await service.start(things, Thing(id=key))
            await until(longcase, WAITING, len(GOOD) + 1)
        for key in ("bad", *GOOD):
            await service.signal(f"things/{key}", go, Thing(id=key))
        with closing(apsw.Connection(str(tmp_path / "cases.db"))) as connection:
            kept = connection.execute("SELECT type, data, accepted_at FROM inbox WHERE case_no = 1").fetchone()
            connection.execute(f"UPDATE inbox SET {BROKEN[how]} WHERE case_no = 1")
        found = [str(one) async for one in verify(longcase.store)]  # type: ignore[arg-type]
        assert any("I8" in finding and "things/bad" in finding and "is not what was accepted" in finding
                   for finding in found), found  # fmt: skip
        async with longcase.working():
            await until(longcase, CLOSED, len(GOOD))
            await until(longcase, OPENED, 1)
            view = await service.show("things/bad")
            (incident,) = view.state.incidents.values()
            assert (incident["kind"], incident["owner"]) == ("input_damaged", "desk")
            assert incident["repairs"] == ["retry", "move", "cancel"]
            assert incident["message"].startswith("input 1 of the inbox (")
            assert view.pending == 1, "what is left of it is kept"
            match repair:
                case "retry":
                    await service.retry("things/bad", reason="perhaps")
                    await until(longcase, OPENED, 2)
                    with closing(apsw.Connection(str(tmp_path / "cases.db"))) as connection:
                        connection.set_busy_timeout(30_000)
                        update = "UPDATE inbox SET type = ?, data = ?, accepted_at = ? WHERE case_no = 1"
                        connection.execute(update, kept)  # as a backup has it
                    await service.retry("things/bad", reason="mended")
                case "move":
                    await service.move("things/bad", "waiting", reason="it said go")
                    await until(longcase, "SELECT count(*) AS n FROM inbox WHERE case_no = 1", 0)
                    await service.signal("things/bad", go, Thing(id="bad"))
                case "cancel":
                    await service.cancel("things/bad", reason="nobody knows")
            await until(longcase, CLOSED, len(GOOD) + 1)
            await until(longcase, "SELECT count(*) AS n FROM inbox", 0)
            history = await longcase.store.events(1)
            aside = [event.data for event in history if event.type == "signal_unhandled"]
            assert len(aside) == (repair != "retry"), "put aside in the history"
    assert await asyncio.to_thread(lambda: Inspection(url).broken_invariants()) == []
    fault_report(
        injected={f"an input: {how}": 1}, useful={"cases closed": len(GOOD) + 1},
        found="verify and an incident name the input; its case is held",
    )  # fmt: skip


TEXTS = {
    "a column of its row": "UPDATE cases SET stage = CAST(x'77f0' AS TEXT) WHERE key = 'bad'",
    "its owner": "UPDATE cases SET owner = CAST(x'77f0' AS TEXT) WHERE key = 'bad'",
}


@pytest.mark.parametrize("how", TEXTS)
async def test_fault_F13_a_row_with_text_that_is_no_utf8_is_written_anew_and_the_others_go_on(
    tmp_path: Path, fault_report: FaultReport, how: str
) -> None:
    """SQLite's driver refuses the reading of all the rows that were asked for with it."""
    url = f"sqlite:///{tmp_path / 'cases.db'}"
    async with Longcase([things], url=url) as longcase:
        async with longcase.working():
            for key in ("bad", *GOOD):
                await longcase.service.start(things, Thing(id=key))
            await until(longcase, WAITING, len(GOOD) + 1)
        for key in ("bad", *GOOD):
            await longcase.service.signal(f"things/{key}", go, Thing(id=key))
        with closing(apsw.Connection(str(tmp_path / "cases.db"))) as connection:
            connection.execute(TEXTS[how])
        with pytest.raises(StoreCorrupt, match="holds text that is no UTF-8 any more") as told:
            await longcase.service.show("things/bad")
        assert "longcase rebuild" in told.value.hint
        async with longcase.working():
            await until(longcase, CLOSED, len(GOOD) + 1)
    assert await asyncio.to_thread(lambda: Inspection(url).broken_invariants()) == []
    fault_report(
        injected={f"{how} is no UTF-8": 1}, useful={"cases closed": len(GOOD) + 1},
        found="who reads it is told; the worker writes it anew from the history",
    )  # fmt: skip


async def test_fault_F13_a_setting_that_is_no_json_any_more_is_named(tmp_path: Path, fault_report: FaultReport) -> None:
    url = f"sqlite:///{tmp_path / 'cases.db'}"
    async with Longcase([things], url=url) as longcase:
        await longcase.store.set_setting("period", {"things": 7})
        for value in ("'{'", "CAST(x'22f022' AS TEXT)"):
            with closing(apsw.Connection(str(tmp_path / "cases.db"))) as connection:
                connection.execute(f"UPDATE settings SET value = {value} WHERE name = 'period'")
            with pytest.raises(StoreCorrupt) as told:
                await longcase.store.setting("period")
            assert "longcase restore BACKUP" in told.value.hint
        await longcase.store.set_setting("period", {"things": 8})
        assert await longcase.store.setting("period") == {"things": 8}
    fault_report(
        injected={"a setting": 2}, useful={"settings read": 1}, found="the error says what cannot be read, and the mend"
    )


async def test_fault_F13_an_input_that_is_no_object_any_more_holds_its_case_on_each_store(
    store_url: str, fault_report: FaultReport
) -> None:
    """All that PostgreSQL lets happen to it."""
    async with Longcase([things], url=store_url) as longcase:
        async with longcase.working():
            for key in ("bad", *GOOD):
                await longcase.service.start(things, Thing(id=key))
            await until(longcase, WAITING, len(GOOD) + 1)
        for key in ("bad", *GOOD):
            await longcase.service.signal(f"things/{key}", go, Thing(id=key))
        change = "UPDATE inbox SET data = '1' WHERE case_no = (SELECT case_no FROM cases WHERE key = 'bad')"
        if store_url.startswith("postgres"):
            await asyncio.to_thread(run_sql, store_url, change)
        else:
            with closing(apsw.Connection(store_url.removeprefix("sqlite:///"))) as connection:
                connection.execute(change)
        async with longcase.working():
            await until(longcase, CLOSED, len(GOOD))
            await until(longcase, OPENED, 1)
            (incident,) = (await longcase.service.show("things/bad")).state.incidents.values()
            assert incident["kind"] == "input_damaged"
            await longcase.service.cancel("things/bad", reason="nobody knows")
            await until(longcase, CLOSED, len(GOOD) + 1)
    fault_report(
        injected={"an input of another shape": 1}, useful={"cases closed": len(GOOD) + 1},
        found="an incident names the input; its case is held",
    )  # fmt: skip
