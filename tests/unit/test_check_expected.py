"""Declarations given the wrong kind of thing: refused where they stand, with what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.definitions import PREAMBLE, load

from longcase.errors import DefinitionError
from longcase.model.check import import_findings

WORKFLOW = 'other = Workflow("other", object=Order, key="id", owner=desk, expect={})'
ACTIVITY = "@activity(owner=sales, {})\nasync def act(x: int) -> int: ..."

REFUSED = {
    "a workflow's expect, a number": (WORKFLOW.format("3"), "workflow other: expect=3", "expect=days(3)"),
    "a workflow's expect, a text": (
        WORKFLOW.format('"3 hours"'), "expect='3 hours', expected a span", "expect=hours(3)",
    ),
    "a stage's expect": (
        "@wf.stage(owner=desk, expect=2)\nasync def s(case): ...", "stage s of orders: expect=2", "expect=days(2)",
    ),
    "a stage's owner": (
        '@wf.stage(owner="desk")\nasync def s(case): ...', "owner='desk', expected a Team", "owner=Team(",
    ),
    "a timeout": (ACTIVITY.format("timeout=5"), "activity act: timeout=5, expected a span", "timeout=seconds(5)"),
    "a business timeout": (ACTIVITY.format("timeout=business_hours(2)"), "expected elapsed time", "timeout=seconds("),
    "a retry": (ACTIVITY.format("retry=3"), "retry=3, expected a Retry", "retry=Retry(max_attempts=3)"),
    "an effect": (
        ACTIVITY.format('effect="repeatble"'), "expected one of none, repeatable, once", 'effect="repeatable"',
    ),
    "a scope of the key": (ACTIVITY.format('once_per="cases"'), "expected one of call, visit, case", 'once_per="case"'),
    "a system": (ACTIVITY.format('system="erp"'), "system='erp', expected a System", "system=System("),
    "a rate": (ACTIVITY.format("rate=5"), "rate=5, expected (count, span)", "rate=(10, seconds(1))"),
    "an option misspelt": (ACTIVITY.format("timeut=seconds(5)"), "@activity(timeut=...)", "did you mean timeout=?"),
    "an activity without parentheses": (
        "@activity\nasync def act(x: int) -> int: ...", "@activity on act", "@activity(owner=",
    ),
    "an activity without an owner": (
        "@activity()\nasync def act(x: int) -> int: ...", "owner is missing", "@activity(owner=",
    ),
    "a decision without parentheses": ("@decision\ndef d(x: int) -> str: ...", "@decision on d", "@decision(owner="),
    "a system's rate": ('System("x", owner=desk, rate=3)', "system x: rate=3", "rate=(10, seconds(1))"),
    "a system's owner": ('System("x", owner="desk")', "system x: owner is 'desk'", "owner=Team("),
    "a team's calendar": (
        'Team("t", calendar="NL")', "team t: calendar='NL', expected a Calendar", "calendar=Calendar(",
    ),
    "a team's members": ('Team("t", members=(1, 2))', "expected a tuple of names", "members=("),
    "attempts that are no number": ('Retry(max_attempts="3")', "Retry(max_attempts='3')", "Retry(max_attempts=5)"),
    "an initial delay": ("Retry(initial=2)", "Retry: initial=2, expected a span", "initial=seconds(2)"),
    "a first delay that no try would wait": (
        "Retry(initial=minutes(20))", "initial=20 minutes, is longer than the longest, cap=5 minutes",
        "with initial give a cap, of 20 minutes at least",
    ),
    "a growth that is no number": ('Retry(factor="2")', "Retry(factor='2')", "Retry(factor=2)"),
    "errors by name": ('Retry(non_retryable=("KeyError",))', "a tuple of exception classes", "non_retryable=("),
    "a signal's body": ('wf.signal("sent", str)', "expected a pydantic model class", "class Paid(BaseModel)"),
    "a reaction on a signal's name": (
        '@wf.on("piad")\nasync def s(case, body): ...', "orders: on('piad'), expected a signal", "wf.signal('paid'",
    ),
    "a reaction on a name like none": (
        '@wf.on("x")\nasync def s(case, body): ...', "expected a signal", 'withdrawn = wf.signal("withdrawn"',
    ),
    "a covered stage by its name": (
        '@wf.on(paid, during=("first",))\nasync def s(case, body): ...',
        "reaction on paid: during=('first',), expected a tuple of stages", "during=(",
    ),
    "a covered stage alone": (
        "@wf.stage(owner=desk, expect=days(1))\nasync def first(case): ...\n"
        "@wf.on(paid, during=first)\nasync def s(case, body): ...",
        "expected a tuple of stages", "during=(first,)",
    ),
    "a key that is a number": (
        'Workflow("other", object=Order, key="amount", owner=desk, expect=days(1))',
        "the key field amount of Order is int",
        "amount: str",
    ),
    "a key that may be missing": (
        'Workflow("other", object=Order, key="rating", owner=desk, expect=days(1))', "expected str", "rating: str",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("source", "message", "hint"), REFUSED.values(), ids=REFUSED)
def test_a_declaration_given_the_wrong_thing_is_refused_with_the_mend(
    tmp_path: Path, source: str, message: str, hint: str
) -> None:
    with pytest.raises(DefinitionError) as refused:
        load(tmp_path, f"{PREAMBLE}\n{source}\n")
    assert message in refused.value.message
    assert refused.value.hint.startswith(hint) or hint in refused.value.hint
    (found,) = import_findings(refused.value, "flows")
    assert found.line > len(PREAMBLE.splitlines()), "the author's own line"


def test_what_fits_is_accepted(tmp_path: Path) -> None:
    source = """
from typing import Annotated, NewType
from uuid import UUID
from pydantic import StringConstraints
Name = NewType("Name", str)
class Thing(BaseModel):
    a: Annotated[str, StringConstraints(min_length=3)]
    b: Name
    c: UUID
    d: Route
    e: Literal["x", "y"]
for key in "abcde":
    Workflow(f"w-{key}", object=Thing, key=key, owner=desk, expect=business_days(3))
System("sap", owner=desk, rate=(3, seconds(1)))
@activity(owner=sales, timeout=seconds(5), retry=Retry(max_attempts=3, non_retryable=(KeyError,)), effect="once")
async def act(x: int) -> int: ...
"""
    assert load(tmp_path, PREAMBLE + source).act.timeout.total_seconds() == 5
