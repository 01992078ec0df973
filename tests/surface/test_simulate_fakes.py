"""Fakes of activities: one that could never be called is refused at once, naming both signatures."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
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


def test_a_fake_that_sleeps_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [0.0]

    def slow(iban: str, amount: int) -> str:
        seconds[0] += 3
        return "R-1"

    with Simulation([claims], fakes={pay: slow}) as sim:
        monkeypatch.setattr(sim.env, "monotonic", lambda: seconds[0])
        with pytest.warns(UserWarning, match=r"the fake of pay took 3.0 s: the clock of a simulation stands still"):
            sim.start(claims, {"id": "C-1", "amount": 5, "iban": "NL1"})


@pytest.mark.parametrize("now", [datetime(2026, 1, 5, tzinfo=UTC).replace(tzinfo=None), "2026-01-05"], ids=str)
def test_a_simulation_starts_at_an_instant(now: Any) -> None:
    with pytest.raises(UsageError, match="expected a datetime with a zone") as refused:
        Simulation([claims], now=now)
    assert refused.value.hint == "now=datetime(2026, 1, 5, 9, tzinfo=UTC)"


@pytest.mark.parametrize("live", [-1, None, "all"])
def test_live_is_a_number_of_cases(live: Any) -> None:
    with pytest.raises(UsageError, match="is given as live, expected how many cases are kept in memory"):
        Simulation([claims], live=live)


def test_a_url_is_a_text() -> None:
    given: Any = 5
    with pytest.raises(UsageError, match="5 is given as the store's URL, expected a text"):
        Simulation([claims], url=given)
