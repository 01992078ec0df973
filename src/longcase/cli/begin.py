"""Begin: `start`, one case from JSON or thousands from a CSV."""

from __future__ import annotations

import shlex
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longcase.cli import terminal
from longcase.cli.frame import Session, command, json_object
from longcase.errors import LongcaseError, UsageError

if TYPE_CHECKING:
    from longcase.service.service import Receipt

PANEL = "Begin"


def add_to(app: typer.Typer) -> None:
    """Add this group's commands."""
    command(app, PANEL)(start)


def start(
    session: Session,
    workflow: Annotated[str, typer.Argument(metavar="WORKFLOW", help="The workflow's name.")],
    body: Annotated[
        str | None,
        typer.Argument(metavar="[JSON|-]", help="The business object; - reads it from stdin.", show_default=False),
    ] = None,
    csv: Annotated[
        str | None, typer.Option("--csv", metavar="FILE", help="Start a case for each row; - is stdin.")
    ] = None,
    results: Annotated[
        str | None, typer.Option(metavar="FILE", help="With --csv: write what became of each row.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Start anew where a closed case has the key.")] = False,
    key: Annotated[str | None, typer.Option(help="Idempotency key: the same call twice is one case.")] = None,
) -> None:
    """Start a case, or one for each row of a CSV. A key that has a case already answers with that case."""
    if csv is not None:
        if body is not None or key is not None:
            raise UsageError("--csv goes with neither JSON nor --key", hint=f"longcase start {workflow} --csv {csv}")
        from longcase.cli.csv_import import import_csv

        return import_csv(session, workflow, csv, results, again=again)
    if results is not None:
        raise UsageError("--results goes with --csv", hint=f"longcase start {workflow} --csv FILE --results {results}")
    if body is None:
        raise UsageError("there is no business object", hint=f"longcase start {workflow} {_example(session, workflow)}")
    from longcase.model.strict_json import BODY_BYTES

    data = json_object(body, f"object of {workflow}", BODY_BYTES)
    receipt = session.ask(
        lambda service: service.start(workflow, data, again=again, idempotency_key=key), code=True, create=True
    )
    if session.json:
        return terminal.data(as_json(receipt))
    did = f"existing, {receipt.status}" if receipt.existing else "started"
    differs = f"; differs in {', '.join(receipt.differs)}" if receipt.differs else ""
    terminal.line(f"{receipt.address}: {did}{differs}")
    if not receipt.existing:
        terminal.line(session.paste(f"  longcase show {receipt.address}"))
    return None


def _example(session: Session, workflow: str) -> str:
    """Return an object that the workflow takes, if its module can be loaded, as it is typed."""
    from longcase.app import collect
    from longcase.cli.fields import example_of
    from longcase.cli.loading import load_apps

    with suppress(LongcaseError):
        for one in collect(load_apps(session.app)):
            if one.name == workflow:
                return shlex.quote(example_of(one))
    return """'{"id": "C-1"}'"""


def as_json(receipt: Receipt) -> dict[str, Any]:
    """Return a receipt as the CLI prints it."""
    return {
        "case": receipt.address, "case_no": receipt.case_no, "did": "existing" if receipt.existing else "started",
        "status": receipt.status, "differs": list(receipt.differs),
    }  # fmt: skip
