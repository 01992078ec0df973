"""Verify and rebuild: what was changed by hand is found, named by case and event, and healed (G2, G7)."""

from __future__ import annotations

import copy
from typing import Any

import apsw
import pytest
from tests.support.cases import (
    asked,
    closed,
    completed,
    decided,
    do,
    entered,
    incident,
    new_case,
    noted,
    receive,
    scheduled,
    turn,
    voted,
)

from longcase.env import Env
from longcase.errors import CaseNotFound, StoreCorrupt
from longcase.insight.invariants import Finding
from longcase.insight.verify import Anchors, verify
from longcase.store.records import CaseRef
from longcase.store.sqlite import SqliteStore

UNGUARD = ("DROP TRIGGER history_is_never_changed", "DROP TRIGGER history_is_never_deleted")


def by_hand(store: SqliteStore, *statements: str) -> None:
    """Change the tables as somebody with an SQL shell would."""
    connection = apsw.Connection(store.path)
    for statement in statements:
        connection.execute(statement).fetchall()
    connection.close()


async def found(store: SqliteStore, anchors: Anchors | None = None) -> list[Finding]:
    return [finding async for finding in verify(store, anchors=anchors)]


async def invariants(store: SqliteStore) -> set[str]:
    return {finding.invariant for finding in await found(store)}


@pytest.fixture
async def filled(store: SqliteStore) -> SqliteStore:
    """Return a store with an open case 1 (tasks, call, wait), a closed case 2 and a fresh case 3."""
    first, second, _ = await store.start([new_case("k1"), new_case("k2"), new_case("k3")])
    await store.write([turn(first, entered(), asked(), asked("1.q2"), scheduled(), receive(), lease=1)])
    await store.edit(CaseRef(1), do(voted("ann"), voted("ben", decides=True)))
    row = await store.load(CaseRef(1))
    assert row is not None
    await store.write([turn(row, decided(), noted())])
    await store.write([turn(second, entered(), scheduled(), completed(), closed())])
    return store


async def test_a_sound_store_has_no_findings(filled: SqliteStore) -> None:
    assert await found(filled) == []


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("status", "'closed'"), ("stage", "'activate'"), ("owner", "'mallory'"), ("visit", "7"), ("kind", "'path'"),
        ("started_at", "''"), ("entered_at", "''"), ("closed_at", "'2026'"), ("expected_by", "''"),
        ("stage_expected", "'2030'"), ("seen_seq", "1"), ("at", "''"), ("close_name", "'active'"), ("wait_kind", "''"),
        ("wait_what", "'nothing'"), ("wait_whose", "'nobody'"), ("wait_since", "''"), ("wait_expected", "''"),
        ("wait_count", "0"), ("incident_count", "3"), ("object", """'{"id":"k1","rating":"AAA"}'"""),
        ("state", "'{}'"), ("state", "'no json'"), ("hash", "zeroblob(32)"), ("uid", "'other'"), ("tenant", "'other'"),
        ("key", "'other'"), ("workflow", "'other'"),
    ],
)  # fmt: skip
async def test_row_G2_a_row_edited_by_hand_is_named_and_rebuilt(filled: SqliteStore, column: str, value: str) -> None:
    by_hand(filled, f"UPDATE cases SET {column} = {value} WHERE case_no = 1")
    findings = await found(filled)
    assert [(finding.invariant, finding.case_no) for finding in findings] == [("I3", 1)]
    assert f"column {column}" in findings[0].message
    await filled.rebuild(1)
    assert await found(filled) == []


async def test_row_G2_a_counter_edited_by_hand_is_named_and_rebuilt(filled: SqliteStore) -> None:
    by_hand(filled, "UPDATE cases SET seq = 99 WHERE case_no = 1")
    assert {"I1", "I3"} == await invariants(filled)
    await filled.rebuild(1)
    assert await found(filled) == []


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE tasks SET status = 'ready' WHERE task = '1.q1'", "task 1.q1: column status"),
        ("UPDATE tasks SET answer = 'rejected' WHERE task = '1.q1'", "task 1.q1: column answer"),
        ("DELETE FROM tasks WHERE task = '1.q2'", "task 1.q2 is missing"),
        ("UPDATE tasks SET task = '9.q9' WHERE task = '1.q2'", "task 9.q9 stands in the tasks"),
    ],
)
async def test_row_G2_tasks_edited_by_hand_are_named_and_rebuilt(
    filled: SqliteStore, statement: str, message: str
) -> None:
    by_hand(filled, statement)
    assert any(message in finding.message for finding in await found(filled))
    await filled.rebuild(1)
    assert await found(filled) == []


async def test_a_rebuilt_case_keeps_its_lease_and_is_looked_at(filled: SqliteStore) -> None:
    by_hand(filled, "UPDATE cases SET stage = 'activate', lease = 5, wake_at = '' WHERE case_no = 1")
    await filled.rebuild(1)
    row = await filled.load(CaseRef(1))
    assert row is not None
    assert (row.state.stage, row.lease) == ("intake", 5)
    assert row.wake_at


async def test_rebuilding_a_case_nobody_knows_is_refused(filled: SqliteStore) -> None:
    with pytest.raises(CaseNotFound):
        await filled.rebuild(99)


# -- history -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "data = replace(data, 'approved', 'rejected')", "data = 'no json'", "actor = 'person:eve'", "cause = 1",
        "at = '2026-03-02T11:00:00.000000Z'", "type = 'task_released'", "node = 'elsewhere'", "salt = ''",
        "digest = zeroblob(32)", "hash = zeroblob(32)",
    ],
)  # fmt: skip
async def test_row_G7_an_event_changed_by_hand_is_named(filled: SqliteStore, change: str) -> None:
    by_hand(filled, *UNGUARD, f"UPDATE history SET {change} WHERE case_no = 1 AND seq = 7")
    findings = [finding for finding in await found(filled) if finding.invariant == "I39"]
    assert findings[0].case_no == 1
    assert findings[0].seq in (7, 8)
    with pytest.raises(StoreCorrupt, match=r"event [78]"):
        await filled.rebuild(1)


async def test_inv_39_a_dropped_event_is_named(filled: SqliteStore) -> None:
    by_hand(filled, *UNGUARD, "DELETE FROM history WHERE case_no = 1 AND seq = 4")
    findings = await found(filled)
    assert ("I1", 5) in [(finding.invariant, finding.seq) for finding in findings]
    assert ("I39", 5) in [(finding.invariant, finding.seq) for finding in findings]


async def test_inv_39_a_truncated_history_is_named(filled: SqliteStore) -> None:
    by_hand(filled, *UNGUARD, "DELETE FROM history WHERE case_no = 2 AND seq > 3")
    assert any("the history ends at 3" in finding.message for finding in await found(filled))


async def test_inv_02_a_chain_forged_whole_is_found_by_its_anchor(filled: SqliteStore) -> None:
    event = await filled.event(1, 3)
    anchors = {1: {3: event.hash}, 2: {1: (await filled.event(2, 1)).hash}}
    assert await found(filled, anchors) == []
    anchors[1][3] = b"\x01" * 32
    anchors[9] = {1: b""}
    findings = await found(filled, anchors)
    assert [(finding.invariant, finding.case_no, finding.seq) for finding in findings] == [("I2", 1, 3), ("I2", 9, 0)]


async def test_inv_05_a_reference_to_nothing_is_named(filled: SqliteStore) -> None:
    by_hand(
        filled,
        "PRAGMA foreign_keys = OFF",
        "UPDATE inbox SET case_no = 1",
        "UPDATE tasks SET case_no = 77 WHERE task = '1.q2'",
    )
    findings = await found(filled)
    assert any(finding.invariant == "I5" and "tasks" in finding.message for finding in findings)


async def test_inv_12_two_live_cases_of_a_key_are_named(filled: SqliteStore) -> None:
    by_hand(filled, "DROP INDEX one_live_case_per_key", "UPDATE cases SET key = 'k1' WHERE case_no = 3")
    assert "I12" in await invariants(filled)


# -- histories that no engine should write ---------------------------------------------------------------


def timer(kind: str, **data: Any) -> Any:
    event = noted()
    event.type = kind
    more = (
        {"due": "2026-03-02T11:00:00.000000Z", "because": "cooling", "kind": "pause", "whose": "sales"}
        if kind == "timer_set"
        else {}
    )
    event.data = {"timer": "1.t1", **more, **data}
    return event


def attempt(number: int, kind: str = "attempt_started") -> Any:
    event = noted()
    event.type = kind
    event.data = {
        "call": "1.c1",
        "attempt": number,
        "worker": 1,
        "error": {"type": "E"},
        "next_try": "2026-03-02T13:00:00.000000Z",
    }
    return event


def escalated(level: int) -> Any:
    event = noted()
    event.type = "task_escalated"
    event.data = {"task": "1.q1", "level": level, "to": "senior", "reassign": False}
    return event


@pytest.mark.parametrize(
    ("invariant", "events"),
    [
        ("I13", (scheduled(), completed(), completed())),
        ("I15", (scheduled(), attempt(2))),
        ("I15", (scheduled(), attempt(1, "attempt_failed"), attempt(1))),
        ("I24", (timer("timer_set"), timer("timer_fired"), timer("timer_fired"))),
        ("I24", (timer("timer_set"), timer("timer_cancelled"), timer("timer_fired"))),
        ("I24", (timer("timer_fired"),)),
        ("I21", (timer("timer_set", due="2026-03-02T12:00:00.000001Z"), timer("timer_fired"))),
        ("I25", (asked(), decided(), decided())),
        ("I32", (asked(), escalated(2))),
        ("I32", (asked(), escalated(1), escalated(1))),
        ("I32", (scheduled(expected=""),)),
    ],
)
async def test_a_broken_promise_in_the_history_is_named(
    store: SqliteStore, invariant: str, events: tuple[Any, ...]
) -> None:
    (base,) = await store.start([new_case("k1")])
    await store.write([turn(base, entered(), receive())])
    await store.edit(CaseRef(1), do(*copy.deepcopy(events)))
    assert await invariants(store) == {invariant}


@pytest.mark.parametrize(
    "events",
    [
        (scheduled(), attempt(1, "attempt_failed"), attempt(2), completed(attempt=2)),
        (scheduled(), attempt(1, "attempt_lost"), attempt(2), attempt(2, "attempt_failed"), attempt(3)),
        (timer("timer_set"), timer("timer_fired")),
        (asked(), escalated(1), voted("ann"), decided()),
        (scheduled(), incident(call="1.c1")),
    ],
)
async def test_a_kept_promise_is_not_named(store: SqliteStore, events: tuple[Any, ...]) -> None:
    (base,) = await store.start([new_case("k1")])
    await store.write([turn(base, entered(), receive())])
    await store.edit(CaseRef(1), do(*copy.deepcopy(events)))
    assert await found(store) == []


async def test_a_store_in_use_is_verified_as_of_one_instant_a_case(store: SqliteStore, env: Env) -> None:
    await store.start([new_case(f"k{i}") for i in range(250)])
    seen: list[int] = []
    findings = [finding async for finding in verify(store, progress=seen.append)]
    assert findings == []
    assert seen == [100, 200, 250]
