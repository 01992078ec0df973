"""Run: `dev` and `worker`, which move cases until they are told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longcase.cli import terminal
from longcase.cli.frame import Session, command
from longcase.errors import UsageError

if TYPE_CHECKING:
    from longcase.app import Longcase

PANEL = "Run"
_APP_ARGUMENT = Annotated[
    str | None,
    typer.Argument(metavar="APP", help="Module or file with the workflows; LONGCASE_APP.", show_default=False),
]
_QUEUES = Annotated[
    list[str] | None,
    typer.Option(
        "--queue", "-q", metavar="NAME",
        help="Serve this queue, and no other than those named. `default` is what is bound to no queue.",
    ),
]  # fmt: skip
_ATTEMPTS = Annotated[int, typer.Option(help="Attempts at once.", min=1)]
_LIVE = Annotated[int, typer.Option(help="Cases kept in memory; others are rows and nothing else.", min=0)]


def add_to(app: typer.Typer) -> None:
    """Add this group's commands."""
    command(app, PANEL)(dev)
    command(app, PANEL)(worker)


def dev(
    session: Session,
    app: _APP_ARGUMENT = None,
    factor: Annotated[
        float | None,
        typer.Option(help="Let so many seconds pass in one; kept in the store, for every process that opens it."),
    ] = None,
    live: _LIVE = 512,
) -> None:
    """Run a worker for trying things out, and say where cases live and what to do next."""
    _run(session, app, live, factor, None, 2_000, tips=True)


def worker(
    session: Session,
    app: _APP_ARGUMENT = None,
    queue: _QUEUES = None,
    attempts: _ATTEMPTS = 2_000,
    live: _LIVE = 512,
) -> None:
    """Run a worker until SIGTERM or Ctrl-C: it begins nothing new and lets running attempts end."""
    _run(session, app, live, None, queue or ["default"], attempts, tips=False)


def _run(
    session: Session,
    app: str | None,
    live: int,
    factor: float | None,
    queues: list[str] | None,
    attempts: int,
    *,
    tips: bool,
) -> None:
    from longcase.app import Longcase
    from longcase.cli.loading import load_apps
    from longcase.opening import shared_store

    url = shared_store(session.store)
    if app is not None and session.app is not None:
        raise UsageError("the workflows are named twice", hint=f"longcase worker {app}")
    longcase = Longcase(load_apps(app or session.app), url=url, actor=session.actor, live=live)
    _log_to_stderr()
    asyncio.run(_work(session, longcase, factor, app or session.app, queues, attempts, tips=tips))


async def _work(
    session: Session,
    longcase: Longcase,
    factor: float | None,
    app: str | None,
    queues: list[str] | None,
    attempts: int,
    *,
    tips: bool,
) -> None:
    async with longcase:
        if factor is not None:
            await longcase.scale_clock(factor)
        await longcase.record_maps()
        served = longcase.all_queues() if queues is None else queues
        await _check_queues(longcase, served)
        mover = longcase.new_worker(served, attempts=attempts)
        asked = 0

        def stop() -> None:
            nonlocal asked
            asked += 1
            if asked > 1:
                mover.abort()
                return
            if mover.running_attempts:
                terminal.note(
                    f"stopping when {mover.running_attempts} running attempts have ended; again to stop at once"
                )
            mover.stop()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        running = loop.create_task(mover.run())
        # Said once the worker has joined: whoever reads the line may rely on it.
        while not mover.number and not running.done():  # noqa: ASYNC110  # the worker tells nobody else
            await asyncio.sleep(0.005)
        if mover.number:
            _say_hello(session, longcase, mover.number, served, app, tips=tips)
        await running
        _say(session, {"stopped": mover.number}, f"worker {mover.number} has stopped")


async def _check_queues(longcase: Longcase, served: Sequence[str]) -> None:
    """Refuse to serve only queues that no loaded activity is bound to: such a worker would never do anything.

    Beside queues that are known it is a warning: a queue that was renamed is served under its old name until it
    is empty, and the worker must start all the same once it is.
    """
    from difflib import get_close_matches

    declared = longcase.all_queues()
    if set(served) <= set(declared):
        return
    standing = {queue.queue for queue in (await longcase.service.workers()).queues if queue.waiting or queue.running}
    known = sorted({*declared, *standing})
    unknown = [name for name in served if name not in known]
    for name in unknown:
        near = get_close_matches(name, known, 1)
        told = f"no activity of the loaded workflows is bound to queue {name}, and no call stands in it"
        hint = f"did you mean {near[0]}?" if near else f"queues here: {', '.join(known)}"
        if len(unknown) == len(served):
            raise UsageError(told, hint=hint)
        terminal.note(f"warning: {told}; {hint}")


def _say_hello(
    session: Session, longcase: Longcase, number: int, served: Sequence[str], app: str | None, *, tips: bool
) -> None:
    names = [workflow.name for workflow in longcase.workflows]
    now = longcase.env.now().isoformat(timespec="seconds")
    hello = {
        "worker": number, "store": longcase.store.url, "workflows": names, "queues": list(served), "now": now,
    }  # fmt: skip
    what = f"moves {', '.join(names)}"
    if list(served) != ["default"]:
        what = f"serves {', '.join(served)} of {', '.join(names)}"
    _say(session, hello, f"worker {number} {what}; cases live in {longcase.store.url}")
    if tips and not session.json:
        first = longcase.workflows[0]
        where = f" --app {app}" if app else ""
        terminal.line(f"now is {now}; stop with Ctrl-C")
        terminal.line()
        terminal.line(f'  longcase start {first.name} \'{{"{first.key_field}": "C-1", ...}}\'{where}')
        terminal.line("  longcase list")
        terminal.line(f"  longcase show {first.name}/C-1")


def _say(session: Session, value: dict[str, Any], text: str) -> None:
    import sys

    if session.json:
        terminal.data(value)
    else:
        terminal.line(text)
    if sys.stdout is not None:
        sys.stdout.flush()


def _log_to_stderr() -> None:
    import logging

    class Escaped(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return "\n".join(terminal.escape(part) for part in super().format(record).split("\n"))

    handler = logging.StreamHandler()
    handler.setFormatter(Escaped("%(levelname)s %(name)s: %(message)s"))
    logging.getLogger("longcase").addHandler(handler)
