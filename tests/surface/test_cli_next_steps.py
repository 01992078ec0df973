"""What a command says to do next is ready to paste: for the store and the workflows that it was given."""

from __future__ import annotations

import shlex
import signal

import pytest
from tests.support.cli import CLAIMS, Cli, freeze

from longcase.cli.loading import load_app
from longcase.testing import Simulation

pytestmark = pytest.mark.usefixtures("store_url")  # on every kind of store


@pytest.fixture
def named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Return the options that name a store and the workflows, where the environment names neither."""
    monkeypatch.delenv("LONGCASE_APP")
    if cli.url.startswith("sqlite"):
        monkeypatch.delenv("LONGCASE_DATABASE_URL")
    else:
        monkeypatch.setenv("LONGCASE_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nowhere")
    return ("--store", cli.url, "--app", str(CLAIMS))


def steps(text: str) -> list[list[str]]:
    """Return the commands that a text names, one on each line, as a shell takes them apart."""
    return [shlex.split(line[line.index("longcase ") :])[1:] for line in text.splitlines() if "longcase " in line]


def test_the_next_step_of_a_start_shows_the_case_there(cli: Cli, named: tuple[str, ...]) -> None:
    said = cli.ok("start", "claims", '{"id": "C-1"}', *named).out
    (show,) = steps(said)
    assert cli.ok(*show, "--json").json["case"] == "claims/C-1"


def test_the_next_steps_of_show_and_tasks(cli: Cli, named: tuple[str, ...]) -> None:
    with Simulation([load_app(str(CLAIMS))], url=cli.url) as sim:
        freeze(cli, sim)
        sim.start("claims", {"id": "C-1"})
    (history,) = steps(cli.ok("show", "claims/C-1", *named).out)
    assert "case started" in cli.ok(*history).out
    (answer,) = steps(cli.ok("tasks", *named).out)
    assert answer[-1] == "iban=..."
    cli.ok(*answer[:-1], "iban=NL1")
    assert cli.ok("show", "claims/C-1", *named, "--json").json["object"]["iban"] == "NL1"


def test_the_mend_of_an_error_names_the_store_too(cli: Cli, named: tuple[str, ...]) -> None:
    cli.ok("start", "claims", '{"id": "C-1"}', *named)
    error = cli.refused(3, "show", "claims/C-2", *named).error
    assert [row["case"] for row in cli.ok(*shlex.split(error["hint"])[1:], "--json").json] == ["claims/C-1"]


def test_a_list_goes_on_with_what_narrows_it(cli: Cli, named: tuple[str, ...]) -> None:
    for key in ("C-1", "C-2", "C-3"):
        cli.ok("start", "claims", f'{{"id": "{key}"}}', *named)
    listed = cli("list", "-w", "claims", "--status", "all", "--waiting", "worker", "--limit", "2", *named)
    (more,) = steps(listed.err)
    assert {"--workflow", "--status", "--waiting", "--limit", "--after", "--store"} <= set(more)
    assert [row["case"] for row in cli.ok(*more, "--json").json] == ["claims/C-3"]


def test_a_worker_that_is_missing_is_named_with_its_module(cli: Cli, named: tuple[str, ...]) -> None:
    cli.ok("start", "claims", '{"id": "C-1"}', *named)
    expected = ["worker", "--store", cli.url, str(CLAIMS)]
    assert steps(cli("workers", *named).out) == [expected]
    assert expected in steps(cli.ok("show", "claims/C-1", *named).out)


def test_what_dev_says_to_do_works_as_it_stands(cli: Cli, named: tuple[str, ...]) -> None:
    process = cli.process("dev", *named)
    try:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(6)]
        start, listed, show = steps("".join(said[3:]))
        cli.ok(*start)
        assert "claims/C-1" in cli.ok(*listed).out
        assert cli.ok(*show, "--json").json["case"] == "claims/C-1"
        process.send_signal(signal.SIGTERM)
        assert cli.end(process).status == 0
    finally:
        process.kill()
        process.communicate()


TYPED = """
import datetime, enum
from decimal import Decimal
from typing import Literal
from pydantic import BaseModel, Field
from longcase import Case, Next, Team, Workflow, days

desk = Team("desk")

class Kind(enum.StrEnum):
    one = "one"

class Part(BaseModel):
    what: str

class Order(BaseModel):
    number: str
    kind: Kind
    way: Literal["road", "sea"]
    due: datetime.date
    at: datetime.datetime
    pieces: int
    price: Decimal
    weight: float
    urgent: bool
    tags: list[str]
    first: FIRST

orders = Workflow("orders", object=Order, key="number", owner=desk, expect=days(1))

@orders.stage(owner=desk, expect=days(1))
async def packing(case: Case[Order]) -> Next:
    return orders.close("done")
"""


@pytest.mark.only_sqlite
@pytest.mark.parametrize(("first", "whole"), [("Part | None = None", True), ("Part", False)])
def test_the_object_that_dev_offers_is_one_the_workflow_takes(cli: Cli, first: str, whole: bool) -> None:
    name = "typed_orders" if whole else "nested_orders"
    (cli.folder / f"{name}.py").write_text(TYPED.replace("FIRST", first))
    from longcase.cli.fields import example_of

    example = example_of(load_app(f"{name}.py").orders)
    if whole:
        assert cli.ok("start", "orders", example, "--app", f"{name}.py").out.startswith("orders/C-1: started")
    else:
        assert example == '{"number": "C-1", ...}'


@pytest.mark.only_sqlite
def test_a_secret_of_the_stores_url_is_not_repeated(cli: Cli) -> None:
    from longcase.cli.frame import Session

    for given, shown in (
        ("postgresql://me:secret@db/cases", "postgresql://me:***@db/cases"),
        ("postgresql://db/cases?password=secret", "postgresql://db/cases?password=***"),
        (
            "postgresql://me:pw@db/cases?sslpassword=p@secret&port=1",
            "postgresql://me:***@db/cases?sslpassword=***&port=1",
        ),
    ):
        assert Session(store=given).paste("longcase list") == f"longcase list --store '{shown}'"
    assert Session(store="postgresql://me@db/cases").paste("longcase list").endswith("--store postgresql://me@db/cases")
    assert Session(store="a@b.db").paste("run longcase check x.py") == "run longcase check x.py"
    told = Session(store="a.db", app="b.py").paste("longcase dev APP makes one there; or mend the path: --store PATH")
    assert told == "longcase dev --store a.db b.py makes one there; or mend the path: --store PATH"
    assert Session(store="my cases.db").paste("longcase list, then") == "longcase list --store 'my cases.db', then"


# -- names that are not there --------------------------------------------------------------------


def test_a_stage_that_is_not_there_is_refused_and_the_near_one_named(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1"})
    error = cli.refused(3, "list", "--stage", "intaek").error
    assert (error["message"], error["hint"]) == ("no stage intaek is known here", "did you mean intake?")
    error = cli.refused(3, "list", "--stage", "zzz", "-w", "claims").error
    assert error["message"] == "no stage zzz is known of claims"
    assert error["hint"] == "there: cancel, drop, intake, payment, review"
    for stage in ("review", "payment", "drop"):
        assert cli.ok("list", "--stage", stage).out == "no open case\n"


def test_a_stage_of_the_workflows_is_known_before_any_case_was_in_it(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.ok("start", "claims", '{"id": "C-1"}')  # no worker has stored a map
    assert cli.ok("list", "--stage", "review").out == "no open case\n"
    monkeypatch.delenv("LONGCASE_APP")
    assert cli.refused(3, "list", "--stage", "review").error["hint"] == "there: intake"


@pytest.mark.parametrize("words", [("list", "--owner"), ("list", "--whose"), ("tasks", "--of")], ids=" ".join)
def test_a_team_that_is_not_there_is_named_beside_the_empty_answer(
    cli: Cli, sim: Simulation, words: tuple[str, ...]
) -> None:
    sim.start("claims", {"id": "C-1", "amount": 5, "iban": "NL1"})
    told = cli(*words, "clrks")
    assert (told.status, told.out.startswith("no ")) == (0, True)
    assert told.err == "nothing here is of anybody named clrks; did you mean clerks?\n"
    assert "there: ann, bob, bosses, clerks, desk\n" in cli(*words, "nobody").err
    assert cli.ok(*words, "bosses").out.startswith("no ")


# -- the clock of a store in use -----------------------------------------------------------------


def test_the_clock_of_a_store_in_use_is_left_alone(cli: Cli) -> None:
    cli.ok("start", "claims", '{"id": "C-1"}')
    before = cli.ok("show", "claims/C-1", "--json").json["as_of"]
    error = cli.refused(2, "dev", "--factor", "1000000").error
    assert "it is in use, at a factor of 1;" in error["message"]
    assert error["hint"] == "longcase dev APP --factor 1e+06 --store trial.db"
    after = cli.ok("show", "claims/C-1", "--json").json["as_of"]
    assert after[:13] == before[:13], "another hour: the clock has run away"
    with cli.worker("--factor", "1", command="dev"):
        pass  # the pace it has


def test_a_store_whose_clock_is_scaled_takes_its_own_factor_again(cli: Cli) -> None:
    with cli.worker("--factor", "3600", command="dev"):
        cli.ok("start", "claims", '{"id": "C-1"}')
        assert "at a factor of 3600" in cli.refused(2, "dev", "--factor", "60").error["message"]
    with cli.worker("--factor", "3600", command="dev"):
        cli.until("claims/C-1", lambda case: case["stage"] == "intake")
    first = cli.ok("show", "claims/C-1", "--json").json
    assert first["as_of"] > first["started_at"]
