"""From what turns came to, to what the store is asked to write: events, lease, wake-up, and other cases' inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from longcase.engine.attempts import Success
from longcase.engine.code import WorkflowCode
from longcase.engine.start import case_started
from longcase.engine.tasks import Actor
from longcase.engine.turn import Resident
from longcase.engine.work import Advance, Command, Ended, Item, Verified, wake_at
from longcase.env import Env
from longcase.errors import BugError, DefinitionError
from longcase.history.event import Event
from longcase.history.state import CaseState
from longcase.runtime.queues import Queues, ended_calls, queued_calls, stands_in_queue
from longcase.store.records import CaseRow, CaseWrite, DedupKey, Input, NewCase


class Writes:
    """Makes the writes of one worker."""

    def __init__(
        self,
        env: Env,
        codes: Mapping[str, WorkflowCode],
        worker: int,
        queues: Queues | None,
        is_dead: Callable[[int], bool],
    ) -> None:
        self._is_dead = is_dead
        self._env = env
        self._codes = codes
        self._worker = worker
        self._queues = queues

    def of(
        self,
        resident: Resident,
        result: Advance,
        base_seq: int,
        base_seen: int,
        now: str,
        more: bool,
        row: CaseRow | None,
        queued: bool,
        inbox: Sequence[Input] = (),
    ) -> CaseWrite | None:
        """Return what an advance has to have written; None if all of it stands in `row` already.

        Args:
            base_seq, base_seen: where the history stood when the advance began.
            more: the case has further inputs, and wants a turn at once.
            row: the case as it was read, if it was.
            queued: calls of the case stood in a queue before.
            inbox: what the case had been sent and not yet applied.
        """
        state = resident.state
        events = resident.emitted
        resident.emitted = []
        if resident.visit is not None:
            resident.visit.emitted = resident.emitted
        lease = self.lease(state, now)
        elsewhere = self._needs_another(state, result, lease)
        wake = now if more or result.again or elsewhere else wake_at(state, now)
        if elsewhere and lease == self._worker:
            lease = 0
        write = CaseWrite(resident.case_no, base_seq, base_seen, events, state, lease, wake, result.taken)
        write.worker = self._worker
        if self._queues is not None and (queued or stands_in_queue(state)):
            write.queued = queued_calls(state, resident.code, ended_calls(state, result, inbox))
        self._around(resident, result, write)
        if (
            not events
            and not write.taken
            and not write.notify
            and write.queued is None
            and row is not None
            and row.wake_at == wake
            and row.lease == lease
        ):
            return None
        return write

    def _around(self, resident: Resident, result: Advance, write: CaseWrite) -> None:
        """Add what the turns do to other cases, and what the case keeps in its own inbox."""
        if resident.cancel_children:
            write.cancel_children = resident.cancel_children
            resident.cancel_children = []
        for event in write.events:
            if event.type == "child_started":
                write.children.append(self._child(resident, event))
            elif event.type == "child_released" and event.data["cancel"] and "key" in event.data:
                data = event.data
                why = "the parent no longer waits for it"
                write.cancel_children.append((data["child"], data["workflow"], data["key"], why))
        if resident.notify:
            for case_no, ref, told in resident.notify:
                write.notify.append((case_no, Input(ref, "child_closed", told, "engine", "engine")))
            resident.notify = []
        for position, item in enumerate(result.kept):
            write.notify.append((resident.case_no, as_input(item, resident.state.seq, position)))

    def lease(self, state: CaseState, now: str) -> int:
        """Return whose death must wake the case: whoever runs an attempt of it, or has yet to begin one."""
        holder, unbegun = 0, False
        for ref, call in state.calls.items():
            if self._queues is not None and call.get("queue"):
                continue  # what stands in a queue has its holder there
            status = call["status"]
            if status == "running":
                if call["worker"] == self._worker:
                    return self._worker
                if not self._is_dead(call["worker"]):  # else its outcome is known, and an incident holds it back
                    holder = max(holder, call["worker"])
            elif status == "ready":
                unbegun = True
            elif status == "backoff":
                unbegun = unbegun or call["next_try"] <= now  # due, but no slot was free
            elif status == "unknown":
                unbegun = unbegun or all(opened["call"] != ref for opened in state.incidents.values())
        return holder or (self._worker if unbegun else 0)

    def _needs_another(self, state: CaseState, result: Advance, lease: int) -> bool:
        """Tell whether another worker must look at the case: it runs what is to stop, or this one may not begin it."""
        if lease == self._worker:
            return self._queues is not None and not self._queues.general
        if not lease or not result.commands:
            return False
        stopped = [state.calls.get(command.call) for command in result.commands if command.kind == "stop"]
        return any(call is not None and call["worker"] == lease for call in stopped)

    def stop_again(self, resident: Resident, result: Advance) -> None:
        """Ask attempts of this worker to stop whose calls another worker has let go of."""
        for ref, call in resident.state.calls.items():
            if call["worker"] == self._worker and call["status"] == "running" and not call["undoes"]:
                stop = Command("stop", resident.case_no, ref, call["attempt"])
                if (not call["awaited"] or call.get("stopping")) and stop not in result.commands:
                    result.commands.append(stop)

    def _child(self, resident: Resident, event: Event) -> NewCase:
        data = event.data
        code = self._codes.get(data["workflow"])
        parent = {
            "case_no": resident.case_no,
            "child": data["child"],
            "workflow": resident.state.workflow,
            "key": resident.state.key,
        }
        if code is None:
            raise DefinitionError(
                f"child workflow {data['workflow']} is not loaded by this worker", hint="name its module too"
            )
        started = case_started(
            code.workflow, data["body"], uid=self._env.new_id(), tenant=resident.state.tenant, now=self._env.now(),
            actor=Actor("engine", "engine"), parent=parent,
        )  # fmt: skip
        return NewCase(started, DedupKey(f"child:{resident.state.uid}", data["child"], ""), again=True)


def as_input(item: Item, seq: int, position: int) -> Input:
    """Turn an outcome that cannot be applied now into a durable input of the same case."""
    match item:
        case Ended():
            if isinstance(item.outcome, Success):
                data = {"call": item.call, "result": item.outcome.result}
                kind = "activity_completed"
            else:
                data = {"call": item.call, "error": item.outcome.to_json()}
                kind = "activity_failed"
            return Input(f"end-{item.call}-{item.number}", kind, data, f"worker:{item.worker}", "engine")
        case Verified():
            return Input(
                f"verified-{item.call}-{item.number}",
                "activity_completed",
                {"call": item.call, "result": item.result},
                "engine",
                "engine",
            )
    raise BugError(f"{item!r} is already in the inbox (position {position}, seq {seq})")
