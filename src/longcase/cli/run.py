"""Run: `dev` and `worker`, which move cases until they are told to stop."""

from __future__ import annotations

import asyncio
import shlex
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longcase.cli import terminal
from longcase.cli.frame import Session, command
from longcase.errors import UsageError
from longcase.model.names import counted

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
    command(app, PANEL, every_tenant=True)(dev)
    command(app, PANEL, every_tenant=True)(worker)


def dev(
    session: Session,
    app: _APP_ARGUMENT = None,
    factor: Annotated[
        float | None,
        typer.Option(
            help="Let so many seconds pass in one, in a new store; kept there, for every process that opens it."
        ),
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
    """Run a worker until SIGTERM or Ctrl-C: it begins nothing new and lets running attempts end.

    It moves the cases of all tenants.
    """
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
    session.app = app or session.app
    longcase = Longcase(load_apps(session.app), url=url, actor=session.actor, live=live)
    _log_to_stderr()
    asyncio.run(_work(session, longcase, factor, queues, attempts, tips=tips))


async def _work(
    session: Session,
    longcase: Longcase,
    factor: float | None,
    queues: list[str] | None,
    attempts: int,
    *,
    tips: bool,
) -> None:
    async with longcase:
        if factor is not None:
            await _set_pace(longcase, factor)
        await longcase.record_maps()
        served = longcase.all_queues() if queues is None else queues
        for told in await longcase.unknown_queues(served):
            terminal.note(f"warning: {told}")
        mover = longcase.new_worker(served, attempts=attempts)
        asked = 0

        def stop() -> None:
            nonlocal asked
            asked += 1
            if asked > 1:
                mover.abort()
                return
            if mover.running_attempts:
                running_now = counted(mover.running_attempts, "running attempt")
                have = "has" if mover.running_attempts == 1 else "have"
                terminal.note(f"stopping when {running_now} {have} ended; again to stop at once")
            mover.stop()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        running = loop.create_task(mover.run())
        # Said once the worker has joined: whoever reads the line may rely on it.
        while not mover.number and not running.done():  # noqa: ASYNC110  # the worker tells nobody else
            await asyncio.sleep(0.005)
        if mover.number:
            await _say_hello(session, longcase, mover.number, served, tips=tips)
        await running
        _say(session, {"stopped": mover.number}, f"worker {mover.number} has stopped")


async def _set_pace(longcase: Longcase, factor: float) -> None:
    """Scale the clock of a store that nobody has used yet; in another one every time would move."""
    from longcase.store.settings import clock_from

    kept = clock_from(await longcase.store.setting("clock"))
    pace = kept.factor if kept is not None else 1.0
    if pace == factor:
        return
    used = await longcase.store.query("SELECT 1 FROM case_overview UNION ALL SELECT 1 FROM purged LIMIT 1")
    if used or any(worker.alive for worker in await longcase.store.workers()):
        raise UsageError(
            f"the clock of the store {longcase.store.url} cannot run {factor:g} times as fast as time: it is in use, "
            f"at a factor of {pace:g}; take a new store, or leave --factor away",
            hint=f"longcase dev APP --factor {factor:g} --store trial.db",
        )
    await longcase.scale_clock(factor)


async def _unserved(longcase: Longcase, served: Sequence[str]) -> list[str]:
    """Return the queues of the loaded workflows that no living worker serves, this one included."""
    workers = (await longcase.service.workers()).workers
    living = {queue for worker in workers if worker.alive for queue in worker.queues}
    return [queue for queue in longcase.all_queues() if queue not in living.union(served)]


async def _say_hello(session: Session, longcase: Longcase, number: int, served: Sequence[str], *, tips: bool) -> None:
    names = [workflow.name for workflow in longcase.workflows]
    now = longcase.env.now().isoformat(timespec="seconds")
    unserved = await _unserved(longcase, served)
    hello = {
        "worker": number, "store": longcase.store.url, "workflows": names, "queues": list(served),
        "unserved_queues": unserved, "now": now,
    }  # fmt: skip
    what = f"moves {', '.join(names)}"
    if list(served) != ["default"]:
        what = f"serves {', '.join(served)} of {', '.join(names)}"
    _say(session, hello, f"worker {number} {what}; cases live in {longcase.store.url}")
    if session.json:
        return
    for queue in unserved:
        told = f"nobody serves queue {queue}, to which the loaded workflows bind work: longcase worker APP"
        terminal.note(session.paste(f"{told} --queue {queue}"))
    if tips:
        from longcase.cli.fields import example_of

        first = longcase.workflows[0]
        terminal.line(f"now is {now}; stop with Ctrl-C")
        terminal.line()
        terminal.line(session.paste(f"  longcase start {first.name} {shlex.quote(example_of(first))}"))
        terminal.line(session.paste("  longcase list"))
        terminal.line(session.paste(f"  longcase show {first.name}/C-1"))


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
