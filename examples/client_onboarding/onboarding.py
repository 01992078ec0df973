"""Client onboarding: a bank takes on a new client. The workflow of the first tutorial, runnable.

Read it top down: who is accountable, what the case is about, what touches the world, and then the
stages. Everything here is a declaration; what goes wrong outside is in `vendors.py`.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from pydantic import BaseModel
from vendors import UnknownEntity, company_registry, core_ledger

from longcase import (
    Calendar,
    Case,
    Next,
    Retry,
    System,
    Team,
    Workflow,
    activity,
    business_days,
    business_hours,
    days,
    decision,
    hours,
    injected,
    minutes,
    seconds,
)

office = Calendar("NL", hours="Mon-Fri 09:00-17:00", tz="Europe/Amsterdam")
desk, sales, credit, banking, integrations = (
    Team(name, calendar=office) for name in ("client-desk", "sales", "credit", "core-banking", "integrations")
)
director, senior, risk = Team("sales-director"), Team("senior-credit"), Team("chief-risk-officer")
registry = System("company-registry", owner=integrations)
ledger = System("core-ledger", owner=banking)


class Client(BaseModel):
    """The business object: what a case is about."""

    id: str
    name: str
    legal_entity: str | None = None  # the deal closes before the company is registered
    rating: str | None = None


class Withdrawal(BaseModel):
    """What a customer says when the deal is off."""

    reason: str


class RegistryEntry(BaseModel):
    """What the registry answers; another shape becomes an incident that names the field."""

    rating: str


@activity(
    owner=integrations,
    system=registry,
    timeout=minutes(1),
    retry=Retry(
        max_attempts=8, initial=seconds(2), factor=2, cap=minutes(10), jitter="full", non_retryable=(UnknownEntity,)
    ),
)
async def check_registry(legal_entity: str) -> RegistryEntry:
    """Look the company up; reading twice harms nobody."""
    return RegistryEntry.model_validate(await company_registry.look_up(legal_entity))


@activity(owner=banking, system=ledger, retry=Retry(max_attempts=5))
async def open_account(client: Client, *, idempotency_key: str = injected()) -> str:
    """Open the account; the ledger knows a repeated call by its key."""
    return await asyncio.to_thread(core_ledger.open_account, client.id, idempotency_key)


@open_account.undo
async def close_account(account: str, client: Client, *, idempotency_key: str = injected()) -> None:
    """Close the account again: what `case.undo()` runs if the customer withdraws after all."""
    await asyncio.to_thread(core_ledger.close_account, account, client.id, idempotency_key)


@decision(owner=risk, question="Does this client need a credit sign-off?", policy="CR-7 v3")
def needs_sign_off(client: Client) -> Literal["yes", "no"]:
    """Only the best rating goes without one."""
    return "no" if client.rating == "A" else "yes"


onboarding = Workflow("client-onboarding", object=Client, key="id", owner=desk, expect=business_days(15))
withdrawn = onboarding.signal("customer-withdrew", Withdrawal, owner=desk)


@onboarding.stage(owner=sales, expect=business_days(6))
async def intake(case: Case[Client]) -> Next:
    """Get the missing data, then the registry's rating."""
    legal_entity = await case.require(
        lambda client: client.legal_entity,
        asked_of=sales,
        within=days(2),
        remind=days(1),
        escalate=[(days(4), director)],
    )
    entry = await check_registry(legal_entity)  # durable, retried, recorded; a plain typed call
    with case.change() as client:
        client.rating = entry.rating
    return review


@onboarding.stage(owner=credit, expect=business_days(5))
async def review(case: Case[Client]) -> Next:
    """Two people of credit sign off, unless the rating speaks for itself."""
    if needs_sign_off(case.object) == "no":
        return activate
    sign_off = await case.approval(
        "Sign off the credit line?",
        label="sign-off",
        of=credit,
        quorum=2,
        shows=case.object,
        remind=business_hours(8),
        escalate=[(business_hours(24), senior)],
        expires=(business_days(5), "rejected"),
    )
    match sign_off.answer:  # a forgotten answer is a type error
        case "approved":
            return activate
        case "returned":
            return intake  # real work loops back
        case "rejected":
            return onboarding.close("declined", reason=sign_off.reason)


@onboarding.stage(owner=banking, expect=hours(4))
async def activate(case: Case[Client]) -> Next:
    """Open the account: the one effect of a case in the outside world."""
    account = await open_account(case.object)
    return onboarding.close("active", result=account)


@onboarding.on(withdrawn, owner=desk)
async def stop(case: Case[Client], withdrawal: Withdrawal) -> Next:
    """The customer withdrew: undo what was done, from any stage."""
    await case.undo()
    return onboarding.close("withdrawn", reason=withdrawal.reason)
