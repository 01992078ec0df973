"""The lines of a run as one table of ratios: how many times better Longcase is, by measure and peer."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

Line = dict[str, Any]


class Measure(NamedTuple):
    """A figure of a workload, and whether more of it is better."""

    workload: str
    name: str
    title: str
    more: bool = False


MEASURES = (
    Measure("W1", "steps_per_s", "steps/s", more=True),
    Measure("W1", "cpu_ms_per_workflow", "CPU ms a workflow, server and all"),
    Measure("W1", "disk_bytes_per_workflow", "disk bytes a workflow"),
    Measure("W2", "p50_ms_1", "ms, 1 activity"),
    Measure("W2", "p50_ms_10", "ms, 10 activities"),
    Measure("W3", "p50_ms", "ms, signal to end"),
    Measure("W4", "started_per_s", "parked cases started/s", more=True),
    Measure("W4", "bytes_per_case", "worker's bytes a parked case"),
    Measure("W4", "idle_cpu_percent", "CPU %, all parked"),
    Measure("W4", "kill_to_first_wake_s", "s, kill -9 to first wake"),
    Measure("W5", "late_s_p99", "s late, p99"),
    Measure("W5", "cpu_ms_per_timer", "CPU ms a timer"),
    Measure("W6", "ms_per_activity", "ms an activity, all at once"),
    Measure("W7", "ms_per_activity", "ms an activity, one by one"),
    Measure("W8", "kill_to_done_s", "s, kill -9 to all done"),
    Measure("W8", "run_twice", "steps run twice"),
)
Column = tuple[str, str]


def rendered(lines: Sequence[Line]) -> str:
    """Return the table as Markdown. A ratio compares with Longcase on PostgreSQL where the peer is on it."""
    columns: list[Column] = list(dict.fromkeys((line["peer"], line["store"]) for line in lines if "workload" in line))
    head = ["", "measure", *(f"{peer} {store}" for peer, store in columns)]
    rows = [head, ["---", "---", *("---:" for _ in columns)]]
    for measure in MEASURES:
        values = {column: _value(lines, measure, column) for column in columns}
        if any(value is not None for value in values.values()):
            rows.append([measure.workload, measure.title, *(_cell(measure, values, column) for column in columns)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _value(lines: Iterable[Line], measure: Measure, column: Column) -> float | None:
    """Return the median over the rounds; None if there is no right result."""
    found = [
        line[measure.name]
        for line in lines
        if (line.get("peer"), line.get("store")) == column
        and line.get("workload") == measure.workload
        and line["correct"]
        and measure.name in line
    ]
    return statistics.median(found) if found else None


def _cell(measure: Measure, values: dict[Column, float | None], column: Column) -> str:
    value = values[column]
    if value is None:
        return ""
    told = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    ours = values.get(("longcase", "postgres" if column[1] == "postgres" else "sqlite"))
    if column[0] == "longcase" or ours is None or ours <= 0 or value <= 0:
        return told
    ratio = ours / value if measure.more else value / ours
    return f"{told} ({ratio:,.0f} x)" if ratio >= 10 else f"{told} ({ratio:.2g} x)"
