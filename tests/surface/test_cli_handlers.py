"""What the command line says of handlers: while one runs, while the stage waits for it, and afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.cli import Cli, freeze

from longcase import days, hours
from longcase.cli.loading import load_app
from longcase.testing import Simulation

pytestmark = pytest.mark.usefixtures("store_url")  # on every kind of store

APP = """
from pydantic import BaseModel
from longcase import Case, Next, Team, Workflow, activity, days, hours

desk, post = Team("desk"), Team("post")


class Order(BaseModel):
    id: str
    remarks: list[str] = []


class Remark(BaseModel):
    text: str


orders = Workflow("orders", object=Order, key="id", owner=desk, expect=days(5))
remark = orders.signal("remark", Remark)


@orders.stage(expect=days(2))
async def work(case: Case[Order]) -> Next:
    await case.pause(days(1), because="work")
    return orders.close("done")


@orders.on(remark, interrupts=False, owner=post, expect=hours(3))
async def remarked(case: Case[Order], said: Remark) -> None:
    await case.pause(hours(2), because="writing it down")
    case.update(remarks=[*case.object.remarks, said.text])
"""


@pytest.fixture
def watched(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulation]:
    app = Path(cli.folder) / "watched.py"
    app.write_text(APP, encoding="utf-8")
    monkeypatch.setenv("LONGCASE_APP", str(app))
    with Simulation([load_app(str(app))], url=cli.url) as simulation:
        freeze(cli, simulation)
        yield simulation


def test_show_names_the_handler_that_runs_and_the_signals_that_wait(cli: Cli, watched: Simulation) -> None:
    watched.start("orders", {"id": "O-1"})
    for text in ("a", "b", "c"):
        watched.signal("orders/O-1", "remark", {"text": text})
    freeze(cli, watched)
    shown = cli.ok("show", "orders/O-1").out
    assert (
        "handlers     remarked on remark (post, since Mon 2026-01-05 09:00, expected Mon 2026-01-05 12:00)\n"
        "signals      remark, remark\n"
    ) in shown
    assert "whose move   post\n" in shown
    assert "stage done" not in shown
    told = cli.ok("show", "orders/O-1", "--json").json
    assert list(told["handlers"]) == ["remarked"]
    assert (told["handlers"]["remarked"]["signal"], told["returned"]) == ("remark", None)
    assert told["kept_signals"] == ["remark", "remark"]


def test_show_says_that_a_stage_is_done_and_waits_for_its_handler(cli: Cli, watched: Simulation) -> None:
    watched.start("orders", {"id": "O-1"})
    watched.advance(hours(23))
    watched.signal("orders/O-1", "remark", {"text": "late"})
    watched.advance(hours(1))
    freeze(cli, watched)
    shown = cli.ok("show", "orders/O-1").out
    assert shown.startswith(
        "orders/O-1: Stage work is done, waits for handler remarked. Pausing: writing it down, since"
    )
    assert "stage done   close:done, once its handlers have ended\n" in shown
    assert cli.ok("show", "orders/O-1", "--json").json["returned"]["exit"] == "close:done"
    (row,) = cli.ok("list", "--waiting", "timer", "--json").json
    assert (row["case"], row["waiting_on"], row["whose_move"]) == ("orders/O-1", "writing it down", "post")


def test_history_tells_of_a_handler_in_words(cli: Cli, watched: Simulation) -> None:
    watched.start("orders", {"id": "O-1"})
    watched.advance(hours(23))
    watched.signal("orders/O-1", "remark", {"text": "late"})
    watched.signal("orders/O-1", "remark", {"text": "too late"})
    watched.advance(days(1))
    told = cli.ok("history", "orders/O-1").out
    for sentence in (
        "handler remarked took the signal remark",
        "the stage is done (close:done), waits for remarked",
        "handler remarked is done",
        "closed as done",
    ):
        assert sentence in told
    assert cli.ok("show", "orders/O-1").out.startswith("orders/O-1: Closed as done")
    assert "0 off the map" in cli.ok("map", "--conform").out


def test_describe_map_and_check_know_a_handler(cli: Cli, watched: Simulation) -> None:
    assert cli.ok("check").out == ""
    assert "on remark, interrupts no: remarked, owner post, beside any stage\n" in cli.ok("describe").out
    assert "on remark, beside any stage: remarked (owner post, expected 3 hours, interrupts: no)" in cli.ok("map").out
    assert "beside, on remark" in cli.ok("map", "--mermaid").out
