"""The documented views say what the records say, in SQL alone."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from tests.support.cases import (
    NOON,
    NOON_TEXT,
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

from longcase.history.waits import waits
from longcase.store.records import CaseRef
from longcase.store.settings import clock_from, clock_setting
from longcase.store.sqlite import SqliteStore
from longcase.store.sqlite.migrate import migrations

SCHEMA = "\n".join(migration.sql for migration in migrations())


def other(name: str, /, **data: Any) -> Any:
    event = noted()
    event.type, event.data = name, data
    event.node = "intake/somewhere"
    return event


async def case(store: SqliteStore, *events: Any) -> int:
    (base,) = await store.start([new_case("k1")])
    await store.write([turn(base, entered(), *events)])
    return base.case_no


PAUSE = other(
    "timer_set", timer="1.t1", due="2026-03-06T00:00:00.000000Z", because="cooling-off", kind="pause", whose="sales"
)
TIMEOUT = other(
    "timer_set", timer="1.t2", due="2026-03-05T00:00:00.000000Z", because="timeout", kind="timeout", whose="sales"
)
CHILD = other(
    "child_started", child="1.k1", workflow="check", key="c1", expected="2026-03-07T00:00:00.000000Z", awaited=True,
    on_close="cancel", body={}, stage="s", owner="o",
)  # fmt: skip
BACKOFF = other("attempt_failed", call="1.c1", attempt=1, error={"type": "E"}, next_try="2026-03-02T12:10:00.000000Z")
UNKNOWN = other("attempt_failed", call="1.c1", attempt=1, error={"type": "E"}, next_try="")
SECOND = other("attempt_started", call="1.c1", attempt=2, worker=1)
UNDO = other("undo_requested", undo="1.u1", since="")
KEEPS = other(
    "incident_opened", incident="i7", kind="stage_failed", owner="sales", message="KeyError: 'x'", cause=1, call="",
    due="2026-03-02T16:00:00.000000Z", blocks=True, repairs=["retry"], details={},
    pending={"type": "activity_completed", "call": "1.c1", "result": "ok"},
)  # fmt: skip
REQUIRE = asked("1.q2", kind="require", question="needs legal_entity", quorum=1, whose=["sales", "legal"])


@pytest.mark.parametrize(
    "events",
    [
        (receive(),), (asked(),), (asked(), voted("ann")), (asked(quorum=3), voted("ann"), voted("ben")),
        (asked(quorum=3), voted("ann", "road"), voted("ben", "rail"), voted("cat", "road")),
        (REQUIRE,), (PAUSE, TIMEOUT), (CHILD,), (scheduled(),),
        (scheduled(system=""),), (scheduled(), BACKOFF), (scheduled(), UNKNOWN), (scheduled(), BACKOFF, SECOND),
        (scheduled(), scheduled("1.c2"), KEEPS), (UNDO,), (incident(),), (scheduled(), incident(call="1.c1")),
        (asked(), voted("ben", decides=True), receive()),
        (receive(), asked(), REQUIRE, PAUSE, CHILD, scheduled(), UNDO, incident("i1"), incident("i2", blocks=False)),
    ],
)  # fmt: skip
async def test_waiting_lists_every_open_wait_as_the_state_has_it(store: SqliteStore, events: tuple[Any, ...]) -> None:
    case_no = await case(store, *copy.deepcopy(events))
    row = await store.load(CaseRef(case_no))
    assert row is not None
    listed = await store.query(
        "SELECT kind, what, whose, since, coalesce(expected, '') AS expected, node, event FROM waiting"
    )
    assert sorted(tuple(found.values()) for found in listed) == sorted(tuple(wait) for wait in waits(row.state))
    headline = (await store.query("SELECT waiting_for, waiting_on, waits FROM case_overview"))[0]
    first = waits(row.state)[0]
    assert headline == {"waiting_for": first.kind, "waiting_on": first.what, "waits": len(waits(row.state))}


async def test_a_closed_case_waits_for_nothing(store: SqliteStore) -> None:
    await case(store, receive(), asked(), closed("withdrawn"))
    assert await store.query("SELECT * FROM waiting") == []
    (row,) = await store.query("SELECT status, closed_as, closed_at, waiting_for FROM case_overview")
    assert row == {"status": "closed", "closed_as": "withdrawn", "closed_at": NOON_TEXT, "waiting_for": None}


async def test_overdue_lists_what_is_late_by_the_stores_clock(store: SqliteStore) -> None:
    await case(store, receive())
    await store.set_setting("clock", clock_setting(0.0, NOON, 0.0))  # the store stands at noon
    assert await store.query("SELECT now FROM clock") == [{"now": NOON_TEXT}]
    assert await store.query("SELECT * FROM overdue") == []
    late = NOON.replace(day=6)
    await store.set_setting("clock", clock_setting(0.0, late, 0.0))
    assert await store.query("SELECT level, what, whose FROM overdue") == [
        {"level": "wait", "what": "signal paper", "whose": "desk"}
    ]
    await store.set_setting("clock", clock_setting(0.0, late.replace(month=5), 0.0))
    assert [row["level"] for row in await store.query("SELECT level FROM overdue ORDER BY level")] == [
        "case",
        "stage",
        "wait",
    ]


async def test_the_scaled_clock_is_the_same_for_every_process(store: SqliteStore) -> None:
    assert clock_from(await store.setting("clock")) is None
    await store.set_setting("clock", clock_setting(1000.0, NOON, 60.0))
    clock = clock_from(await store.setting("clock"))
    assert clock is not None
    assert (clock.epoch_real, clock.epoch, clock.factor) == (1000.0, NOON, 60.0)
    (row,) = await store.query("SELECT abs(unixepoch(now, 'subsec') - ?) AS off FROM clock", (clock.now().timestamp(),))
    assert row["off"] < 600  # ten real seconds


async def test_approvals_lists_answers_refused_ones_too(store: SqliteStore) -> None:
    case_no = await case(store, asked())
    refused = other(
        "vote_refused", task="1.q1", by="eve", answer="approved", reason="", refused="refused", why="not asked"
    )
    await store.edit(CaseRef(case_no), do(voted("ann"), refused, voted("ben", decides=True)))
    row = await store.load(CaseRef(case_no))
    assert row is not None
    await store.write([turn(row, decided())])
    found = await store.query(
        "SELECT person, answer, counted, refused, shown, outcome, task_no FROM approvals ORDER BY event"
    )
    shown = '{"fields":{"id":"k1"}}'
    assert [tuple(row.values()) for row in found] == [
        ("ann", "approved", 1, None, shown, "approved", 1),
        ("eve", "approved", 0, "not asked", None, "approved", 1),
        ("ben", "approved", 1, None, shown, "approved", 1),
    ]


async def test_attempts_has_one_row_for_each_try(store: SqliteStore) -> None:
    failed = other(
        "attempt_failed", call="1.c1", attempt=1, error={"type": "Timeout", "message": "slow"},
        next_try="2026-03-02T12:10:00.000000Z",
    )  # fmt: skip
    second = other("attempt_started", call="1.c1", attempt=2, worker=3, activity="check_registry")
    waiting = scheduled("1.c3", attempt=0)
    await case(store, scheduled(), failed, second, completed(attempt=2), scheduled("1.c2"), waiting)
    found = await store.query(
        "SELECT call, activity, attempt, outcome, error, next_try, idempotency_key FROM attempts ORDER BY 1, 3"
    )
    assert [tuple(row.values()) for row in found] == [
        ("1.c1", "check_registry", 1, "failed", "Timeout: slow", "2026-03-02T12:10:00.000000Z", "key-1.c1"),
        ("1.c1", "check_registry", 2, "completed", None, None, "key-1.c1"),
        ("1.c2", "check_registry", 1, "running", None, None, "key-1.c2"),
    ]


async def test_decisions_says_what_was_ruled_and_under_which_policy(store: SqliteStore) -> None:
    ruling = other(
        "ruling_recorded", decision="needs_sign_off", nth=1, digest="d", inputs={"amount": 12}, answer="yes", rule="r2",
        because="amount over 10", question="Sign-off?", policy="CR-7 v3", owner="risk", again=False,
    )  # fmt: skip
    await case(store, ruling, receive())
    found = await store.query(
        "SELECT decision, policy, decided_by, inputs, answer, rule, because, again FROM decisions"
    )
    assert [tuple(row.values()) for row in found] == [
        ("needs_sign_off", "CR-7 v3", "risk", '{"amount":12}', "yes", "r2", "amount over 10", 0)
    ]


async def test_ownership_has_no_gap_and_no_overlap(store: SqliteStore) -> None:
    case_no = await case(store, receive())
    row = await store.load(CaseRef(case_no))
    assert row is not None
    await store.write([turn(row, entered("review", 2, owner="credit"), at="2026-03-02T18:00:00.000000Z")])
    row = await store.load(CaseRef(case_no))
    assert row is not None
    await store.write([turn(row, closed(), at="2026-03-03T00:00:00.000000Z")])
    found = await store.query("SELECT owner, since, until FROM ownership ORDER BY event")
    assert [tuple(row.values()) for row in found] == [
        ("sales", NOON_TEXT, "2026-03-02T18:00:00.000000Z"),
        ("credit", "2026-03-02T18:00:00.000000Z", "2026-03-03T00:00:00.000000Z"),
    ]


async def test_incidents_are_listed_open_and_closed(store: SqliteStore) -> None:
    case_no = await case(store, receive(), incident("i3"), incident("i4"))
    await store.edit(CaseRef(case_no), do(other("incident_closed", incident="i3", how="retried", reason="fixed")))
    found = await store.query("SELECT incident, kind, owner, repairs, closed_at, how, by FROM incidents ORDER BY event")
    assert [tuple(row.values()) for row in found] == [
        ("i3", "stage_failed", "sales", '["retry"]', NOON_TEXT, "retried", "person:bob"),
        ("i4", "stage_failed", "sales", '["retry"]', None, None, None),
    ]


async def test_timeline_has_every_event_with_who_and_where(store: SqliteStore) -> None:
    await case(store, receive())
    found = await store.query("SELECT event, what, actor, channel, node FROM timeline ORDER BY event")
    assert [tuple(row.values()) for row in found] == [
        (1, "case_started", "person:ada", "api", None),
        (2, "stage_entered", "engine", "engine", None),
        (3, "receive_opened", "engine", "engine", "intake/receive:paper"),
    ]


async def test_every_column_of_every_view_is_documented(store: SqliteStore) -> None:
    shared = {"case_no", "tenant", "workflow", "key", "at", "event", "node", "visit", "version"}
    for name in re.findall(r"^CREATE VIEW (\w+)", SCHEMA, re.M):
        above = SCHEMA[SCHEMA.rindex(f"\n-- {name} ") : SCHEMA.rindex(f"CREATE VIEW {name} ")]
        for column in await store.query("SELECT name FROM pragma_table_info(?)", (name,)):
            assert column["name"] in shared or re.search(rf"\b{column['name']}\b", above), f"{name}: {column['name']}"
