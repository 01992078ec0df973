"""A Simulation that cannot be opened leaves nothing open: its loop and its store are closed."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path

import pytest
from tests.rules.support import Order, desk

from longcase import Case, Next, Workflow, days
from longcase.errors import LongcaseError
from longcase.testing import Simulation

wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))


@wf.stage
async def work(case: Case[Order]) -> Next:
    return wf.close("done")


def left_open(path: Path) -> list[str]:
    """Return what the interpreter complains of after a failed opening."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            Simulation([wf], path=path)
        except LongcaseError:
            pass
        else:
            raise AssertionError("it opened")
        gc.collect()
    return [str(warning.message) for warning in heard if issubclass(warning.category, ResourceWarning)]


def test_a_simulation_that_cannot_open_closes_its_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cases.db"
    path.write_bytes(b"this is no database" * 1000)
    assert left_open(path) == []
    monkeypatch.setattr(Simulation, "_give_up", lambda self: None)
    assert any("unclosed event loop" in complaint for complaint in left_open(path)), "the test can fail"
