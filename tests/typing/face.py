"""The workflow of the first tutorial, whole: what an author writes, and what the type checkers make of it."""

from __future__ import annotations

from typing import Literal, assert_type

from pydantic import BaseModel

from longcase import (
    Approval,
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
registry = System("company-registry", owner=integrations)  # can be down, can be held
ledger = System("core-ledger", owner=banking)


class Client(BaseModel):  # the business object
    id: str
    name: str
    legal_entity: str | None = None  # the deal closes before it is registered
    rating: str | None = None


class Withdrawal(BaseModel):
    reason: str


class RegistryEntry(BaseModel):
    rating: str


class UnknownEntity(Exception):
    """The registry knows no such entity."""


@activity(
    owner=integrations,
    system=registry,
    timeout=minutes(1),
    retry=Retry(
        max_attempts=8, initial=seconds(2), factor=2, cap=minutes(10), jitter="full", non_retryable=(UnknownEntity,)
    ),
)
async def check_registry(legal_entity: str) -> RegistryEntry:
    return RegistryEntry(rating="A" if legal_entity else "C")


@activity(owner=banking, system=ledger, retry=Retry(max_attempts=5))
async def open_account(client: Client, *, idempotency_key: str = injected()) -> str:
    return f"{client.id}/{idempotency_key}"


@open_account.undo  # a saga is a list of these, undone in reverse
async def close_account(account: str, client: Client, *, idempotency_key: str = injected()) -> None:
    return None


@decision(owner=risk, question="Does this client need a credit sign-off?", policy="CR-7 v3")
def needs_sign_off(client: Client) -> Literal["yes", "no"]:  # the answers are the return type; or a decision table
    return "no" if client.rating == "A" else "yes"


onboarding = Workflow("client-onboarding", object=Client, key="id", owner=desk, expect=business_days(15))
withdrawn = onboarding.signal("customer-withdrew", Withdrawal, owner=desk)


@onboarding.stage(owner=sales, expect=business_days(6))
async def intake(case: Case[Client]) -> Next:
    legal_entity = await case.require(
        lambda client: client.legal_entity,
        asked_of=sales,
        within=days(2),
        remind=days(1),
        escalate=[(days(4), director)],
    )
    assert_type(legal_entity, str)
    entry = await check_registry(legal_entity)  # durable, retried, recorded; a plain typed call
    assert_type(entry, RegistryEntry)
    with case.change() as client:
        client.rating = entry.rating
    return review


@onboarding.stage(owner=credit, expect=business_days(5))
async def review(case: Case[Client]) -> Next:
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
    assert_type(sign_off, Approval[Literal["approved", "rejected", "returned"]])
    match sign_off.answer:  # a forgotten answer is a type error
        case "approved":
            return activate
        case "returned":
            return intake  # real work loops back
        case "rejected":
            return onboarding.close("declined", reason=sign_off.reason)


@onboarding.stage(owner=banking, expect=hours(4))
async def activate(case: Case[Client]) -> Next:
    account = await open_account(case.object)
    assert_type(account, str)
    return onboarding.close("active", result=account)


@onboarding.on(withdrawn, owner=desk)  # exception path, from any stage
async def stop(case: Case[Client], withdrawal: Withdrawal) -> Next:
    await case.undo()
    return onboarding.close("withdrawn", reason=withdrawal.reason)
