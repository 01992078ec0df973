"""What goes wrong in the demo, case by case: who is late, what is missing, who withdraws, what is sent twice.

The same seed makes the same plans. Delays are in days of the demo's clock; which vendor call fails
is the vendors' own business (`vendors.py`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

STARTS_WITHIN = 4.0  # days over which the cases come in
COMPANIES = ("Harbour", "Linden", "Polder", "Quarry", "Orchard", "Meridian", "Tulip", "Granite", "Beacon", "Heron")
KINDS = ("Logistics", "Foods", "Energy", "Textiles", "Software", "Dairy", "Shipping", "Foundry")


@dataclass(frozen=True, slots=True)
class Vote:
    """One person's answer, so many days after the question came up."""

    after: float
    person: str
    answer: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that people do to one case."""

    client: dict[str, Any]
    start: float
    start_again: float | None  # the CRM sends the start a second time
    entity: str
    entity_after: float | None  # None: known at the start
    rounds: list[list[Vote]] = field(default_factory=list)  # answers to the first, second ... sign-off
    withdraws: float | None = None
    sends: int = 1  # how often the withdrawal is sent, under one key


def plans(count: int, seed: int) -> list[Plan]:
    """Return the plans of `count` cases."""
    return [_plan(number, random.Random(f"{seed}/{number}")) for number in range(1, count + 1)]


def right_entity(number: int) -> str:
    """Return what the registry knows the company under."""
    return f"NL-{number:05d}"


def _plan(number: int, dice: random.Random) -> Plan:
    key = f"C-{number:04d}"
    entity = right_entity(number)
    if number % 40 == 7:
        entity = f"LN-{number:05d}"  # somebody mistyped it: the registry will not know it
    elif number % 50 == 9:
        entity = f"{entity}-renamed"  # the vendor's answer will have another shape for a while
    start = dice.uniform(0.0, STARTS_WITHIN)
    entity_after = _lateness(dice) if dice.random() < 0.45 else None
    client: dict[str, Any] = {"id": key, "name": f"{dice.choice(COMPANIES)} {dice.choice(KINDS)} {number}"}
    if entity_after is None:
        client["legal_entity"] = entity
    withdraws = start + dice.uniform(0.1, 5.0) if dice.random() < 0.15 else None
    return Plan(
        client=client,
        start=start,
        start_again=start + dice.uniform(0.01, 1.0) if dice.random() < 0.12 else None,
        entity=entity,
        entity_after=entity_after,
        rounds=[_round(dice, first=True), _round(dice, first=False), _approved(dice, dice.uniform(0.1, 1.0))],
        withdraws=withdraws,
        sends=dice.choice((1, 2, 3)),
    )


def _lateness(dice: random.Random) -> float:
    """Most data comes in time, some after a reminder, some only once the sales director was told."""
    return dice.choices((dice.uniform(0.2, 1.8), dice.uniform(2.1, 3.6), dice.uniform(4.2, 5.5)), (60, 22, 18))[0]


def _round(dice: random.Random, *, first: bool) -> list[Vote]:
    """One sign-off: in time, late, sent back, rejected, or by nobody."""
    fate = dice.choices(
        ("in time", "late", "returned", "rejected", "nobody"), (50, 22, 14 if first else 4, 8, 6)
    )[0]  # fmt: skip
    match fate:
        case "in time":
            return _approved(dice, dice.uniform(0.1, 1.5))
        case "late":  # after 24 business hours senior credit is asked too
            return _approved(dice, dice.uniform(4.1, 4.8))
        case "returned":
            return [Vote(dice.uniform(0.2, 2.0), "anna", "returned", "the rating is of the old entity")]
        case "rejected":
            return [Vote(dice.uniform(0.2, 2.0), "bram", "rejected", "exposure too high")]
    return [Vote(dice.uniform(0.2, 2.0), "anna", "approved")]  # the second answer never comes: it expires


def _approved(dice: random.Random, after: float) -> list[Vote]:
    votes = [Vote(after, "anna", "approved"), Vote(after + dice.uniform(0.01, 0.15), "bram", "approved")]
    if dice.random() < 0.15:
        votes.insert(1, Vote(after + 0.005, "anna", "approved"))  # clicked twice
    if dice.random() < 0.10:
        votes.append(Vote(after + 0.4, "carla", "rejected", "too late to say so"))
    return votes
