"""I5, I8, I30, I31, I33 of what a store is given: what is wrong no store takes, or `verify` names it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.support.cases import do, entered, new_case, noted, receive, received, signal, turn

from longcase.insight.verify import verify
from longcase.store.records import CaseRef, DedupKey


async def found(store: Any) -> list[Any]:
    return [finding async for finding in verify(store)]


async def invariants(store: Any) -> set[str]:
    return {finding.invariant for finding in await found(store)}


async def test_inv_05_of_an_edit_that_fails_nothing_is_there_and_the_others_of_its_commit_are_whole(store: Any) -> None:
    """What one edit writes (event, row, input, remembered key) is there, all or nothing, whoever writes beside."""
    bases = await store.start([new_case(f"k{n}") for n in range(12)])

    async def edit(n: int) -> None:
        key = DedupKey("signal", f"m-{n}", f"body {n}")
        event = noted("nul \x00 \ud800" if n % 3 == 0 else f"note {n}")
        event.actor = "" if n % 3 == 0 else "person:bob"
        await store.edit(CaseRef(bases[n].case_no), do(event, inputs=[signal(f"s-{n}")], dedup=key, answer=n), key)

    outcomes = await asyncio.gather(*(edit(n) for n in range(12)), return_exceptions=True)
    assert [isinstance(outcome, Exception) for outcome in outcomes] == [n % 3 == 0 for n in range(12)]
    for n, base in enumerate(bases):
        key = DedupKey("signal", f"m-{n}", f"body {n}")
        row = await store.load(CaseRef(base.case_no))
        seen: list[Any] = []

        def look(locked: Any, seen: list[Any] = seen) -> Any:
            seen.append(locked.duplicate)
            return do()(locked)

        await store.edit(CaseRef(base.case_no), look, key)
        there = (row.state.seq - 1, len(await store.events(base.case_no)) - 1, len(await store.inbox(base.case_no)))
        assert (*there, seen) == ((0, 0, 0, [None]) if n % 3 == 0 else (1, 1, 1, [n])), n
    assert await found(store) == []


async def test_inv_30_a_case_without_an_owner_cannot_be_stored(store: Any) -> None:
    base, other = await store.start([new_case("k1"), new_case("k2")])
    turns = [turn(base, entered(owner=""), receive()), turn(other, entered(), receive())]
    written = await store.write(turns, partial=True)
    assert [one.outcome for one in written] == ["failed", "done"]
    assert "owner" in str(written[0].error)
    row = await store.load(CaseRef(base.case_no))
    assert (row.state.seq, row.state.owner, row.state.stage) == (1, "sales", "intake")
    assert await found(store) == []


async def test_inv_30_a_case_without_a_stage_is_named(store: Any) -> None:
    base, other = await store.start([new_case("k1"), new_case("k2")])
    await store.write([turn(base, entered(stage=""), receive()), turn(other, entered(), receive())])
    assert ("I30", base.case_no) in {(finding.invariant, finding.case_no) for finding in await found(store)}
    assert {finding.case_no for finding in await found(store)} == {base.case_no}


async def test_inv_08_a_signal_in_inbox_and_history_is_named(store: Any) -> None:
    (base,) = await store.start([new_case("k1")])
    await store.write([turn(base, entered(), receive())])
    await store.edit(CaseRef(1), do(inputs=[signal("s-1")]))
    (item,) = await store.inbox(1)
    row = await store.load(CaseRef(1))
    assert row is not None
    await store.write([turn(row, received(item))])  # `taken` was forgotten
    assert [(finding.invariant, finding.seq) for finding in await found(store)] == [("I8", 4)]


async def test_inv_31_a_case_that_waits_for_nothing_is_named(store: Any) -> None:
    (base,) = await store.start([new_case("k1")])
    await store.write([turn(base, entered())])
    assert await invariants(store) == {"I31"}
    await store.edit(CaseRef(1), do(inputs=[signal("s-1")]))
    assert await invariants(store) == set()


async def test_inv_31_a_case_passed_over_for_a_month_is_named(store: Any) -> None:
    waiting, moving = await store.start([new_case("k1"), new_case("k2")])
    await store.write([turn(waiting, entered(), receive(), wake_at="2026-03-02T12:00:00.000000Z")])
    for month, expected in (("03", set()), ("05", {"I31"})):
        row = await store.load(CaseRef(moving.case_no))
        assert row is not None
        moved = noted()
        moved.actor = "worker:1"
        events = [moved] if month == "05" else [entered(), receive(), moved]
        await store.write([turn(row, *events, at=f"2026-{month}-30T12:00:00.000000Z")])
        assert await invariants(store) == expected


async def test_inv_33_an_event_without_an_actor_cannot_be_stored(store: Any) -> None:
    (base,) = await store.start([new_case("k1")])
    nameless = noted()
    nameless.actor = ""
    with pytest.raises(Exception, match="actor"):
        await store.edit(CaseRef(base.case_no), do(nameless))
