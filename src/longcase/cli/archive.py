"""Keep closed cases as long as they must be, then let them go: `keep`, `export`, `purge`."""

from __future__ import annotations

import time
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from longcase.cli import terminal
from longcase.cli.files import named
from longcase.cli.frame import Session, command, finish
from longcase.cli.mend import checked_reason
from longcase.errors import UnavailableError, UsageError
from longcase.model.names import counted, printable

if TYPE_CHECKING:
    from longcase.service.retention import Due, Retention

PANEL = "Keep the store"
BROKEN = 6  # exit status: the export is not well
MOST = 1_000  # findings that are printed
LONGEST_LINE = 16 * 1024 * 1024  # bytes of an export's line; what has none for longer is no export
RATE = 500  # cases purged in a second, so that those that live find the store free
WORKFLOW = Annotated[str, typer.Option("--workflow", "-w", help="Only of this workflow.")]


class NotAnExport(UnavailableError):
    """The file was not written by `export`, or nothing of that is left."""

    code = "no_export"
    retryable = False


def add_to(app: typer.Typer) -> None:
    """Add this group's commands."""
    for function in (keep, export, purge):
        command(app, PANEL)(function)


def keep(
    session: Session,
    workflow: Annotated[str, typer.Argument(metavar="[WORKFLOW]", help="Whose closed cases.")] = "",
    period: Annotated[str, typer.Argument(metavar="[PERIOD]", help="'7 years', '90 days', or forever.")] = "",
) -> None:
    """Say how long closed cases of a workflow are kept, or list it. Without a period they are kept for ever."""
    with session.open() as longcase:
        retention = longcase.retention
        if period:
            from longcase.service.retention import Period

            finish(retention.keep(workflow, None if period == "forever" else Period.parse(period)))
        elif workflow:
            finish(retention.known(workflow))
        kept = [one for one in finish(retention.periods()) if workflow in ("", one.workflow)]
    if session.json:
        return terminal.data(
            [{"workflow": one.workflow, "keep": str(one.period), "by": one.by, "at": one.at} for one in kept]
        )
    for one in kept:
        terminal.line(f"{one.workflow}: {one.period} after the close (set by {one.by}, {terminal.instant(one.at)})")
    if not kept:
        terminal.line(f"{workflow or 'every workflow'}: for ever")
    return None


def export(
    session: Session,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to, JSON Lines.")],
    workflow: WORKFLOW = "",
    due: Annotated[bool, typer.Option("--due", help="Only cases that are older than their period.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Also cases that an export holds already.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Export closed cases that no export holds yet: events, chain, row, tasks. The file is read back and verified."""
    with session.open() as longcase:
        exporter = longcase.exporter
        wanted = finish(exporter.wanted(workflow=workflow, due=due, again=again))
        cases = sum(part.cases for part in wanted)
        if not cases:
            number, digest, events = 0, "", 0
        else:
            with terminal.bar("exporting") as tick:
                number, written = finish(exporter.to_file(file, wanted, force=force, progress=tick))
            digest, cases = written.digest.hex(), len(written.cases)
            events = sum(count for count, _ in written.cases.values())
    if session.json:
        return terminal.data(
            {"export": number or None, "file": file if number else None, "cases": cases, "events": events,
             "sha256": digest or None}
        )  # fmt: skip
    if not number:
        why = "no case that is due lacks one" if due else "every closed case is in an export as it is now"
        return terminal.line(f"nothing to export: {why}")
    terminal.line(f"export {number}: {counted(cases, 'case')}, {counted(events, 'event')} in {file}")
    terminal.line(f"  sha256 {digest}")
    return None


def purge(
    session: Session,
    workflow: WORKFLOW = "",
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it nothing is, it is only told.")] = False,
    reason: Annotated[str, typer.Option(help="Why; it stands in the tombstones.")] = "the period is over",
    limit: Annotated[int, typer.Option(help="At most so many cases; 0 for all.", min=0)] = 0,
    rate: Annotated[int, typer.Option(help="At most so many cases a second; 0 for no limit.", min=0)] = RATE,
) -> None:
    """Delete closed cases that are older than their period and exported; each leaves a tombstone."""
    why = checked_reason(reason)
    if not why.strip():
        raise UsageError("purge was given an empty reason", hint="--reason 'retention schedule 2026, section 4'")
    with session.open() as longcase:
        retention = longcase.retention
        due = finish(retention.due(workflow))
        gone = _purge(retention, due, why, limit, rate) if yes else {}
        left = finish(retention.due(workflow)) if yes else due
    if session.json:
        return terminal.data(
            [
                {
                    "workflow": one.workflow, "keep": str(one.period), "closed_until": one.until,
                    "purged": gone.get(one.workflow, 0), "may_go": one.may_go, "stay": one.stay,
                }
                for one in left
            ]
        )  # fmt: skip
    return _say(session, left, gone, yes=yes)


def _purge(retention: Retention, due: list[Due], reason: str, limit: int, rate: int) -> dict[str, int]:
    """Purge batch after batch, no faster than `rate`; returns how many went, by workflow."""
    from longcase.service.retention import BATCH

    gone: dict[str, int] = {}
    total = sum(one.may_go for one in due)
    batch = min(BATCH, rate) if rate else BATCH
    with terminal.bar("purging") as tick:
        for one in due:
            while not limit or sum(gone.values()) < limit:
                room = min(batch, limit - sum(gone.values())) if limit else batch
                some = finish(retention.purge_some(one, reason, room))
                if not some:
                    break
                gone[one.workflow] = gone.get(one.workflow, 0) + len(some)
                done = sum(gone.values())
                tick(done, max(total, done))
                if rate:
                    time.sleep(len(some) / rate)
    return gone


def _say(session: Session, due: list[Due], gone: dict[str, int], *, yes: bool) -> None:
    if not due:
        return terminal.line(session.paste("no workflow has a period: longcase keep WORKFLOW '7 years'"))
    for one in due:
        terminal.line(f"{one.workflow}, kept {one.period}: closed until {terminal.instant(one.until)}")
        if yes:
            terminal.line(f"  {gone.get(one.workflow, 0)} purged")
        if one.may_go or not yes:
            terminal.line(f"  {one.may_go} may go")
        for reason, count in one.stay.items():
            terminal.line(f"  {count} {reason}")
    if any("not exported" in one.stay for one in due):
        terminal.note(session.paste("hint: longcase export FILE --due"))
    if not yes and any(one.may_go for one in due):
        terminal.note(session.paste("nothing was deleted; to delete: longcase purge --yes --reason '...'"))
    return None


def verify_file(session: Session, file: str) -> None:
    """Verify an export by nothing but the file."""
    from longcase.insight.export import HEAD, Examination, is_a_line

    examination = Examination()
    with named(file, "read"), open(file, "rb") as lines:
        first = lines.readline(LONGEST_LINE)
        if not is_a_line(first):
            what = f"its first line is {printable(first.strip())[1:]}" if first else "it is empty"
            raise NotAnExport(
                f"{file} is no export: {what}, expected {HEAD}", hint=f"longcase export {file}.jsonl  # writes one"
            )
        found = list(examination.findings(chain([first], lines)))
    read, digest = examination.read, examination.read.digest.hex()
    if session.json:
        listed = [asdict(one) for one in found[:MOST]]
        terminal.data(
            {"cases": len(read.cases), "events": read.events, "sha256": digest, "findings": listed, "count": len(found)}
        )
    else:
        for one in found[:MOST]:
            terminal.line(str(one))
        counts = (counted(len(read.cases), "case"), counted(read.events, "event"), counted(len(found), "finding"))
        terminal.line(", ".join(counts))
        terminal.line(f"sha256 {digest}")
    if found:
        raise typer.Exit(BROKEN)
