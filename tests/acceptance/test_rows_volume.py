"""ACCEPTANCE rows D1 and D5: many cases over days and weeks on the virtual clock."""

from __future__ import annotations

import contextlib
import gc
import random
import tracemalloc
from typing import Any

import pytest

from tests.acceptance.test_rows_workflow import Client, Withdrawal, open_account, register, wf, withdrawn

from longcase import days
from longcase.errors import AlreadyDecided
from longcase.testing import Simulation

PARKED = 1_000


def test_row_D1_parked_cases_cost_no_memory_and_each_wakes_on_its_signal() -> None:
    """Scaled down from 100,000: coroutines are evicted, so memory does not grow with the cases."""
    with Simulation([wf], live=16, synchronous="NORMAL") as sim:
        for n in range(PARKED // 2):
            sim.start(wf, Client(id=str(n)))
        sim._turns.evict_all()
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for n in range(PARKED // 2, PARKED):
            sim.start(wf, Client(id=str(n)))
        assert 0 < sim._turns.resident_count <= 16
        sim._turns.evict_all()
        gc.collect()
        kept = (tracemalloc.get_traced_memory()[0] - before) / (PARKED // 2)
        tracemalloc.stop()
        assert kept < 200, f"{kept:.0f} bytes kept for a parked case"
        sim.advance(days(30))
        for n in range(0, PARKED, 50):
            sim.signal(f"onboarding/{n}", withdrawn, Withdrawal(reason="gone"))
        ended = sim.query("SELECT count(*) AS n FROM cases WHERE status = 'closed'")
        assert ended == [{"n": PARKED // 50}]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_row_D5_a_thousand_cases_with_failing_vendors_and_late_people_end_in_declared_closes() -> None:
    chance = random.Random(5)
    with Simulation([wf], seed=5, synchronous="NORMAL") as sim:

        def flaky(**values: Any) -> str:
            if chance.random() < 0.3:
                raise ConnectionError("down")
            return "fine"

        sim.fake(register, flaky)
        sim.fake(open_account, flaky)
        new = [sim.service.new_case(wf, Client(id=str(n), legal_entity="E" if n % 3 else None)) for n in range(1000)]
        sim._do(sim.service.start_prepared(new))
        sim.run()
        for _ in range(60):
            sim.advance(days(1))
            rows = sim.query("SELECT key, stage FROM cases WHERE status = 'open'")
            if not rows:
                break
            for row in rows:
                case = f"onboarding/{row['key']}"
                if chance.random() < 0.6:
                    continue
                if row["stage"] == "intake":
                    sim.set(case, legal_entity="late")
                elif row["stage"] == "review" and sim.tasks(case):
                    answer = chance.choice(["approved"] * 8 + ["returned", "rejected"])
                    with contextlib.suppress(AlreadyDecided):  # a person who answers twice is told so
                        sim.decide(case, answer, by="ann")
                        sim.decide(case, answer, by="ben")
                elif sim.state(case).incidents:
                    sim.retry(case)
        ends = {row["name"]: row["n"] for row in sim.query(
            "SELECT json_extract(state, '$.close.name') AS name, count(*) AS n FROM cases GROUP BY 1"
        )}  # fmt: skip
        assert set(ends) <= {"active", "declined"}, ends
        assert sum(ends.values()) == 1000
        assert ends["active"] > 300
