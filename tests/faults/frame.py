"""The frame of the fault suite: what a fault test must say of itself, and how much of it is run.

A test of faults that injected nothing, or in which everything failed, is green and proves nothing. So
each test tells its `fault_report` what was injected, what useful work was done meanwhile, both as
counts, and what was found; a count of nothing fails the test. The reports are printed as a table at the
end of the run. `LONGCASE_FAULTS=long` (`make faults`) runs the long form.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import pytest

T = TypeVar("T")

LONG: Final = os.environ.get("LONGCASE_FAULTS", "") == "long"
NAME: Final = re.compile(r"test_fault_(F\d+)_")
PROPERTY: Final = "fault_report"


def by_length(short: T, long: T) -> T:
    """Return what the short form of the suite takes, or the long one."""
    return long if LONG else short


@dataclass
class FaultReport:
    """What one fault test did. Called by the test, as often as it likes; counts add up.

    fault_report(injected={"SIGKILL": 8}, useful={"cases closed": 6}, found="nothing lost")
    """

    row: str
    test: str
    store: str = "sqlite"
    injected: Counter[str] = field(default_factory=Counter)
    useful: Counter[str] = field(default_factory=Counter)
    found: list[str] = field(default_factory=list)

    def __call__(
        self, *, injected: Mapping[str, int] | None = None, useful: Mapping[str, int] | None = None, found: str = ""
    ) -> None:
        self.injected.update(injected or {})
        self.useful.update(useful or {})
        if found:
            self.found.append(found)

    def missing(self) -> str:
        """Return what keeps this report from proving anything, or ""."""
        if not any(self.injected.values()):
            return f"{self.test} injected nothing: it would be green without any fault"
        if not any(self.useful.values()):
            return f"{self.test} did no useful work: a run in which all failed is no pass"
        if not self.found:
            return f"{self.test} does not say what was found"
        return ""

    def to_json(self) -> str:
        return json.dumps([self.row, self.test, self.store, self.injected, self.useful, self.found])


def table(reports: list[str]) -> list[str]:
    """Return the lines of the table of reports, by row."""
    rows = sorted((json.loads(report) for report in reports), key=lambda row: (int(row[0][1:]), row[1]))
    lines = []
    for row, test, store, injected, useful, found in rows:
        lines.append(f"{row:<4} {store:<9} {test}")
        lines.append(f"     injected: {_counts(injected)}")
        lines.append(f"     useful:   {_counts(useful)}")
        lines.append(f"     found:    {'; '.join(found) or '(no word)'}")
    return lines


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} x {what}" for what, count in counts.items() if count) or "nothing"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the reports of all fault tests of the run, also of those that failed."""
    reports = [
        value
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if getattr(report, "when", "") == "call"
        for name, value in report.user_properties
        if name == PROPERTY
    ]
    if reports:
        terminalreporter.section(f"{'long' if LONG else 'short'} form of the fault suite, {len(reports)} tests")
        for line in table(reports):
            terminalreporter.write_line(line)


def refuse_misnamed(items: list[pytest.Item]) -> None:
    """Refuse fault tests that do not name their row."""
    wrong = [item.nodeid for item in items if not NAME.match(item.name)]
    if wrong:
        raise pytest.UsageError(f"fault tests are named test_fault_F13_..., got: {', '.join(wrong)}")
