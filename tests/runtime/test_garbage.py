"""A worker has the garbage collector look rarer while it runs, and leaves the program's own setting alone."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from longcase.runtime.garbage import OBJECTS, rarer


@pytest.fixture(autouse=True)
def _kept() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_the_collector_looks_rarer_while_a_worker_runs_and_as_before_afterwards() -> None:
    gc.set_threshold(700, 10, 5)
    with rarer():
        assert gc.get_threshold() == (OBJECTS, 10, 5)
        with rarer():  # a second worker of the process
            assert gc.get_threshold() == (OBJECTS, 10, 5)
        assert gc.get_threshold() == (OBJECTS, 10, 5)
    assert gc.get_threshold() == (700, 10, 5)


@pytest.mark.parametrize("own", [(0, 10, 10), (OBJECTS * 2, 10, 10)])
def test_a_program_that_has_turned_it_off_or_made_it_rarer_still_keeps_its_setting(own: tuple[int, int, int]) -> None:
    gc.set_threshold(*own)
    with rarer():
        assert gc.get_threshold() == own
    assert gc.get_threshold() == own


def test_what_the_program_sets_meanwhile_stays() -> None:
    gc.set_threshold(700, 10, 10)
    with rarer():
        gc.set_threshold(5_000, 10, 10)
    assert gc.get_threshold() == (5_000, 10, 10)
