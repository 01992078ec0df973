"""I41: whoever comes for one tenant neither sees nor touches a case of another, by the command line or from Python."""

from __future__ import annotations

import json
from typing import Any

import apsw
import pytest
import typer
from pydantic import BaseModel
from tests.support.cli import CLAIMS, Cli, freeze
from tests.surface.claims import Claim, Note, claims, noted

from longcase import Case, Longcase, LongcaseClient, Next, Team, Workflow, days
from longcase.cli import steps
from longcase.cli.main import app
from longcase.errors import CaseNotFound, UsageError
from longcase.testing import Simulation

pytestmark = pytest.mark.usefixtures("store_url")  # on every kind of store

desk = Team("desk")

# Every command that names a case, with what it takes beside.
OF_A_CASE = {
    "show": (), "history": (), "tasks": (), "rebuild": (), "signal": ("noted", '{"text": "x"}'), "set": ("iban=NL1",),
    "decide": ("approved",), "retry": (), "redo": (), "skip": (), "set-result": ("1",),
    "move": ("payment", "--reason", "x"), "restart": ("--reason", "x"), "correct": ("amount:=1", "--reason", "x"),
    "cancel": ("--reason", "x"),
}  # fmt: skip
FOR_ALL = {
    "dev": (), "worker": (), "workers": (), "deploy": ("check",), "map": (), "verify": (), "doctor": (),
    "backup": ("copy.db",), "restore": ("copy.db",), "migrate": (),
}  # fmt: skip


class Thing(BaseModel):
    id: str


inner = Workflow("inner", object=Thing, key="id", owner=desk, expect=days(5))
outer = Workflow("outer", object=Thing, key="id", owner=desk, expect=days(5))


@inner.stage(expect=days(1))
async def standing(case: Case[Thing]) -> Next:
    answer = await case.approval("Good?", of=desk, within=days(1))
    return inner.close("done", result=answer.answer)


@outer.stage(expect=days(1))
async def starting(case: Case[Thing]) -> Next:
    ended = await case.child(inner, Thing(id="shared"))
    return outer.close("done", result=ended.result)


def rows(cli: Cli) -> list[dict[str, Any]]:
    """Return all cases of all tenants, as a store keeps them."""
    with LongcaseClient(url=cli.url) as longcase:
        return longcase.query("SELECT tenant, key, events, accepted_inputs FROM case_overview ORDER BY case_no")


@pytest.fixture
def two(cli: Cli, sim: Simulation) -> Cli:
    """A case of the same key for each of two tenants, and one that only acme has; each waits for its iban."""
    cli.ok("start", "claims", '{"id": "C-1", "amount": 5}')
    assert (
        cli.ok("start", "claims", '{"id": "C-1", "amount": 700}', "--tenant", "acme", "--json").json["did"] == "started"
    )
    cli.ok("start", "claims", '{"id": "C-2"}', "--tenant", "acme")
    sim.run()
    return cli


def test_the_verbs_here_are_all_there_are() -> None:
    commands: dict[str, Any] = getattr(typer.main.get_command(app), "commands", {})
    assert {name for name, one in commands.items() if any(p.name == "case" for p in one.params)} == set(OF_A_CASE)
    assert set(FOR_ALL) == steps.of_every_tenant


@pytest.mark.parametrize("verb", OF_A_CASE)
def test_inv_41_no_verb_finds_a_case_of_another_tenant(two: Cli, verb: str) -> None:
    before = rows(two)
    case = ("--case", "claims/C-2") if verb == "tasks" else ("claims/C-2",)
    for named in ((), ("--tenant", "other")):
        refused = two.refused(3, verb, *case, *OF_A_CASE[verb], *named)
        assert refused.error["code"] == "case_not_found"
        assert refused.error["message"].startswith("no case ")
        assert refused.error["message"].endswith(f"claims/C-2{' of tenant other' if named else ''}")
        assert "acme" not in refused.err
    assert rows(two) == before


@pytest.mark.parametrize("verb", FOR_ALL)
def test_what_looks_at_all_tenants_refuses_to_be_told_one(cli: Cli, verb: str) -> None:
    refused = cli.refused(2, verb, *FOR_ALL[verb], "--tenant", "acme")
    assert refused.error["message"] == f"{verb} is for all tenants: --tenant cannot narrow it"


def test_one_key_is_a_case_of_each_tenant(two: Cli, sim: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [row["case"] for row in two.ok("list", "--json").json] == ["claims/C-1"]
    assert [row["case"] for row in two.ok("tasks", "--json").json] == ["claims/C-1"]
    assert two.ok("list", "--tenant", "nobody").out == "no open case\n"
    assert "tenant" not in two.ok("show", "claims/C-1").out
    monkeypatch.setenv("LONGCASE_TENANT", "acme")  # from here on acme, unless the command says otherwise
    assert [row["case"] for row in two.ok("list", "--json").json] == ["claims/C-1", "claims/C-2"]
    assert [row["case"] for row in two.ok("tasks", "--json").json] == ["claims/C-1", "claims/C-2"]
    shown = two.ok("show", "claims/C-1", "--json").json
    assert (shown["tenant"], shown["object"]["amount"]) == ("acme", 700)
    assert "tenant       acme" in two.ok("show", "claims/C-1").out
    assert two.ok("show", "claims/C-1", "--tenant", "main", "--json").json["object"]["amount"] == 5
    two.ok("signal", "claims/C-1", "noted", '{"text": "of acme"}', "--key", "K")
    told = two.ok("signal", "claims/C-1", "noted", '{"text": "of main"}', "--key", "K", "--tenant", "main", "--json")
    assert not told.json["duplicate"], "a sender's key is the tenant's"
    two.ok("set", "claims/C-1", "iban=NL7")
    sim.run()
    assert two.ok("show", "claims/C-1", "--json").json["object"]["iban"] == "NL7"
    main = two.ok("show", "claims/C-1", "--tenant", "main", "--json").json
    assert (main["object"]["iban"], main["waiting_for"]) == (None, "data")
    two.ok("cancel", "claims/C-1", "--reason", "withdrawn")
    sim.run()
    assert [row["case"] for row in two.ok("list", "--status", "closed", "--json").json] == ["claims/C-1"]
    assert two.ok("list", "--status", "closed", "--tenant", "main", "--json").json == []
    assert two.ok("verify").out == "3 cases, 0 findings\n"
    assert two.ok("map", "--conform", "-w", "claims").out.splitlines()[1:] == ["order: 0 findings"]
    assert two.ok("deploy", "check").out == "2 open cases go on, 0 would be held\n"
    two.ok("set", "claims/C-1", "iban=NL5", "--tenant", "main")
    sim.run()
    told = two.ok("map", "--conform", "-w", "claims").out.splitlines()[1:]
    assert told == ["order: 0 findings"], "the visits of two cases are not one, although their key is"


def test_a_csv_starts_cases_of_its_tenant(cli: Cli) -> None:
    (cli.folder / "claims.csv").write_text("id,amount\nC-1,1\nC-2,2\n")
    cli.ok("start", "claims", '{"id": "C-1", "amount": 1}')
    told = cli.ok("start", "claims", "--csv", "claims.csv", "--tenant", "acme")
    assert told.out == "2 started, 0 existing, 0 refused\n"
    assert cli.ok("start", "claims", "--csv", "claims.csv").out == "1 started, 1 existing, 0 refused\n"
    assert sorted((row["tenant"], row["key"]) for row in rows(cli)) == [
        ("acme", "C-1"), ("acme", "C-2"), ("main", "C-1"), ("main", "C-2"),
    ]  # fmt: skip


def test_next_steps_name_the_tenant_too(cli: Cli) -> None:
    said = cli.ok("start", "claims", '{"id": "C-1"}', "--tenant", "acme").out
    assert said.splitlines()[1] == "  longcase show --tenant acme claims/C-1"
    shown = cli.ok("show", "claims/C-1", "--tenant", "acme").out
    assert ": longcase worker APP\n" in shown, "a worker is everybody's"
    assert shown.endswith("More: longcase history --tenant acme claims/C-1\n")


def test_a_period_and_a_purge_are_the_tenants(cli: Cli, sim: Simulation) -> None:
    for tenant in ("main", "acme"):
        cli.ok("start", "claims", '{"id": "C-1"}', "--tenant", tenant)
        cli.ok("cancel", "claims/C-1", "--reason", "withdrawn", "--tenant", tenant)
    sim.run()
    cli.ok("keep", "claims", "30 days", "--tenant", "acme")
    assert cli.ok("keep").out == "every workflow: for ever\n"
    cli.ok("keep", "claims", "7 years")
    (kept,) = cli.ok("keep", "--tenant", "acme", "--json").json
    assert (kept["workflow"], kept["keep"]) == ("claims", "30 days")
    (kept,) = cli.ok("keep", "--json").json
    assert kept["keep"] == "7 years"
    sim.advance(days(31))
    freeze(cli, sim)
    assert cli.ok("export", "none.jsonl", "--due", "--json").json["export"] is None
    assert cli.ok("export", "acme.jsonl", "--due", "--tenant", "acme", "--json").json["cases"] == 1
    assert cli.ok("export", "main.jsonl", "--json").json["cases"] == 1
    assert json.loads((cli.folder / "acme.jsonl").read_text().splitlines()[0])["tenant"] == "acme"
    assert cli.ok("purge", "--yes", "--json").json[0]["purged"] == 0
    assert cli.ok("purge", "--yes", "--tenant", "acme", "--json").json[0]["purged"] == 1
    assert cli.refused(3, "show", "claims/C-1", "--tenant", "acme").error["code"] == "case_purged"
    assert cli.refused(3, "show", "claims/C-1", "--tenant", "other").error["code"] == "case_not_found"
    assert cli.ok("show", "claims/C-1", "--json").json["status"] == "closed"


def test_conform_knows_the_workflow_of_any_tenants_case(cli: Cli) -> None:
    cli.ok("start", "claims", '{"id": "C-1"}', "--tenant", "acme")  # nothing has moved it: no map is stored
    assert cli.ok("map", "--conform", "-w", "claims").out.splitlines()[-1] == "order: 0 findings"
    cli.refused(3, "map", "--conform", "-w", "claim")


def test_what_looks_at_all_names_the_tenant_of_a_case(cli: Cli) -> None:
    source = CLAIMS.read_text()
    (cli.folder / "other.py").write_text(
        source.replace("case.require(lambda claim: claim.iban,", "case.require(lambda claim: claim.name,")
    )
    with Simulation([claims], url=cli.url) as sim:
        freeze(cli, sim)
        cli.ok("start", "claims", '{"id": "C-1"}', "--tenant", "acme")
        sim.run()
    held = cli("deploy", "check", "other.py")
    assert held.status == 5
    assert held.out.startswith("claims/C-1 of tenant acme in intake, visit 1: code_changed: ")
    assert cli("deploy", "check", "other.py", "--json").json["held"][0]["tenant"] == "acme"


@pytest.mark.only_sqlite  # it is damaged by hand
def test_verify_and_doctor_name_the_tenant_and_lead_to_its_case(two: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = apsw.Connection(str(two.db))
    connection.execute("UPDATE cases SET owner = 'mallory' WHERE case_no = 2").fetchall()
    found = two("verify")
    assert found.out.startswith("I3: claims/C-1 of tenant acme (case 2): column owner holds mallory")
    assert found.err == "hint: longcase rebuild --tenant acme claims/C-1\n"
    assert two("verify", "--json").json["findings"][0]["tenant"] == "acme"
    two.ok("rebuild", "claims/C-1")
    two.ok("rebuild", "--tenant", "other")
    assert two("verify").status == 6, "that was another's"
    two.ok("rebuild", "--tenant", "acme", "claims/C-1")
    assert two.ok("verify").status == 0
    connection.execute("UPDATE cases SET owner = 'mallory' WHERE case_no IN (1, 3)").fetchall()
    assert two.ok("rebuild").out.splitlines() == [
        "claims/C-1: rebuilt from its history", "claims/C-2 of tenant acme: rebuilt from its history",
    ]  # fmt: skip
    lost = "UPDATE cases SET wake_at = '', wait_count = 0, state = '{}' WHERE case_no IN (1, 2)"
    connection.execute(lost).fetchall()
    monkeypatch.setenv("LONGCASE_TENANT", "acme")
    stuck = [one for one in two("doctor", "--json").json if one["name"] == "stuck"]
    assert [one["message"].partition(" since ")[0] for one in stuck] == [
        "claims/C-1 in intake", "claims/C-1 of tenant acme in intake",
    ]  # fmt: skip
    move = "claims/C-1 intake --reason 'nothing moved it'"
    assert [one["hint"] for one in stuck] == [
        f"longcase move --tenant main {move}", f"longcase move {move} --tenant acme",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["", " ", "a b", "a/b", "é", "x" * 129, None, 7])
def test_a_tenant_has_a_name(name: Any) -> None:
    with pytest.raises(UsageError, match=r"tenant .*: expected 1 to 128 of the characters"):
        Longcase([claims], tenant=name)


def test_a_bad_name_is_refused_by_the_command_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "tenant 'a b'" in cli.refused(2, "start", "claims", '{"id": "C-1"}', "--tenant", "a b").error["message"]
    assert "tenant ''" in cli.refused(2, "list", "--tenant", "").error["message"]
    monkeypatch.setenv("LONGCASE_TENANT", "")
    cli.ok("start", "claims", '{"id": "C-1"}')
    assert rows(cli)[0]["tenant"] == "main"


def test_the_synchronous_face(cli: Cli) -> None:
    with LongcaseClient([claims], url=cli.url, tenant="acme") as acme, LongcaseClient([claims], url=cli.url) as main:
        assert not acme.start(claims, Claim(id="C-1")).existing
        with pytest.raises(CaseNotFound, match="no case claims/C-1"):
            main.show("claims/C-1")
        for work in (
            lambda: main.signal("claims/C-1", noted, Note(text="x")), lambda: main.cancel("claims/C-1", reason="x"),
            lambda: main.set_fields("claims/C-1", {"iban": "NL1"}), lambda: main.tasks("claims/C-1"),
        ):  # fmt: skip
            with pytest.raises(CaseNotFound):
                work()
        assert not main.start(claims, Claim(id="C-1"), idempotency_key="K").existing
        assert acme.start(claims, Claim(id="C-1")).existing
        assert acme.show("claims/C-1").state.tenant == "acme"


def test_children_are_of_their_parents_tenant(cli: Cli) -> None:
    with Simulation([outer, inner], url=cli.url) as sim:
        doors = {
            name: LongcaseClient([outer, inner], url=cli.url, tenant=name, env=sim.env) for name in ("acme", "zeta")
        }
        for door in doors.values():
            door.start(outer, Thing(id="O"))
        sim.run()
        assert [row["tenant"] for row in rows(cli)] == ["acme", "zeta"] * 2
        doors["acme"].decide("inner/shared", "approved", actor=None)
        sim.run()
        close = {name: (door.show("outer/O").state.close or {}).get("result") for name, door in doors.items()}
        assert close == {"acme": "approved", "zeta": None}
        doors["acme"].start(outer, Thing(id="O"), again=True)
        sim.run()
        doors["zeta"].cancel("outer/O", reason="withdrawn")
        sim.run()
        assert doors["zeta"].show("inner/shared").state.status == "closed"
        assert doors["acme"].show("inner/shared").state.status == "open"
        for door in doors.values():
            door.close()
