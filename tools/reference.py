"""Write docs/reference from the code: errors, events, commands, settings, views. `--check` fails if a page is stale."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

import longcase
from longcase import errors
from longcase.history.event import CATALOGUE

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "reference"
MIGRATIONS = ROOT / "src" / "longcase" / "store" / "sqlite" / "migrations"
NOTICE = "<!-- Written by tools/reference.py from the code; edit that. -->\n\n"

# Every environment variable the package reads. A test holds this list against the source.
VARIABLES: dict[str, tuple[str, str]] = {
    "LONGCASE_DATABASE_URL": (
        "`sqlite:///longcase.db`",
        "Where cases live: `sqlite:///` and a path, relative to the current folder or absolute "
        "(`sqlite:////srv/cases.db`), or `postgresql://user@host/database`. "
        "`--store` and `Longcase(url=...)` come first.",
    ),
    "LONGCASE_APP": (
        "none",
        "The module or file with the workflows, several separated by commas. `--app` comes first.",
    ),
    "LONGCASE_ACTOR": (
        "the user of the machine",
        "Who acts, for commands that change something. `--as` comes first. A name without `person:` or `service:` "
        "is a person's.",
    ),
    "LONGCASE_TENANT": (
        "`main`",
        "Whose cases a command starts, lists, shows and touches. `--tenant` comes first. In Python: "
        "`Longcase(tenant=...)`.",
    ),
    "LONGCASE_LEASE_SECONDS": (
        "10",
        "On PostgreSQL: how long a worker that gives no sign of life keeps its cases. Others take over after it.",
    ),
    "LONGCASE_LISTEN_URL": (
        "the store's URL",
        "On PostgreSQL behind a pooler: a URL direct to the server, for the connection that listens for changes.",
    ),
    "LONGCASE_DEBUG": ("unset", "`1` prints the Python traceback before the error."),
    "LONGCASE_FAULT": (
        "unset",
        "`name:n` ends the process at the n-th hit of a named point, as a kill does. For tests of crashes only.",
    ),
}


def errors_page() -> str:
    """Every error: its code, who mends it, the exit status of the CLI."""
    rows = [
        f"| `{kind.code}` | {kind.__name__} | {kind.exit_code} | {_yes(kind.retryable)} | {_first_line(kind)} |"
        for kind in sorted(error_classes(), key=lambda kind: (kind.exit_code, kind.code))
    ]
    head = "| code | class | exit | retryable | meaning |\n|---|---|---|---|---|\n"
    why = (
        "Every error names the thing, what was expected and what came, and ends with the mend after `hint:`. With "
        "`--json` it is one JSON object on stderr: `code`, `message`, `hint`, `details`, `exit`. Codes are stable. "
        "Retryable means that the same call may succeed later without a change.\n\n"
        "Ctrl-C ends a command with status 130 and the code `interrupted`.\n\n"
    )
    return "# Errors\n\n" + NOTICE + why + head + "\n".join(rows) + "\n"


def error_classes() -> list[type[errors.LongcaseError]]:
    """Return every error of the package, also those that one command declares for itself."""
    for module in pkgutil.walk_packages(longcase.__path__, "longcase."):
        if not module.name.endswith(("__main__", "testing.plugin")):
            importlib.import_module(module.name)
    found: dict[str, type[errors.LongcaseError]] = {}
    todo: list[type[errors.LongcaseError]] = [errors.LongcaseError]
    while todo:
        kind = todo.pop()
        if kind.__module__.startswith("longcase"):
            found[kind.__qualname__] = kind
            todo.extend(kind.__subclasses__())
    return list(found.values())


def events_page() -> str:
    """Every event type: its road into history, its anchor on the map, its meaning."""
    rows = [
        f"| `{kind.name}` | {kind.road} | {_yes(kind.seen)} | {kind.anchor} | {kind.meaning} |"
        for kind in CATALOGUE.values()
    ]
    head = "| type | road | seen | anchor | meaning |\n|---|---|---|---|---|\n"
    why = (
        "Roads: `input` enters history in the turn that applies it; `emitted` is what stage code did; `outside` is "
        "appended at once and makes a running turn redone; `record` is appended at once and unseen by stage code "
        "([decision 0002](../decisions/0002-two-roads-into-history.md)).\n\n"
    )
    return "# Events\n\n" + NOTICE + why + head + "\n".join(rows) + "\n"


def commands_page() -> str:
    """Every command with its help text and options; the options that all share are told once."""
    found = cli_commands()
    shared = set.intersection(*({_shown(parameter) for parameter in command.params} for command in found.values()))
    parts = ["# Commands\n", NOTICE.rstrip("\n") + "\n"]
    parts.append(
        "Exit statuses: 0 done, 2 the call or a definition is wrong, 3 nothing of that name, 4 somebody was first, "
        "5 refused by a rule, 6 the store, 70 a bug of Longcase, 130 Ctrl-C. See [errors](errors.md).\n"
    )
    first = next(iter(found.values()))
    parts.append("Every command takes:\n\n" + _table([p for p in first.params if _shown(p) in shared]))
    for name in sorted(found):
        command = found[name]
        parts.append(f"## longcase {name}\n\n{inspect.cleandoc(command.help or '').strip()}\n")
        own = [parameter for parameter in command.params if _shown(parameter) not in shared]
        if own:
            parts.append(_table(own))
    return "\n".join(parts)


def cli_commands() -> dict[str, Any]:
    """Return the commands of the CLI by name."""
    from longcase.cli.main import app

    commands: dict[str, Any] = getattr(typer.main.get_command(app), "commands", {})
    return commands


def _table(parameters: list[Any]) -> str:
    rows = [f"| {_shown(p)} | {_told(p)} |" for p in parameters]
    return "| argument | meaning |\n|---|---|\n" + "\n".join(rows) + "\n"


def _told(parameter: Any) -> str:
    """Return what help says of a parameter, and of an option whether it must be given."""
    told = (getattr(parameter, "help", "") or "").strip()
    return f"{told} Required." if parameter.required and parameter.param_type_name == "option" else told


def _shown(parameter: Any) -> str:
    if parameter.param_type_name == "option":
        return ", ".join(f"`{option}`" for option in parameter.opts)
    return f"`{parameter.metavar or parameter.name.upper()}`".replace("|", "\\|")


def settings_page() -> str:
    """Every environment variable."""
    rows = [f"| `{name}` | {default} | {meaning} |" for name, (default, meaning) in VARIABLES.items()]
    head = "| variable | default | meaning |\n|---|---|---|\n"
    why = (
        "There is no settings file. A flag comes before a variable, a variable before the default. One setting is "
        "kept in the store itself, so that all processes agree on it: the clock of `longcase dev --factor`. "
        "What a workflow sets for itself (owners, times, retries, limits) stands in its code; `longcase "
        "describe` shows it.\n\n"
    )
    return "# Settings\n\n" + NOTICE + why + head + "\n".join(rows) + "\n"


def views_page() -> str:
    """Every SQL view and its columns, from the comments above it."""
    text = views_sql()
    parts = ["# SQL views\n", NOTICE.rstrip("\n") + "\n"]
    parts.append(
        "What any SQL tool may ask of a store: `sqlite3 -readonly longcase.db` (SQLite 3.38 or newer), "
        "`LongcaseClient.query` and `Service.query` in Python. The tables below the views may change in every "
        "release, the views are kept. "
        "[Useful queries](../howto/ask-with-sql.md).\n"
    )
    told: dict[str, list[str]] = {}  # a later schema may make a view anew: its newest comment counts
    for comment, name in view_comments(text):
        told[name] = comment
    for name, comment in told.items():
        first, *rest = [line.removeprefix("--").rstrip() for line in comment]
        title, _, meaning = first.strip().partition(" ")
        assert title == name, f"{name}: its comment begins with {title}"
        columns = inspect.cleandoc("\n".join(rest))
        parts.append(f"## {name}\n\n{_sentence(meaning.strip())}\n" + (f"\n```\n{columns}\n```\n" if rest else ""))
    shared = re.search(r"-- Columns that all of them share:\n((?:-- {5}.*\n)+)", text)
    assert shared is not None
    common = inspect.cleandoc("\n".join(line.removeprefix("--") for line in shared[1].splitlines()))
    parts.insert(3, f"Columns that all of them share:\n\n```\n{common}\n```\n")
    return "\n".join(parts)


def views_sql() -> str:
    """Return the SQL of every schema change, oldest first."""
    return "\n".join(path.read_text() for path in sorted(MIGRATIONS.glob("*.sql")))


def view_comments(text: str) -> Iterator[tuple[list[str], str]]:
    """Yield the comment above each view and the view's name."""
    for match in re.finditer(r"((?:^--.*\n)+)CREATE VIEW (\w+)", text, re.MULTILINE):
        lines = match[1].splitlines()
        first = max(i for i, line in enumerate(lines) if line.startswith(f"-- {match[2]} "))
        yield lines[first:], match[2]


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _first_line(kind: type) -> str:
    return (inspect.getdoc(kind) or "").splitlines()[0]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


PAGE_MAKERS: dict[str, Callable[[], str]] = {
    "errors.md": errors_page,
    "events.md": events_page,
    "commands.md": commands_page,
    "settings.md": settings_page,
    "views.md": views_page,
}


def main() -> int:
    """Write the pages, or with --check say which are stale."""
    stale = []
    PAGES.mkdir(parents=True, exist_ok=True)
    for name, make in PAGE_MAKERS.items():
        text = make()
        path = PAGES / name
        if "--check" in sys.argv:
            if not path.exists() or path.read_text() != text:
                stale.append(name)
        else:
            path.write_text(text)
    if stale:
        print(f"stale: {', '.join(stale)}\n\nhint: python tools/reference.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
