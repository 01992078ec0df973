"""Who acts and why is said, or the command is refused; the reason of a cancel is where people look."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.cli import Cli, freeze
from tests.surface.claims import claims

from longcase.errors import UsageError
from longcase.testing import Simulation

pytestmark = pytest.mark.usefixtures("store_url")  # on every kind of store


def test_nobody_acts(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1"})
    error = cli.refused(2, "cancel", "claims/C-1", "--reason", "x", "--as", "").error
    assert error["hint"] == "--as anna.visser"
    assert len(cli.ok("history", "claims/C-1", "--json").lines) == 3


@pytest.mark.parametrize(
    "words",
    [
        ("move", "review"), ("restart",), ("cancel",), ("correct", "amount=7"), ("skip",), ("retry",),
        ("set-result", '"R"'),
    ],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.parametrize("blank", ["", "  "], ids=["empty", "blank"])
def test_a_reason_is_more_than_blanks(cli: Cli, sim: Simulation, words: tuple[str, ...], blank: str) -> None:
    sim.start("claims", {"id": "C-1", "amount": 5, "iban": "NL1"})  # stops at an incident, where each could apply
    before = len(cli.ok("history", "claims/C-1", "--json").lines)
    error = cli.refused(2, words[0], "claims/C-1", *words[1:], "--reason", blank).error
    assert "reason" in error["message"]
    assert error["hint"].startswith("--reason '")
    assert len(cli.ok("history", "claims/C-1", "--json").lines) == before


def test_a_reason_is_more_than_blanks_in_python(sim: Simulation) -> None:
    case = sim.start("claims", {"id": "C-1", "amount": 5, "iban": "NL1"})
    with pytest.raises(UsageError, match="skip was given an empty reason"):
        sim.skip(case, reason=" ")


@pytest.mark.parametrize("live", [512, 0], ids=["kept in memory", "rebuilt by replay at every turn"])
def test_the_case_closes_with_the_reason_of_its_cancel(cli: Cli, tmp_path: Path, live: int) -> None:
    with Simulation([claims], url=cli.url, live=live) as sim:
        freeze(cli, sim)
        case = sim.start("claims", {"id": "C-1"})
        cli.ok("cancel", case, "--reason", "bought elsewhere")
        sim.run()
        close = cli.ok("show", case, "--json").json["close"]
        assert (close["name"], close["reason"]) == ("cancelled", "bought elsewhere")
        assert "bought elsewhere" in cli.ok("show", case).out.splitlines()[0]
        assert "interrupted: bought elsewhere" in cli.ok("history", case).out


@pytest.mark.parametrize("what", ["empty.py", "json"])
def test_check_of_what_declares_nothing(cli: Cli, what: str) -> None:
    (cli.folder / "empty.py").write_text("", encoding="utf-8")
    error = cli.refused(2, "check", what).error
    assert error["message"] == f"{what} declares no workflow"
    assert error["hint"].startswith("longcase check ")
