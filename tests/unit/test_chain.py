"""The hash chain: an outsider can tell that no event was edited, dropped or re-ordered."""

from __future__ import annotations

import dataclasses
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcase.history.chain import GENESIS, envelope, link, payload_digest
from longcase.history.event import Event
from longcase.model.codec import dump_json

TEXT = st.text(st.characters(exclude_categories=()), max_size=30)


def seal(event: Event, seq: int, previous: bytes, salt: str) -> bytes:
    """Give the event its place in the chain, as a store does."""
    event.seq, event.salt, event.text = seq, salt, event.text or dump_json(event.data)
    event.digest = payload_digest(salt, event.text)
    event.hash = link(previous, event)
    return event.hash


def sealed(*types: str) -> list[Event]:
    previous, events = GENESIS, []
    for seq, kind in enumerate(types, 1):
        event = Event(kind, {"n": seq}, at=f"2026-03-02T12:00:0{seq}.000000Z")
        previous = seal(event, seq, previous, f"salt{seq}")
        events.append(event)
    return events


def follows(events: list[Event]) -> bool:
    """Recompute the chain as an outsider would."""
    previous = GENESIS
    for event in events:
        if event.digest != payload_digest(event.salt, event.text) or event.hash != link(previous, event):
            return False
        previous = event.hash
    return True


def test_a_sealed_chain_verifies() -> None:
    assert follows(sealed("case_started", "stage_entered", "case_closed"))


def test_the_hash_is_what_the_page_says() -> None:
    (event,) = sealed("case_started")
    digest = sha256(b"salt1" + b'{"n":1}').digest()
    head = '[1,0,"case_started",1,"2026-03-02T12:00:01.000000Z","engine","","engine",null,0,"",0,""]'
    assert event.hash == sha256(b"\x00" * 32 + head.encode() + digest).digest()


@pytest.mark.parametrize(
    "field",
    ["visit", "type", "version", "at", "actor", "on_behalf", "channel", "cause", "map", "node", "n", "strand", "seq"],
)
def test_inv_39_a_change_of_any_column_is_found(field: str) -> None:
    events = sealed("case_started", "stage_entered", "case_closed")
    value = getattr(events[1], field)
    changed = f"{value}x" if isinstance(value, str) else (value or 0) + 1
    events[1] = dataclasses.replace(events[1], **{field: changed})
    assert not follows(events)


def test_inv_39_a_change_of_the_payload_is_found() -> None:
    events = sealed("case_started", "stage_entered")
    events[1].text = '{"n":3}'
    assert not follows(events)


@pytest.mark.parametrize("order", [(1, 2), (0, 2), (1, 0, 2), (0, 0, 1, 2)])
def test_inv_39_a_dropped_moved_or_repeated_event_is_found(order: tuple[int, ...]) -> None:
    events = sealed("case_started", "stage_entered", "case_closed")
    assert not follows([events[place] for place in order])


def test_rule_B21_a_payload_can_be_erased_and_the_chain_still_verifies() -> None:
    events = sealed("case_started", "stage_entered", "case_closed")
    digest, events[1].text, events[1].salt = events[1].digest, "", ""
    assert link(events[0].hash, events[1]) == events[1].hash
    assert link(events[1].hash, events[2]) == events[2].hash
    assert payload_digest(events[1].salt, events[1].text) != digest


def test_rule_B21_equal_payloads_have_unequal_digests() -> None:
    assert payload_digest("a", '{"iban":"NL1"}') != payload_digest("b", '{"iban":"NL1"}')


@given(
    kind=TEXT,
    at=TEXT,
    actor=TEXT,
    on_behalf=TEXT,
    channel=TEXT,
    node=TEXT,
    strand=TEXT,
    cause=st.none() | st.integers(),
)
def test_the_envelope_is_the_json_of_its_columns(
    kind: str, at: str, actor: str, on_behalf: str, channel: str, node: str, strand: str, cause: int | None
) -> None:
    event = Event(kind, {}, 3, at, actor, on_behalf, channel, cause, 4, node, 5, strand, 6, 7)
    columns = [6, 3, kind, 7, at, actor, on_behalf, channel, cause, 4, node, 5, strand]
    assert envelope(event) == dump_json(columns).encode("utf-8", "surrogatepass")
