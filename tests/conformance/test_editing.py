"""Units of work under the lock of a case's row: what a signal, a vote or a correction does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.support.cases import (
    NOON_TEXT,
    asked,
    closed,
    corrected,
    do,
    entered,
    new_case,
    noted,
    receive,
    scheduled,
    signal,
    turn,
)

from longcase.errors import AlreadyDecided, CaseNotFound, IdempotencyConflict, InvalidInput
from longcase.store.records import CaseRef, DedupKey, Edit, Locked

KEY = CaseRef(workflow="onboarding", key="k1")


@pytest.fixture
async def case_no(store: Any) -> int:
    (started,) = await store.start([new_case("k1", name="Acme")])
    await store.write([turn(started, entered(), receive())])
    return int(started.case_no)


async def test_it_sees_the_case_as_it_stands(store: Any, case_no: int) -> None:
    await store.edit(KEY, do(inputs=[signal("s-1")]))
    seen: list[tuple[Locked, list[str]]] = []

    def look(locked: Locked) -> Edit[str]:
        seen.append((locked, [item.id for item in locked.pending]))
        return Edit("looked")

    assert await store.edit(KEY, look) == "looked"
    ((locked, waiting),) = seen
    assert locked.case_no == case_no
    assert locked.state == (await store.load(KEY)).state
    assert locked.now == NOON_TEXT
    assert waiting == ["s-1"]
    assert locked.duplicate is None


async def test_its_events_are_appended_and_folded(store: Any, case_no: int) -> None:
    await store.edit(KEY, do(corrected(name="Apex"), noted()))
    row = await store.load(KEY)
    assert row.state.object["name"] == "Apex"
    assert (row.state.seq, row.state.seen_seq) == (5, 4)
    event = await store.event(case_no, 4)
    assert (event.type, event.at, event.actor, event.channel) == ("corrected", NOON_TEXT, "person:bob", "cli")


async def test_an_accepted_input_waits_in_the_inbox_and_wakes_the_case(store: Any, case_no: int) -> None:
    await store.edit(KEY, do(inputs=[signal("s-1", {"amount": 3})]))
    (item,) = await store.inbox(case_no)
    assert (item.id, item.type, item.accepted_at) == ("s-1", "signal_received", NOON_TEXT)
    assert item.data["body"] == {"amount": 3}
    assert await store.ready(NOON_TEXT, 0, 10) == [case_no]
    assert (await store.load(KEY)).pending == 1


async def test_inv_08_an_input_that_waits_already_is_not_put_in_twice(store: Any, case_no: int) -> None:
    await store.edit(KEY, do(inputs=[signal("s-1")]))
    await store.edit(KEY, do(inputs=[signal("s-1")]))
    assert len(await store.inbox(case_no)) == 1


async def test_inv_11_inputs_are_kept_in_the_order_of_their_acceptance(store: Any, case_no: int) -> None:
    for number in range(5):
        await store.edit(KEY, do(inputs=[signal(f"s-{9 - number}")]))
    assert [item.id for item in await store.inbox(case_no)] == ["s-9", "s-8", "s-7", "s-6", "s-5"]
    inboxes = await store.inboxes([case_no, 99])
    assert (inboxes[case_no][0].id, inboxes[99]) == ("s-9", [])


async def test_a_refusal_is_recorded_before_it_is_raised(store: Any, case_no: int) -> None:
    with pytest.raises(AlreadyDecided):
        await store.edit(KEY, do(noted("late"), refusal=AlreadyDecided("already decided by ann")))
    assert (await store.events(case_no))[-1].type == "duplicate_ignored"


async def test_what_raises_changes_nothing_and_harms_nobody_else(store: Any, case_no: int) -> None:
    def fail(locked: Locked) -> Edit[int]:
        raise RuntimeError("no")

    outcomes = await asyncio.gather(
        store.edit(KEY, do(noted("one"))),
        store.edit(KEY, fail),
        store.edit(KEY, do(noted("two"))),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [int, RuntimeError, int]
    assert [event.data.get("key") for event in (await store.events(case_no))[3:]] == ["one", "two"]


async def test_data_that_is_no_json_is_refused_and_nothing_is_written(store: Any, case_no: int) -> None:
    with pytest.raises(InvalidInput):
        await store.edit(KEY, do(noted("fine"), inputs=[signal("s-1", float("inf"))]))
    assert (await store.load(KEY)).state.seq == 3


async def test_the_words_nan_and_infinity_are_not_numbers(store: Any, case_no: int) -> None:
    await store.edit(KEY, do(noted("NaN, Infinity and -Infinity are words here")))
    assert (await store.events(case_no))[-1].data["key"].startswith("NaN")


async def test_an_unknown_case_is_named_in_the_error(store: Any) -> None:
    with pytest.raises(CaseNotFound, match="onboarding/k1"):
        await store.edit(KEY, do())


async def test_inv_09_a_repeat_sees_the_answer_that_was_given(store: Any, case_no: int) -> None:
    dedup = DedupKey("signal", "m-1", "body")
    seen: list[Any] = []

    def once(locked: Locked) -> Edit[Any]:
        seen.append(locked.duplicate)
        if locked.duplicate is not None:
            return Edit(locked.duplicate)
        return Edit({"seq": 4}, [noted()], dedup=dedup, answer={"seq": 4})

    assert await store.edit(KEY, once, dedup) == {"seq": 4}
    assert await store.edit(KEY, once, dedup) == {"seq": 4}
    assert seen == [None, {"seq": 4}]
    assert (await store.load(KEY)).state.seq == 4


async def test_inv_09_another_body_under_the_key_is_a_conflict(store: Any, case_no: int) -> None:
    await store.edit(KEY, do(noted(), dedup=DedupKey("signal", "m-1", "a"), answer=1), DedupKey("signal", "m-1", "a"))
    with pytest.raises(IdempotencyConflict, match="m-1"):
        await store.edit(KEY, do(noted()), DedupKey("signal", "m-1", "b"))
    assert (await store.load(KEY)).state.seq == 4


async def test_a_unit_that_writes_nothing_changes_nothing(store: Any, case_no: int) -> None:
    before = await store.load(KEY)
    assert await store.edit(KEY, do()) == 3
    assert await store.load(KEY) == before


async def test_a_case_is_woken_no_later_than_what_is_due(store: Any, case_no: int) -> None:
    row = await store.load(KEY)
    await store.write([turn(row, asked(), wake_at="2026-03-03T12:00:00.000000Z")])
    failed = noted()
    failed.type = "attempt_failed"
    failed.data = {"call": "1.c1", "error": {}, "next_try": "2026-03-02T12:05:00.000000Z"}
    await store.edit(KEY, do(scheduled(), failed))
    assert (await store.load(KEY)).wake_at == "2026-03-02T12:05:00.000000Z"


async def test_a_closed_case_still_takes_records(store: Any, case_no: int) -> None:
    row = await store.load(KEY)
    await store.write([turn(row, closed())])
    await store.edit(KEY, do(noted("late")))
    row = await store.load(KEY)
    assert (row.state.status, row.wake_at) == ("closed", "")
    assert row.state.seq == 5


async def test_concurrent_edits_of_one_case_are_all_kept_in_one_order(store: Any, case_no: int) -> None:
    before = await asyncio.gather(*(store.edit(KEY, do(noted(str(number)))) for number in range(50)))
    assert sorted(before) == list(range(3, 53))
    assert [event.seq for event in await store.events(case_no)] == list(range(1, 54))
