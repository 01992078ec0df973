"""Workers: who lives, what each runs and holds, and the queues nobody serves."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from longcase.cli import terminal
from longcase.cli.frame import Session, command

if TYPE_CHECKING:
    from longcase.service.fleet import QueueView, WorkerView

PANEL = "Run"
SILENT = 30.0  # seconds without a sign of life after which a living worker is worth a look


def add_to(app: typer.Typer) -> None:
    """Add this group's commands."""
    command(app, PANEL)(workers)


def workers(session: Session) -> None:
    """List the workers: who lives, since when, what code each runs, what it serves and holds; and the queues."""
    found = session.ask(lambda service: service.workers())
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
    for queue in found.queues:
        if queue.unserved:
            told = f"nobody serves queue {queue.queue}: longcase worker APP --queue {queue.queue}"
            terminal.note(session.paste(told))


def _state(row: WorkerView) -> str:
    if not row.alive:
        return "dead"
    return "silent" if row.silent > SILENT else "alive"


def _served(queue: QueueView) -> str:
    return ", ".join(map(str, queue.workers)) or "nobody"
