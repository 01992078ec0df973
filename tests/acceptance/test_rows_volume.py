"""ACCEPTANCE rows D1 and D5: many cases over days and weeks on the virtual clock."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

from tests.acceptance.test_rows_workflow import Client, Withdrawal, open_account, register, wf, withdrawn

from longcase import days
from longcase.testing import Simulation

PARKED = 2_000


def test_row_D1_parked_cases_cost_no_memory_and_each_wakes_on_its_signal() -> None:
    """Scaled down from 100,000: coroutines are evicted, so memory does not grow with the cases."""
    with Simulation([wf], live=16, synchronous="NORMAL") as sim:
        sizes = []
        for half in (0, 1):
            tracemalloc.start()
            for n in range(half * PARKED // 2, (half + 1) * PARKED // 2):
                sim.start(wf, Client(id=str(n)))
            sizes.append(tracemalloc.get_traced_memory()[0])
            tracemalloc.stop()
        assert sim._turns.resident_count <= 16
        assert max(sizes) < 500 * PARKED / 2, f"{sizes} bytes kept for {PARKED // 2} cases each"
        sim.advance(days(30))
        for n in range(0, PARKED, 100):
            sim.signal(f"onboarding/{n}", withdrawn, Withdrawal(reason="gone"))
        ended = sim.query("SELECT count(*) AS n FROM cases WHERE status = 'closed'")
        assert ended == [{"n": PARKED // 100}]


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
                if chance.random() < 0.5:
                    continue
                if row["stage"] == "intake":
                    sim.set(case, legal_entity="late")
                elif row["stage"] == "review" and sim.tasks(case):
                    sim.decide(case, chance.choice(["approved"] * 8 + ["returned", "rejected"]), by=chance.choice(["ann", "ben", "cat"]))
                elif sim.state(case).incidents:
                    sim.retry(case)
        ends = {row["name"]: row["n"] for row in sim.query(
            "SELECT json_extract(state, '$.close.name') AS name, count(*) AS n FROM cases GROUP BY 1"
        )}  # fmt: skip
        assert set(ends) <= {"active", "declined"}, ends
        assert sum(ends.values()) == 1000
        assert ends["active"] > 300
