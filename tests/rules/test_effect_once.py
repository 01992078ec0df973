"""What must not be repeated: repairs of a case that called an activity with `effect="once"` (ACCEPTANCE B4)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.rules.support import Order, desk, incident

from longcase import NOT_HAPPENED, Case, Next, NotHappened, Workflow, activity, days
from longcase.errors import RepairRefused
from longcase.insight.wording import told
from longcase.testing import Simulation

world: list[str] = []
answers: list[str] = []  # of verify: what it found, nothing, or that it cannot tell


@activity(owner=desk, effect="once")
async def pay(order: str) -> str:
    world.append(order)
    if order.startswith("lost") and len(world) == 1:
        raise ConnectionError("the answer was lost")
    if order.startswith("odd") and len(world) == 1:
        return 7 if order == "odd-7" else "\ud800"  # type: ignore[return-value]
    return f"receipt {len(world)}"


@pay.verify
async def was_paid(order: str) -> str | NotHappened:
    answer = answers.pop(0)
    if answer == "down":
        raise ConnectionError("the bank is down")
    return answer or NOT_HAPPENED


once = Workflow("once", object=Order, key="id", owner=desk, expect=days(5))


@once.stage(expect=days(5))
async def paying(case: Case[Order]) -> Next:
    if case.object.note == "looks first":
        await case.pause(days(1), because="cooling-off")
    receipt = await pay(case.key)
    if case.object.note == "here":
        await case.pause(days(1), because="cooling-off")
    if case.object.note == "waits":
        return waiting
    return once.close("paid", result=receipt)


@once.stage(expect=days(5))
async def waiting(case: Case[Order]) -> Next:
    await case.pause(days(1), because="cooling-off")
    return once.close("paid")


@pytest.fixture(autouse=True)
def _world() -> Iterator[None]:
    world.clear()
    answers.clear()
    yield
    assert not answers


@pytest.mark.parametrize("live", [512, 0])
@pytest.mark.usefixtures("each_store")
@pytest.mark.parametrize(("said", "paid", "result"), [("receipt 7", 1, "receipt 7"), ("", 2, "receipt 2")])
def test_row_B4_retry_asks_verify_before_it_repeats(said: str, paid: int, result: str, live: int) -> None:
    with Simulation([once], live=live) as sim:
        case = sim.start(once, Order(id="lost-1"))
        assert incident(sim, case)["details"]["verify"] == "retry asks it before another attempt begins"
        answers.append(said)
        assert sim.retry(case).did == "retried activity_failed; verify is asked first whether it took effect"
        assert (len(world), (sim.state(case).close or {})["result"]) == (paid, result)
        assert "granted 1.c1 new attempts, should verify say that it did not take effect" in " ".join(
            told(event) for event in sim.history(case)
        )


@pytest.mark.parametrize(("order", "kind"), [("odd-7", "contract_changed"), ("odd-text", "result_not_encodable")])
@pytest.mark.parametrize(("said", "paid", "result"), [("receipt 7", 1, "receipt 7"), ("", 2, "receipt 2")])
def test_row_B4_retry_of_a_call_that_returned_what_does_not_fit_asks_verify_first(
    order: str, kind: str, said: str, paid: int, result: str
) -> None:
    """It has run to its end: the effect is there more surely than after an error."""
    with Simulation([once]) as sim:
        case = sim.start(once, Order(id=order))
        assert incident(sim, case)["kind"] == kind
        answers.append(said)
        assert sim.retry(case).did == f"retried {kind}; verify is asked first whether it took effect"
        assert (len(world), (sim.state(case).close or {})["result"]) == (paid, result)


def test_row_B4_retry_of_what_verify_cannot_tell_is_a_persons_word() -> None:
    with Simulation([once]) as sim:
        case = sim.start(once, Order(id="lost-1"))
        answers.append("down")
        sim.retry(case)
        assert incident(sim, case)["kind"] == "outcome_unknown"
        assert world == ["lost-1"]
        sim.retry(case, reason="looked: nothing there")
        assert world == ["lost-1", "lost-1"]
        assert (sim.state(case).close or {})["name"] == "paid"


def test_row_B4_a_worker_that_dies_while_verify_is_asked_asks_again() -> None:
    with Simulation([once]) as sim:
        case = sim.start(once, Order(id="lost-1"))
        with sim.together():
            sim.retry(case)
            sim.crash()
            answers.append("receipt 7")
        assert (len(world), (sim.state(case).close or {})["result"]) == (1, "receipt 7")


@pytest.mark.usefixtures("each_store")
def test_row_B4_a_move_back_repeats_no_effect_without_a_persons_word() -> None:
    with Simulation([once]) as sim:
        case = sim.start(once, Order(id="1", note="waits"))
        before = sim.types(case)
        with pytest.raises(RepairRefused, match=r"paying has called pay \(1.c1, returned\)") as refused:
            sim.move(case, paying, reason="again")
        assert refused.value.hint == "if that is right: longcase move once/1 paying --repeat --reason ..."
        assert sim.types(case) == before
        sim.move(case, paying, reason="the bank gave it back", repeat=True)
        assert world == ["1", "1"]
        sim.move(case, waiting, reason="a stage without such a call")


def test_row_B4_a_move_to_the_same_stage_names_restart() -> None:
    with Simulation([once]) as sim:
        case = sim.start(once, Order(id="lost-1"))
        with pytest.raises(RepairRefused, match=r"paying has called pay \(1.c1\), whose") as refused:
            sim.move(case, paying, reason="again")
        assert "restart" not in refused.value.hint  # it would be refused: nobody knows what came of it
        case = sim.start(once, Order(id="2", note="here"))
        with pytest.raises(RepairRefused, match=r"paying has called pay \(1.c1, returned\)") as refused:
            sim.move(case, paying, reason="again")
        assert refused.value.hint.endswith("; longcase restart once/2 keeps what has returned")
        sim.restart(case)
        assert world == ["lost-1", "2"]


def test_row_B4_a_move_out_of_a_restarted_visit_knows_what_the_restart_keeps() -> None:
    with Simulation([once]) as sim:
        case = sim.start(once, Order(id="1", note="here"))
        sim.set(case, note="looks first")
        sim.restart(case)
        with pytest.raises(RepairRefused, match=r"called pay \(before its restart, returned\)") as refused:
            sim.move(case, paying, reason="again")
        assert refused.value.hint.endswith("; longcase restart once/1 keeps what has returned")
        sim.move(case, paying, reason="the bank gave it back", repeat=True)
        sim.advance(days(1))
        assert world == ["1", "1"]
        keys = {event.data["key"] for event in sim.history(case) if event.type == "activity_scheduled"}
        assert len(keys) == 1, "under its old key, by which the bank can tell (A5)"


def test_row_B4_a_result_that_is_the_cases_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pay, "once_per", "case")
    with Simulation([once]) as sim:
        case = sim.start(once, Order(id="1", note="waits"))
        sim.move(case, paying, reason="again")
        assert world == ["1"]
