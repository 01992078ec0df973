"""What a check-up says of those who move cases, and of what waits for nobody; each store reads the rows. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from longcase.model.names import MAIN_TENANT, of_tenant
from longcase.model.queue import DEFAULT_QUEUE
from longcase.record import record
from longcase.store.queue_limits import room_of
from longcase.store.records import QueueLimits, WorkerRow
from longcase.store.symptom import SILENT_SECONDS, Symptom

NAMED: Final = 20  # stuck cases that are named one by one


@record
class SeenWorker:
    """A registered worker, as the check-up sees it."""

    row: WorkerRow
    silent: float  # seconds since its last sign of life

    @property
    def name(self) -> str:
        return f"worker {self.row.no} (pid {self.row.pid} on {self.row.host})"


@record
class Due:
    """What waits for a worker: the due cases of a workflow, or its calls in a queue."""

    workflow: str
    count: int
    since: str  # the one that waits longest
    queue: str = DEFAULT_QUEUE
    declined: str = ""  # the codes that do not replay the visits of just these, one after the other


@record
class Holding:
    """How many cases of a workflow a worker holds: leased to it, or with a call it took from a queue."""

    worker: int
    workflow: str
    count: int


def workers_and_what_waits(
    workers: Sequence[SeenWorker], due: Sequence[Due], holdings: Sequence[Holding]
) -> Iterator[Symptom]:
    """Name workers that are silent or dead, and what no living worker will take.

    Args:
        due: cases that have been due for a while, and calls that wait in named queues.
        holdings: of every worker, those that are dead too.
    """
    living = [worker for worker in workers if worker.row.alive]
    well = bool(living)
    for worker in living:
        if worker.silent > SILENT_SECONDS:
            well = False
            held = _cases(sum(one.count for one in holdings if one.worker == worker.row.no))
            yield Symptom(
                "warning", "worker", f"{worker.name} has been silent for {worker.silent:.0f} s and holds {held}",
                f"on {worker.row.host}: ps -o pid,stat,etime,args -p {worker.row.pid}; "
                f"if it hangs: kill -9 {worker.row.pid}, others then go on",
            )  # fmt: skip
    for worker in workers:
        if not worker.row.alive:
            yield from _dead(worker, [one for one in holdings if one.worker == worker.row.no], living)
    rows = [worker.row for worker in living]
    for one in due:
        reason = why_unserved(one.queue, one.workflow, one.declined.split(), rows)
        if reason:
            well = False
            yield _waits(one, reason)
    if not living and not due and not holdings:
        yield Symptom("ok", "worker", "no worker is alive, and nothing has waited for one for long")
    if well:
        yield Symptom("ok", "worker", f"{len(living)} worker{'s' * (len(living) != 1)} at work")


def _dead(worker: SeenWorker, holdings: Sequence[Holding], living: Sequence[SeenWorker]) -> Iterator[Symptom]:
    if not holdings:
        return
    of = ", ".join(f"{one.count} of {one.workflow}" for one in holdings)
    held = _cases(sum(one.count for one in holdings))
    told = f"{worker.name} is dead, last heard of at {worker.row.beat_at}, and still holds {held}: {of}"
    if living:
        hint = "the living workers set them free within seconds; if this stays, look into their logs"
    else:
        hint = "longcase worker APP"
    yield Symptom("warning", "worker", told, hint)


def why_unserved(queue: str, workflow: str, declined: Collection[str], living: Sequence[WorkerRow]) -> str:
    """Return why no living worker will take what is due, "" if one will.

    Args:
        declined: the codes that do not replay the visit it is of.
    """
    if not living:
        return "no worker is alive"
    it = "it" if queue != DEFAULT_QUEUE else "the queue default"
    serving = [row for row in living if row.serves(queue)]
    if not serving:
        return f"no living worker serves {it}"
    loading = [row for row in serving if row.loads(workflow)]
    if any(row.codes.get(workflow, "") not in declined for row in loading):
        return ""
    those = loading or serving
    one = len(those) == 1
    told = f"worker{'s' * (not one)} {', '.join(str(row.no) for row in those)} serve{'s' * one} {it}, but "
    if loading:
        return f"{told}{'its' if one else 'their'} code does not replay the visit: one of another release is missing"
    return f"{told}{'has' if one else 'have'} not loaded {workflow}"


def why_held(limits: QueueLimits, running: int, begun: Sequence[str], now: str) -> str:
    """Return which limit of a queue lets no further call begin now, "" if none does.

    Args:
        running: calls of the queue that are claimed or run.
        begun: the claims its rate counts.
    """
    if limits.concurrency is not None and running >= limits.concurrency:
        return f"as many run as may at once: {limits.concurrency}"
    if limits.rate is None:
        return ""
    count, seconds = limits.rate
    room, opens = room_of(QueueLimits(limits.name, None, limits.rate), running, begun, now, 1)
    return "" if room > 0 else f"its rate, {count} in {seconds:g} s, is spent until {opens}"


def why_silent(serving: Mapping[int, float]) -> str:
    """Return that all who serve a queue are silent, "" if one is not, or if there are none.

    Args:
        serving: for how many seconds each has given no sign of life, by its number.
    """
    if not serving or any(silent <= SILENT_SECONDS for silent in serving.values()):
        return ""
    one = len(serving) == 1
    told = ", ".join(f"{number} for {silent:.0f} s" for number, silent in serving.items())
    return f"the worker{'s' * (not one)} that serve{'s' * one} it {'has' if one else 'have'} been silent: {told}"


def _waits(due: Due, reason: str) -> Symptom:
    wait = f"wait{'s' * (due.count == 1)}"
    if due.queue == DEFAULT_QUEUE:
        told = f"{_cases(due.count)} of {due.workflow} {wait} for a worker, the first since {due.since}; {reason}"
        return Symptom("warning", "worker", told, "longcase worker APP")
    calls = f"{due.count} call{'s' * (due.count != 1)} of {due.workflow} {wait} in queue {due.queue}"
    told = f"{calls}, the first since {due.since}; {reason}"
    return Symptom("warning", "queue", told, f"longcase worker APP --queue {due.queue}")


def unreadable(found: Sequence[Sequence[str]]) -> Iterator[Symptom]:
    """Name open cases whose row cannot be read.

    Args:
        found: tenant, workflow, key and number of the case.
    """
    for tenant, workflow, key, case_no in found:
        yield Symptom(
            "error", "damage", f"{workflow}/{key}{of_tenant(tenant)} (case {case_no}): its row cannot be read",
            f"longcase verify; longcase rebuild {workflow}/{key}{_option(tenant)}",
        )  # fmt: skip


def stuck(found: Sequence[Sequence[str]], gone: Sequence[Sequence[str]]) -> Iterator[Symptom]:
    """Name open cases that nothing will ever move.

    Args:
        found: tenant, workflow, key, stage, owner, and since when they stand there.
        gone: tenant, workflow, key, stage, owner, and the activity whose transaction is committed and whose result is
            nowhere.
    """
    for tenant, workflow, key, stage, owner, activity in gone[:NAMED]:
        yield Symptom(
            "error", "stuck",
            f"{workflow}/{key}{of_tenant(tenant)} in {stage} (owner {owner}): {activity} has committed its "
            "transaction, and its result is nowhere",
            "restore a backup; or, if its rows may be written a second time: "
            f"longcase move {workflow}/{key} {stage} --reason 'its result was lost'{_option(tenant)}",
        )  # fmt: skip
    if len(gone) > NAMED:
        yield Symptom("error", "stuck", f"and {len(gone) - NAMED} more results that are nowhere")
    for tenant, workflow, key, stage, owner, since in found[:NAMED]:
        yield Symptom(
            "error", "stuck",
            f"{workflow}/{key}{of_tenant(tenant)} in {stage} since {since} (owner {owner}): nothing will ever move it",
            f"longcase move {workflow}/{key} {stage} --reason 'nothing moved it'{_option(tenant)}",
        )  # fmt: skip
    if len(found) > NAMED:
        yield Symptom("error", "stuck", f"and {len(found) - NAMED} more cases that nothing will ever move")
    if not found and not gone:
        yield Symptom("ok", "stuck", "no open case has lost what will move it")


def _option(tenant: str) -> str:
    return "" if tenant == MAIN_TENANT else f" --tenant {tenant}"


def _cases(count: int) -> str:
    return f"{count} case{'s' * (count != 1)}"
