"""ACCEPTANCE rows D1 and D5: many cases over days and weeks on the virtual clock."""

from __future__ import annotations

import gc
import random
import sys

import pytest
from tests.acceptance.test_rows_workflow import Client, Withdrawal, open_account, register, sales, wf
from tests.faults.frame import by_length

from longcase import Case, Next, Workflow, days
from longcase.history.state import fold
from longcase.testing import Simulation

PARKED = 2_000
PARKED_LONG = 100_000  # on SQLite, in the long form
TOGETHER = 2_000  # started, or signalled, before the cases are moved
WARM = 200
STARTED = 1_000


parked = Workflow("parked", object=Client, key="id", owner=sales, expect=days(60))
news = parked.signal("news", Withdrawal)


@parked.stage
async def hears(case: Case[Client]) -> Next:
    heard = await case.receive(news, within=days(40))
    return parked.close("heard", result=heard.reason)


def begin(sim: Simulation, workflow: Workflow[Client], clients: list[Client]) -> None:
    """Start cases in one transaction and run them until they wait."""
    sim._do(sim.service.start_prepared([sim.service.new_case(workflow, client) for client in clients]))
    sim.run()


def blocks(sim: Simulation) -> int:
    """Return how many blocks of memory Python holds when no coroutine is kept."""
    sim._turns.evict_all()
    gc.collect()
    return sys.getallocatedblocks()


def test_row_D1_parked_cases_cost_no_memory_and_each_wakes_on_its_signal() -> None:
    """A parked case is rows and nothing else. 2,000 of them; LONGCASE_FAULTS=long has 100,000 on SQLite."""
    with Simulation([parked], live=16, synchronous="NORMAL") as sim:
        on_sqlite = sim.url.startswith("sqlite")
        count = by_length(PARKED, PARKED_LONG) if on_sqlite else PARKED
        begin(sim, parked, [Client(id=f"w{n}") for n in range(WARM)])  # what is imported or cached at first use
        before = blocks(sim)
        for first in range(0, count, TOGETHER):
            begin(sim, parked, [Client(id=str(n)) for n in range(first, first + TOGETHER)])
        assert 0 < len(sim._turns.residents) <= 16
        kept = (blocks(sim) - before) / count
        # One block is the key in pydantic's cache of short strings, which is bounded; a coroutine has hundreds.
        # Over PostgreSQL a program remembers the newest revision of a few thousand cases, and of no more.
        bound = 1.5 if on_sqlite else 3.0
        assert kept < bound, f"{kept:.2f} blocks of memory kept for a parked case"
        sim.advance(days(30))
        assert blocks(sim) - before < bound * count, "nor after a month"
        assert sim.query("SELECT count(*) AS n FROM cases WHERE status = 'open'") == [{"n": count + WARM}]
        for first in range(0, count, TOGETHER):
            with sim.together():
                for n in range(first, first + TOGETHER):
                    sim.signal(f"parked/{n}", news, Withdrawal(reason=f"for {n}"))
        ended = sim.query("SELECT key, state -> 'close' ->> 'result' AS heard FROM cases WHERE status = 'closed'")
        assert {row["key"]: row["heard"] for row in ended} == {str(n): f"for {n}" for n in range(count)}


@pytest.mark.slow
def test_row_D5_a_thousand_cases_with_failing_vendors_and_late_people_end_in_declared_closes() -> None:
    """Vendors fail 30 % of calls; each day somebody answers in six of ten cases; operators retry incidents.

    Who has no answer in time is declined by the answer its timeout stands for: an answer that comes
    late is by design no worse an end than a "no", and is told from it.
    """
    chance = random.Random(5)
    with Simulation([wf], seed=5, synchronous="NORMAL") as sim:

        def flaky(**_: object) -> str:
            if chance.random() < 0.3:
                raise ConnectionError("down")
            return "fine"

        sim.fake(register, flaky)
        sim.fake(open_account, flaky)
        begin(sim, wf, [Client(id=str(n), legal_entity="E" if n % 3 else None) for n in range(STARTED)])
        longest = 0
        for day in range(60):
            sim.advance(days(1))
            rows = sim.query("SELECT key, stage, incident_count FROM cases WHERE status = 'open'")
            if not rows:
                longest = day
                break
            with sim.together():
                for row in rows:
                    help_on(sim, chance, f"onboarding/{row['key']}", row["stage"], row["incident_count"])
        histories = {f"onboarding/{n}": sim.history(f"onboarding/{n}") for n in range(STARTED)}
        states = {case: sim.state(case) for case in histories}
        for case, events in histories.items():  # row W8: of a thousand random cases
            assert fold(events).to_json() == states[case].to_json(), case
        ends = {case: (state.close or {}).get("name") for case, state in states.items()}
        assert set(ends.values()) == {"active", "declined"}
        assert longest >= 7, "people took a week for some"
        failed = [event for events in histories.values() for event in events if event.type == "attempt_failed"]
        assert len(failed) > 400
        assert sum(event.type == "call_retried" for events in histories.values() for event in events) > 0
        # Every end has its reason in the history: a vendor's failures never declined anybody.
        for case, events in histories.items():
            last = [event.data for event in events if event.type == "task_decided"][-1]
            assert last["answer"] == ("approved" if ends[case] == "active" else "rejected"), case
        ran_out = sum(any(event.type == "task_expired" for event in events) for events in histories.values())
        declined = sum(end == "declined" for end in ends.values())
        assert 0 < ran_out < declined < 400


def help_on(sim: Simulation, chance: random.Random, case: str, stage: str, incidents: int) -> None:
    """Do for a case what people do for it, on six days of ten."""
    if chance.random() < 0.4:
        return
    if incidents:
        sim.retry(case)
    elif stage == "intake":
        sim.set(case, legal_entity="late")
    elif stage == "review":
        answer = chance.choice(["approved"] * 8 + ["returned", "rejected"])
        for person in ("ann", "ben") if answer == "approved" else ("ann",):
            sim.decide(case, answer, by=person)
