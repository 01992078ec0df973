"""The pytest plugin: a `simulate` fixture that makes Simulations and closes them after the test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from longcase.testing.simulate import Simulation


class Simulate:
    """Makes simulations: `sim = simulate(workflow, fakes={...})`."""

    def __init__(self) -> None:
        self.made: list[Simulation] = []

    def __call__(self, *workflows: Any, **options: Any) -> Simulation:
        # Imported here: loading the plugin must not load Longcase into every test run.
        from longcase.testing.simulate import Simulation

        made = Simulation(workflows, **options)
        self.made.append(made)
        return made


@pytest.fixture
def simulate() -> Iterator[Simulate]:
    """Return a maker of Simulations over the given workflows."""
    maker = Simulate()
    yield maker
    for made in maker.made:
        made.close()
