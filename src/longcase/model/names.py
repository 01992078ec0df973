"""The form of names, business keys and idempotency keys (BAD-INPUTS rows 28 to 34), and of texts that are told."""

from __future__ import annotations

import re
from typing import Final

from longcase.errors import DefinitionError, UsageError

_NAME = re.compile(r"[A-Za-z0-9._:-]{1,128}")
MESSAGE_LIMIT = 2_000
MAIN_TENANT: Final = "main"  # of whoever names none
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def check_name(name: str, what: str) -> str:
    """Return `name` if it may name a declaration, else raise DefinitionError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DefinitionError(
            f"{what} name {printable(name)}: expected 1 to 128 of the characters A-Z a-z 0-9 . _ : -",
            hint=f"name it like {what}-name",
        )
    return name


def is_name(name: str) -> bool:
    """Tell whether a text may name a declaration."""
    return _NAME.fullmatch(name) is not None


def check_key(key: object, what: str = "business key") -> str:
    """Return `key` if it may address a case, else raise UsageError."""
    if not isinstance(key, str) or not _NAME.fullmatch(key):
        raise UsageError(
            f"{what} {printable(key)}: expected 1 to 128 of the characters A-Z a-z 0-9 . _ : -",
            hint="use the identifier your own system gives the object, for example C-1042",
        )
    return key


def check_tenant(name: object) -> str:
    """Return `name` if it may name a tenant, whose cases nobody else's door shows or touches; else raise UsageError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(
            f"tenant {printable(name)}: expected 1 to 128 of the characters A-Z a-z 0-9 . _ : -",
            hint="a short name that stays, for example acme",
        )
    return name


def of_tenant(name: str) -> str:
    """Return " of tenant acme" for a message; nothing is said of the main one."""
    return "" if name == MAIN_TENANT else f" of tenant {name}"


def check_idempotency_key(key: object) -> str:
    """Return `key` if it may identify a message of a sender, else raise UsageError."""
    if not isinstance(key, str) or not _IDEMPOTENCY_KEY.fullmatch(key):
        raise UsageError(
            f"idempotency key {printable(key)}: expected 1 to 255 printable ASCII characters without blanks",
            hint="use the sender's message id",
        )
    return key


def composed(name: str) -> str:
    """Return a person's name in one form (NFC): an é that was typed as two characters is the same person's."""
    if name.isascii():
        return name
    import unicodedata

    return unicodedata.normalize("NFC", name)


def check_person(name: str) -> str:
    """Return the name of who acts, with or without its kind, in one form; else raise UsageError.

    What nobody sees (control, bidi and zero-width characters) would make two people of one (BAD-INPUTS 28 to 31).
    """
    text = composed(name) if isinstance(name, str) else ""
    kind, colon, own = text.partition(":")
    own = own if colon else kind
    if not 1 <= len(own) <= 128 or own != own.strip() or not text.isprintable():
        raise UsageError(
            f"{printable(name)} names nobody: expected 1 to 128 characters that can be seen, after its kind",
            hint="person:anna.visser",
        )
    return text


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: "1 case", "2 cases"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def printable(value: object, limit: int = 60) -> str:
    """Quote a value for a message: escapes control and bidi characters, cut at `limit`."""
    text = ascii(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def storable(text: str) -> str:
    """Return text that can be stored anywhere: no NUL, no lone surrogate, bounded (BAD-INPUTS 13 to 16)."""
    clean = text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
    return clean if len(clean) <= MESSAGE_LIMIT else f"{clean[:MESSAGE_LIMIT]}... ({len(clean)} characters)"


def text_of(error: BaseException) -> str:
    """Return the text of an exception that any code may have raised, storable; its own `__str__` may raise too."""
    try:
        return storable(str(error))
    except Exception as why:
        return f"(its text is not known: its __str__ raised {type(why).__name__})"
