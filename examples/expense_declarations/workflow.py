"""Expense declarations of a university: from the employee's draft to the payment.

    draft ----submitted----> review ----approved by the supervisor----> approved ----> paying ----> paid
      ^                        | rejected
      |                        v
      +----taken back------ returned ----submitted again----> review

Who reviews a declaration before the supervisor follows no rule that the recorded data shows (the
administration, then perhaps the budget owner; or a pre-approver; or nobody). So the review waits for
the next decision, whoever takes it, and only one thing is fixed: the supervisor's approval is the last.
"""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel

from longcase import Case, Next, Team, Workflow, days

employee, administration, approvers, finance = (
    Team(name) for name in ("employee", "administration", "approvers", "finance")
)


class Declaration(BaseModel):  # the business object
    id: str
    amount: Decimal  # EUR


class Role(StrEnum):
    PRE_APPROVER = "PRE_APPROVER"
    ADMINISTRATION = "ADMINISTRATION"
    BUDGET_OWNER = "BUDGET OWNER"
    SUPERVISOR = "SUPERVISOR"
    MISSING = "MISSING"  # somebody decided, and nobody wrote down in which role


class Filing(BaseModel):
    action: Literal["saved", "submitted"]


class Decision(BaseModel):
    by: Role
    verdict: Literal["approved", "rejected"]


class TakenBack(BaseModel):
    by: Literal["EMPLOYEE"] = "EMPLOYEE"


class Transfer(BaseModel):
    amount: Decimal  # EUR


declarations = Workflow("expense-declaration", object=Declaration, key="id", owner=administration, expect=days(30))
filed = declarations.signal("filed", Filing, owner=employee)
taken_back = declarations.signal("taken-back", TakenBack, owner=employee)
decided = declarations.signal("decided", Decision, owner=approvers)
payment_requested = declarations.signal("payment-requested", Transfer, owner=finance)
payment_handled = declarations.signal("payment-handled", Transfer, owner=finance)


@declarations.stage(owner=employee, expect=days(30))
async def draft(case: Case[Declaration]) -> Next:
    """The employee fills it in; saving keeps it here."""
    while True:
        filing = await case.receive(filed, within=days(30))
        if filing.action == "submitted":
            return review


@declarations.stage(owner=administration, expect=days(14))
async def review(case: Case[Declaration]) -> Next:
    """One decision after the other; any rejection sends it back, the supervisor's approval is final."""
    while True:
        decision = await case.receive(decided, within=days(7))
        if decision.verdict == "rejected":
            return returned
        if decision.by is Role.SUPERVISOR:
            return approved


@declarations.stage(owner=employee, expect=days(14))
async def returned(case: Case[Declaration]) -> Next:
    """The employee reads why, and submits it again or takes it back."""
    filing = await case.receive(filed, within=days(14))
    if filing.action == "submitted":
        return review
    return draft


@declarations.stage(owner=finance, expect=days(7))
async def approved(case: Case[Declaration]) -> Next:
    """Finance requests the payment."""
    await case.receive(payment_requested, within=days(7))
    return paying


@declarations.stage(owner=finance, expect=days(7))
async def paying(case: Case[Declaration]) -> Next:
    """The bank pays."""
    transfer = await case.receive(payment_handled, within=days(7))
    return declarations.close("paid", result=str(transfer.amount))


@declarations.on(taken_back, during=(review, returned), owner=employee, expect=days(1))
async def take_back(case: Case[Declaration], request: TakenBack) -> Next:
    """The employee may take it back until it is finally approved."""
    return draft
