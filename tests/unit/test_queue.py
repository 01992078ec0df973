"""Queues as declared: what an activity may be bound to, and what is refused with its mend."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from longcase import Case, Next, Queue, System, Team, Workflow, activity, days, minutes
from longcase.app import load_code
from longcase.errors import DefinitionError
from longcase.insight.describe import describe_module
from longcase.model.activity import Activity
from longcase.runtime.queues import declared_queues

desk = Team("desk")


class Thing(BaseModel):
    id: str


def bound(**options: Any) -> Activity[..., Any]:
    @activity(owner=desk, **options)
    async def render(name: str) -> str:
        return name

    return render


def test_a_name_is_enough_for_a_queue() -> None:
    assert bound(queue="gpu").queue == Queue("gpu")
    assert bound().queue is None


def test_an_undo_is_bound_where_its_activity_is() -> None:
    opened = bound(queue="vault", priority=3)

    @opened.undo
    async def close(result: str, name: str) -> None: ...

    assert opened.undo_activity is not None
    assert (opened.undo_activity.queue, opened.undo_activity.priority) == (Queue("vault"), 3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"queue": "default"}, "the queue default is where activities without a queue run"),
        ({"queue": 7}, "queue=7, expected a Queue or its name"),
        ({"queue": "g p u"}, "queue name 'g p u'"),
        ({"priority": 5}, "priority=5 without a queue"),
        ({"queue": "gpu", "priority": 1.5}, "priority=1.5, expected a whole number"),
        ({"queue": "gpu", "priority": 1001}, "expected a whole number from -1000 to 1000"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DefinitionError, match=said.replace("(", r"\(")) as refused:
        bound(**options)
    assert refused.value.hint


def test_limits_of_a_queue_are_checked() -> None:
    with pytest.raises(DefinitionError, match="queue gpu: concurrency=0, expected at least 1"):
        Queue("gpu", concurrency=0)
    with pytest.raises(DefinitionError, match="queue gpu: rate="):
        Queue("gpu", rate=(0, timedelta(seconds=1)))


narrow = Queue("gpu", concurrency=2, rate=(10, minutes(1)))


@activity(owner=desk, queue=narrow)
async def render(name: str) -> str:
    return name


@activity(owner=desk, queue="gpu")
async def encode(name: str) -> str:
    return name


pictures = Workflow("pictures", object=Thing, key="id", owner=desk, expect=days(1))


@pictures.stage(expect=days(1))
async def drawing(case: Case[Thing]) -> Next:
    return pictures.close("drawn", result=await encode(await render(case.key)))


def test_one_name_with_two_sets_of_limits_is_refused() -> None:
    with pytest.raises(DefinitionError, match="queue gpu is declared twice: concurrency=") as refused:
        declared_queues([load_code(pictures)])
    assert 'Queue("gpu", ...) once' in refused.value.hint


def test_describe_says_the_queue_and_what_holds_for_it() -> None:
    found = {one["name"]: one["limits"] for one in describe_module(sys.modules[__name__])["activities"]}
    assert found["render"] == {"queue": "gpu", "queue_concurrency": 2, "queue_rate": "10 per 1 minute"}


def test_describe_says_what_holds_for_the_system_that_is_touched() -> None:
    [told] = [one for one in describe_module(sys.modules[__name__])["activities"] if one["name"] == "print_out"]
    assert (told["system"], told["limits"]) == (
        "printer", {"concurrency": 4, "system_concurrency": 1, "system_rate": "10 per 1 minute"},
    )  # fmt: skip


@activity(
    owner=desk, effect="repeatable", concurrency=4,
    system=System("printer", owner=desk, concurrency=1, rate=(10, minutes(1))),
)  # fmt: skip
async def print_out(name: str) -> str:
    return name
