"""ACCEPTANCE row B9 at the command line: an owner taken away is named, and the status says so."""

from __future__ import annotations

from tests.support.cli import CLAIMS, Cli


def test_row_B9_check_exits_non_zero_and_names_what_lost_its_owner(cli: Cli) -> None:
    source = CLAIMS.read_text()
    assert cli("check", str(CLAIMS)).status == 0
    (cli.folder / "ownerless.py").write_text(
        source.replace("@activity(owner=desk, system=bank", "@activity(system=bank")
    )
    result = cli("check", "ownerless.py")
    assert result.status != 0
    assert "owner_missing" in result.out
    assert "pay" in result.out
    assert "ownerless.py:" in result.out


def test_row_B9_check_names_an_owner_that_is_gone(cli: Cli) -> None:
    source = (
        CLAIMS.read_text()
        .replace(', Team("bosses")', ', Team("chiefs")')
        .replace("clerks, bosses =", "clerks, chiefs =")
    )
    assert "bosses" in source, "somebody still refers to the team that is gone"
    (cli.folder / "orphaned.py").write_text(source)
    result = cli("check", "orphaned.py")
    assert result.status != 0
    assert "bosses" in result.out
