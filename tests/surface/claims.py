"""The workflow the CLI's tests play with: a claim is checked, approved by two, and paid by a vendor that fails."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Literal

from pydantic import AwareDatetime, BaseModel

from longcase import Calendar, Case, Next, Retry, System, Team, Workflow, activity, days, decision, hours, seconds

office = Calendar("office", hours="Mon-Fri 09:00-17:00", tz="UTC")
desk, clerks, bosses = Team("desk", calendar=office), Team("clerks", members=("ann", "bob")), Team("bosses")
bank = System("bank", owner=desk)


class Claim(BaseModel):
    id: str
    name: str = ""
    amount: int = 0
    iban: str | None = None
    price: Decimal | None = None
    ratio: float | None = None
    due: datetime.date | None = None
    at: AwareDatetime | None = None
    tags: list[str] = []


class Note(BaseModel):
    text: str


@activity(owner=desk, system=bank, effect="repeatable", retry=Retry(max_attempts=1, initial=seconds(1)))
async def pay(iban: str, amount: int) -> str:
    """Pay the claim."""
    raise ConnectionError("the bank is\x1b[31m away")


@decision(owner=desk, question="Is it small?", policy="P-1 v1")
def is_small(claim: Claim) -> Literal["yes", "no"]:
    return "yes" if claim.amount < 100 else "no"


claims = Workflow("claims", object=Claim, key="id", owner=desk, expect=days(10))
noted = claims.signal("noted", Note, owner=desk)
dropped = claims.signal("dropped", Note, owner=desk)


@claims.stage(owner=desk, expect=days(3))
async def intake(case: Case[Claim]) -> Next:
    """Get what is missing."""
    await case.require(lambda claim: claim.iban, asked_of=clerks, within=days(2), escalate=[(days(2), bosses)])
    return review if is_small(case.object) == "no" else payment


@claims.stage(owner=clerks, expect=days(3))
async def review(case: Case[Claim]) -> Next:
    answer = await case.approval(
        "Pay it?", label="pay", of=clerks, quorum=2, shows=[lambda claim: claim.amount], expires=(days(2), "rejected")
    )
    match answer.answer:
        case "approved":
            return payment
        case "returned":
            return intake
        case "rejected":
            return claims.close("rejected", reason=answer.reason)


@claims.stage(owner=desk, expect=hours(8))
async def payment(case: Case[Claim]) -> Next:
    iban = case.object.iban or ""
    receipt = await pay(iban, case.object.amount)
    return claims.close("paid", result=receipt)


@claims.on(dropped, owner=desk)
async def drop(case: Case[Claim], note: Note) -> Next:
    await case.undo()
    return claims.close("dropped", reason=note.text)
