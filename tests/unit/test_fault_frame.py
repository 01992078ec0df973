"""The frame of the fault suite refuses a test that proves nothing."""

from __future__ import annotations

import pytest
from tests.faults.frame import FaultReport, table


@pytest.mark.parametrize(
    ("injected", "useful", "found", "missing"),
    [
        ({}, {"cases closed": 1}, "nothing lost", "injected nothing"),
        ({"SIGKILL": 0}, {"cases closed": 1}, "nothing lost", "injected nothing"),
        ({"SIGKILL": 1}, {"cases closed": 0}, "nothing lost", "no useful work"),
        ({"SIGKILL": 1}, {"cases closed": 1}, "", "does not say what was found"),
    ],
)
def test_a_fault_test_with_nothing_to_show_fails(
    injected: dict[str, int], useful: dict[str, int], found: str, missing: str
) -> None:
    report = FaultReport("F1", "test_fault_F1_x")
    report(injected=injected, useful=useful, found=found)
    assert missing in report.missing()


def test_counts_of_a_report_add_up_and_are_printed_by_row() -> None:
    report = FaultReport("F10", "test_fault_F10_x")
    for _ in range(2):
        report(injected={"power cuts": 3}, useful={"commits": 5})
    report(found="nothing lost")
    assert report.missing() == ""
    earlier = FaultReport("F9", "test_fault_F9_x")
    assert table([report.to_json(), earlier.to_json()]) == [
        "F9   sqlite    test_fault_F9_x",
        "     injected: nothing",
        "     useful:   nothing",
        "     found:    (no word)",
        "F10  sqlite    test_fault_F10_x",
        "     injected: 6 x power cuts",
        "     useful:   10 x commits",
        "     found:    nothing lost",
    ]
