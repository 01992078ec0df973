"""What somebody gets wrong in the first hour with the Python API is named, with the mend."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel
from tests.support.cli import Cli, freeze
from tests.surface import claims as module
from tests.surface.claims import claims

from longcase import Actor, Case, Longcase, LongcaseClient, Next, Team, Workflow, days
from longcase.errors import InvalidInput, UsageError
from longcase.testing import Simulation


class Thing(BaseModel):
    id: str


@pytest.mark.parametrize("given", [claims, module, None, "claims", ["claims"], [Any]], ids=repr)
def test_workflows_are_given_as_a_list_of_them(given: Any) -> None:
    with pytest.raises(UsageError, match="expected a list of workflow objects or modules") as error:
        Longcase(given)
    assert error.value.hint == "Longcase([onboarding])"


@pytest.mark.parametrize("body", [None, 3, "C-1", ["C-1"]])
async def test_an_object_is_a_model_or_a_dict(store_url: str, body: Any) -> None:
    async with Longcase([claims], url=store_url) as longcase:
        with pytest.raises(InvalidInput, match="object of claims: expected an object or a dict of its fields") as error:
            await longcase.service.start(claims, body)
        assert error.value.hint.startswith('{"id": ..., "name": ...')
        await longcase.service.start(claims, {"id": "C-1"})
        with pytest.raises(InvalidInput, match="signal noted: expected an object"):
            await longcase.service.signal("claims/C-1", "noted", body)


async def test_an_address_is_a_text(store_url: str) -> None:
    async with Longcase([claims], url=store_url) as longcase:
        address: Any = 7
        with pytest.raises(UsageError, match="7 addresses no case, expected workflow/key"):
            await longcase.service.show(address)


def test_a_path_that_is_given_as_a_url_is_told_how_it_is_written(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGCASE_DATABASE_URL", "my/cases.db")
    assert cli.refused(2, "list").error["hint"] == "sqlite:///my/cases.db"
    monkeypatch.setenv("LONGCASE_DATABASE_URL", "mysql://me:secret@host/db")
    error = cli.refused(2, "list").error
    assert error["hint"] == "sqlite:///longcase.db"
    assert "secret" not in str(error)


async def test_an_actor_is_no_bare_name(store_url: str) -> None:
    name: Any = "ann"
    async with Longcase([claims], url=store_url) as longcase:
        await longcase.service.start(claims, {"id": "C-1"})
        with pytest.raises(UsageError, match="'ann' is given as the actor, expected an Actor") as error:
            await longcase.service.cancel("claims/C-1", reason="x", actor=name)
        assert error.value.hint == 'actor=Actor("person:anna.visser")'
        await longcase.service.cancel("claims/C-1", reason="x", actor=Actor("person:ann"))
    with pytest.raises(UsageError, match="is given as the actor"):
        Longcase([claims], url=store_url, actor=name)


NOBODY = ["", "person:", "person: ", "person:ann ", "person:" + "x" * 129, "person:a\x00b", "person:\ud800",
          "person:a\nb", "person:\u202eann", "person:ann\u200b", 7]  # fmt: skip


@pytest.mark.parametrize("name", NOBODY, ids=ascii)
async def test_row_28_a_name_that_nobody_can_read_is_no_actors(store_url: str, name: Any) -> None:
    async with Longcase([claims], url=store_url) as longcase:
        await longcase.service.start(claims, {"id": "C-1"})
        for actor in (Actor(name), Actor("person:ann", on_behalf=name or "person:")):
            with pytest.raises(UsageError, match="names nobody: expected 1 to 128 characters that can be seen"):
                await longcase.service.cancel("claims/C-1", reason="x", actor=actor)
        shown = await longcase.service.show("claims/C-1")
        assert shown.state.status == "open"


def test_row_30_a_name_is_one_however_its_letters_were_typed(store_url: str, cli: Cli) -> None:
    """A quorum counts people: é is one character on one keyboard and two on another."""
    composed, typed = "jos\u00e9", "jose\u0301"
    people = Team("people", members=(typed, "ann"))
    flow = Workflow("flow", object=Thing, key="id", owner=people, expect=days(2))

    @flow.stage(owner=people, expect=days(2))
    async def asked(case: Case[Thing]) -> Next:
        sign_off = await case.approval("Go?", of=people, quorum=2, within=days(1), label="go")
        return flow.close("done", result=list(sign_off.by))

    with Simulation([flow], url=store_url) as sim:
        case = sim.start(flow, Thing(id="T-1"))
        freeze(cli, sim)
        assert not sim.decide(case, "approved", by=typed).duplicate
        assert sim.decide(case, "approved", by=composed).duplicate
        told = "recorded before; nothing changed; 1 more needed"
        assert cli("decide", case, "approved", "--as", typed).out == f"{case}: {told}\n"
        assert cli.refused(2, "decide", case, "approved", "--as", "ann\u200b").error["hint"] == "--as anna.visser"
        sim.decide(case, "approved", by="ann")
        close: Any = sim.state(case).close
        assert close["result"] == [composed, "ann"]


async def test_what_is_started_is_a_workflow_or_its_name(store_url: str) -> None:
    given: Any = Thing
    async with Longcase([claims], url=store_url) as longcase:
        with pytest.raises(UsageError, match="is given as the workflow, expected a workflow or its name") as error:
            await longcase.service.start(given, {"id": "C-1"})
        assert error.value.hint == "one of claims"


@pytest.mark.parametrize("queues", ["default", "", [], None, claims, {"default"}], ids=repr)
async def test_queues_are_given_as_a_list_of_names(store_url: str, queues: Any) -> None:
    async with Longcase([claims], url=store_url) as longcase:
        with pytest.raises(UsageError, match="is given as the queues, expected a list of names") as error:
            longcase.new_worker(queues)
        assert error.value.hint == '["default"]; queues here: default'


@pytest.mark.parametrize(
    ("queues", "hint"),
    [
        (["defualt"], "did you mean default?"),
        (["gpu"], "queues here: default"),
        (["claims"], "claims is a workflow, and a worker moves all that are loaded; queues here: default"),
    ],
    ids=repr,
)
async def test_a_worker_serves_queues_that_are_known(store_url: str, queues: list[str], hint: str) -> None:
    async with Longcase([claims], url=store_url) as longcase:
        with pytest.raises(UsageError, match=f"is bound to queue {queues[0]}, and no call stands in it") as error:
            async with longcase.working(queues):
                pass
        assert error.value.hint == hint
        assert longcase.worker is None, "a start is not handed to a worker that nobody runs"


async def test_beside_a_known_queue_an_unknown_one_is_a_warning(
    store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Longcase([claims], url=store_url) as longcase, longcase.working(["default", "gpu"]):
        pass
    assert "is bound to queue gpu, and no call stands in it; queues here: default" in caplog.text


async def test_parameters_of_a_query_are_no_bare_text(store_url: str) -> None:
    async with Longcase([claims], url=store_url) as longcase:
        with pytest.raises(UsageError, match="'acme' is given as the parameters") as error:
            await longcase.service.query("SELECT key FROM case_overview WHERE tenant = ?", "acme")
        assert error.value.hint == "['acme']"


def test_a_closed_client_says_so_whatever_it_is_asked(store_url: str) -> None:
    client = LongcaseClient([claims], url=store_url, actor=Actor("person:ann"))
    client.start(claims, {"id": "C-1"})
    assert client.history("claims/C-1")[0].actor == "person:ann"
    client.close()
    asked: list[Callable[[], object]] = [
        lambda: client.start(claims, {"id": "C-1"}),
        lambda: client.show("claims/C-1"),
        lambda: client.query("SELECT key FROM case_overview"),
    ]
    for ask in asked:
        with pytest.raises(UsageError, match="the client is closed") as error:
            ask()
        assert error.value.hint == "with LongcaseClient([onboarding]) as longcase: ..."
    client.close()


async def test_a_parameter_of_a_query_has_a_type_that_sql_knows(store_url: str) -> None:
    async with Longcase([claims], url=store_url) as longcase:
        with pytest.raises(UsageError, match="the query does not run"):
            await longcase.service.query("SELECT key FROM case_overview WHERE tenant = ?", [object()])


async def test_a_value_that_is_no_json_is_told_with_what_to_give(store_url: str) -> None:
    given: Any = {"id": "C-1", "amount": Decimal("1.5")}
    async with Longcase([claims], url=store_url) as longcase:
        with pytest.raises(InvalidInput, match="/amount is of type Decimal, expected JSON data") as error:
            await longcase.service.start(claims, given)
        assert error.value.hint == "as text, like a date or a Decimal; or give an object of the model"


async def test_what_is_kept_has_a_bound_from_python_too(store_url: str) -> None:
    """The command line reads so much and no more; what is larger would be read at every turn of the case."""
    large: Any = {"id": "C-2", "name": "x" * 1024 * 1024}
    async with Longcase([claims], url=store_url) as longcase:
        service = longcase.service
        await service.start(claims, {"id": "C-1"})
        with pytest.raises(
            InvalidInput, match=r"object of claims: 1,0\d\d,\d+ bytes, expected at most 1,048,576"
        ) as error:
            await service.start(claims, large)
        assert error.value.hint == "keep the large part elsewhere, and send where it is"
        with pytest.raises(InvalidInput, match=r"object of claims: .* expected at most"):
            await service.start(claims, module.Claim(id="C-2", name=large["name"]))
        with pytest.raises(InvalidInput, match=r"correction of claims/C-1: .* expected at most"):
            await service.correct("claims/C-1", {"name": large["name"]}, reason="x")
        with pytest.raises(InvalidInput, match=r"signal noted: .* expected at most 262,144"):
            await service.signal("claims/C-1", "noted", {"text": "x" * 256 * 1024})


def test_a_member_may_be_written_as_an_actor_is() -> None:
    assert Team("clerks", members=("person:ann", "bob")).members == ("ann", "bob")


async def test_a_signal_and_a_stage_are_given_themselves_or_by_name(store_url: str) -> None:
    given: Any = Thing
    async with Longcase([claims], url=store_url) as longcase:
        await longcase.service.start(claims, {"id": "C-1"})
        with pytest.raises(UsageError, match="is given as the signal, expected a signal or its name") as error:
            await longcase.service.signal("claims/C-1", given, {"text": "x"})
        assert error.value.hint == "one of noted, dropped"
        with pytest.raises(UsageError, match="is given as the stage, expected a stage or its name") as error:
            await longcase.service.move("claims/C-1", given, reason="x")
        assert error.value.hint == "one of intake, review, payment"


@pytest.mark.parametrize(
    ("reason", "told"),
    [(None, "None is given as the reason"), ("x" * 2001, "a reason of 2,001 characters"), ("\0", "^reason: holds NUL")],
)
async def test_a_reason_is_a_text_that_can_be_kept(store_url: str, reason: Any, told: str) -> None:
    async with Longcase([claims], url=store_url) as longcase:
        await longcase.service.start(claims, {"id": "C-1"})
        for asked in (
            longcase.service.cancel("claims/C-1", reason=reason),
            longcase.service.decide("claims/C-1", "approved", reason=reason),
        ):
            with pytest.raises((UsageError, InvalidInput), match=told):
                await asked


async def test_corrected_fields_are_a_dict(store_url: str) -> None:
    fields: Any = ["iban"]
    async with Longcase([claims], url=store_url) as longcase:
        await longcase.service.start(claims, {"id": "C-1"})
        with pytest.raises(InvalidInput, match="expected a dict of fields, got") as error:
            await longcase.service.set_fields("claims/C-1", fields)
        assert error.value.hint == '{"id": ...}'
