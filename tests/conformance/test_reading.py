"""Reading: cases by number and by key, events of a case and of a visit, questions in SQL."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.cases import closed, do, entered, new_case, noted, receive, turn

from longcase.errors import NotFoundError, UsageError
from longcase.store.records import CaseRef


@pytest.fixture
async def case_no(store: Any) -> int:
    """Return a case with two visits: events 2 to 4 and 5 to 7, and a late record of the first."""
    (started,) = await store.start([new_case("k1")])
    await store.write([turn(started, entered(), receive(), _in(1, noted()))])
    row = await store.load(CaseRef(started.case_no))
    await store.write([turn(row, entered("review", 2), _in(2, noted()))])
    await store.edit(CaseRef(started.case_no), do(_in(1, noted("late")), _in(2, noted())))
    return int(started.case_no)


def _in(visit: int, event: Any) -> Any:
    event.visit = visit
    return event


async def seqs(store: Any, case_no: int, **choice: Any) -> list[int]:
    return [event.seq for event in await store.events(case_no, **choice)]


async def test_events_come_in_order_and_can_be_cut(store: Any, case_no: int) -> None:
    assert await seqs(store, case_no) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert await seqs(store, case_no, after=6) == [7, 8]
    assert await seqs(store, case_no, until=2) == [1, 2]
    assert await seqs(store, case_no, after=1, until=6, limit=3) == [2, 3, 4]


async def test_a_visits_events_begin_with_its_entry(store: Any, case_no: int) -> None:
    assert await seqs(store, case_no, visit=2) == [5, 6, 8]
    assert await seqs(store, case_no, visit=1) == [2, 3, 4, 7]
    assert await seqs(store, case_no, visit=0) == [1]
    assert await seqs(store, case_no, visit=2, after=5) == [6, 8]


async def test_an_event_comes_back_as_it_went_in(store: Any, case_no: int) -> None:
    event = await store.event(case_no, 3)
    assert (event.type, event.node, event.n, event.strand) == ("receive_opened", "intake/receive:paper", 1, "0")
    assert event.data == receive().data
    assert len(event.hash) == 32
    assert event.salt


async def test_an_event_that_is_not_there_is_not_found(store: Any, case_no: int) -> None:
    with pytest.raises(NotFoundError, match="no event 99"):
        await store.event(case_no, 99)


async def test_cases_that_are_not_there_are_none(store: Any) -> None:
    assert await store.load(CaseRef(99)) is None
    assert await store.load(CaseRef(workflow="onboarding", key="none")) is None
    assert await store.load_many([98, 99]) == {}
    assert await store.events(99) == []


async def test_many_cases_are_loaded_at_once(store: Any) -> None:
    started = await store.start([new_case(f"k{i}") for i in range(4)])
    numbers = [one.case_no for one in started[1:3]]
    loaded = await store.load_many(numbers)
    assert {number: row.state for number, row in loaded.items()} == {one.case_no: one.state for one in started[1:3]}


async def test_text_of_every_kind_comes_back(store: Any) -> None:
    names = ["Zoë 東京 🎉", 'quote " backslash \\', "tab\tnewline\n", "\x00\x7f", "", "'; DROP TABLE cases; --"]
    await store.start([new_case(f"k{i}", name=name) for i, name in enumerate(names)])
    for number, name in enumerate(names):
        assert (await store.load(CaseRef(workflow="onboarding", key=f"k{number}"))).state.object["name"] == name


async def test_numbers_of_every_size_come_back(store: Any) -> None:
    numbers = [2**63 - 1, -(2**63), 2**53 + 1, 0.1, 1e-300, 10**40, True, None]
    await store.start([new_case("k1", numbers=numbers)])
    assert (await store.load(CaseRef(workflow="onboarding", key="k1"))).state.object["numbers"] == numbers


async def test_a_query_reads_the_documented_views(store: Any, case_no: int) -> None:
    found = await store.query("SELECT workflow, stage, visit, status FROM case_overview WHERE key = ?", ("k1",))
    assert found == [{"workflow": "onboarding", "stage": "review", "visit": 2, "status": "open"}]
    assert await store.query("SELECT count(*) AS n FROM timeline WHERE case_no = :case", {"case": case_no}) == [
        {"n": 8}
    ]


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM cases",
        "UPDATE cases SET status = 'closed'",
        "INSERT INTO settings VALUES ('a', '1')",
        "DROP TABLE history",
        "PRAGMA journal_mode = DELETE",
        "ATTACH DATABASE '/tmp/other.db' AS other",
        "SELECT 1; DELETE FROM cases",
        "BEGIN IMMEDIATE",
        "SELEC 1",
        "SELECT * FROM nowhere",
        "SELECT load_extension('x')",
    ],
)
async def test_a_query_that_does_anything_but_read_is_refused(store: Any, case_no: int, sql: str) -> None:
    with pytest.raises(UsageError):
        await store.query(sql)
    assert await seqs(store, case_no, limit=1) == [1]
    await store.edit(CaseRef(case_no), do(noted()))


async def test_a_map_keeps_its_number(store: Any) -> None:
    first = await store.map_number("onboarding", "f1", {"nodes": []}, ["intake", "review"])
    other = await store.map_number("onboarding", "f2", {"nodes": []}, ["intake"])
    assert await store.map_number("onboarding", "f1", {"nodes": []}, ["intake", "review"]) == first
    assert first != other
    assert await store.map_number("claims", "f1", {}, []) not in (first, other)


async def test_the_newest_map_of_a_workflow_is_the_one_stored_last(store: Any) -> None:
    assert await store.newest_map("onboarding") is None
    await store.map_number("onboarding", "f1", {"nodes": [1]}, ["intake"])
    await store.map_number("onboarding", "f2", {"nodes": [2]}, ["intake"])
    await store.map_number("claims", "f3", {"nodes": [3]}, [])
    await store.map_number("onboarding", "f1", {"nodes": [1]}, ["intake"])
    assert await store.newest_map("onboarding") == {"nodes": [2]}


async def test_closing_twice_is_harmless(store: Any, case_no: int) -> None:
    row = await store.load(CaseRef(case_no))
    await store.write([turn(row, closed())])
    await store.close()
    await store.close()
