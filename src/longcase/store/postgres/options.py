"""The options of a PostgreSQL store's URL: which are taken, and who gets them. Opens nothing."""

from __future__ import annotations

import os
import re
from typing import Final
from urllib.parse import parse_qsl

from longcase.errors import UsageError
from longcase.nearest import nearest
from longcase.record import record

CONNECT_SECONDS: Final = 10  # for a connection to be made, unless the URL says otherwise
CACHED_STATEMENTS: Final = 200
_LONGEST: Final = 3_600  # seconds of patience

_CHOICES: Final = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "target_session_attrs": ("any", "primary", "standby", "read-write", "read-only", "prefer-standby"),
}
_FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile")
_DRIVERS: Final = (  # left in the URL: the driver knows them
    "host", "port", "user", "password", "dbname", "service", "krbsrvname", "gsslib", "sslpassword",
    "ssl_min_protocol_version", "ssl_max_protocol_version", *_FILES, *_CHOICES,
)  # fmt: skip
_SERVERS: Final = ("application_name", "options")  # settings of a connection, which the server is told
_TAKEN: Final = sorted([*_DRIVERS, *_SERVERS, "connect_timeout", "statement_cache_size"])
_PORTS: Final = re.compile(r"\d{1,5}(,\d{1,5})*")


@record
class Options:
    """What the options of a URL come to."""

    driver: list[tuple[str, str]]  # those that stay in the URL
    settings: dict[str, str]
    patience: float  # seconds for a connection to be made
    statements: int  # prepared statements kept by a connection; 0 behind an old pooler


def read_options(query: str) -> Options:
    """Read the part of a URL behind the question mark.

    Raises:
        UsageError: an option is not taken, or its value is none it has; the message names it. Nothing is said
            of the value of an option that may be secret.
    """
    given = parse_qsl(query, keep_blank_values=True)
    for name, value in given:
        _check(name, value)
    found = dict(given)
    return Options(
        [(name, value) for name, value in given if name in _DRIVERS],
        {name: value for name, value in found.items() if name in _SERVERS},
        _number(found, "connect_timeout", CONNECT_SECONDS, 1, _LONGEST),
        _number(found, "statement_cache_size", CACHED_STATEMENTS, 0, 100_000),
    )


def _check(name: str, value: str) -> None:
    if name not in _TAKEN:
        near = nearest(name, _TAKEN)
        taken = f"taken: {', '.join(_TAKEN)}; a setting of the server: options=-c%20NAME=VALUE"
        raise UsageError(
            f"the store's URL has the option {name}, which is not taken",
            hint=f"did you mean {near[0]}?" if near else f"leave it away; {taken}",
        )
    if not value:
        raise UsageError(f"the option {name} of the store's URL has no value", hint="give it one, or leave it away")
    choices = _CHOICES.get(name, (value,))
    if value not in choices:
        raise _wrong(name, value, f"one of {', '.join(choices)}", choices[-1])
    if name == "port" and not _PORTS.fullmatch(value):
        raise _wrong(name, value, "a number", "5432")
    if name in _FILES and not (name == "sslrootcert" and value == "system") and not os.path.isfile(value):
        raise UsageError(f"{name}={value} in the store's URL: there is no such file", hint="give the file's whole path")


def _number(found: dict[str, str], name: str, default: int, least: int, most: int) -> int:
    text = found.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise _wrong(name, text, f"a whole number from {least} to {most}", str(default if least else 0))
    return int(text)


def _wrong(name: str, value: str, expected: str, example: str) -> UsageError:
    return UsageError(f"{name}={value} in the store's URL, expected {expected}", hint=f"?{name}={example}")
