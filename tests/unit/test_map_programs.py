"""Random programs against their maps: whatever a stage does lies on it, in an order it allows."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from tests.support.definitions import load, stage_source
from tests.support.stage_programs import program
from tests.support.stage_world import run

from longcase.model.map import WorkflowMap, compile_map, node_known, order_findings
from longcase.model.map.render_mermaid import render_mermaid
from longcase.model.map.render_text import render_text

PROGRAMS, RUNS = 40, 6
CHOICES_LIMIT = 400
START = {"id": "C-1", "amount": 0, "rating": None, "route": "fast", "tags": [], "items": []}


class Luck:
    """Outcomes by chance, mostly the first; after a while only the first, so that loops end."""

    def __init__(self, seed: str) -> None:
        self._random = Random(seed)
        self._left = CHOICES_LIMIT

    def choose(self, count: int) -> int:
        self._left -= 1
        if self._left < -CHOICES_LIMIT:
            raise RuntimeError("a loop that the first outcome does not end")
        return self._random.randrange(count) if self._left > 0 and self._random.random() < 0.6 else 0


@pytest.fixture(autouse=True)
def failures_of_tasks_are_collected_here() -> Iterator[None]:
    """Collect the tasks whose failure nobody awaited, so that no other test hears of them."""
    yield
    gc.collect()


# A call whose neighbour's argument fails is never awaited; Python warns of it, and so it should.
@pytest.mark.filterwarnings(
    "ignore:coroutine '.*' was never awaited", "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("seed", range(PROGRAMS))
def test_row_A5_all_that_a_random_program_does_lies_on_its_map(tmp_path: Path, seed: int) -> None:
    body, parts = program(seed)
    module = load(tmp_path, stage_source(body, parts))
    map, findings = compile_map(module.wf)
    assert [str(finding) for finding in findings] == []
    assert WorkflowMap.from_json(map.to_json()) == map
    assert render_text(map)
    assert render_mermaid(map)
    for number in range(RUNS):
        try:
            events = run(module.wf, "first", START, Luck(f"{seed}.{number}"))
        except RuntimeError:
            continue
        assert [node for node, _, _ in events if not node_known(map, node)] == []
        assert [str(finding) for finding in order_findings(map, events)] == []
