"""Queued calls: who may begin what next, within the queue's limits, fairly; and what becomes of claims."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.support.cases import NOON, NOON_TEXT, entered, new_case, receive, turn
from tests.support.workers import lapse

from longcase.history.event import instant_text
from longcase.store.records import CaseRef, CaseWrite, QueuedCall, QueueLimits

GPU = [QueueLimits("gpu")]


def after(seconds: float) -> str:
    return instant_text(NOON + timedelta(seconds=seconds))


def call(name: str = "1.c1", **fields: Any) -> QueuedCall:
    given = {"queue": "gpu", "priority": 0, "attempt": 1, "due": NOON_TEXT, "since": NOON_TEXT, **fields}
    return QueuedCall(name, **given)


async def waiting(store: Any, *calls: QueuedCall, tenant: str = "main") -> list[int]:
    """Start one case for each call, which waits in its queue."""
    cases = [new_case(f"{tenant}-{n}") for n in range(len(calls))]
    for case in cases:
        case.started.data["tenant"] = tenant
    started = await store.start(cases)
    writes = [turn(base, entered(), receive(), wake_at="") for base in started]
    for write, queued in zip(writes, calls, strict=True):
        write.queued = [queued]
    await store.write(writes)
    return [base.case_no for base in started]


async def rewrite(store: Any, case_no: int, *calls: QueuedCall) -> None:
    """Write a case's queued calls anew, as a turn of it does."""
    row = await store.load(CaseRef(case_no))
    write = CaseWrite(case_no, row.state.seq, row.state.seen_seq, [], row.state, wake_at="")
    write.queued = list(calls)
    (written,) = await store.write([write])
    assert written.outcome == "done"


async def statuses(store: Any) -> dict[int, tuple[str, int | None]]:
    rows = await store.query("SELECT case_no, status, worker FROM queued_calls")
    return {row["case_no"]: (row["status"], row["worker"]) for row in rows}


async def test_a_call_is_given_to_one_worker(store: Any) -> None:
    mine, other = await store.join("here", 1), await store.join("here", 2)
    (case_no,) = await waiting(store, call())
    assert (await store.take(mine, GPU, NOON_TEXT, 10)).calls == ((case_no, "1.c1", 1),)
    assert (await store.take(other, GPU, NOON_TEXT, 10)).calls == ()
    assert await statuses(store) == {case_no: ("claimed", mine)}


async def test_a_worker_takes_no_call_of_a_workflow_it_has_not_loaded(store: Any) -> None:
    """Such a call would stay with it, and nobody else could take it."""
    mine, other = await store.join("here", 1), await store.join("here", 2)
    first, second = await waiting(store, call(), call())
    assert (await store.take(mine, GPU, NOON_TEXT, 10, ["claims"])).calls == ()
    assert (await store.take(mine, GPU, NOON_TEXT, 10, [])).calls == ()
    taken = await store.take(other, GPU, NOON_TEXT, 1, ["claims", "onboarding"])
    assert taken.calls == ((first, "1.c1", 1),)
    assert await statuses(store) == {first: ("claimed", other), second: ("waiting", None)}


async def test_only_the_queues_asked_for_are_looked_into(store: Any) -> None:
    mine = await store.join("here", 1)
    await waiting(store, call(queue="vault"))
    assert (await store.take(mine, GPU, NOON_TEXT, 10)).calls == ()


async def test_the_highest_priority_goes_first_then_what_is_due_first(store: Any) -> None:
    mine = await store.join("here", 1)
    low, high, late = await waiting(store, call(), call(priority=5), call(due=after(-9)))
    first = await store.take(mine, GPU, NOON_TEXT, 2)
    assert [case_no for case_no, _, _ in first.calls] == [high, late]
    second = await store.take(mine, GPU, NOON_TEXT, 2)
    assert [case_no for case_no, _, _ in second.calls] == [low]


async def test_tenants_take_turns(store: Any) -> None:
    mine = await store.join("here", 1)
    many = await waiting(store, *[call(due=after(-60)) for _ in range(6)], tenant="big")
    few = await waiting(store, call(), call(), tenant="small")
    taken = await store.take(mine, GPU, NOON_TEXT, 4)
    assert sorted(case_no for case_no, _, _ in taken.calls) == sorted([*many[:2], *few])
    # Who was served longest ago comes first, also from one taking to the next.
    order = []
    await waiting(store, *[call() for _ in range(2)], tenant="other")
    for _ in range(3):
        ((case_no, _, _),) = (await store.take(mine, GPU, NOON_TEXT, 1)).calls
        order.append((await store.load(CaseRef(case_no))).state.tenant)
    assert order == ["other", "big", "other"]


async def test_a_call_is_not_given_before_it_is_due_and_the_instant_is_told(store: Any) -> None:
    mine = await store.join("here", 1)
    (case_no,) = await waiting(store, call(due=after(5)))
    taken = await store.take(mine, GPU, NOON_TEXT, 10)
    assert (taken.calls, taken.again) == ((), after(5))
    assert [one[0] for one in (await store.take(mine, GPU, after(5), 10)).calls] == [case_no]


async def test_inv_19_concurrency_counts_claims_and_attempts_of_all_workers(store: Any) -> None:
    mine, other = await store.join("here", 1), await store.join("here", 2)
    narrow = [QueueLimits("gpu", concurrency=2)]
    first, second, third = await waiting(store, call(), call(), call())
    assert [one[0] for one in (await store.take(mine, narrow, NOON_TEXT, 1)).calls] == [first]
    assert [one[0] for one in (await store.take(other, narrow, NOON_TEXT, 9)).calls] == [second]
    assert (await store.take(mine, narrow, NOON_TEXT, 9)).calls == ()
    await rewrite(store, first, call(worker=mine))  # begun
    assert (await store.take(mine, narrow, NOON_TEXT, 9)).calls == ()
    await rewrite(store, first)  # over
    assert [one[0] for one in (await store.take(mine, narrow, NOON_TEXT, 9)).calls] == [third]


async def test_inv_19_a_rate_counts_what_was_given_in_any_span(store: Any) -> None:
    mine, other = await store.join("here", 1), await store.join("here", 2)
    slow = [QueueLimits("gpu", rate=(2, 10.0))]
    await waiting(store, *[call() for _ in range(5)])
    assert len((await store.take(mine, slow, NOON_TEXT, 9)).calls) == 2
    refused = await store.take(other, slow, after(4), 9)
    assert (refused.calls, refused.again) == ((), after(10))
    assert len((await store.take(other, slow, after(10), 1)).calls) == 1
    assert len((await store.take(other, slow, after(10.001), 9)).calls) == 1
    assert (await store.take(mine, slow, after(19), 9)).calls == ()


async def test_a_claim_outlives_another_workers_turn_of_the_case(store: Any) -> None:
    mine, other = await store.join("here", 1), await store.join("here", 2)
    (case_no,) = await waiting(store, call())
    await store.take(mine, GPU, NOON_TEXT, 1)
    await rewrite(store, case_no, call())
    assert await statuses(store) == {case_no: ("claimed", mine)}
    assert (await store.take(other, GPU, NOON_TEXT, 1)).calls == ()
    await rewrite(store, case_no, call(attempt=2))  # that attempt is over: the next one is for anybody
    assert (await store.take(other, GPU, NOON_TEXT, 1)).calls == ((case_no, "1.c1", 2),)


async def test_a_claim_that_is_given_back_is_for_others_and_a_begun_one_is_not_given_back(store: Any) -> None:
    mine, other = await store.join("here", 1), await store.join("here", 2)
    free, begun = await waiting(store, call(), call())
    claim = (await store.take(mine, GPU, NOON_TEXT, 9)).claim
    await rewrite(store, begun, call(worker=mine))
    await store.give_back(mine, [(free, "1.c1", claim), (begun, "1.c1", claim)])
    assert await statuses(store) == {free: ("waiting", None), begun: ("running", mine)}
    assert [one[0] for one in (await store.take(other, GPU, NOON_TEXT, 9)).calls] == [free]


async def test_an_attempt_that_is_to_stop_is_told_to_its_worker_alone(store: Any) -> None:
    mine, other = await store.join("here", 1), await store.join("here", 2)
    (case_no,) = await waiting(store, call(worker=mine))
    assert await store.stops(mine) == []
    await rewrite(store, case_no, call(worker=mine, stop=True))
    assert [tuple(one) for one in await store.stops(mine)] == [(case_no, "1.c1", 1)]
    assert await store.stops(other) == []


async def test_what_a_leaving_worker_had_claimed_is_free_and_what_it_ran_wants_a_turn(store: Any) -> None:
    mine, other = await store.join("here", 1), await store.join("here", 2)
    claimed, running = await waiting(store, call(), call(worker=mine))
    await store.take(mine, GPU, NOON_TEXT, 9)
    await store.leave(mine)
    assert await statuses(store) == {claimed: ("waiting", None), running: ("running", mine)}
    assert running in await store.ready(after(3600 * 24 * 365 * 50), other, 9)
    assert [one[0] for one in (await store.take(other, GPU, NOON_TEXT, 9)).calls] == [claimed]


async def test_a_declined_visit_is_offered_to_other_codes_until_a_worker_leaves(store: Any) -> None:
    old = await store.join("here", 1, codes={"onboarding": "old"})
    new = await store.join("here", 2, codes={"onboarding": "new"})
    (base,) = await store.start([new_case("k1")])
    workflow = base.state.workflow
    await store.write([turn(base, entered(), receive(), wake_at=NOON_TEXT)])
    visit = (await store.load(CaseRef(base.case_no))).state.visit
    assert await store.ready(after(1), new, 9, [workflow]) == [base.case_no]
    assert await store.decline(base.case_no, visit, "new", new) == {"new"}
    assert await store.declined(base.case_no, visit) == {"new"}
    assert await store.declined(base.case_no, visit + 1) == frozenset()
    assert (await store.load(CaseRef(base.case_no))).lease == 0
    assert await store.ready(after(1), new, 9, [workflow]) == []
    assert await store.ready(after(1), old, 9, [workflow]) == [base.case_no]
    assert await store.decline(base.case_no, visit, "old", old) == {"new", "old"}
    await store.undecline(base.case_no)
    assert await store.ready(after(1), old, 9, [workflow]) == [base.case_no]
    assert await store.decline(base.case_no, visit, "old", old) == {"old"}
    await store.leave(new)
    assert await store.ready(after(1), old, 9, [workflow]) == [base.case_no]


async def test_a_call_of_a_visit_that_a_code_declined_is_given_to_other_codes_only(store: Any) -> None:
    new = await store.join("here", 1, codes={"onboarding": "new"})
    old = await store.join("here", 2, codes={"onboarding": "old"})
    (case_no,) = await waiting(store, call())
    visit = (await store.load(CaseRef(case_no))).state.visit
    await store.decline(case_no, visit, "new", new)
    assert (await store.take(new, GPU, NOON_TEXT, 9, ["onboarding"])).calls == ()
    taken = await store.take(old, GPU, NOON_TEXT, 9, ["onboarding"])
    assert taken.calls == ((case_no, "1.c1", 1),)
    await store.give_back(old, [(case_no, "1.c1", taken.claim)])
    await store.undecline(case_no)
    assert (await store.take(new, GPU, NOON_TEXT, 9, ["onboarding"])).calls == ((case_no, "1.c1", 1),)


async def test_a_claim_the_worker_does_not_know_of_is_given_to_it_once_more_and_counted_once(store: Any) -> None:
    mine, other = await store.join("here", 1), await store.join("here", 2)
    slow = [QueueLimits("gpu", rate=(3, 10.0))]
    lost, known, begun, free = await waiting(store, call(), call(), call(), call(due=after(1)))
    assert len((await store.take(mine, slow, NOON_TEXT, 3)).calls) == 3  # and the answer is lost
    await rewrite(store, begun, call(worker=mine))
    assert (await store.take(other, slow, NOON_TEXT, 9, None, [])).calls == ()
    assert (await store.take(mine, [QueueLimits("vault")], NOON_TEXT, 9, None, [])).calls == ()
    again = await store.take(mine, slow, after(2), 9, None, [(known, "1.c1")])
    assert again.calls == ((lost, "1.c1", 1),)  # the free one has to wait for the rate: the lost one counts already
    both = [(lost, "1.c1"), (known, "1.c1")]
    assert (await store.take(mine, slow, after(2), 9, None, both)).calls == ()
    assert (await store.take(mine, slow, after(11), 9, None, both)).calls == ((free, "1.c1", 1),)
    assert len((await store.take(mine, slow, after(11), 2, None, [])).calls) == 2  # no more than it has room for


async def test_inv_19_a_rate_does_not_count_what_was_given_back_and_nothing_less_than_that(store: Any) -> None:
    mine, other = await store.join("here", 1), await store.join("here", 2)
    slow = [QueueLimits("gpu", rate=(3, 10.0))]
    first, *_ = await waiting(store, *[call(due=after(n)) for n in range(-9, 0)])
    taken = await store.take(mine, slow, NOON_TEXT, 1)
    await store.give_back(other, [(first, "1.c1", taken.claim)])  # not its own: nothing is free
    taken = await store.take(mine, slow, after(5), 9)
    ((second, _, _), (third, _, _)) = taken.calls
    await rewrite(store, third, call(worker=mine))
    await store.give_back(mine, [(third, "1.c1", taken.claim)])  # begun
    assert (await store.take(other, slow, after(6), 9)).calls == ()
    await store.give_back(mine, [(second, "1.c1", taken.claim)])
    assert [one[0] for one in (await store.take(other, slow, after(6), 9)).calls] == [second]
    # What counts is the first of noon, and those of 5 and 6 seconds past it.
    assert (await store.take(other, slow, after(9.9), 9)).again == after(10)
    assert len((await store.take(other, slow, after(10.1), 9)).calls) == 1


async def test_inv_19_giving_back_an_earlier_claim_does_not_end_the_one_that_was_taken_since(store: Any) -> None:
    """What is given back over a line that stands still may arrive when the same worker has taken the call again."""
    mine, other = await store.join("here", 1), await store.join("here", 2)
    narrow = [QueueLimits("gpu", concurrency=1, rate=(1, 10.0))]
    (case_no,) = await waiting(store, call())
    first = await store.take(mine, narrow, NOON_TEXT, 1)
    again = await store.take(mine, narrow, NOON_TEXT, 1, None, [])  # it is not known there that it was given back
    assert again.calls == first.calls
    await store.give_back(mine, [(case_no, "1.c1", first.claim)])
    assert await statuses(store) == {case_no: ("claimed", mine)}
    assert (await store.take(other, narrow, after(1), 1)).calls == ()
    await store.give_back(mine, [(case_no, "1.c1", again.claim)])
    anew = await store.take(mine, narrow, after(2), 1)
    assert anew.calls == first.calls
    await store.give_back(mine, [(case_no, "1.c1", again.claim)])
    assert await statuses(store) == {case_no: ("claimed", mine)}


@pytest.mark.parametrize("dies", [False, True], ids=["leaves", "dies"])
async def test_inv_19_a_rate_does_not_count_what_a_worker_that_has_gone_had_not_begun(store: Any, dies: bool) -> None:
    mine, other = await store.join("here", 1), await store.join("here", 2)
    slow = [QueueLimits("gpu", rate=(2, 10.0))]
    begun, claimed, _ = await waiting(store, call(), call(due=after(1)), call(due=after(1)))
    taken = await store.take(mine, slow, after(2), 2)
    assert [one[0] for one in taken.calls] == [begun, claimed]
    await rewrite(store, begun, call(worker=mine))
    if dies:
        await lapse(store, mine)
        await store.recover(mine)
    else:
        await store.leave(mine)
    assert [one[0] for one in (await store.take(other, slow, after(3), 9)).calls] == [claimed]
    assert (await store.take(other, slow, after(4), 9)).again == after(12)


async def test_a_turn_computed_before_a_queues_worker_was_forgotten_does_not_take_the_wake_of_its_death(
    store: Any,
) -> None:
    mine, other = await store.join("here", 1), await store.join("here", 2)
    (case_no,) = await waiting(store, call(worker=other))
    row = await store.load(CaseRef(case_no))
    assert await store.ready(after(1), mine, 9) == []
    await store.leave(other)
    turn_before = CaseWrite(case_no, row.state.seq, row.state.seen_seq, [], row.state, wake_at="", worker=mine)
    turn_before.queued = [call(worker=other)]
    (written,) = await store.write([turn_before])
    assert written.outcome == "done"
    assert await store.ready(after(3600 * 24 * 365 * 50), mine, 9) == [case_no]
