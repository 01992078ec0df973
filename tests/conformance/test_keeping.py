"""Export and purge: what may go and what may not, on every store (I2: "until a recorded purge of a closed case")."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.support.cases import (
    NOON,
    closed,
    do,
    entered,
    new_case,
    new_env,
    noted,
    scheduled,
    signal,
    turn,
)

from longcase.app import Longcase
from longcase.engine.tasks import Actor
from longcase.env import Env, VirtualClock
from longcase.errors import CaseNotFound, CasePurged, UsageError
from longcase.insight.verify import Anchors, verify
from longcase.opening import open_store
from longcase.service.retention import KEYS_REMEMBERED, Due, Period
from longcase.store.records import CaseRef, DedupKey, NewCase

OFFICER = Actor("person:officer", "cli")


class Keeper:
    """A store whose cases of the workflow onboarding are kept for ten days, and its keeper."""

    def __init__(self, longcase: Longcase, clock: VirtualClock, folder: Path) -> None:
        self.longcase = longcase
        self.clock = clock
        self.folder = folder
        self.files = 0

    @property
    def store(self) -> object:
        return self.longcase.store

    async def closed(self, *keys: str) -> list[int]:
        """Accept cases and close them now."""
        return await self.close([new_case(key) for key in keys])

    async def close(self, new: list[NewCase]) -> list[int]:
        started = await self.longcase.store.start(new)
        await self.longcase.store.write([turn(base, entered(), closed()) for base in started])
        return [base.case_no for base in started]

    async def export(self) -> int:
        """Export whatever no export holds; returns the number of cases."""
        self.files += 1
        exporter = self.longcase.exporter
        wanted = await exporter.wanted()
        _, written = await exporter.to_file(str(self.folder / f"{self.files}.jsonl"), wanted)
        return len(written.cases)

    async def due(self) -> Due:
        (due,) = await self.longcase.retention.due()
        return due

    async def purge(self) -> list[str]:
        """Purge until nothing may go; returns the addresses, in order."""
        due = await self.due()
        gone: list[str] = []
        while some := await self.longcase.retention.purge_some(due, "the period is over", 2):
            gone += [one.address for one in some]
        return gone

    async def findings(self, anchors: Anchors | None = None) -> list[str]:
        store = self.longcase.exporter._store
        return [str(finding) async for finding in verify(store, anchors=anchors)]

    def later(self, **span: float) -> None:
        self.clock.advance(timedelta(**span))


@pytest.fixture
async def keeper(store_url: str, tmp_path: Path) -> AsyncIterator[Keeper]:
    clock = VirtualClock(NOON)
    async with Longcase(url=store_url, env=Env(clock, seed=3), actor=OFFICER) as longcase:
        await longcase.store.start([new_case("living")])
        await longcase.retention.keep("onboarding", Period(days=10))
        yield Keeper(longcase, clock, tmp_path)


async def test_a_closed_case_goes_after_its_period_and_leaves_a_tombstone(keeper: Keeper) -> None:
    (case_no,) = await keeper.closed("k1")
    assert await keeper.export() == 1
    keeper.later(days=9, hours=23)
    assert (await keeper.due()).may_go == 0
    assert await keeper.purge() == []
    keeper.later(hours=1)
    before = await keeper.longcase.store.load(CaseRef(case_no))
    assert before is not None
    assert (await keeper.due()).may_go == 1
    assert await keeper.purge() == ["onboarding/k1"]
    assert await keeper.longcase.store.load(CaseRef(case_no)) is None
    assert await keeper.longcase.store.events(case_no) == []
    (told,) = await keeper.longcase.service.query("SELECT * FROM purged")
    assert (told["case_no"], told["key"], told["closed_as"], told["events"]) == (case_no, "k1", "active", 3)
    assert (told["hash"], told["by"], told["reason"]) == (before.hash.hex(), "person:officer", "the period is over")
    assert (told["uid"], told["purged_at"]) == ("uid-k1", "2026-03-12T12:00:00.000000Z")
    assert told["file"].endswith("1.jsonl")
    assert await keeper.findings() == []


async def test_whoever_asks_for_a_purged_case_is_told_so(keeper: Keeper) -> None:
    await keeper.closed("k1")
    await keeper.export()
    keeper.later(days=10)
    await keeper.purge()
    service = keeper.longcase.service
    with pytest.raises(CasePurged, match="onboarding/k1 was purged on 2026-03-12 by person:officer") as told:
        await service.show("onboarding/k1")
    assert told.value.details["closed_as"] == "active"
    assert told.value.exit_code == 3
    with pytest.raises(CasePurged):
        await service.cancel("onboarding/k1", reason="too late")
    with pytest.raises(CaseNotFound) as unknown:
        await service.show("onboarding/k2")
    assert not isinstance(unknown.value, CasePurged)


async def test_the_key_of_a_purged_case_is_free_again(keeper: Keeper) -> None:
    (old,) = await keeper.closed("k1")
    await keeper.export()
    keeper.later(days=10)
    await keeper.purge()
    (new,) = await keeper.longcase.store.start([new_case("k1")])
    assert not new.existing
    assert new.case_no > old, "a number is never given twice"
    assert (await keeper.longcase.service.show("onboarding/k1")).case_no == new.case_no


async def test_without_a_period_nothing_goes_and_an_open_case_never(keeper: Keeper) -> None:
    await keeper.close([new_case("c1", workflow="claims")])
    await keeper.export()
    keeper.later(days=400_000 / 365)
    assert await keeper.purge() == []
    with pytest.raises(UsageError, match="no period is set for claims"):
        await keeper.longcase.retention.due("claims")
    await keeper.longcase.retention.keep("claims", Period(years=1))
    await keeper.longcase.retention.keep("claims", None)
    assert [one.workflow for one in await keeper.longcase.retention.periods()] == ["onboarding"]
    assert await keeper.longcase.store.load(CaseRef(1)) is not None, "the living one"


async def held(keeper: Keeper, reason: str) -> None:
    """Check that nothing may go, for that reason and no other."""
    assert (await keeper.due()).stay == {reason: 1}
    assert await keeper.purge() == []


async def test_a_case_stays_that_no_export_holds(keeper: Keeper) -> None:
    await keeper.closed("k1")
    keeper.later(days=10)
    await held(keeper, "not exported")


async def test_a_case_stays_that_got_another_event_since_its_export(keeper: Keeper) -> None:
    (case_no,) = await keeper.closed("k1")
    await keeper.export()
    keeper.later(days=10)
    await keeper.longcase.store.edit(CaseRef(case_no), do(noted("late")))
    await held(keeper, "not exported")
    assert await keeper.export() == 1, "it has to be exported again"
    assert await keeper.purge() == ["onboarding/k1"]


async def test_a_case_stays_while_an_input_waits(keeper: Keeper) -> None:
    (case_no,) = await keeper.closed("k1")
    await keeper.longcase.store.edit(CaseRef(case_no), do(inputs=[signal("s1")]))
    await keeper.export()
    keeper.later(days=10)
    await held(keeper, "held by an accepted input that is not applied")


async def test_a_case_stays_while_it_wants_a_turn(keeper: Keeper) -> None:
    (base,) = await keeper.longcase.store.start([new_case("k1")])
    await keeper.longcase.store.write([turn(base, entered(), closed(), wake_at="2026-03-02T12:00:00.000000Z")])
    await keeper.export()
    keeper.later(days=10)
    await held(keeper, "held by a turn that is due")


async def test_a_case_stays_while_a_worker_runs_an_attempt_of_it(keeper: Keeper) -> None:
    store = keeper.longcase.store
    worker = await store.join("host", 1)
    (base,) = await store.start([new_case("k1")])
    await store.write([turn(base, entered(), scheduled(worker=worker), closed())])
    await keeper.export()
    keeper.later(days=10)
    await held(keeper, "held by an attempt that runs")
    await store.leave(worker)
    assert await keeper.purge() == ["onboarding/k1"]


async def family(keeper: Keeper, *, parent_closes: bool, child_closes: bool) -> None:
    store = keeper.longcase.store
    (parent,) = await store.start([new_case("parent")])
    child = new_case("child")
    child.started.data["parent"] = {"case_no": parent.case_no, "child": "1.k1"}
    (written,) = await store.write([turn(parent, entered(), children=[child])])
    if child_closes:
        await store.write([turn(written.children[0], entered(), closed())])
    if parent_closes:
        row = await store.load(CaseRef(parent.case_no))
        assert row is not None
        await store.write([turn(row, closed())])
    await keeper.export()
    keeper.later(days=10)


async def test_a_parent_stays_while_its_child_is_open(keeper: Keeper) -> None:
    await family(keeper, parent_closes=True, child_closes=False)
    await held(keeper, "held by a child, which is open")


async def test_a_child_stays_while_its_parent_is_open(keeper: Keeper) -> None:
    await family(keeper, parent_closes=False, child_closes=True)
    await held(keeper, "held by its parent, which is open")


async def test_a_parent_goes_after_its_child_in_the_same_run(keeper: Keeper) -> None:
    await family(keeper, parent_closes=True, child_closes=True)
    assert (await keeper.due()).stay == {"held by a child, which is kept": 1}
    assert await keeper.purge() == ["onboarding/child", "onboarding/parent"]
    (told,) = await keeper.longcase.service.query("SELECT parent_case FROM purged WHERE key = 'child'")
    assert told["parent_case"] == 2
    assert await keeper.findings() == []


async def test_cases_of_one_key_go_oldest_first(keeper: Keeper) -> None:
    """Else `workflow/key` would name an older case than before."""
    first = await keeper.closed("k1")
    second = await keeper.close([new_case("k1", again=True)])
    await keeper.longcase.store.edit(CaseRef(first[0]), do(inputs=[signal("s1")]))
    await keeper.export()
    keeper.later(days=10)
    assert (await keeper.due()).stay == {
        "held by an accepted input that is not applied": 1,
        "held by an older case of its key, which is kept": 1,
    }
    assert await keeper.purge() == []
    assert (await keeper.longcase.service.show("onboarding/k1")).case_no == second[0]


async def test_a_senders_key_is_remembered_for_thirty_days(keeper: Keeper) -> None:
    """A repeated start must find its case, not begin another one."""
    key = DedupKey("start:onboarding", "message-1", "body")
    await keeper.close([new_case("k1", dedup=key)])
    await keeper.export()
    keeper.later(days=10)
    await held(keeper, "held by a sender's key younger than 30 days")
    (repeated,) = await keeper.longcase.store.start([new_case("k1", dedup=key)])
    assert repeated.existing
    keeper.later(seconds=(KEYS_REMEMBERED - timedelta(days=10)).total_seconds())
    assert await keeper.purge() == ["onboarding/k1"]
    assert await keeper.findings() == []


async def test_inv_02_what_was_anchored_stands_until_a_recorded_purge(keeper: Keeper) -> None:
    (gone, kept) = await keeper.closed("gone", "kept")
    store = keeper.longcase.store
    anchors = {no: {event.seq: event.hash for event in await store.events(no)} for no in (gone, kept)}
    await keeper.export()
    await store.edit(CaseRef(kept), do(noted()))  # not exported as it is now: stays
    keeper.later(days=10)
    assert await keeper.purge() == ["onboarding/gone"]
    assert await keeper.findings(anchors) == []
    forged = {**anchors, gone: {**anchors[gone], 3: b"\1" * 32}}
    assert await keeper.findings(forged) == [
        f"I2: onboarding/gone (case {gone}), event 3: its tombstone is not of the history that was anchored"
    ]
    never = {99: {1: b"\1" * 32}}
    assert await keeper.findings(never) == [
        "I2: unknown (case 99): an anchored case is gone, and no purge of it is recorded"
    ]


async def test_a_purge_takes_what_a_transaction_may_hold_and_goes_on(keeper: Keeper) -> None:
    await keeper.closed(*(f"k{n}" for n in range(7)))
    await keeper.export()
    keeper.later(days=10)
    due = await keeper.due()
    assert [len(await keeper.longcase.retention.purge_some(due, "x", 3)) for _ in range(4)] == [3, 3, 1, 0]


async def test_an_export_holds_each_case_once_and_again_only_if_asked(keeper: Keeper) -> None:
    await keeper.closed("k1", "k2")
    assert await keeper.export() == 2
    await keeper.closed("k3")
    assert await keeper.export() == 1
    exporter = keeper.longcase.exporter
    assert [part.cases for part in await exporter.wanted()] == [0]
    assert [part.cases for part in await exporter.wanted(again=True)] == [3]
    assert [part.cases for part in await exporter.wanted(again=True, due=True)] == [0]
    receipts = await keeper.longcase.service.query("SELECT export, cases, events, by FROM receipts ORDER BY export")
    assert [tuple(row.values()) for row in receipts] == [(1, 2, 6, "person:officer"), (2, 1, 3, "person:officer")]


@pytest.mark.parametrize("apart", [0, 1, 7], ids=["side by side", "every second", "far apart"])
async def test_an_export_finds_its_cases_among_open_ones(keeper: Keeper, apart: int) -> None:
    numbers = []
    for n in range(6):
        numbers += await keeper.closed(f"k{n}")
        await keeper.longcase.store.start([new_case(f"open-{n}-{m}") for m in range(apart)])
    exporter = keeper.longcase.exporter
    _, written = await exporter.to_file(str(keeper.folder / "x.jsonl"), await exporter.wanted())
    assert list(written.cases) == numbers


async def test_a_period_may_be_changed_when_no_case_is_left(keeper: Keeper) -> None:
    await keeper.close([new_case("c1", workflow="claims")])
    await keeper.longcase.retention.keep("claims", Period(days=1))
    await keeper.export()
    keeper.later(days=40)
    (due,) = await keeper.longcase.retention.due("claims")
    assert len(await keeper.longcase.retention.purge_some(due, "x")) == 1
    await keeper.longcase.retention.keep("claims", Period(years=3))
    assert str((await keeper.longcase.retention.due("claims"))[0].period) == "3 years"


async def test_a_period_is_a_fact_of_the_store(store_url: str) -> None:
    store = await open_store(store_url, new_env())
    await store.start([new_case("k1")])
    await store.close()
    async with Longcase(url=store_url, actor=OFFICER, env=new_env()) as longcase:
        await longcase.retention.keep("onboarding", Period(years=7))
    async with Longcase(url=store_url) as longcase:
        (kept,) = await longcase.retention.periods()
    assert (kept.workflow, str(kept.period), kept.by) == ("onboarding", "7 years", "person:officer")
