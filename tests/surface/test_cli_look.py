"""What `show`, `list`, `history` and `tasks` print, word for word."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.support.cli import CLAIMS, Cli, freeze
from tests.support.workers import lapse

from longcase import Longcase, days, hours
from longcase.cli.loading import load_app
from longcase.history.event import instant_text
from longcase.testing import Simulation

pytestmark = pytest.mark.usefixtures("store_url")  # on every kind of store


def test_row_W8_one_screen_answers_status_stage_waiting_whose_since_expected_next_owner(
    cli: Cli, sim: Simulation
) -> None:
    sim.start("claims", {"id": "C-1", "amount": 250})
    sim.advance(hours(3))
    freeze(cli, sim)
    assert cli.ok("show", "claims/C-1").out == (
        "claims/C-1: Waiting for clerks: needs iban, since Mon 2026-01-05 09:00, expected Wed 2026-01-07 09:00,"
        " then bosses.\n\n"
        "status       open\n"
        "stage        intake (visit 1, since Mon 2026-01-05 09:00)\n"
        "waiting on   needs iban\n"
        "whose move   clerks\n"
        "since        Mon 2026-01-05 09:00 (3 h ago)\n"
        "expected by  Wed 2026-01-07 09:00\n"
        "stage until  Thu 2026-01-08 09:00\n"
        "case until   Thu 2026-01-15 09:00\n"
        "next         payment, review\n"
        "owner        desk\n"
        'object       {"id": "C-1", "name": "", "amount": 250, "iban": null, "price": null, "ratio": null,'
        ' "due": null, "at": null, "tags": []}\n\n'
        "All times are UTC. More: longcase history claims/C-1\n"
    )


def test_show_says_how_many_answers_are_given_and_what_comes_then(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1", "amount": 250, "iban": "NL1"})
    sim.decide("claims/C-1", "approved", by="ann")
    first = cli.ok("show", "claims/C-1").out.splitlines()[0]
    assert first == (
        'claims/C-1: Waiting for clerks (2 needed, 1 given): "Pay it?", since Mon 2026-01-05 09:00,'
        ' expected Wed 2026-01-07 09:00, then "rejected" stands.'
    )


def test_show_says_what_is_overdue(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1", "amount": 250})
    sim.advance(days(3))
    freeze(cli, sim)
    shown = cli.ok("show", "claims/C-1").out
    assert "expected Wed 2026-01-07 09:00 (overdue)." in shown
    assert "whose move   clerks, bosses" in shown


def test_show_names_an_incident_its_owner_and_the_repairs_that_apply(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1", "amount": 5, "iban": "NL1"})
    shown = cli.ok("show", "claims/C-1").out
    assert shown.startswith("claims/C-1: Stopped, desk to act: activity_failed: ")
    assert "status       open" in shown
    assert "what applies: retry, set-result, correct, restart, move, cancel" in shown


def test_show_of_a_closed_case(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1", "amount": 250, "iban": "NL1"})
    sim.decide("claims/C-1", "rejected", by="ann", reason="too late")
    shown = cli.ok("show", "claims/C-1").out.splitlines()
    assert shown[0] == "claims/C-1: Closed as rejected on Mon 2026-01-05 09:00: too late."
    assert "status  closed: rejected" in shown


def test_show_of_a_case_no_worker_has_seen(cli: Cli) -> None:
    cli.ok("start", "claims", '{"id": "C-1"}')
    assert "not yet taken up by a worker." in cli.ok("show", "claims/C-1").out


def test_an_answer_that_no_worker_has_taken_up_is_said_to_wait_for_one(cli: Cli) -> None:
    with Simulation([load_app(str(CLAIMS))], url=cli.url) as sim:
        freeze(cli, sim)
        sim.start("claims", {"id": "C-1", "amount": 250, "iban": "NL1"})
        cli.ok("decide", "claims/C-1", "rejected", "--reason", "late")
        shown = cli.ok("show", "claims/C-1").out
        assert 'waiting on   a worker, to go on with the answer to "Pay it?"' in shown
        assert "longcase worker APP" not in shown, "the simulation is a worker"
    shown = cli.ok("show", "claims/C-1").out
    assert 'review since Mon 2026-01-05 09:00, waiting for a worker, to go on with the answer to "Pay it?".' in shown
    assert "inputs       1 accepted, not yet applied" in shown
    assert "Nobody moves it: no worker is alive: longcase worker APP" in shown
    asked = cli.ok("show", "claims/C-1", "--json").json
    assert (asked["waiting_for"], asked["whose_move"], asked["unserved"]) == ("worker", "clerks", True)
    (row,) = cli.ok("list", "--waiting", "worker", "--json").json
    assert (row["waiting_on"], row["whose_move"]) == ("a worker", "clerks")


CALLS = """
from pydantic import BaseModel
from longcase import Case, Next, Retry, Team, Workflow, activity, days, minutes

class Call(BaseModel):
    id: str

desk = Team("desk")
calls = Workflow("calls", object=Call, key="id", owner=desk, expect=days(1))

@activity(owner=desk, retry=Retry(initial=minutes(5)))
async def ring(number: str) -> None:
    raise ConnectionError("engaged")

@calls.stage(owner=desk, expect=days(1))
async def ringing(case: Case[Call]) -> Next:
    await ring(case.key)
    return calls.close("reached")
"""


def test_the_instant_of_the_next_try_is_written_like_every_other(cli: Cli) -> None:
    (cli.folder / "calls.py").write_text(CALLS)
    with Simulation([load_app(str(cli.folder / "calls.py"))], url=cli.url) as sim:
        freeze(cli, sim)
        sim.start("calls", {"id": "T-1"})
        (call,) = sim.state("calls/T-1").calls.values()
        said = [cli.ok("show", "calls/T-1").out, cli.ok("list").out, cli.ok("history", "calls/T-1").out]
        assert [re.findall(r"\d{4}-\d\d-\d\dT", out) for out in said] == [[], [], []]
        assert all("ring, attempt 2 at Mon 2026-01-05 09:0" in out for out in said[:2])
        assert f"next try {call['next_try'][:19].replace('T', ' ')}" in said[2]
        assert call["next_try"] in cli.ok("show", "calls/T-1", "--json").json["waiting_on"]


def test_a_case_that_waits_for_somebody_else_is_not_said_to_lack_a_worker(cli: Cli) -> None:
    with Simulation([load_app(str(CLAIMS))], url=cli.url) as sim:
        freeze(cli, sim)
        sim.start("claims", {"id": "C-1", "amount": 250, "iban": "NL1"})
    assert cli.ok("show", "claims/C-1", "--json").json["unserved"] is False
    cli.ok("signal", "claims/C-1", "noted", '{"text": "x"}')
    assert cli.ok("show", "claims/C-1", "--json").json["unserved"] is True


async def test_a_case_that_a_dead_worker_holds_is_said_to_lack_one(store_url: str) -> None:
    async with Longcase([load_app(str(CLAIMS))], url=store_url) as longcase:
        store: Any = longcase.store
        dead, other = await store.join("here", 1), await store.join("here", 2, codes={"claims": "f"})
        await longcase.service.start("claims", {"id": "C-1"})
        assert await store.ready(instant_text(longcase.env.now()), dead, 1) == [1]
        assert not (await longcase.service.show("claims/C-1")).unserved
        await store.leave(other)
        await lapse(store, dead)
        assert (await longcase.service.show("claims/C-1")).unserved


def test_show_as_json_has_every_answer(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1", "amount": 250})
    shown = cli.ok("show", "claims/C-1", "--json").json
    wanted = {
        "case": "claims/C-1", "status": "open", "stage": "intake", "visit": 1, "owner": "desk",
        "waiting_on": "needs iban", "whose_move": "clerks", "since": "2026-01-05T09:00:00.000000Z",
        "expected_by": "2026-01-07T09:00:00.000000Z", "pending_inputs": 0, "as_of": "2026-01-05T09:00:00.000000Z",
    }  # fmt: skip
    assert {name: shown[name] for name in wanted} == wanted


def test_show_names_the_next_steps_once_a_worker_has_stored_the_map(cli: Cli) -> None:
    cli.ok("start", "claims", '{"id": "C-1"}')
    with cli.worker():
        pass
    assert cli.ok("show", "claims/C-1", "--json").json["next"] == ["payment", "review"]


def test_list_transcript(cli: Cli, sim: Simulation) -> None:
    for number, amount in enumerate((250, 5), 1):
        sim.start("claims", {"id": f"C-{number}", "amount": amount, "iban": "NL1"})
    sim.start("claims", {"id": "C-3"})
    sim.advance(days(2) + hours(1))
    freeze(cli, sim)
    lines = cli.ok("list", "--status", "all").out.splitlines()
    assert [line[:35].rstrip() for line in lines] == [
        "CASE        STATUS            STAGE",
        "claims/C-1  closed: rejected  revie",
        "claims/C-2  open              payme",
        "claims/C-3  open              intak",
    ]
    assert "Wed 2026-01-07 09:00 late" in lines[3]


@pytest.mark.parametrize(
    ("options", "cases"),
    [
        ([], ["claims/C-1", "claims/C-2", "claims/C-3"]),
        (["--waiting", "person"], ["claims/C-1"]),
        (["--incidents"], ["claims/C-2"]),
        (["--whose", "clerks", "--stage", "intake"], ["claims/C-3"]),
        (["--owner", "clerks"], ["claims/C-1"]),
        (["--status", "closed"], []),
        (["--overdue"], []),
        (["--after", "2"], ["claims/C-3"]),
    ],
)
def test_list_narrows(cli: Cli, sim: Simulation, options: list[str], cases: list[str]) -> None:
    sim.start("claims", {"id": "C-1", "amount": 250, "iban": "NL1"})
    sim.start("claims", {"id": "C-2", "amount": 5, "iban": "NL1"})
    sim.start("claims", {"id": "C-3"})
    assert [row["case"] for row in cli.ok("list", *options, "--json").json] == cases


def test_list_says_how_to_go_on(cli: Cli, sim: Simulation) -> None:
    for number in range(3):
        sim.start("claims", {"id": f"C-{number}"})
    result = cli("list", "--limit", "2")
    assert result.err == "more: longcase list --limit 2 --after 2\n"
    assert len(result.out.splitlines()) == 3


def test_history_transcript(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1", "amount": 250})
    cli.ok("set", "claims/C-1", "iban=NL1")
    sim.run()
    cli.ok("decide", "claims/C-1", "rejected", "--reason", "twice", "--as", "bob")
    sim.run()
    lines = cli.ok("history", "claims/C-1").out.splitlines()
    assert lines[8] == '   9  2026-01-05 09:00:00  person:bob        bob answered "rejected": twice'
    told = [line[45:] for line in lines]
    assert told == [
        "case started", "entered intake", "asked clerks: needs iban",
        "corrected iban=NL1, before iban=nothing: data provided", "the missing data is there",
        "decided is_small: no (P-1 v1)", "entered review", "asked clerks: Pay it?", 'bob answered "rejected": twice',
        'the answer is "rejected": twice', "closed as rejected: twice",
    ]  # fmt: skip


def test_the_history_names_a_call_as_its_later_lines_do(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1", "amount": 5, "iban": "NL1"})
    told = cli.ok("history", "claims/C-1").out
    assert "called pay (2.c1)" in told
    assert "2.c1 is finally lost" in told or "attempt 1 of 2.c1" in told


def test_every_event_type_has_words() -> None:
    from longcase.history.event import CATALOGUE
    from longcase.insight.wording import _TOLD

    assert set(_TOLD) == set(CATALOGUE)


def test_history_pages_and_is_json_lines(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1"})
    events = cli.ok("history", "claims/C-1", "--json").lines
    assert [event["seq"] for event in events] == [1, 2, 3]
    assert events[0]["data"]["object"]["id"] == "C-1"
    assert [e["seq"] for e in cli.ok("history", "claims/C-1", "--json", "--after", "1", "--limit", "1").lines] == [2]


def test_tasks_are_listed_with_the_answers_they_take(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1", "amount": 250, "iban": "NL1"})
    sim.start("claims", {"id": "C-2"})
    rows = cli.ok("tasks", "--json").json
    assert {row["case"]: (row["question"], row["answers"], row["field"]) for row in rows} == {
        "claims/C-1": ("Pay it?", ["approved", "rejected", "returned"], None),
        "claims/C-2": ("needs iban", [], "iban"),
    }
    assert rows[0]["whose"] == ["clerks"]
    assert [row["case"] for row in cli.ok("tasks", "--case", "claims/C-2", "--json").json] == ["claims/C-2"]
    assert cli.ok("tasks", "--of", "bosses").out == "no open task\n"
    assert "longcase set claims/C-2 iban=..." in cli.ok("tasks").out


def test_row_85_control_characters_and_ansi_in_data_reach_no_terminal(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1", "name": "a\x1b[31mred\r\n\x07\u202eevil", "amount": 5, "iban": "NL1"})
    for words in (
        ["show", "claims/C-1"],
        ["list"],
        ["history", "claims/C-1", "--data"],
        ["show", "claims/C-1", "--json"],
    ):
        out = cli.ok(*words).out
        assert not {"\x1b", "\r", "\x07", "\u202e"} & set(out), words
    assert "the bank is\\x1b[31m away" in cli.ok("show", "claims/C-1").out
    assert cli.ok("show", "claims/C-1", "--json").json["object"]["name"] == "a\x1b[31mred\r\n\x07\u202eevil"
