"""What this worker serves: the calls bound to queues that were granted to it, and what stands in a queue.

A call bound to a queue is commanded like any other and stays `ready`; the turn writes it into the store's
queue, and a worker that serves the queue takes it from there (`Store.take`), moves the case itself and
runs the attempt. What was taken is a grant: it ends where the attempt begins, or is given back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from longcase.engine.code import WorkflowCode
from longcase.engine.work import Accepted, Advance
from longcase.errors import DefinitionError
from longcase.history.committed import kept_outcomes
from longcase.history.redoing import is_held
from longcase.history.state import Call, CaseState
from longcase.model.queue import DEFAULT_QUEUE, Queue
from longcase.store.records import Input, QueuedCall, QueueLimits, Taken

Claim = tuple[int, str, int]  # case, call, number of the taking


class Queues:
    """The queues one worker serves, and the calls it was granted."""

    def __init__(self, serves: Sequence[str], codes: Mapping[str, WorkflowCode]) -> None:
        declared = declared_queues(codes.values())
        self.serves = tuple(dict.fromkeys(serves))
        self.general = DEFAULT_QUEUE in self.serves  # moves cases, and runs what is bound to no queue
        self.limits = [limits_of(declared.get(name) or Queue(name)) for name in self.serves if name != DEFAULT_QUEUE]
        self._granted: dict[int, dict[str, tuple[int, int]]] = {}  # attempt, and number of the taking
        self._returning: set[Claim] = set()  # given up, and perhaps still claimed in the store
        self._shut: set[str] = set()  # queues whose calls found no slot here; until an attempt ends

    @property
    def granted(self) -> int:
        """How many calls were granted and not yet begun."""
        return sum(map(len, self._granted.values()))

    @property
    def known(self) -> list[tuple[int, str]]:
        """The claims the store is not to give once more: those granted, and those it is being told to take back."""
        granted = [(number, ref) for number, calls in self._granted.items() for ref in calls]
        return [*granted, *((number, ref) for number, ref, _ in self._returning)]

    def grant(self, taken: Taken) -> list[int]:
        """Remember what was taken; returns the cases to move."""
        for case_no, call, attempt in taken.calls:
            self._granted.setdefault(case_no, {})[call] = (attempt, taken.claim)
        return list(dict.fromkeys(case_no for case_no, _, _ in taken.calls))

    def may_run(self, case_no: int, ref: str, call: Call) -> bool:
        """Tell whether this worker may begin the call's next attempt, or ask about its last one."""
        if not call.get("queue"):
            return self.general
        attempt, _ = self._granted.get(case_no, {}).get(ref, (0, 0))
        return attempt == _number(call)

    def forget_used(self, case_no: int, state: CaseState) -> None:
        """Forget the grants of a case that are used, or that its state has overtaken."""
        calls = self._granted.get(case_no)
        if calls is None:
            return
        for ref, (attempt, _) in list(calls.items()):
            call = state.calls.get(ref)
            if call is None or call["status"] not in ("ready", "backoff", "unknown") or _number(call) != attempt:
                del calls[ref]
        if not calls:
            del self._granted[case_no]

    @property
    def open_limits(self) -> list[QueueLimits]:
        """The queues worth asking for more."""
        return [queue for queue in self.limits if queue.name not in self._shut] if self._shut else self.limits

    def refuse(self, case_no: int, state: CaseState) -> list[Claim]:
        """Give up the grants of a case that found no slot here: another worker may have one."""
        back = self.give_up(case_no)
        self._returning.update(back)
        self._shut.update(state.calls[ref].get("queue", "") for _, ref, _ in back if ref in state.calls)
        return back

    def returned(self, calls: Iterable[Claim]) -> None:
        """Note that the store was told of grants that were refused, or could not be."""
        self._returning.difference_update(calls)

    def reopen(self) -> None:
        """Ask the queues again: a slot has come free."""
        self._shut.clear()

    def give_up(self, case_no: int | None = None) -> list[Claim]:
        """Forget the grants of a case, or all; returns them, for `Store.give_back`."""
        numbers = list(self._granted) if case_no is None else [case_no]
        return [(number, ref, claim) for number in numbers for ref, (_, claim) in self._granted.pop(number, {}).items()]


def stands_in_queue(state: CaseState) -> bool:
    """Tell whether a call of the case is bound to a queue."""
    for call in state.calls.values():  # noqa: SIM110 - asked several times a turn: a generator costs more than the loop
        if "queue" in call:
            return True
    return False


def ended_calls(state: CaseState, result: Advance, inbox: Sequence[Input]) -> set[str]:
    """Return the calls that have ended, and whose outcome the case keeps, in an incident or its inbox, for later.

    Args:
        inbox: the inputs the case had when the turn was computed.
    """
    kept = {item.call for item in result.kept if not isinstance(item, Accepted)}
    kept |= {item.data["call"] for item in inbox if "call" in item.data and item.no not in result.taken}
    return kept | kept_outcomes(state).keys()


def queued_calls(state: CaseState, code: WorkflowCode, ended: Collection[str]) -> list[QueuedCall]:
    """Return what a case has in queues: calls to begin, to ask about, and running attempts.

    Args:
        ended: calls whose outcome is kept. Nothing of them runs, whatever their state says: others have their room.
    """
    found = []
    for ref, call in state.calls.items():
        queue = call.get("queue")
        if not queue or ref in ended:
            continue
        wanted = call["awaited"] or bool(call["undoes"])
        running = call["status"] == "running"
        if not running and not _waits(state, code, ref, call):
            continue
        found.append(
            QueuedCall(
                ref, queue, call.get("priority", 0), _number(call), call["next_try"] or call["since"], call["since"],
                call["worker"] if running else 0,
                running and (not wanted or bool(call.get("stopping")) or state.status == "closed"),
            )
        )  # fmt: skip
    return found


def _waits(state: CaseState, code: WorkflowCode, ref: str, call: Call) -> bool:
    """Tell whether a worker of the queue has something to do for a call that does not run."""
    if (state.status != "open" and not call["undoes"]) or is_held(state, call):
        return False
    if call["status"] != "unknown":
        return call["status"] in ("ready", "backoff")
    activity = code.activities.get(call["activity"])
    asked = any(opened["call"] == ref for opened in state.incidents.values())
    return activity is not None and activity.verify_function is not None and not asked


def _number(call: Call) -> int:
    """Return the attempt that runs or is asked about, else the one to begin next."""
    return call["attempt"] if call["status"] in ("running", "unknown") else call["attempt"] + 1


def limits_of(queue: Queue) -> QueueLimits:
    """Return a queue's limits as the store counts them."""
    rate = (queue.rate[0], queue.rate[1].total_seconds()) if queue.rate is not None else None
    return QueueLimits(queue.name, queue.concurrency, rate)


def declared_queues(codes: Iterable[WorkflowCode]) -> dict[str, Queue]:
    """Return the queues that activities are bound to, by name.

    Raises:
        DefinitionError: one name is declared with two sets of limits.
    """
    found: dict[str, Queue] = {}
    for code in codes:
        for activity in code.activities.values():
            queue = activity.queue
            if queue is not None and found.setdefault(queue.name, queue) != queue:
                known = found[queue.name]
                raise DefinitionError(
                    f"queue {queue.name} is declared twice: concurrency={known.concurrency}, rate={known.rate}, "
                    f"and concurrency={queue.concurrency}, rate={queue.rate} (activity {activity.name})",
                    hint=f'{queue.name} = Queue("{queue.name}", ...) once, and queue={queue.name} in each activity',
                )
    return found
