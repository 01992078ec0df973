"""Waits: an end, an owner, a calendar, a ladder that fits its expiry."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.definitions import PREAMBLE, check, codes, load

from longcase.model.check import check_workflow

EXTRA = """
night = Team("night")          # no calendar
LADDER = [(days(2), boss), Escalation(days(3), sales)]
TEAMS = {"a": sales}
BY_ROUTE = one_of({"fast": sales, "slow": boss})
"""


def approval(arguments: str) -> str:
    return f'go = await case.approval("Go?", {arguments})\nawait notify(go.answer)\nreturn last'


REFUSED = {
    "an approval without an end": (
        approval("of=sales"),
        ["wait_without_expectation"],
        approval("of=sales, within=days(1)"),
    ),
    "an approval with a ladder only": (
        approval("of=sales, escalate=[(days(1), boss)]"),
        ["wait_without_expectation"],
        approval('of=sales, escalate=[(days(1), boss)], expires=(days(2), "rejected")'),
    ),
    "a choice without an end": (
        'way = await case.choice("Way?", answers=Route, of=sales)\nawait notify(way.answer)\nreturn last',
        ["wait_without_expectation"],
        'way = await case.choice("Way?", answers=Route, of=sales, within=days(1))\nawait notify(way.answer)\n'
        "return last",
    ),
    "a receive without an end": (
        "await case.receive(paid)\nreturn last",
        ["wait_without_expectation"],
        "await case.receive(paid, within=days(1))\nreturn last",
    ),
    "a receive outside the timeout": (
        'async with asyncio.timeout(5):\n    await notify("x")\nawait case.receive(paid)\nreturn last',
        ["wait_without_expectation"],
        'async with asyncio.timeout(5):\n    await notify("x")\n    await case.receive(paid)\nreturn last',
    ),
    "a receive outside wait_for": (
        "await case.receive(paid)\nreturn last",
        ["wait_without_expectation"],
        "await asyncio.wait_for(case.receive(paid), 60)\nreturn last",
    ),
    "an approval of nobody": (approval("within=days(1)"), ["owner_missing"], approval("of=boss, within=days(1)")),
    "an approval of a name that is not there": (
        approval("of=slaes, within=days(1)"),
        ["owner_unresolved"],
        approval("of=sales, within=days(1)"),
    ),
    "an approval of a team out of a dict": (
        approval("of=TEAMS[case.key], within=days(1)"),
        ["owner_unresolved"],
        approval("of=BY_ROUTE[case.object.route], within=days(1)"),
    ),
    "a ladder made at run time": (
        approval("of=sales, within=days(1), escalate=list(LADDER)"),
        ["owner_unresolved"],
        approval("of=sales, within=days(1), escalate=LADDER"),
    ),
    "a level to a name that is not there": (
        approval("of=sales, within=days(1), escalate=[(days(1), nobody)]"),
        ["owner_unresolved"],
        approval("of=sales, within=days(1), escalate=[Escalation(days(1), boss)]"),
    ),
    "a team chosen by a conditional expression": (
        approval('of=sales if is_big(case.object) == "no" else nobody.team(), within=days(1)'),
        ["owner_unresolved"],
        approval('of=sales if is_big(case.object) == "no" else boss, within=days(1)'),
    ),
    "a level after the expiry": (
        approval('of=sales, escalate=[(days(4), boss)], expires=(days(3), "rejected")'),
        ["escalation_after_expiry"],
        approval('of=sales, escalate=[(days(2), boss)], expires=(days(3), "rejected")'),
    ),
    "a level at the expiry": (
        approval('of=sales, escalate=[(days(3), boss)], expires=(days(3), "rejected")'),
        ["escalation_after_expiry"],
        approval('of=sales, escalate=[(hours(71), boss)], expires=(days(3), "rejected")'),
    ),
    "a level in business time after the expiry": (
        approval('of=sales, escalate=[(business_hours(24), boss)], expires=(days(2), "rejected")'),
        ["escalation_after_expiry"],
        approval('of=sales, escalate=[(business_hours(8), boss)], expires=(days(5), "rejected")'),
    ),
    "a first level later than the stage's expectation": (
        approval("of=sales, within=days(1), escalate=[(days(25), boss)]"),
        ["expectation_too_short"],
        approval("of=sales, within=days(1), escalate=[(days(19), boss), (days(25), boss)]"),
    ),
    "an expiry later than the stage's expectation": (
        approval('of=sales, expires=(business_days(30), "rejected")'),
        ["expectation_too_short"],
        approval('of=sales, expires=(business_days(10), "rejected")'),
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_wait_says_when_it_ends_and_whose_move_it_is(tmp_path: Path, what: str) -> None:
    bad, expected, twin = REFUSED[what]
    assert codes(tmp_path, bad, EXTRA) == expected
    assert codes(tmp_path, twin, EXTRA) == []


CALENDARS = {
    "of an approval": (approval("of=night, within=business_days(1)"), approval("of=night, within=days(1)")),
    "of a reminder": (
        approval("of=night, within=days(1), remind=business_hours(2)"),
        approval("of=night, within=days(1), remind=hours(2)"),
    ),
    "of a level": (
        approval("of=night, within=days(1), escalate=[(business_hours(2), sales)]"),
        approval("of=night, within=days(1), escalate=[(business_hours(2, office), sales)]"),
    ),
    "of an expiry": (
        approval('of=night, expires=(business_days(1), "rejected")'),
        approval('of=sales, expires=(business_days(1), "rejected")'),
    ),
    "of a pause": (
        'await case.pause(business_days(1), because="x")\nreturn last',
        'await case.pause(business_days(1, office), because="x")\nreturn last',
    ),
    "of what is required": (
        "await case.require(lambda order: order.rating, asked_of=night, within=business_days(1))\nreturn last",
        "await case.require(lambda order: order.rating, asked_of=sales, within=business_days(1))\nreturn last",
    ),
}


@pytest.mark.parametrize("what", CALENDARS)
def test_business_time_is_counted_on_a_calendar(tmp_path: Path, what: str) -> None:
    bad, twin = CALENDARS[what]
    header = "@wf.stage(owner=night, expect=days(20))"
    assert codes(tmp_path, bad, EXTRA, header=header) == ["owner_without_calendar"]
    assert codes(tmp_path, twin, EXTRA, header=header) == []


def test_the_stage_owners_calendar_stands_in_for_the_askeds(tmp_path: Path) -> None:
    assert codes(tmp_path, approval("of=night, within=business_days(1)"), EXTRA) == []


def test_a_director_without_a_calendar_may_be_escalated_to(tmp_path: Path) -> None:
    assert codes(tmp_path, approval("of=sales, within=days(1), escalate=[(business_hours(8), night)]"), EXTRA) == []


def test_a_stage_has_an_expectation(tmp_path: Path) -> None:
    body = "await notify('x')\nreturn last"
    (found,) = check(tmp_path, body, header="@wf.stage(owner=desk)")
    assert found.code == "wait_without_expectation"
    assert "first" in found.message


def test_an_exception_path_needs_no_expectation(tmp_path: Path) -> None:
    extra = """
    @wf.on(paid, owner=desk)
    async def stop(case: Case[Order], body: Paid) -> Next:
        return wf.close("stopped")
    """
    assert codes(tmp_path, "await notify('x')\nreturn last", extra) == []


def test_a_stages_expectation_in_business_time_needs_a_calendar(tmp_path: Path) -> None:
    module = load(
        tmp_path,
        PREAMBLE
        + """
night = Team("night")
lonely = Workflow("lonely", object=Order, key="id", owner=night, expect=business_days(2))

@lonely.stage(expect=business_days(1))
async def only(case: Case[Order]) -> Next:
    await notify("x")
    return lonely.close("done")
""",
    )
    assert [found.code for found in check_workflow(module.lonely)] == ["owner_without_calendar"] * 2
