"""Play the recorded people: hand in every recorded step of a log at its recorded instant.

python run.py --data expense-declarations.csv.gz

The clock is virtual, the store is a real file with full durability, and the cases are moved by the engine
that moves yours. Kill it whenever you like and start it again: it goes on where the store stands.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import json
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

import report
import workflow
from pydantic import BaseModel
from workflow import Decision, Declaration, Filing, Role, TakenBack, Transfer, declarations

from longcase import Signal, Stage
from longcase.engine.tasks import Actor
from longcase.errors import CaseClosed, LongcaseError
from longcase.testing.simulate import Simulation

COLUMNS = ("case", "at", "event", "by_role", "amount", "event_id")
OPERATOR = Actor("person:operator")
# Where an operator puts a case so that it can take the signal it was not waiting for.
TAKES: Mapping[str, Stage[Declaration]] = {
    "filed": workflow.draft,
    "taken-back": workflow.review,
    "decided": workflow.review,
    "payment-requested": workflow.approved,
    "payment-handled": workflow.paying,
}


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the log: who handed in what, when, for which case; and the signal that it becomes."""

    case: str
    at: datetime
    event: str
    actor: Actor
    amount: str
    key: str  # the idempotency key: the log's event id, written without blanks
    signal: Signal[Any]
    body: BaseModel

    @property
    def address(self) -> str:
        return f"{declarations.name}/{self.case}"

    @property
    def identity(self) -> tuple[str, str]:
        """How the history knows the step: its case, and the name and key of its signal."""
        return self.case, f"{self.signal.name}:{self.key}"


def signal_of(event: str, amount: str) -> tuple[Signal[Any], BaseModel]:
    """Return the log's words as a signal of the workflow."""
    match event.removeprefix("Declaration ").split(" ", 2):
        case ["SAVED" | "SUBMITTED" as action, "by", "EMPLOYEE"]:
            return workflow.filed, Filing.model_validate({"action": action.lower()})
        case ["REJECTED", "by", "EMPLOYEE"]:
            return workflow.taken_back, TakenBack()
        case ["FINAL_APPROVED", "by", "SUPERVISOR"]:
            return workflow.decided, Decision(by=Role.SUPERVISOR, verdict="approved")
        case ["APPROVED" | "REJECTED" as verdict, "by", role] if (verdict, role) != ("APPROVED", "SUPERVISOR"):
            return workflow.decided, Decision.model_validate({"by": role, "verdict": verdict.lower()})
        case ["Request", "Payment"]:
            return workflow.payment_requested, Transfer.model_validate({"amount": amount})
        case ["Payment", "Handled"]:
            return workflow.payment_handled, Transfer.model_validate({"amount": amount})
    raise ValueError(f"event {event!r} is none that a declaration knows")


def actor_of(event: str, role: str) -> Actor:
    """Return who did it: people are known by their role only, payments are made by a system."""
    if event in ("Request Payment", "Payment Handled"):
        return Actor("service:payments")
    return Actor(f"person:{role.lower().replace(' ', '-')}")


def read_log(path: Path, limit: int | None) -> list[Step]:
    """Return the steps of the first `limit` cases (of all, by default), of all cases together in order of time."""
    with open_text(path) as file:
        rows = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} has no column {', '.join(missing)}; expected {', '.join(COLUMNS)}")
        cases: set[str] = set()
        steps: list[Step] = []
        for row in rows:
            if row["case"] not in cases and limit is not None and len(cases) == limit:
                continue
            cases.add(row["case"])
            try:
                steps.append(read_step(row))
            except ValueError as error:
                raise ValueError(f"{path}, line {rows.line_num}: {error}") from None
    return sorted(steps, key=lambda step: step.at)  # stable: a case's steps keep the order of the file


def read_step(row: Mapping[str, str]) -> Step:
    """Return one row as a step that can be handed in."""
    at = datetime.fromisoformat(row["at"])
    if at.tzinfo is None:
        raise ValueError(f"{row['at']!r} has no time zone, expected something like 2017-01-09T09:49:50+01:00")
    event, amount = row["event"], row["amount"]
    signal, body = signal_of(event, amount)
    actor, key = actor_of(event, row["by_role"]), quote(row["event_id"], safe="")
    return Step(row["case"], at.astimezone(UTC), event, actor, amount, key, signal, body)


def open_text(path: Path) -> TextIO:
    """Open a log, packed or not."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def play(sim: Simulation, steps: list[Step]) -> None:
    """Hand in what the store does not have yet, in order of time."""
    catch_up(sim)
    started = {row["key"] for row in sim.query("SELECT key FROM case_overview")}
    strangers = started - {step.case for step in steps}
    if strangers:
        raise ValueError(
            f"the store {sim.url} holds another log: {min(strangers)} is not in this one\n\nhint: name another --store"
        )
    known = {(row["key"], row["id"]) for row in sim.query(report.of_steps("SELECT key, id FROM handed_in"))}
    for at, at_once in groupby(progress(steps, len(known)), key=lambda step: step.at):
        todo = deque(step for step in at_once if step.identity not in known)
        if todo:
            sim.advance_to(at)
        while todo:
            with sim.together():
                hand_in_together(sim, todo, started)


def hand_in_together(sim: Simulation, todo: deque[Step], started: set[str]) -> None:
    """Take steps of one instant from `todo`, until a case would get a second one before it has moved."""
    touched: set[str] = set()
    while todo and todo[0].case not in touched:
        step = todo[0]
        touched.add(step.case)
        if step.case not in started:
            sim.start(declarations, {"id": step.case, "amount": step.amount}, actor=step.actor)
            started.add(step.case)
            if TAKES[step.signal.name] is not declarations.entry:
                continue  # first it enters its first stage; then an operator can move it
            send(sim, step)
        else:
            hand_in(sim, step)
        todo.popleft()


def catch_up(sim: Simulation) -> None:
    """Set the clock to where an earlier run was killed, and let what it had accepted take effect."""
    instants = sim.query("SELECT at FROM timeline UNION ALL SELECT accepted_at FROM inbox ORDER BY at DESC LIMIT 1")
    for row in instants:
        sim.advance_to(datetime.fromisoformat(row["at"]))


def hand_in(sim: Simulation, step: Step) -> None:
    """Send a step to a case; if the case does not wait for it, an operator moves it first to where it does."""
    name = step.signal.name
    case = sim.state(step.address)
    path = declarations.paths.get(name)
    awaited = [receive["signal"] for receive in case.receives.values()]
    taken = name in awaited or (path is not None and case.stage in [stage.name for stage in path.during])
    if case.status == "open" and not taken:
        sim.move(step.address, TAKES[name], reason=f"recorded: {step.event}", actor=OPERATOR)
    send(sim, step)


def send(sim: Simulation, step: Step) -> None:
    """Send a step as its signal."""
    with suppress(CaseClosed):  # the refusal stands in the closed case's history
        sim.signal(step.address, step.signal, step.body, idempotency_key=step.key, actor=step.actor)


def progress(steps: list[Step], already: int) -> Iterator[Step]:
    """Yield the steps and show how far they are: a bar on a terminal, else a line for every tenth."""
    begun = time.monotonic()
    on_terminal = sys.stderr.isatty()
    every = max(1, len(steps) // (200 if on_terminal else 10))
    for done, step in enumerate(steps):
        if done and done % every == 0:
            rate = max(0, done - already) / max(time.monotonic() - begun, 0.001)
            filled = 40 * done // len(steps)
            bar = f"[{'#' * filled}{'.' * (40 - filled)}]"
            text = f"{bar} {done:,} of {len(steps):,} steps, {step.at:%Y-%m-%d}, {rate:,.0f} a second"
            print(f"\r{text}" if on_terminal else text, end="" if on_terminal else "\n", file=sys.stderr, flush=True)
        yield step
    if on_terminal:
        print(file=sys.stderr)


def default_store(data: Path, limit: int | None) -> Path:
    """Return a file name that is the same for the same log, so that a run that was killed goes on."""
    digest = hashlib.sha256(data.read_bytes() + str(limit).encode()).hexdigest()
    return Path(f"expense-{digest[:8]}.db")


def run(data: Path, store: Path | None, limit: int | None) -> None:
    """Play a log and print its report."""
    begun = time.monotonic()
    steps = read_log(data, limit)
    store = store or default_store(data, limit)
    cases = len({step.case for step in steps})
    print(f"{data.name}: {len(steps):,} steps of {cases:,} cases; the store is {store}", file=sys.stderr)
    with Simulation([declarations], path=store, now=steps[0].at if steps else None) as sim:
        play(sim, steps)
        found = report.figures(sim.query)
        print(report.describe(sim.query, found))
    print(json.dumps({**found, "wall_s": round(time.monotonic() - begun, 2)}))


def main() -> None:
    parser = argparse.ArgumentParser(description="Play a log of expense declarations and report on it.")
    parser.add_argument("--data", type=Path, required=True, help="the log: .csv or .csv.gz")
    parser.add_argument("--store", type=Path, help="the SQLite file; one named after the log by default")
    parser.add_argument("--limit", type=int, help="play the first so many cases of the log only")
    arguments = parser.parse_args()
    try:
        run(arguments.data, arguments.store, arguments.limit)
    except (ValueError, OSError, LongcaseError) as error:
        sys.exit(f"expense: {error}")


if __name__ == "__main__":
    main()
