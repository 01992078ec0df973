"""Arguments of waits that would fail only in a running case: found where they stand."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.definitions import check, codes

EXTRA = """
LATE = (days(2), "rejected")
WORD = "2d"
duo, third = Team("duo", members=("ann", "bob")), Team("third", members=("bob", "cas"))
"""


def approval(arguments: str) -> str:
    return f'go = await case.approval("Go?", of=sales, {arguments})\nawait notify(go.answer)\nreturn last'


REFUSED = {
    "an expiry whose span is a text": (approval('expires=("2d", "rejected")'), "not_a_span"),
    "an expiry whose span is a text by name": (approval('expires=(WORD, "rejected")'), "not_a_span"),
    "an expiry without an answer": (approval("expires=days(2)"), "expiry_without_answer"),
    "an expiry of three": (approval('expires=(days(2), "rejected", boss)'), "expiry_without_answer"),
    "no quorum": (approval("quorum=0, within=days(1)"), "quorum_refused"),
    "a quorum of a text": (approval('quorum="2", within=days(1)'), "quorum_refused"),
    "more people than there are": (
        approval("quorum=3, within=days(1)").replace("of=sales", "of=duo"),
        "quorum_refused",
    ),
    "more people than will ever be asked": (
        approval("quorum=4, within=days(9), escalate=[(days(1), third)]").replace("of=sales", "of=duo"),
        "quorum_refused",
    ),
    "a reminder without a unit": (approval("remind=8, within=days(1)"), "not_a_span"),
    "an end without a unit": (approval('within="1d"'), "not_a_span"),
    "a level whose span is a number": (approval("within=days(9), escalate=[(4, boss)]"), "not_a_span"),
    "a level without a team": (approval("within=days(9), escalate=[days(4)]"), "owner_unresolved"),
    "a span that is refused": (approval("within=days(-2)"), "span_refused"),
    "a span of a text": (approval('within=days("2")'), "span_refused"),
    "half a business day": (approval("within=business_days(0.5)"), "span_refused"),
    "a pause without a unit": ('await case.pause(30, because="cool down")\nreturn last', "not_a_span"),
    "a receive without a unit": ("await case.receive(paid, within=3)\nreturn last", "not_a_span"),
}
ACCEPTED = {
    "all that fits": approval('quorum=2, remind=hours(8), escalate=[(days(1), boss)], expires=(days(2), "rejected")'),
    "as many people as there are": approval("quorum=2, within=days(1)").replace("of=sales", "of=duo"),
    "people that the ladder adds": approval("quorum=3, within=days(9), escalate=[(days(1), third)]").replace(
        "of=sales", "of=duo"
    ),
    "people whom nobody named": approval("quorum=9, within=days(9), escalate=[(days(1), duo)]"),
    "an expiry by name": approval("expires=LATE"),
    "an expiry made at run time": approval('expires=(days(case.object.amount), "rejected")'),
    "nothing given": approval("within=days(2), remind=None, expires=None"),
    "a pause": 'await case.pause(days(3), because="cool down")\nreturn last',
}


@pytest.mark.parametrize(("body", "code"), REFUSED.values(), ids=REFUSED)
def test_an_argument_that_would_fail_at_run_time_is_found(tmp_path: Path, body: str, code: str) -> None:
    found = [finding for finding in check(tmp_path, body, EXTRA) if finding.code == code]
    assert len(found) == 1
    assert found[0].severity == "error"
    assert found[0].hint
    assert found[0].line > 0


@pytest.mark.parametrize("body", ACCEPTED.values(), ids=ACCEPTED)
def test_what_fits_is_no_finding(tmp_path: Path, body: str) -> None:
    assert codes(tmp_path, body, EXTRA) == []
