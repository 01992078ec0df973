"""Tell a case something: `signal`, `set`, `decide`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from longcase.cli import terminal
from longcase.cli.frame import Session, command, finish, json_argument, json_object

if TYPE_CHECKING:
    from longcase.service.service import Accepted

PANEL = "Tell a case"
CASE = Annotated[str, typer.Argument(metavar="CASE", help="workflow/key")]
KEY = Annotated[str | None, typer.Option(help="Idempotency key: the same message twice is one.")]


def add_to(app: typer.Typer) -> None:
    """Add this group's commands."""
    command(app, PANEL, "signal")(send_signal)
    command(app, PANEL, "set")(set_fields)
    command(app, PANEL)(decide)


def send_signal(
    session: Session,
    case: CASE,
    name: Annotated[str, typer.Argument(metavar="SIGNAL", help="The signal's name.")],
    body: Annotated[str, typer.Argument(metavar="[JSON|-]", help="Its body; - reads it from stdin.")] = "{}",
    key: KEY = None,
) -> None:
    """Send a signal. When this returns it is kept, also if no worker runs."""
    from longcase.model.strict_json import SIGNAL_BYTES

    data = json_object(body, f"signal {name}", SIGNAL_BYTES)
    accepted = session.ask(lambda service: service.signal(case, name, data, idempotency_key=key), code=True)
    tell(session, accepted, "accepted")


def set_fields(
    session: Session,
    case: CASE,
    fields: Annotated[list[str], typer.Argument(metavar="FIELD=VALUE...", help="FIELD=TEXT or FIELD:=JSON")],
) -> None:
    """Provide data a case waits for; it goes on by itself."""
    from longcase.cli.fields import fields_of

    with session.open(code=True) as longcase:
        service = longcase.service
        values = fields_of(service, service.ref(case).workflow).assignments(fields, case)
        tell(session, finish(service.set_fields(case, values)), "set")


def decide(
    session: Session,
    case: CASE,
    answer: Annotated[str, typer.Argument(metavar="ANSWER|JSON|-", help="One of its answers, or the filled form.")],
    task: Annotated[str | None, typer.Option(help="Which task, if several are open.")] = None,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    shown: Annotated[str | None, typer.Option(help="Digest of what was shown; refused if it has changed.")] = None,
) -> None:
    """Answer what people are asked, as yourself or `--as` somebody."""
    from longcase.model.strict_json import BODY_BYTES, check_json

    is_json = answer == "-" or answer.lstrip()[:1] in ("{", "[", '"')
    value = json_argument(answer, "answer", BODY_BYTES) if is_json else check_json(answer, what="answer")
    check_json(reason, what="reason")
    accepted = session.ask(lambda service: service.decide(case, value, task=task, reason=reason, shown=shown))
    tell(session, accepted, "")


def tell(session: Session, accepted: Accepted, did: str) -> None:
    """Print what became of a message or a repair."""
    if session.json:
        return terminal.data(
            {
                "case": accepted.address,
                "did": accepted.did or did or "decided",
                "duplicate": accepted.duplicate,
                "remaining": accepted.remaining,
            }
        )
    again = " before; nothing changed" if accepted.duplicate else ""
    more = f"; {accepted.remaining} more needed" if accepted.remaining else ""
    what = accepted.did if accepted.did in ("", did) or accepted.did.startswith(did) else f"{did}: {accepted.did}"
    terminal.line(session.paste(f"{accepted.address}: {what or did}{again}{more}"))
    return None
