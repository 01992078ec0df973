"""The hash chain of a case: an outsider can tell that no event was edited, dropped or re-ordered.

    digest(k) = SHA-256(salt(k) || payload text)
    hash(k)   = SHA-256(hash(k-1) || envelope(k) || digest(k))

The envelope is the JSON list of every other column of the event. The chain is over the salted
digest and not the payload, so that a payload can be erased by destroying payload and salt while
the chain still verifies (SEMANTICS B21, decision 0005).
"""

from __future__ import annotations

from hashlib import sha256
from json.encoder import encode_basestring

from longcase.history.event import Event

_text = encode_basestring
GENESIS = b"\x00" * 32


def envelope(event: Event) -> str:
    """Return the canonical text of everything but the payload."""
    # The list as `dump_json` writes it, by hand: this runs for every event.
    return (
        f"[{event.seq},{event.visit},{_text(event.type)},{event.version},{_text(event.at)},{_text(event.actor)},"
        f"{_text(event.on_behalf)},{_text(event.channel)},{'null' if event.cause is None else event.cause},{event.map},"
        f"{_text(event.node)},{event.n},{_text(event.strand)}]"
    )


def payload_digest(salt: str, text: str) -> bytes:
    """Return the salted digest of a payload as stored."""
    return sha256(f"{salt}{text}".encode("utf-8", "surrogatepass")).digest()


def link(previous: bytes, event: Event) -> bytes:
    """Return the event's hash, given the hash before it."""
    return sha256(previous + envelope(event).encode("utf-8", "surrogatepass") + event.digest).digest()
