"""What bench computes from its figures: ratios, the scale simulation, and the places in pages that quote them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let the test import bench's modules, which are scripts in a folder, and forget them afterwards."""
    monkeypatch.syspath_prepend(str(BENCH))
    before = set(sys.modules)
    yield BENCH
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCH)):
            del sys.modules[name]


def line(peer: str, store: str, **figures: Any) -> dict[str, Any]:
    return {"peer": peer, "store": store, "workload": "W1", "correct": True, **figures}


def cells(table: str, title: str) -> list[str]:
    row = next(row for row in table.splitlines() if f" {title} " in row)
    return [cell.strip() for cell in row.strip("|").split("|")][2:]


def test_a_ratio_says_how_many_times_better_longcase_is_whichever_way_is_better(bench: Path) -> None:
    from peers.table import rendered  # type: ignore[import-not-found]

    table = rendered(
        [
            line("longcase", "sqlite", steps_per_s=3000, cpu_ms_per_workflow=1.5),
            line("dbos", "sqlite", steps_per_s=100, cpu_ms_per_workflow=30),
            line("unhinged", "sqlite", steps_per_s=6000, cpu_ms_per_workflow=0.75),
        ]
    )
    assert cells(table, "steps/s") == ["3,000", "100 (30 x)", "6,000 (0.5 x)"]
    assert cells(table, "CPU ms a workflow, server and all") == ["1.5", "30 (20 x)", "0.75 (0.5 x)"]


def test_a_peer_on_postgres_is_compared_with_longcase_on_postgres(bench: Path) -> None:
    from peers.table import rendered

    table = rendered(
        [
            line("longcase", "sqlite", steps_per_s=3000),
            line("longcase", "postgres", steps_per_s=2000),
            line("dbos", "postgres", steps_per_s=200),
        ]
    )
    assert cells(table, "steps/s") == ["3,000", "2,000", "200 (10 x)"]


def test_a_line_that_is_not_correct_has_no_figure_and_the_median_of_the_rounds_counts(bench: Path) -> None:
    from peers.table import rendered

    rounds = [line("longcase", "sqlite", steps_per_s=figure) for figure in (1, 200, 3000)]
    bad = {**line("dbos", "sqlite", steps_per_s=9), "correct": False, "wrong": ["all_ended"]}
    assert cells(rendered([*rounds, bad]), "steps/s") == ["200", ""]


def test_throughput_is_bound_by_what_is_full(bench: Path) -> None:
    import scale  # type: ignore[import-not-found]

    cost = scale.Cost(0, 200, 0, 50, 1, 1_000)  # µs a step: worker 200, server 50
    few = scale.simulate(scale.Site("few", 4, 32, 0.0003, 0.0003), cost)
    many = scale.simulate(scale.Site("many", 400, 10, 0.0003, 0.0003), cost)
    assert few.steps_per_s == pytest.approx(4 * 5_000, rel=0.02)
    assert few.bottleneck == "workers' CPU"
    assert many.steps_per_s == pytest.approx(10 * scale.EFFICIENCY * 20_000, rel=0.02)
    assert many.bottleneck == "server's CPU"


def test_more_workers_never_lose_throughput_in_the_simulation(bench: Path) -> None:
    import scale

    cost = scale.Cost(500, 150, 400, 40, 1, 2_000)
    speeds = [
        scale.simulate(scale.Site("n", workers, 8, 0.002, 0.0005), cost).steps_per_s for workers in (1, 2, 5, 20, 80)
    ]
    assert all(more >= fewer * 0.99 for fewer, more in pairwise(speeds)), speeds
    assert speeds[1] > speeds[0] * 1.5


def test_a_slow_log_holds_up_commits_but_serves_all_who_wait_with_one_flush(bench: Path) -> None:
    import scale

    cost = scale.Cost(0, 1, 0, 1, 0, 0)
    one = scale.simulate(scale.Site("one", 1, 4, 0.01, 0.0, batch=1), cost)
    ten = scale.simulate(scale.Site("ten", 10, 40, 0.01, 0.0, batch=1), cost)
    assert one.steps_per_s <= scale.DEPTH / 0.01
    assert ten.steps_per_s == pytest.approx(10 * one.steps_per_s, rel=0.1)


def test_the_parts_of_a_cost_are_solved_from_two_loads(bench: Path) -> None:
    import scale

    def load(units: float, fixed: float, step: float) -> dict[str, float]:
        each = fixed / units + step
        return {
            "units_per_commit": units, "worker_cpu_us": each, "server_cpu_us": 2 * each, "statements": 1 / units,
            "wal_bytes": 1_000,
        }  # fmt: skip

    cost = scale.solved({"bulk": load(50, 300, 100), "lone": load(0.7, 300, 100)})
    assert cost.worker_fixed == pytest.approx(300)
    assert cost.worker_step == pytest.approx(100)
    assert cost.server_step == pytest.approx(200)
    assert cost.statements == pytest.approx(1)


def test_a_quote_replaces_what_stood_between_its_marks(
    bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import quoting  # type: ignore[import-not-found]

    page = tmp_path / "page.md"
    page.write_text("before\n<!-- run -->\nold\n<!-- /run -->\nafter\n")
    monkeypatch.setattr(quoting, "PAGES", tmp_path)
    quoting.quote("page.md", "run", "new\n")
    assert page.read_text() == "before\n<!-- run -->\nnew\n<!-- /run -->\nafter\n"
    with pytest.raises(ValueError, match="has no place <!-- scale -->"):
        quoting.quote("page.md", "scale", "new")


def test_the_pages_have_the_places_that_are_quoted_into() -> None:
    pages = BENCH.parent / "docs" / "explanation"
    for page, names in (("comparison.md", ["run"]), ("scale.md", ["cost", "speeds", "parked"])):
        for name in names:
            assert f"<!-- {name} -->\n" in (pages / page).read_text(), (page, name)
            assert f"<!-- /{name} -->" in (pages / page).read_text(), (page, name)
