"""Starting cases: one live case a key, a repeated start answered with the first one."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.cases import NOON_TEXT, closed, entered, new_case, turn

from longcase.errors import IdempotencyConflict, InvalidInput
from longcase.store.records import CaseRef, DedupKey


async def test_a_started_case_has_its_row_and_one_event(store: Any) -> None:
    (started,) = await store.start([new_case("k1", name="Acme")])
    assert not started.existing
    row = await store.load(CaseRef(workflow="onboarding", key="k1"))
    assert row.case_no == started.case_no
    assert row.state == started.state
    assert row.state.object == {"id": "k1", "name": "Acme"}
    assert row.state.started_at == NOON_TEXT
    assert [event.type for event in await store.events(row.case_no)] == ["case_started"]


async def test_a_started_case_is_ready_at_once(store: Any) -> None:
    (started,) = await store.start([new_case("k1")])
    assert await store.ready(NOON_TEXT, 0, 10) == [started.case_no]


async def test_inv_12_a_start_on_a_live_key_answers_with_that_case(store: Any) -> None:
    (first,) = await store.start([new_case("k1", name="Acme", size=1)])
    (second,) = await store.start([new_case("k1", name="Other", size=1)])
    assert second.existing
    assert second.case_no == first.case_no
    assert second.differs == ("name",)


async def test_inv_12_two_starts_of_one_key_in_one_call_make_one_case(store: Any) -> None:
    first, second = await store.start([new_case("k1"), new_case("k1")])
    assert (first.existing, second.existing) == (False, True)
    assert first.case_no == second.case_no


@pytest.mark.parametrize("key", ["", "  "])
async def test_inv_12_a_blank_key_is_refused(store: Any, key: str) -> None:
    with pytest.raises(InvalidInput):
        await store.start([new_case("k1"), new_case(key)])
    assert await store.load(CaseRef(workflow="onboarding", key="k1")) is None


async def test_the_same_key_in_another_workflow_is_another_case(store: Any) -> None:
    first, second = await store.start([new_case("k1"), new_case("k1", workflow="claims")])
    assert first.case_no != second.case_no


async def test_a_closed_case_is_answered_unless_started_again(store: Any) -> None:
    (first,) = await store.start([new_case("k1")])
    await store.write([turn(first, entered(), closed())])
    (second,) = await store.start([new_case("k1")])
    assert second.existing
    assert second.state.status == "closed"
    (third,) = await store.start([new_case("k1", again=True)])
    assert not third.existing
    assert (await store.load(CaseRef(workflow="onboarding", key="k1"))).case_no == third.case_no


async def test_a_key_names_the_live_case_else_the_newest(store: Any) -> None:
    ref = CaseRef(workflow="onboarding", key="k1")
    (first,) = await store.start([new_case("k1")])
    await store.write([turn(first, entered(), closed())])
    (second,) = await store.start([new_case("k1", again=True)])
    await store.write([turn(second, entered(), closed())])
    assert (await store.load(ref)).case_no == second.case_no


async def test_inv_09_the_same_message_gets_the_same_answer(store: Any) -> None:
    dedup = DedupKey("onboarding", "m-1", "body")
    (first,) = await store.start([new_case("k1", dedup=dedup)])
    (again,) = await store.start([new_case("k1", dedup=dedup)])
    assert again.existing
    assert again.case_no == first.case_no


async def test_inv_09_a_repeat_is_recognised_after_the_case_has_closed(store: Any) -> None:
    dedup = DedupKey("onboarding", "m-1", "body")
    (first,) = await store.start([new_case("k1", dedup=dedup)])
    await store.write([turn(first, entered(), closed())])
    (again,) = await store.start([new_case("k1", dedup=dedup, again=True)])
    assert again.existing
    assert again.case_no == first.case_no


async def test_inv_09_the_same_key_with_another_body_applies_nothing(store: Any) -> None:
    await store.start([new_case("k1", dedup=DedupKey("onboarding", "m-1", "body"))])
    with pytest.raises(IdempotencyConflict, match="m-1"):
        await store.start([new_case("k2"), new_case("k3", dedup=DedupKey("onboarding", "m-1", "another"))])
    assert await store.load(CaseRef(workflow="onboarding", key="k2")) is None


async def test_inv_09_a_key_counts_for_one_recipient_only(store: Any) -> None:
    await store.start([new_case("k1", dedup=DedupKey("onboarding", "m-1", "body"))])
    (other,) = await store.start([new_case("k2", dedup=DedupKey("claims", "m-1", "another"))])
    assert not other.existing


async def test_what_is_no_json_is_refused_and_nothing_is_started(store: Any) -> None:
    with pytest.raises(InvalidInput, match="case_started"):
        await store.start([new_case("k1"), new_case("k2", amount=float("nan"))])
    assert await store.load(CaseRef(workflow="onboarding", key="k1")) is None
