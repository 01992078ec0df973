"""Closed answers: where they come from, and what earlier branches have ruled out."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.definitions import check, codes, compiled

EXTRA = """
class Details(BaseModel):
    kind: Literal["new", "old"]

@activity(owner=sales)
async def classify(order: Order) -> Literal["a", "b"]: ...

@wf.part
async def sign(case: Case[Order]) -> Literal["go", "stop"]:
    go = await case.approval("Go?", of=sales, within=days(1))
    return "go" if go.answer == "approved" else "stop"
"""
ASK = 'await case.approval("{}?", of=sales, within=days(1))'

# where they come from: (body up to the subject, subject, answers)
SOURCES = {
    "an approval": (f"go = {ASK.format('Go')}", "go.answer", ["approved", "rejected", "returned"]),
    "an approval in place": (f"answer = ({ASK.format('Go')}).answer", "answer", ["approved", "rejected", "returned"]),
    "one of two approvals in a gather": (
        'legal, risk = await asyncio.gather(case.approval("Legal?", of=sales, within=days(1)), '
        'case.approval("Risk?", of=boss, within=days(1)))\nawait notify(legal.answer)',
        "risk.answer",
        ["approved", "rejected", "returned"],
    ),
    "the result of a task": (
        "async with asyncio.TaskGroup() as group:\n"
        '    task = group.create_task(case.approval("Go?", of=sales, within=days(1)))',
        "task.result().answer",
        ["approved", "rejected", "returned"],
    ),
    "an approval under wait_for": (
        'go = await asyncio.wait_for(case.approval("Go?", of=sales), 60)',
        "go.answer",
        ["approved", "rejected", "returned"],
    ),
    "a decision": ("await notify('x')", "is_big(case.object)", ["yes", "no"]),
    "a ruling": ("ruled = is_big.ruling(case.object)\nawait notify(ruled.rule)", "ruled.answer", ["yes", "no"]),
    "a decision in a variable": ("big = is_big(case.object)\nawait notify(big)", "big", ["yes", "no"]),
    "an activity": ("kind = await classify(case.object)", "kind", ["a", "b"]),
    "a part": ("signed = await sign(case)", "signed", ["go", "stop"]),
    "a field of a form": (
        'form = await case.ask("What?", answer=Details, of=sales, within=days(1))',
        "form.kind",
        ["new", "old"],
    ),
    "one of two approvals in one variable": (
        f'if is_big(case.object) == "yes":\n    go = {ASK.format("Big")}\nelse:\n    go = {ASK.format("Small")}',
        "go.answer",
        ["approved", "rejected", "returned"],
    ),
}


@pytest.mark.parametrize("source", SOURCES)
def test_answers_are_closed(tmp_path: Path, source: str) -> None:
    body, subject, answers = SOURCES[source]
    arms = [f'    case "{answer}": return wf.close("{answer}")' for answer in answers[:-1]]
    whole = [*arms, f'    case "{answers[-1]}": return last']
    assert codes(tmp_path, "\n".join([body, f"match {subject}:", *whole]), EXTRA) == []
    (found,) = check(tmp_path, "\n".join([body, f"match {subject}:", *arms, "return last"]), EXTRA)
    assert found.code == "answer_not_handled"
    assert repr(answers[-1]) in found.message


AGAIN = """
go = await case.approval("First?", of=sales, within=days(1))
while go.answer == "returned":
    await case.pause(days(1), because="correcting")
    go = await case.approval("Second?", of=sales, within=days(1))
match go.answer:
    case "approved": return last
    case "rejected": return wf.close("no")
"""


def test_a_loop_until_another_answer_rules_it_out(tmp_path: Path) -> None:
    assert codes(tmp_path, AGAIN) == []


def test_a_loop_that_breaks_rules_nothing_out(tmp_path: Path) -> None:
    body = AGAIN.replace("    await case.pause", "    if case.key:\n        break\n    await case.pause")
    assert codes(tmp_path, body) == ["answer_not_handled"]


def test_a_new_answer_under_the_same_name_may_be_anything(tmp_path: Path) -> None:
    body = """
    go = await case.approval("First?", of=sales, within=days(1))
    if go.answer == "approved":
        return last
    go = await case.approval("Second?", of=boss, within=days(1))
    match go.answer:
        case "rejected": return wf.close("no")
        case "returned": return wf.close("back")
    """
    assert codes(tmp_path, body) == ["answer_not_handled"]


def test_a_branch_on_an_answer_is_labelled_with_what_is_left(tmp_path: Path) -> None:
    body = """
    go = await case.approval("Go?", of=sales, within=days(1))
    if go.answer == "approved":
        return last
    if go.answer in ("returned",):
        await notify("back")
    else:
        return wf.close("no")
    return last
    """
    edges = {
        (e.target, e.label)
        for e in compiled(tmp_path, body).edges
        if e.source == "first/approval:go" and e.kind == "next"
    }
    assert edges == {
        ("first/exit:to:last", "approved"),
        ("first/activity:notify", "returned"),
        ("first/exit:close:no", "rejected"),
    }


def test_an_expiry_stands_for_one_of_the_answers(tmp_path: Path) -> None:
    body = 'go = await case.approval("Go?", of=sales, expires=(days(1), "{}"))\nawait notify(go.answer)\nreturn last'
    assert codes(tmp_path, body.format("denied")) == ["unknown_answer"]
    assert codes(tmp_path, body.format("rejected")) == []
