"""Mend a case: `retry`, `redo`, `skip`, `set-result`, `move`, `restart`, `correct`, `cancel`; with who and why."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longcase.cli.frame import Session, command, finish, json_argument, json_object
from longcase.cli.say import CASE, tell

if TYPE_CHECKING:
    from longcase.service.service import Accepted, Service

PANEL = "Mend a case"
INCIDENT = Annotated[str | None, typer.Option(help="Which incident, if several are open.")]
MAYBE = Annotated[str | None, typer.Option(help="Why; it stands in the history.")]
WHY = Annotated[str, typer.Option("--reason", help="Why; it stands in the history.", show_default=False)]


def add_to(app: typer.Typer) -> None:
    """Add this group's commands."""
    for function in (retry, redo, skip, set_result, move, restart, correct, cancel):
        command(app, PANEL)(function)


def retry(session: Session, case: CASE, incident: INCIDENT = None, reason: MAYBE = None) -> None:
    """Try the incident's call again with fresh attempts, or apply the refused input once more."""
    why = reason if reason is None else checked_reason(reason)
    tell(session, session.ask(lambda service: service.retry(case, incident=incident, reason=why)), "retried")


def redo(
    session: Session,
    case: CASE,
    call: Annotated[
        str | None,
        typer.Option(help="Which call, if the input of several was corrected: its name in `show`, or its activity."),
    ] = None,
    arguments: Annotated[
        str,
        typer.Option("--with", metavar="JSON|-", help="Arguments by name, where it is in doubt what was corrected."),
    ] = "{}",
    never_happened: Annotated[
        bool, typer.Option("--never-happened", help="You have looked: no attempt of the call took effect.")
    ] = False,
    reason: MAYBE = None,
) -> None:
    """Have a call in flight called anew with what was corrected since, under a key of its own."""
    from longcase.model.strict_json import BODY_BYTES

    why = reason if reason is None else checked_reason(reason)
    given = json_object(arguments, "arguments", BODY_BYTES, f"like --with {_as_object(arguments)}")

    def work(service: Service) -> Coroutine[Any, Any, Accepted]:
        return service.redo(case, call=call, arguments=given, never_happened=never_happened, reason=why)

    tell(session, session.ask(work, code=True), "called anew")


def _as_object(arguments: str) -> str:
    """Return what was given for arguments as the object that may be meant, as it is typed."""
    import json
    import shlex

    name, sign, text = arguments.partition("=")
    if not sign or not name.removesuffix(":").isidentifier():
        return """'{"iban": "NL2"}'"""
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    return shlex.quote(json.dumps({name.removesuffix(":"): value}))


def skip(session: Session, case: CASE, incident: INCIDENT = None, reason: MAYBE = None) -> None:
    """Go on without the incident's call, where its result may be nothing."""
    why = reason if reason is None else checked_reason(reason)
    tell(session, session.ask(lambda service: service.skip(case, incident=incident, reason=why), code=True), "skipped")


def set_result(
    session: Session,
    case: CASE,
    result: Annotated[str, typer.Argument(metavar="JSON|-", help="What the call would have returned.")],
    incident: INCIDENT = None,
    reason: MAYBE = None,
) -> None:
    """Supply the result of the incident's call."""
    from longcase.model.strict_json import BODY_BYTES

    why = reason if reason is None else checked_reason(reason)
    value = json_argument(result, "result", BODY_BYTES)
    accepted = session.ask(lambda service: service.set_result(case, value, incident=incident, reason=why), code=True)
    tell(session, accepted, "result set")


def move(
    session: Session,
    case: CASE,
    stage: Annotated[str, typer.Argument(help="Where to.")],
    reason: WHY,
    repeat: Annotated[
        bool, typer.Option("--repeat", help='Also if it has called what has effect="once", and calls it again.')
    ] = False,
) -> None:
    """Move a case to another stage: its visit ends, nothing is undone."""
    why = checked_reason(reason)
    accepted = session.ask(lambda service: service.move(case, stage, reason=why, repeat=repeat), code=True)
    tell(session, accepted, "moved")


def restart(session: Session, case: CASE, reason: WHY) -> None:
    """Begin the current visit anew, with what its calls have returned already."""
    why = checked_reason(reason)
    tell(session, session.ask(lambda service: service.restart(case, reason=why)), "restarted")


def correct(
    session: Session,
    case: CASE,
    fields: Annotated[list[str], typer.Argument(metavar="FIELD=VALUE...", help="FIELD=TEXT or FIELD:=JSON")],
    reason: WHY,
    no_pin: Annotated[bool, typer.Option("--no-pin", help="Let the running visit overwrite it.")] = False,
) -> None:
    """Correct fields of the business object, recorded with before and after."""
    from longcase.cli.fields import fields_of

    why = checked_reason(reason)
    with session.open(code=True) as longcase:
        service = longcase.service
        values = fields_of(service, service.ref(case).workflow).assignments(fields, case)
        accepted = finish(service.correct(case, values, reason=why, pin=not no_pin))
    tell(session, accepted, "corrected")


def cancel(session: Session, case: CASE, reason: WHY) -> None:
    """Cancel a case: its cancel path runs; without one it is undone and closed as cancelled."""
    why = checked_reason(reason)
    tell(session, session.ask(lambda service: service.cancel(case, reason=why)), "cancelling")


def checked_reason(reason: str) -> str:
    """Return a reason that may be kept."""
    from longcase.service import door

    return door.checked_reason(reason)
