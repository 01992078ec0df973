"""The hash chain of a case: an outsider can tell that no event was edited, dropped or re-ordered.

    digest(k) = SHA-256(salt(k) || payload text)
    hash(k)   = SHA-256(hash(k-1) || envelope(k) || digest(k))

The envelope is the JSON list of every other column of the event. The chain is over the salted
digest and not the payload, so that a payload can be erased by destroying payload and salt while
the chain still verifies (SEMANTICS B21, decision 0005).
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from longcase.history.event import Event
from longcase.model.codec import dump_json, json_bytes

GENESIS = b"\x00" * 32


def envelope(event: Event) -> bytes:
    """Return the canonical JSON of everything but the payload, in UTF-8."""
    columns = [
        event.seq, event.visit, event.type, event.version, event.at, event.actor, event.on_behalf, event.channel,
        event.cause, event.map, event.node, event.n, event.strand,
    ]  # fmt: skip
    try:
        return json_bytes(columns)
    except ValueError:  # a lone surrogate: an actor's name may hold one
        return dump_json(columns).encode("utf-8", "surrogatepass")


def payload_digest(salt: str, text: str) -> bytes:
    """Return the salted digest of a payload as stored."""
    return sha256(f"{salt}{text}".encode("utf-8", "surrogatepass")).digest()


def is_sound(event: Event) -> bool:
    """Tell whether an event that was read has the payload that was recorded (FAULTS F13)."""
    return event.digest == payload_digest(event.salt, event.text)


def link(previous: bytes, event: Event) -> bytes:
    """Return the event's hash, given the hash before it."""
    return sha256(previous + envelope(event) + event.digest).digest()


def damaged(events: Iterable[Event]) -> int:
    """Return the number of the first of these events, in order, that is not what was recorded; 0 if all are.

    Of one whose predecessor is not among them only the payload is judged.
    """
    before: Event | None = None
    for event in events:
        if not is_sound(event):
            return event.seq
        if before is not None and event.seq == before.seq + 1 and event.hash != link(before.hash, event):
            return event.seq
        before = event
    return 0
