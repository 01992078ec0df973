"""Next steps, ready to paste: the commands that a text names get the options this command was given."""

from __future__ import annotations

import re
import shlex

_COMMAND = re.compile(r"\blongcase ([a-z][a-z-]*)( APP\b)?")
_END = re.compile(r"[;|#\n]|, |longcase ")  # of a command inside a sentence
_WITHOUT_STORE = frozenset({"check", "describe", "map"})
_WITH_CODE = frozenset({"start", "signal", "set", "redo", "skip", "set-result", "move", "correct"})

commands: set[str] = set()  # every one there is
of_every_tenant: set[str] = set()  # those that look at all cases, whosever they are


def pasteable(text: str, *, store: str | None, app: str | None, tenant: str | None = None) -> str:
    """Return a text in which every `longcase COMMAND` reaches the same store, the same workflows and the same tenant.

    What comes from the environment is left out: it holds for the next command too.

    Args:
        store: as `--store` gave it, its secret masked; None if the store was not named so.
        app: likewise of `--app`.
        tenant: likewise of `--tenant`.
    """

    def completed(found: re.Match[str]) -> str:
        name, wants_app = found[1], found[2] or ""
        if name not in commands:
            return found[0]
        rest = _END.split(text[found.end() :], maxsplit=1)[0]
        given = ""
        if store and name not in _WITHOUT_STORE and "--store" not in rest:
            given += f" --store {shlex.quote(store)}"
        if tenant and name not in _WITHOUT_STORE | of_every_tenant and "--tenant" not in rest:
            given += f" --tenant {shlex.quote(tenant)}"
        if app and name in _WITH_CODE and "--app" not in rest:
            given += f" --app {shlex.quote(app)}"
        return f"longcase {name}{given}{f' {shlex.quote(app)}' if app and wants_app else wants_app}"

    return _COMMAND.sub(completed, text)
