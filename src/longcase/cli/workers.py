"""Workers: who lives, what each runs and holds, and the queues nobody serves."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from longcase.cli import terminal
from longcase.cli.frame import Session, command
from longcase.errors import LongcaseError
from longcase.model.names import counted

if TYPE_CHECKING:
    from longcase.service.fleet import FleetView, Held, QueueView, WorkerView

PANEL = "Run"
SILENT = 30.0  # seconds without a sign of life after which a living worker is worth a look


def add_to(app: typer.Typer) -> None:
    """Add this group's commands."""
    command(app, PANEL, every_tenant=True)(workers)


def workers(session: Session) -> None:
    """List the workers: who lives, since when, what code each runs, what it serves and holds; and the queues.

    Workers, and what waits for them, are of all tenants.
    Of cases that are due it says why nobody moves them, of calls that wait in a queue why nobody takes them; that a
    queue's concurrency or rate is used up only if the workflows are named that declare it.
    """
    found = _asked(session)
    if session.json:
        terminal.data(asdict(found))
        return
    if found.workers:
        terminal.table(
            ["WORKER", "STATE", "HOST", "PID", "SINCE", "LAST BEAT", "CODE", "QUEUES", "CASES", "ATTEMPTS"],
            [
                [
                    row.worker, _state(row), row.host, row.pid, terminal.instant(row.since), f"{row.silent:.0f} s ago",
                    row.code, ", ".join(row.queues), row.cases, row.attempts,
                ]
                for row in found.workers
            ],
        )  # fmt: skip
    else:
        terminal.line("no worker")
        if not found.unmoved:  # else it stands below, with what waits
            terminal.note(session.paste("hint: longcase worker APP"))
    if found.queues:
        terminal.line()
        terminal.table(
            ["QUEUE", "WAITING", "SINCE", "RUNNING", "SERVED BY"],
            [
                [queue.queue, queue.waiting, terminal.instant(queue.waiting_since), queue.running, _served(queue)]
                for queue in found.queues
            ],
        )
    why = _why(found)
    if why:
        terminal.line()
    for told in why:
        terminal.line(session.paste(told))


def _asked(session: Session) -> FleetView:
    """Ask with the workflows' code if they are named; where that cannot be loaded, without."""
    if session.has_app:
        with suppress(LongcaseError):
            return session.ask(lambda service: service.workers(), code=True)
    return session.ask(lambda service: service.workers())


def _why(found: FleetView) -> list[str]:
    """Return of what waits why it does: cases that nobody moves, then calls by their queue."""
    told = [
        f"{counted(one.cases, 'case')} of {one.workflow} wait{'s' * (one.cases == 1)} for a worker: {one.why}: "
        "longcase worker APP"
        for one in found.unmoved
    ]
    for queue in found.queues:
        told += [_held(queue.queue, held) for held in queue.held]
        if queue.next_due:
            when = terminal.instant(queue.next_due)
            told.append(f"queue {queue.queue}: of what is tried later, the first is due at {when}")
    return told


def _held(queue: str, held: Held) -> str:
    from longcase.insight.wording import with_instants

    calls = f"{counted(held.calls, 'call')} of {held.workflow} wait{'s' * (held.calls == 1)}"
    mend = f": longcase worker APP --queue {queue}" if held.unserved else ""
    return f"{calls} in queue {queue}: {with_instants(held.why, terminal.stamp)}{mend}"


def _state(row: WorkerView) -> str:
    if not row.alive:
        return "dead"
    return "silent" if row.silent > SILENT else "alive"


def _served(queue: QueueView) -> str:
    return ", ".join(map(str, queue.workers)) or "nobody"
