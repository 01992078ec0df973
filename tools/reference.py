"""Write docs/reference from the code: errors, events, commands. `--check` fails if a page is stale."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path

import typer

from longcase import errors
from longcase.history.event import CATALOGUE

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "reference"


def errors_page() -> str:
    """Every error: its code, who mends it, the exit code of the CLI."""
    rows = []
    for name, kind in vars(errors).items():
        if inspect.isclass(kind) and issubclass(kind, errors.LongcaseError):
            line = (inspect.getdoc(kind) or "").splitlines()[0]
            rows.append(f"| `{kind.code}` | {name} | {kind.exit_code} | {'yes' if kind.retryable else 'no'} | {line} |")
    head = "| code | class | exit | retryable | meaning |\n|---|---|---|---|---|\n"
    return "# Errors\n\nEvery error names the thing, what was expected and what came, and ends with the mend.\n\n" + head + "\n".join(rows) + "\n"


def events_page() -> str:
    """Every event type: its road into history, its anchor on the map, its meaning."""
    rows = [
        f"| `{kind.name}` | {kind.road} | {'yes' if kind.seen else 'no'} | {kind.anchor} | {kind.meaning} |" for kind in CATALOGUE.values()
    ]
    head = "| type | road | seen | anchor | meaning |\n|---|---|---|---|---|\n"
    why = (
        "Roads: `input` enters history in the turn that applies it; `emitted` is what stage code did; `outside` is appended at once and "
        "makes a running turn redone; `record` is appended at once and unseen by stage code (decision 0002).\n\n"
    )
    return "# Events\n\n" + why + head + "\n".join(rows) + "\n"


def commands_page() -> str:
    """Every command with its help text and options."""
    from longcase.cli.main import app

    group = typer.main.get_command(app)
    parts = ["# Commands\n"]
    commands = getattr(group, "commands", {})
    for name in sorted(commands):
        command = commands[name]
        parts.append(f"## longcase {name}\n\n{inspect.cleandoc(command.help or '').strip()}\n")
        rows = []
        for parameter in command.params:
            if parameter.name == "help":
                continue
            shown = ", ".join(f"`{option}`" for option in parameter.opts) if parameter.param_type_name == "option" else f"`{parameter.human_readable_name}`"
            rows.append(f"| {shown} | {(getattr(parameter, 'help', '') or '').strip()} |")
        if rows:
            parts.append("| argument | meaning |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


PAGE_MAKERS: dict[str, Callable[[], str]] = {"errors.md": errors_page, "events.md": events_page, "commands.md": commands_page}


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
