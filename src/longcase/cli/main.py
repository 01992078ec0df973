"""The way in: `longcase COMMAND ...`. Puts the commands together and turns errors into exit statuses.

0    done                         4    conflict: somebody was first
2    the call or a definition     5    refused by a rule
3    nothing of that name         6    the store
130  Ctrl-C                       70   a bug of Longcase
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from longcase.cli import archive, begin, define, keep, look, mend, run, say, terminal, workers
from longcase.errors import BugError, LongcaseError

INTERRUPTED = 130

app = typer.Typer(
    name="longcase",
    help="Business workflows that survive production.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (run, workers, begin, look, say, mend, define, keep, archive):
    group.add_to(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"longcase {sys.modules['longcase'].__version__}")
        raise typer.Exit


@app.callback()
def _all(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Business workflows that survive production."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave the process with its status."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that knows no Greek shows escapes
    status = run_command([_as_utf8(word) for word in (sys.argv[1:] if arguments is None else arguments)])
    raise SystemExit(status)


def _as_utf8(word: str) -> str:
    """Return a word of the command line as it was typed, also where the machine's locale knows no UTF-8."""
    try:
        return os.fsencode(word).decode()
    except UnicodeError:
        return word  # of another encoding; the command says so


def run_command(arguments: list[str]) -> int:
    """Run one command; returns its exit status. Errors are on stderr."""
    as_json = "--json" in arguments
    try:
        status = app(arguments, prog_name="longcase", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except terminal.ReaderGone:
        return 0  # it has seen enough
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):
            return 0  # the same, of the option parser's help
        raise
    except (KeyboardInterrupt, terminal.Interrupted, typer.Abort):
        _tell({"code": "interrupted", "message": "interrupted", "exit": INTERRUPTED}, as_json)
        return INTERRUPTED
    except typer.Exit as error:
        return int(error.exit_code)
    except LongcaseError as error:
        if isinstance(error, BugError):
            return _unexpected(error, as_json)
        _debug()
        _tell({**error.to_json(), "exit": error.exit_code}, as_json)
        return error.exit_code
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # of the option parser
            usage = _usage(error)
            if usage["message"]:  # else no command was named, and the help is printed
                _tell(usage, as_json)
            return 2
        return _unexpected(error, as_json)


def _usage(error: Any) -> dict[str, Any]:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "longcase"
    return {"code": "usage", "message": str(error.format_message()), "hint": f"{path} --help", "exit": 2}


def _unexpected(error: BaseException, as_json: bool) -> int:
    _debug()
    text = error.message if isinstance(error, BugError) else f"{type(error).__name__}: {error}"
    message = f"a bug of Longcase: {text}"
    hint = "run it again with LONGCASE_DEBUG=1 and report what it prints"
    _tell({"code": "bug", "message": message, "hint": hint, "exit": 70}, as_json)
    return 70


def _debug() -> None:
    if os.environ.get("LONGCASE_DEBUG") == "1":
        import traceback

        traceback.print_exc()


def _tell(problem: dict[str, Any], as_json: bool) -> None:
    if sys.stderr is None:
        return
    try:
        if as_json:
            print(json.dumps(problem, default=str), file=sys.stderr, flush=True)
        else:
            print(terminal.error_text(problem["message"], problem.get("hint", "")), file=sys.stderr, flush=True)
    except (BrokenPipeError, ValueError):
        pass  # nobody reads; the status still says it
