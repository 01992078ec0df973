"""What `show` says of an incident is what the commands then do, and what its cause was, in words."""

from __future__ import annotations

import pytest
from tests.support.cli import Cli, freeze

from longcase.cli.loading import load_app
from longcase.testing import Simulation

pytestmark = pytest.mark.usefixtures("store_url")  # on every kind of store

LETTERS = """
from __future__ import annotations
from pydantic import BaseModel
from longcase import Case, Next, Retry, Team, Workflow, activity, days

desk = Team("desk")

class Letter(BaseModel):
    id: str
    pages: int = 1

@activity(owner=desk, effect="repeatable", retry=Retry(max_attempts=1))
async def post(pages: int) -> RESULT:
    raise ConnectionError("no stamps")

letters = Workflow("letters", object=Letter, key="id", owner=desk, expect=days(3))

@letters.stage(owner=desk, expect=days(3))
async def writing(case: Case[Letter]) -> Next:
    await case.approval("Send it?", label="send", of=desk, quorum=1, expires=(days(2), "rejected"))
    await post(case.object.pages)
    return letters.close("sent")
"""


def stopped(cli: Cli, name: str, result: str) -> Simulation:
    """Return a mover whose one case stands at the incident of a call that has that result."""
    (cli.folder / f"{name}.py").write_text(LETTERS.replace("RESULT", result))
    sim = Simulation([load_app(str(cli.folder / f"{name}.py"))], url=cli.url)
    freeze(cli, sim)
    sim.start("letters", {"id": "L-1"})
    sim.decide("letters/L-1", "approved", by="ann")
    return sim


@pytest.mark.parametrize(
    ("result", "listed"),
    [
        ("str", "retry, set-result, correct, restart, move, cancel"),
        ("str | None", "retry, skip, set-result, correct, restart, move, cancel"),
    ],
    ids=["never None", "may be None"],
)
def test_skip_is_listed_where_it_is_accepted_and_only_there(cli: Cli, result: str, listed: str) -> None:
    name = f"letters_{'none' if 'None' in result else 'text'}"
    with stopped(cli, name, result) as sim:
        shown = cli.ok("show", "letters/L-1").out
        assert f"what applies: {listed}\n" in shown
        app = ("--app", f"{name}.py")
        if "skip" in listed:
            cli.ok("skip", "letters/L-1", *app)
            sim.run()
            assert cli.ok("show", "letters/L-1", "--json").json["close"]["name"] == "sent"
        else:
            error = cli.refused(5, "skip", "letters/L-1", *app).error
            assert error["message"] == "post cannot be skipped: its result is never None"
            assert error["hint"].startswith("longcase set-result ")


def test_a_result_type_that_fails_over_none_is_one_that_cannot_be_skipped(cli: Cli) -> None:
    strict = "Annotated[str, BeforeValidator(lambda text: text.strip())]"
    source = LETTERS.replace("RESULT", strict).replace(
        "from pydantic import BaseModel",
        "from typing import Annotated\nfrom pydantic import BaseModel, BeforeValidator",
    )
    (cli.folder / "letters_strict.py").write_text(source)
    with Simulation([load_app(str(cli.folder / "letters_strict.py"))], url=cli.url) as sim:
        freeze(cli, sim)
        sim.start("letters", {"id": "L-1"})
        sim.decide("letters/L-1", "approved", by="ann")
        assert "what applies: retry, set-result, correct, restart, move, cancel\n" in cli.ok("show", "letters/L-1").out


@pytest.mark.parametrize(
    ("name", "changed", "recorded", "attempted"),
    [
        ("quorum", "quorum=2", "(quorum=1)", "(quorum=2)"),
        ("shows", "quorum=1, shows=[lambda letter: letter.pages]", "(shows=null)", '(shows=["pages"])'),
    ],
    ids=["another quorum", "other fields shown"],
)  # fmt: skip
def test_a_changed_question_is_told_in_words_recorded_beside_attempted(
    cli: Cli, name: str, changed: str, recorded: str, attempted: str
) -> None:
    source = LETTERS.replace("RESULT", "str")
    old, new = cli.folder / f"old_{name}.py", cli.folder / f"new_{name}.py"
    old.write_text(source)
    new.write_text(source.replace("quorum=1", changed))
    with Simulation([load_app(str(old))], url=cli.url) as sim:
        freeze(cli, sim)
        sim.start("letters", {"id": "L-1"})
    held = cli("deploy", "check", new.name)
    assert held.status == 5, held
    told = held.out.splitlines()[0]
    assert "shape" not in told
    assert told.index("recorded: task_opened") < told.index("attempted: task_opened")
    before, _, after = told.partition("; attempted: ")
    assert recorded in before
    assert attempted in after


def test_a_stage_that_is_gone_is_told_once_with_how_a_renaming_is_declared(cli: Cli) -> None:
    source = LETTERS.replace("RESULT", "str")
    stage = source.partition("stage(")[2].partition("async def ")[2].partition("(")[0]
    old, new = cli.folder / "old_stage.py", cli.folder / "new_stage.py"
    old.write_text(source)
    new.write_text(source.replace(f"async def {stage}(", "async def renamed("))
    with Simulation([load_app(str(old))], url=cli.url) as sim:
        freeze(cli, sim)
        sim.start("letters", {"id": "L-1"})
    with Simulation([load_app(str(new))], url=cli.url) as sim:
        freeze(cli, sim)
        sim.decide("letters/L-1", "approved", by="ann")
        told = cli.ok("show", "letters/L-1").out
        headline, _, incident = told.partition("incident i")
        assert "attempted" in headline
        assert incident.count("attempted: no stage of that name") == incident.count("attempted") == 1
        assert f"stage(was=('{stage}',)) and retry; else move" in incident
        assert "what applies: retry, move, cancel\n" in incident  # to restart it would come to the same


def test_a_long_incident_is_told_in_full_where_it_is_told(cli: Cli) -> None:
    source = LETTERS.replace("RESULT", "str")
    source = source.replace('"no stamps"', '", ".join(f"line {line} of it" for line in range(100))')
    (cli.folder / "letters_long.py").write_text(source)
    with Simulation([load_app(str(cli.folder / "letters_long.py"))], url=cli.url) as sim:
        freeze(cli, sim)
        sim.start("letters", {"id": "L-1"})
        sim.decide("letters/L-1", "approved", by="ann")
        told = cli.ok("show", "letters/L-1").out
    headline, _, incident = told.partition("incident i")
    assert headline.count("line 7 of it") == 2
    assert "line 99 of it" not in headline
    assert "line 99 of it" in incident
