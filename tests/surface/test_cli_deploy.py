"""`longcase deploy check`: which open cases new code would hold, told before it is installed."""

from __future__ import annotations

from tests.support.cli import Cli

LETTERS = """
from pydantic import BaseModel
from longcase import Case, Next, Team, Workflow, days

desk = Team("desk")

class Letter(BaseModel):
    id: str

letters = Workflow("letters", object=Letter, key="id", owner=desk, expect=days(1))

@letters.stage(expect=days(1))
async def writing(case: Case[Letter]) -> Next:
    answer = await case.approval("Send it?", label="{label}", of=desk, expires=(days(1), "rejected"))
    return letters.close("sent", result=answer.answer)
"""


def test_row_D3_deploy_check_tells_what_would_be_held_and_exits_by_it(cli: Cli) -> None:
    for name, label in (("letters.py", "send"), ("renamed.py", "post")):
        (cli.folder / name).write_text(LETTERS.replace("{label}", label))
    cli.ok("start", "letters", '{"id": "L-1"}', "--app", "letters.py")
    with cli.worker("letters.py"):
        cli.until("letters/L-1", lambda shown: shown["waiting_for"] == "person")
    fits = cli.ok("deploy", "check", "letters.py")
    assert fits.out.splitlines() == ["1 open case goes on, 0 would be held"]
    held = cli("deploy", "check", "renamed.py")
    assert held.status == 5
    assert held.out.startswith("letters/L-1 in writing, visit 1: code_changed: recorded: ")
    assert held.out.splitlines()[-1] == "0 open cases go on, 1 would be held"
    told = cli("deploy", "check", "renamed.py", "--json")
    assert told.status == 5
    assert [(one["case"], one["kind"]) for one in told.json["held"]] == [("letters/L-1", "code_changed")]
    assert cli.ok("list", "--incidents", "--json").json == [], "it was only looked at"


def test_a_case_whose_stage_is_gone_is_shown_without_an_empty_line_of_code(cli: Cli) -> None:
    (cli.folder / "letters.py").write_text(LETTERS.replace("{label}", "send"))
    (cli.folder / "gone.py").write_text(LETTERS.replace("{label}", "send").replace("writing", "typing"))
    cli.ok("start", "letters", '{"id": "L-1"}', "--app", "letters.py")
    with cli.worker("letters.py"):
        cli.until("letters/L-1", lambda shown: shown["waiting_for"] == "person")
    cli.ok("decide", "letters/L-1", "approved", "--as", "ann")
    with cli.worker("gone.py"):
        cli.until("letters/L-1", lambda shown: shown["waiting_for"] == "incident")
    lines = cli.ok("show", "letters/L-1").out.splitlines()
    assert "  recorded: stage writing" in lines
    assert not [line for line in lines if line.strip() == "line:"]


def test_deploy_knows_no_other_action(cli: Cli) -> None:
    refused = cli("deploy", "now", "letters.py")
    assert refused.status == 2
    assert "'now' is not one of 'check'" in refused.err


def test_code_with_none_of_the_workflows_checks_nothing_and_says_so(cli: Cli) -> None:
    (cli.folder / "letters.py").write_text(LETTERS.replace("{label}", "send"))
    (cli.folder / "parcels.py").write_text(LETTERS.replace("{label}", "send").replace("letters", "parcels"))
    cli.ok("start", "letters", '{"id": "L-1"}', "--app", "letters.py")
    refused = cli("deploy", "check", "parcels.py")
    assert refused.status == 2
    assert "no open case was checked: the store's are of letters, parcels.py has none of these" in refused.err
