"""`keep`, `export`, `purge`, and `verify --file`: from the period to the tombstone, as an operator types it."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import apsw
import pytest
from tests.support.cli import Cli, freeze

from longcase import days
from longcase.testing import Simulation

EACH_STORE = pytest.mark.usefixtures("store_url")


def closed(cli: Cli, sim: Simulation, *keys: str) -> None:
    for key in keys:
        cli.ok("start", "claims", json.dumps({"id": key}))
        cli.ok("cancel", f"claims/{key}", "--reason", "withdrawn")
    sim.run()


def later(cli: Cli, sim: Simulation, length: timedelta) -> None:
    sim.advance(length)
    freeze(cli, sim)


@EACH_STORE
def test_from_the_period_to_the_tombstone(cli: Cli, sim: Simulation) -> None:
    closed(cli, sim, "C-1", "C-2")
    assert cli.ok("keep").out == "every workflow: for ever\n"
    assert cli.ok("purge").out == "no workflow has a period: longcase keep WORKFLOW '7 years'\n"
    assert cli.ok("keep", "claims", "30 days").out.startswith("claims: 30 days after the close (set by person:ann, ")

    later(cli, sim, days(31))
    dry = cli("purge")
    assert (dry.status, dry.err) == (0, "hint: longcase export FILE --due\n")
    assert dry.out.splitlines()[1:] == ["  0 may go", "  2 not exported"]

    told = cli.ok("export", "old.jsonl", "--due").out
    assert told.startswith("export 1: 2 cases, ")
    assert cli.ok("verify", "--file", "old.jsonl").out.splitlines()[1] == told.splitlines()[1].strip()
    assert cli.ok("export", "more.jsonl").out == "nothing to export: every closed case is in an export as it is now\n"
    assert not (cli.folder / "more.jsonl").exists()

    dry = cli("purge")
    assert dry.out.splitlines()[1:] == ["  2 may go"]
    assert dry.err == "nothing was deleted; to delete: longcase purge --yes --reason '...'\n"
    assert cli.ok("show", "claims/C-1").out.startswith("claims/C-1: ")

    gone = cli.ok("purge", "--yes", "--reason", "schedule 4")
    assert gone.out.splitlines()[1:] == ["  2 purged"]
    shown = cli.refused(3, "show", "claims/C-1")
    assert shown.error["code"] == "case_purged"
    assert "was purged on " in shown.error["message"]
    assert "by person:ann (schedule 4); it was closed as cancelled" in shown.error["message"]
    assert shown.error["hint"] == "longcase verify --file old.jsonl"
    assert shown.error["details"]["export"] == 1
    assert cli.ok("verify").out == "0 cases, 0 findings\n"
    assert cli.ok("purge", "--yes").out.splitlines()[1:] == ["  0 purged"]


@EACH_STORE
def test_in_json(cli: Cli, sim: Simulation) -> None:
    closed(cli, sim, "C-1", "C-2", "C-3")
    assert cli.ok("keep", "claims", "1 year", "--json").json[0]["keep"] == "1 year"
    later(cli, sim, days(367))
    told = cli.ok("export", "old.jsonl", "--json").json
    assert (told["export"], told["file"], told["cases"]) == (1, "old.jsonl", 3)
    assert cli.ok("export", "no.jsonl", "--json").json["export"] is None
    assert cli.ok("purge", "--json").json[0] | {"closed_until": ""} == {
        "workflow": "claims", "keep": "1 year", "closed_until": "", "purged": 0, "may_go": 3, "stay": {},
    }  # fmt: skip
    (some,) = cli.ok("purge", "--yes", "--limit", "2", "--json").json
    assert (some["purged"], some["may_go"]) == (2, 1)
    (rest,) = cli.ok("purge", "--yes", "--rate", "0", "--json").json
    assert (rest["purged"], rest["may_go"]) == (1, 0)
    verified = cli.ok("verify", "--file", "old.jsonl", "--json").json
    assert (verified["cases"], verified["sha256"], verified["findings"]) == (3, told["sha256"], [])


@EACH_STORE
def test_a_changed_export_ends_with_status_six(cli: Cli, sim: Simulation) -> None:
    closed(cli, sim, "C-1")
    cli.ok("export", "old.jsonl")
    file = cli.folder / "old.jsonl"
    file.write_bytes(file.read_bytes().replace(b"withdrawn", b"forgotten"))
    found = cli("verify", "--file", "old.jsonl")
    assert found.status == 6
    assert "I39: claims/C-1 (case 1), event " in found.out
    assert cli("verify", "--file", "old.jsonl", "--json").json["count"] > 0


@EACH_STORE
def test_what_is_refused(cli: Cli, sim: Simulation) -> None:
    closed(cli, sim, "C-1")
    for period in ("7", "6 months", "0 days", "10000 years", "1.5 years", "x"):
        assert "expected years or days" in cli.refused(2, "keep", "claims", period).error["message"]
    assert "did you mean claims" in cli.refused(3, "keep", "claim", "7 years").error["hint"]
    assert "no period is set for claims" in cli.refused(2, "purge", "--workflow", "claims").error["message"]
    assert "empty reason" in cli.refused(2, "purge", "--yes", "--reason", " ").error["message"]
    cli.ok("export", "old.jsonl")
    assert "is there already" in cli.refused(2, "export", "old.jsonl", "--again").error["message"]
    assert cli.refused(3, "verify", "--file", "none.jsonl").error["code"] == "file_not_found"
    Path("none.jsonl").write_text("hello\n")
    assert cli("verify", "--file", "none.jsonl").status == 6


def test_a_killed_export_leaves_no_file_of_its_name(cli: Cli, sim: Simulation) -> None:
    """Killed before its receipt: the cases are in no export, and are exported again."""
    closed(cli, sim, "C-1")
    killed = cli.spawn("export", "old.jsonl", env={"LONGCASE_FAULT": "before_commit:1"})
    assert killed.status == 137
    assert cli.ok("verify", "--file", "old.jsonl").out.startswith("1 case,")
    assert cli.ok("export", "new.jsonl").out.startswith("export 1: 1 case,")


def test_migrate_lists_what_is_missing_with_checksums_and_prints_it(cli: Cli) -> None:
    old = cli.ok("migrate", "--sql").out  # there is no store yet: all of it
    first = old[: old.index("-- 0002 ")] + "COMMIT;\n"
    by_hand(cli, first)
    checked = cli("migrate", "--check")
    assert checked.status == 6
    assert checked.out.splitlines()[:2] == ["0002 views is missing", "0003 keep is missing"]
    planned = cli.ok("migrate", "--plan", "--json").json["missing"]
    assert [one["version"] for one in planned][:2] == [2, 3]
    text = cli.ok("migrate", "--sql").out
    assert all(one["sha256"] in text for one in planned)
    assert "one at a time" in cli.refused(2, "migrate", "--plan", "--sql").error["message"]
    assert cli("list").status == 6, "an older schema is refused"
    by_hand(cli, text)
    assert cli.ok("migrate", "--check").out == "the schema is this release's; nothing to do\n"
    assert cli.ok("migrate", "--sql").out == "-- the schema is this release's; nothing to do\n"
    assert cli.ok("list").out == "no open case\n"


def by_hand(cli: Cli, text: str) -> None:
    connection = apsw.Connection(str(cli.db))
    connection.execute(text).fetchall()
    connection.close()
