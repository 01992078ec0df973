"""Forms that people fill in: what does not fit is refused to them, and the case waits on for one that does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, field_validator
from tests.support.cli import Cli, freeze

from longcase import Case, Next, Team, Workflow, days
from longcase.cli.loading import load_app
from longcase.errors import InvalidInput
from longcase.testing import Simulation

pytestmark = pytest.mark.usefixtures("store_url")  # on every kind of store

PARCELS = """
from __future__ import annotations
from datetime import date
from typing import Literal
from pydantic import BaseModel, Field
from longcase import Case, Next, Team, Workflow, days

desk = Team("desk")

class Parcel(BaseModel):
    id: str

class Weighed(BaseModel):
    grams: int = Field(ge=1, le=30_000)
    by: Literal["sea", "air"]
    on: date | None = None

parcels = Workflow("parcels", object=Parcel, key="id", owner=desk, expect=days(3))

@parcels.stage(owner=desk, expect=days(3))
async def weighing(case: Case[Parcel]) -> Next:
    weighed = await case.ask("What does it weigh?", answer=Weighed, of=desk, within=days(1), label="weight")
    return parcels.close("weighed", result={"grams": weighed.grams, "by": weighed.by})
"""
REFUSED = {
    "a text for a number": ('{"grams": "70", "by": "sea"}', "/grams", "expected a whole number, got '70'"),
    "below the limit": ('{"grams": 0, "by": "sea"}', "/grams", "expected at least 1, got 0"),
    "above the limit": ('{"grams": 30001, "by": "sea"}', "/grams", "expected at most 30000, got 30001"),
    "none of the words": ('{"grams": 70, "by": "rail"}', "/by", "expected one of \"sea\", \"air\", got 'rail'"),
    "no day": ('{"grams": 70, "by": "sea", "on": "2026-02-30"}', "/on", "expected a date like 2026-01-31"),
    "missing": ('{"grams": 70}', "/by", "missing"),
    "misspelt": ('{"grams": 70, "by": "sea", "om": null}', "/om", "unknown field"),
}  # fmt: skip


@pytest.fixture
def asked(cli: Cli) -> Iterator[Simulation]:
    """A mover whose one case asks for a form."""
    (cli.folder / "parcels.py").write_text(PARCELS)
    with Simulation([load_app(str(cli.folder / "parcels.py"))], url=cli.url) as sim:
        freeze(cli, sim)
        sim.start("parcels", {"id": "P-1"})
        yield sim


@pytest.mark.parametrize(("answer", "place", "says"), REFUSED.values(), ids=REFUSED)
def test_row_25_a_form_that_does_not_fit_is_refused_and_the_task_stays_open(
    cli: Cli, asked: Simulation, answer: str, place: str, says: str
) -> None:
    error = cli.refused(2, "decide", "parcels/P-1", answer).error
    assert error["message"].startswith(f'"What does it weigh?": {place}: {says}')
    assert error["hint"] == "longcase tasks --case parcels/P-1 --json  # has the form"
    asked.run()
    assert [(task.ref, task.task["status"]) for task in asked.tasks("parcels/P-1")] == [("1.q1", "ready")]

    cli.ok("decide", "parcels/P-1", '{"grams": 70, "by": "sea", "on": "2026-01-31"}')
    asked.run()
    close = cli.ok("show", "parcels/P-1", "--json").json["close"]
    assert (close["name"], close["result"]) == ("weighed", {"grams": 70, "by": "sea"})


@pytest.mark.parametrize("answer", [{"grams": 1.5, "by": "sea"}, {"grams": True, "by": "sea"}, {"grams": None}])
def test_row_26_a_form_of_wrong_types_is_refused_to_a_program_by_its_places(
    asked: Simulation, answer: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput) as refused:
        asked.decide("parcels/P-1", answer)
    assert ("/grams", f"expected a whole number, got {answer['grams']}") in refused.value.problems
    assert asked.state("parcels/P-1").incidents == {}


class Thing(BaseModel):
    id: str


class Odd(BaseModel):
    count: int

    @field_validator("count")
    @classmethod
    def odd(cls, count: int) -> int:
        if count % 2 == 0:
            raise ValueError("must be odd")
        return count


def test_an_answer_that_only_its_authors_validator_refuses_says_how_to_ask_anew() -> None:
    desk = Team("desk")
    flow = Workflow("flow", object=Thing, key="id", owner=desk, expect=days(2))

    @flow.stage(owner=desk, expect=days(2))
    async def asked(case: Case[Thing]) -> Next:
        form = await case.ask("How many?", label="many", answer=Odd, of=desk, within=days(1))
        return flow.close("done", result=form.count)

    with Simulation([flow]) as sim:
        case = sim.start(flow, Thing(id="1"))
        sim.decide(case, {"count": 2}, by="ann")
        (opened,) = sim.state(case).incidents.values()
        assert opened["kind"] == "stage_failed"
        assert opened["details"]["hint"] == "longcase restart flow/1 --reason 'the answer does not fit'  # asks anew"
        sim.restart(case)
        sim.decide(case, {"count": 3}, by="ann")
        assert (sim.state(case).close or {})["result"] == 3
