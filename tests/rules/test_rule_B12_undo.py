"""B12 beside restarts, corrections and people: what an undo takes, under which key, and whose it is."""

from __future__ import annotations

import pytest
from tests.rules.support import Go, closed, every, fails, in_both
from tests.rules.test_rule_B09_B14 import back, begun, refund, release, saga

from longcase import seconds
from longcase.errors import RepairRefused
from longcase.testing import Simulation


def test_rule_B12_since_a_stage_goes_back_to_its_entry_and_not_to_its_restart() -> None:
    def scenario(sim: Simulation) -> None:
        case, undone = begun(sim)
        sim.restart(case)
        sim.signal(case, back, Go(n=2))
        assert closed(sim, case) == "partly-undone"
        assert undone == [("reserved car", "car"), ("charged 9", 9)], "both were called before the restart"

    in_both(scenario, saga)


def test_rule_B12_a_compensation_is_no_call_of_the_stage_that_is_corrected_or_called_anew() -> None:
    def scenario(sim: Simulation) -> None:
        case, _ = begun(sim)
        sim.fake(refund, fails(1))
        sim.signal(case, back, Go(n=1))
        sim.correct(case, amount=8)
        assert "input_corrected" not in sim.types(case)
        with pytest.raises(RepairRefused, match="nothing to redo"):
            sim.redo(case)

    in_both(scenario, saga)


def test_rule_B12_a_compensation_that_is_tried_again_is_its_owners_move() -> None:
    def scenario(sim: Simulation) -> None:
        case, undone = begun(sim)
        sim.fake(release, fails(1))
        sim.signal(case, back, Go(n=1))
        assert [(wait.kind, wait.whose) for wait in sim.waits(case)] == [("activity", "sales"), ("undo", "desk")]
        assert undone == [], "one at a time"
        sim.advance(seconds(60))
        assert closed(sim, case) == "undone"

    in_both(scenario, saga)


def test_rule_B12_what_was_undone_is_told_without_what_was_left() -> None:
    def scenario(sim: Simulation) -> None:
        case, _ = begun(sim)
        sim.fake(refund, fails(1))
        sim.signal(case, back, Go(n=1))
        sim.skip(case, reason="refunded by hand")
        assert every(sim, case, "undo_finished")[0].data["undone"] == ["reserve", "reserve"]

    in_both(scenario, saga)
