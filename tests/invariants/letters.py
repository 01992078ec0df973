"""The workflow of the kept histories: what stands in `kept/` was written by an earlier release that ran this code."""

from __future__ import annotations

from pydantic import BaseModel

from longcase import (
    ActivityFailed,
    Case,
    Next,
    Retry,
    Team,
    Workflow,
    activity,
    days,
    hours,
    injected,
    seconds,
)

desk, board = Team("desk"), Team("board")


class Letter(BaseModel):
    id: str
    way: str = "plain"
    text: str = "draft"


class Reply(BaseModel):
    text: str


letters = Workflow("letters", object=Letter, key="id", owner=desk, expect=days(90))
replied = letters.signal("replied", Reply)


@activity(owner=desk, effect="repeatable", retry=Retry(max_attempts=2, initial=seconds(5), jitter="none"))
async def frank(letter: str, *, idempotency_key: str = injected()) -> str:
    return f"stamp-{letter}"


@frank.undo
async def refund(stamp: str, letter: str, *, idempotency_key: str = injected()) -> None:
    return None


@activity(owner=desk, effect="repeatable", retry=Retry(max_attempts=1), schedule_to_close=seconds(30))
async def book(letter: str) -> str:
    return f"place-{letter}"


@book.undo
async def unbook(place: str, letter: str) -> None:
    return None


@letters.stage(expect=days(30))
async def writing(case: Case[Letter]) -> Next:
    case.update(text="written")
    await frank(case.key)
    if case.object.way == "late":
        try:
            await book(case.key)
        except ActivityFailed:
            await case.undo()
            return letters.close("given-up")
    verdict = await case.approval(
        "Send it?", label="send", of=board, quorum=2, shows=[lambda letter: letter.text], remind=hours(8),
        expires=(days(60), "rejected"),
    )  # fmt: skip
    if verdict.answer != "approved":
        await case.undo()
        return letters.close("torn-up")
    return sent


@letters.stage(expect=days(30))
async def sent(case: Case[Letter]) -> Next:
    await case.pause(hours(2), because="the post")
    reply = await case.receive(replied, within=days(10))
    return letters.close("answered", result=reply.text)
