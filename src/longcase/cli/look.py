"""Look: `list`, `show`, `history`, `tasks`. None of them needs the workflows' code."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from longcase.cli import terminal
from longcase.cli.frame import Session, command, finish
from longcase.errors import LongcaseError, NotFoundError
from longcase.history.chain import is_sound
from longcase.history.waits import votes_stand
from longcase.model.names import MAIN_TENANT

if TYPE_CHECKING:
    from longcase.history.event import Event
    from longcase.service.queries import Which
    from longcase.service.service import CaseView, Service

T = TypeVar("T")
PANEL = "Look"
LISTED = 50  # cases, unless more are asked for
HISTORY_PAGE = 500  # events read at a time
LARGEST = 2**63 - 1  # number that a store can compare with


def add_to(app: typer.Typer) -> None:
    """Add this group's commands."""
    command(app, PANEL, "list")(list_cases)
    command(app, PANEL)(show)
    command(app, PANEL)(history)
    command(app, PANEL)(tasks)


def list_cases(
    session: Session,
    workflow: Annotated[str, typer.Option("--workflow", "-w", help="Of this workflow.")] = "",
    stage: Annotated[str, typer.Option(help="In this stage.")] = "",
    owner: Annotated[str, typer.Option(help="Accountable is this team or person.")] = "",
    whose: Annotated[str, typer.Option(help="Whose move it is.")] = "",
    waiting: Annotated[str, typer.Option(help="What it waits for: person, data, activity, incident ...")] = "",
    status: Annotated[str, typer.Option(help="open, closed or all.")] = "open",
    overdue: Annotated[bool, typer.Option("--overdue", help="Something of it is late.")] = False,
    incidents: Annotated[bool, typer.Option("--incidents", help="It cannot go on without an operator.")] = False,
    after: Annotated[int, typer.Option(help="Go on behind this case number.", min=0, max=LARGEST)] = 0,
    limit: Annotated[int, typer.Option(help="1 to 1000 cases.")] = LISTED,
) -> None:
    """List cases: where each is, what it waits on, whose move it is, since when."""
    from longcase.insight.wording import waiting_on
    from longcase.service.queries import Which

    which = Which(workflow, stage, owner, whose, waiting, status, overdue, incidents, after, limit)
    rows = _asked(session, lambda service: service.cases(which))
    if not rows:
        _name_strangers(session, owner, whose)
    more = len(rows) > limit
    rows = rows[:limit]
    if session.json:
        return terminal.data(rows)
    if not rows:
        return terminal.line("no case" if status == "all" else f"no {status} case")
    terminal.table(
        ["CASE", "STATUS", "STAGE", "WAITING ON", "WHOSE MOVE", "SINCE", "EXPECTED BY", "OWNER"],
        [
            [
                row["case"], _status(row["status"], row["closed_as"]), row["stage"],
                waiting_on(row["waiting_for"], row["waiting_on"], terminal.instant) if row["waiting_on"] else "",
                row["whose_move"], terminal.instant(row["waiting_since"]), _expected(row), row["owner"],
            ]
            for row in rows
        ],
    )  # fmt: skip
    if more:
        terminal.note(session.paste(f"more: longcase list{_options(which)} --after {rows[-1]['case_no']}"))
    return None


def _asked(session: Session, work: Callable[[Service], Coroutine[Any, Any, T]]) -> T:
    """Ask the store; what it does not know, the workflows may: they are loaded if they are named, for that alone."""
    try:
        return session.ask(work)
    except NotFoundError as error:
        if not session.has_app:
            raise
        try:
            return session.ask(work, code=True)
        except NotFoundError:
            raise
        except LongcaseError:
            raise error from None


def _name_strangers(session: Session, *names: str) -> None:
    """Say which of the names of teams and people that a list was narrowed by are known nowhere."""
    if not any(names):
        return

    async def told(service: Service) -> list[str]:
        return await service.strangers(*names)

    sentences = session.ask(told)
    if sentences and session.has_app:
        with suppress(LongcaseError):
            sentences = session.ask(told, code=True)
    for sentence in sentences:
        terminal.note(sentence)


def _options(which: Which) -> str:
    """Return what narrows a list, as it is typed."""
    named = (
        ("--workflow", which.workflow), ("--stage", which.stage), ("--owner", which.owner), ("--whose", which.whose),
        ("--waiting", which.waiting), ("--status", "" if which.status == "open" else which.status),
        ("--limit", "" if which.limit == LISTED else str(which.limit)),
    )  # fmt: skip
    typed = [f" {option} {shlex.quote(value)}" for option, value in named if value]
    return "".join(typed) + " --overdue" * which.overdue + " --incidents" * which.incidents


def _status(status: str, closed_as: str | None) -> str:
    return f"{status}: {closed_as}" if closed_as else status


def _expected(row: dict[str, Any]) -> str:
    late = " late" if row["waiting_until"] and row["waiting_until"] < row["now"] else ""
    return f"{terminal.instant(row['waiting_until'])}{late}"


def show(session: Session, case: Annotated[str, typer.Argument(metavar="CASE", help="workflow/key")]) -> None:
    """Show one case: status, stage, what it waits on, whose move, since when, expected by, next, owner."""
    from longcase.history.event import instant_text
    from longcase.insight.wording import headline

    with session.open() as longcase:
        view = finish(longcase.service.show(case))
        now = instant_text(longcase.env.now())
    sentence = headline(view.state, now, terminal.instant)
    if session.json:
        return terminal.data(_as_json(view, sentence, now))
    return _print_case(session, view, sentence, now)


def _as_json(view: CaseView, sentence: str, now: str) -> dict[str, Any]:
    from longcase.insight.wording import settling

    state = view.state
    first = view.waits[0] if view.waits else None
    return {
        "case": view.address, "case_no": view.case_no, "tenant": state.tenant, "headline": sentence,
        "status": state.status, "stage": state.stage, "visit": state.visit, "owner": state.owner,
        "waiting_on": first.what if first else None, "waiting_for": first.kind if first else None,
        "whose_move": first.whose if first else None, "since": first.since if first else state.entered_at,
        "expected_by": (first.expected if first else state.stage_expected) or None,
        "stage_expected_by": state.stage_expected or None, "case_expected_by": state.expected or None,
        "next": list(view.exits), "waits": [wait._asdict() for wait in view.waits],
        "incidents": {name: dict(incident) for name, incident in state.incidents.items()},
        "input_corrected": [
            {"call": ref, "activity": call["activity"], **call["corrected"]}
            for ref, call in state.calls.items()
            if "corrected" in call
        ],
        "settling": settling(state),
        "pending_inputs": view.pending, "unserved": view.unserved, "unmoved": view.unmoved or None,
        "untaken": dict(view.untaken),
        "kept_signals": [kept["signal"] for kept in state.signals],
        "handlers": {name: dict(run) for name, run in state.handlers.items()}, "returned": state.returned,
        "close": state.close, "started_at": state.started_at, "closed_at": state.closed_at or None,
        "events": state.seq, "object": state.object, "as_of": now,
    }  # fmt: skip


def _print_case(session: Session, view: CaseView, sentence: str, now: str) -> None:
    from longcase.history.event import instant_of
    from longcase.insight.wording import corrected_calls, handlers, settling, waiting_on

    state = view.state
    first = view.waits[0] if view.waits else None
    since = first.since if first else state.entered_at
    terminal.line(f"{view.address}: {sentence}")
    terminal.line()
    ago = f" ({terminal.span(instant_of(now) - instant_of(since))} ago)" if since else ""
    closed = (state.close or {}).get("name", "") if state.status == "closed" else ""
    terminal.facts(
        [
            ("tenant", state.tenant if state.tenant != MAIN_TENANT else ""),
            ("status", _status(state.status, closed)),
            ("stage", f"{state.stage} (visit {state.visit}, since {terminal.instant(state.entered_at)})"),
            ("stage done", f"{state.returned['exit']}, once its handlers have ended" if state.returned else ""),
            ("waiting on", waiting_on(first.kind, first.what, terminal.instant) if first else ""),
            ("whose move", first.whose if first else ""),
            ("since", f"{terminal.instant(since)}{ago}" if not closed else ""),
            ("expected by", _when(first.expected if first else state.stage_expected, now) if not closed else ""),
            ("stage until", _when(state.stage_expected, now) if not closed else ""),
            ("case until", _when(state.expected, now) if not closed else ""),
            ("next", ", ".join(view.exits)),
            ("owner", state.owner),
            ("inputs", f"{view.pending} accepted, not yet applied" if view.pending else ""),
            ("handlers", "; ".join(handlers(state, terminal.instant))),
            ("signals", ", ".join(kept["signal"] for kept in state.signals)),
            ("result", _text((state.close or {}).get("result")) if closed else ""),
            ("object", _text(state.object)),
        ]
    )
    if len(view.waits) > 1:
        terminal.line()
        terminal.table(
            ["ALSO WAITING FOR", "WHOSE MOVE", "SINCE", "EXPECTED BY"],
            [
                [
                    waiting_on(w.kind, w.what, terminal.instant), w.whose, terminal.instant(w.since),
                    _when(w.expected, now),
                ]
                for w in view.waits[1:]
            ],
        )  # fmt: skip
    for line in (*corrected_calls(state, terminal.instant), *settling(state)):
        terminal.line()
        terminal.line(session.paste(line))
    for name, incident in state.incidents.items():
        terminal.line()
        terminal.line(
            f"incident {name}, {incident['kind']}, {incident['owner']} to act by {_when(incident['due'], now)}"
        )
        if not {"recorded", "attempted"} <= incident["details"].keys():  # these two are the message, in two lines
            terminal.line(f"  {incident['message']}")
        for what, value in incident["details"].items():
            if value != "":  # no line of code, where a stage is gone
                terminal.line(f"  {what}: {_text(value)}")
        terminal.line(f"  what applies: {', '.join(incident['repairs'])}")
    terminal.line()
    if view.unserved:
        terminal.line(session.paste(f"Nobody moves it: {view.unmoved}: longcase worker APP"))
    for queue, why in view.untaken.items():
        terminal.line(
            session.paste(f"Nobody takes its calls from queue {queue}: {why}: longcase worker APP -q {queue}")
        )
    terminal.line(session.paste(f"All times are UTC. More: longcase history {view.address}"))


def _when(instant: str, now: str) -> str:
    return f"{terminal.instant(instant)} (overdue)" if instant and instant < now else terminal.instant(instant)


def _text(value: Any) -> str:
    import json

    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def history(
    session: Session,
    case: Annotated[str, typer.Argument(metavar="CASE", help="workflow/key")],
    after: Annotated[int, typer.Option(help="Begin behind this event.", min=0, max=LARGEST)] = 0,
    limit: Annotated[int, typer.Option(help="At most so many events; 0 for all.", min=0)] = 0,
    data: Annotated[bool, typer.Option("--data", help="Show what each event holds.")] = False,
) -> None:
    """Tell what has happened to a case: when, who, what, in order."""
    from longcase.insight.wording import told

    with session.open() as longcase:
        shown = 0
        while True:
            page = min(limit - shown, HISTORY_PAGE) if limit else HISTORY_PAGE
            events = finish(longcase.service.history(case, after=after, limit=page)) if page else []
            for event in events:
                if session.json:
                    terminal.data(_event_json(event))
                else:
                    behalf = f" for {event.on_behalf}" if event.on_behalf else ""
                    words = told(event, terminal.stamp)
                    terminal.line(f"{event.seq:>4}  {terminal.stamp(event.at)}  {event.actor + behalf:<16}  {words}")
                    if data:
                        terminal.line(f"      {_text(event.data)}")
            shown += len(events)
            if len(events) < page or not events:
                return
            after = events[-1].seq


def _event_json(event: Event) -> dict[str, Any]:
    return {
        "seq": event.seq, "at": event.at, "type": event.type, "version": event.version, "visit": event.visit,
        "actor": event.actor, "on_behalf": event.on_behalf or None, "channel": event.channel, "cause": event.cause,
        "map": event.map, "node": event.node or None, "n": event.n, "strand": event.strand, "data": event.data,
        "hash": event.hash.hex(), "sound": is_sound(event),
    }  # fmt: skip


def tasks(
    session: Session,
    of: Annotated[str, typer.Option(help="Only what this team or person may answer.")] = "",
    case: Annotated[str, typer.Option(help="Only of this case, workflow/key.")] = "",
    limit: Annotated[int, typer.Option(help="1 to 1000 tasks.")] = 200,
) -> None:
    """List what people are asked: the question, whose move it is, the answers it takes."""

    rows = session.ask(lambda service: service.tasks(of=of, limit=limit, address=case))
    if not rows:
        _name_strangers(session, of)
    if session.json:
        return terminal.data(rows)
    if not rows:
        return terminal.line("no open task")
    terminal.table(
        ["CASE", "TASK", "QUESTION", "WHOSE MOVE", "SINCE", "EXPECTED BY", "ANSWERS"],
        [
            [
                row["case"], row["task"], _question(row), ", ".join(row["whose"]), terminal.instant(row["opened_at"]),
                terminal.instant(row["expected_by"]), session.paste(_answers(row)),
            ]
            for row in rows
        ],
    )  # fmt: skip
    return None


def _question(row: dict[str, Any]) -> str:
    """Return what is asked, and where some have answered how their answers stand."""
    text = str(row["question"])
    answers = row["answered"].values()
    return f"{text} ({votes_stand(answers, row['quorum'])})" if answers else text


def _answers(row: dict[str, Any]) -> str:
    if row["field"]:
        return f"longcase set {row['case']} {row['field']}=..."
    return " | ".join(row["answers"]) or "a form: longcase tasks --json"
