"""Fakes of activities: one that could never be called is refused at once, naming both signatures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.surface.claims import claims, pay

from longcase.errors import UsageError
from longcase.testing import Simulation

REFUSED: dict[str, Callable[..., Any]] = {
    "too few": lambda iban: "R-1",
    "too many": lambda iban, amount, currency: "R-1",
    "other names": lambda account, sum: "R-1",
    "by position only": lambda iban, amount, /: "R-1",
}
ACCEPTED: dict[str, Callable[..., Any]] = {
    "the same": lambda iban, amount: "R-1",
    "with the key": lambda iban, amount, idempotency_key="": "R-1",
    "anything by name": lambda **given: "R-1",
    "more, with defaults": lambda iban, amount, currency="EUR": "R-1",
}


@pytest.mark.parametrize("fake", REFUSED.values(), ids=REFUSED)
def test_a_fake_of_another_signature_is_refused(fake: Callable[..., Any]) -> None:
    with pytest.raises(UsageError) as refused:
        Simulation([claims], fakes={pay: fake})
    assert "the fake of pay takes (" in refused.value.message
    assert "the activity takes (iban: 'str', amount: 'int')" in refused.value.message
    assert refused.value.hint == "pay: lambda iban, amount: ..."


@pytest.mark.parametrize("fake", ACCEPTED.values(), ids=ACCEPTED)
def test_a_fake_that_can_be_called_is_called(fake: Callable[..., Any]) -> None:
    with Simulation([claims], fakes={pay: fake}) as sim:
        case = sim.start(claims, {"id": "C-1", "amount": 5, "iban": "NL1"})
        assert sim.show(case).state.close == {"name": "paid", "result": "R-1", "reason": ""}


def test_a_fake_of_no_activity_is_refused() -> None:
    with pytest.raises(UsageError, match="expected an activity"):
        Simulation([claims], fakes={"pay": lambda: None})  # type: ignore[dict-item]
