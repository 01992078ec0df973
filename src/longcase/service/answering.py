"""People's answers: `decide` and `claim`, and what a task that is over says to those who come late."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

from longcase.engine.tasks import Actor, Answered, answer_task, claim_task, due_actions, expiry_outcome, release_task
from longcase.errors import AlreadyDecided, AlreadyExpired, InvalidInput, LongcaseError, TaskNotFound, UsageError
from longcase.history.event import Event
from longcase.history.state import CaseState, apply
from longcase.model.codec import Json
from longcase.model.form import form_problems
from longcase.model.strict_json import BODY_BYTES, check_json
from longcase.service.door import Accepted, Door, TaskView, checked_reason, same_case
from longcase.store.records import CaseRow, Edit, Input, Locked


class Answering(Door):
    """The part of the door that people answer their tasks at."""

    async def open_tasks(self, address: str) -> list[TaskView]:
        """Return the open tasks of a case, oldest first."""
        row = await self.row(address)
        return [
            TaskView(row.state.address, ref, task)
            for ref, task in row.state.tasks.items()
            if task["status"] in ("ready", "reserved")
        ]

    async def decide(
        self,
        address: str,
        answer: Json,
        *,
        task: str | None = None,
        reason: str = "",
        actor: Actor | None = None,
        shown: str | None = None,
    ) -> Accepted:
        """Answer a task of a case.

        Args:
            answer: one of its answers, or the filled form as JSON.
            task: its reference or the last part of its place; not needed if only one is open.
            shown: the digest of what was shown; if it has changed since, StaleDecision.
        Raises: TaskNotFound, AlreadyDecided, AlreadyExpired, StaleDecision, RefusedError: every one is
            recorded in the case's history.
        """
        who = self._who(actor)
        checked_reason(reason)
        row = await self.row(address)
        try:
            target = await self._task_of(row, task)
        except (AlreadyDecided, AlreadyExpired, TaskNotFound) as error:
            return await self._refuse_late(row, task, answer, reason, who, error)
        form = self._check_form(row.state, target, answer)

        def decide(locked: Locked) -> Edit[Accepted]:
            events, state, inputs = self._run_clocks(locked)
            if target not in state.tasks:
                raise TaskNotFound(f"{address} has no open task {target}", hint=f"longcase show {address}")
            answered: Answered = answer_task(state, target, who, form, reason, shown, locked.now)
            events.extend(answered.events)
            if answered.outcome is not None:
                inputs.append(
                    Input(
                        f"decided-{target}",
                        "task_decided",
                        answered.outcome,
                        who.name,
                        who.channel,
                        on_behalf=who.on_behalf,
                    )
                )
            over = answered.outcome is not None or state.tasks[target]["status"] == "decided"
            did = "decided" if over else "changed" if answered.before else "recorded"
            return Edit(
                Accepted(address, duplicate=not answered.events, did=did, remaining=answered.remaining),
                events, inputs, wake=bool(inputs), refusal=answered.refusal,
            )  # fmt: skip

        try:
            return await self._edit(same_case(row), decide)
        except TaskNotFound as error:  # it was over by the time its case was locked
            return await self._refuse_late(row, target, answer, reason, who, error)

    async def _refuse_late(
        self, row: CaseRow, task: str | None, answer: Json, reason: str, who: Actor, error: LongcaseError
    ) -> Accepted:
        """Refuse an answer to a task that is over, and record that; only refuse it if there never was such a task.

        A person who repeats the answer that he gave gets the receipt he had: a double click is no second answer.
        """
        over = await self._last_end(row, task)
        if over is None:
            raise error
        told, end = over
        if isinstance(told, AlreadyDecided) and await self._gave(row, end, who, answer):
            return Accepted(row.state.address, duplicate=True, did="decided")
        data = {
            "task": end.data["task"],
            "by": who.person,
            "answer": check_json(answer, what="answer", max_bytes=BODY_BYTES),
            "reason": reason,
            "refused": told.code,
            "why": told.message,
        }

        def refuse(locked: Locked) -> Edit[Accepted]:
            event = self._record("vote_refused", data, who, locked.state)
            event.node, event.n, event.strand, event.cause = end.node, end.n, end.strand, end.seq
            return Edit(Accepted(row.state.address), [event], refusal=told)

        return await self._edit(same_case(row), refuse)

    async def _gave(self, row: CaseRow, end: Event, who: Actor, answer: Json) -> bool:
        """Tell whether that very answer is the last a person has given to the task that ended so."""
        gave = False
        for event in await self.store.events(row.case_no, until=end.seq):
            if event.type == "vote_given" and event.data["task"] == end.data["task"]:
                vote = event.data["vote"]
                same = vote["answer"] if isinstance(answer, str) else end.data["answer"]  # a form stands in the outcome
                gave = same == answer if vote["by"] == who.person else gave
        return gave

    async def claim(
        self, address: str, *, task: str | None = None, actor: Actor | None = None, release: bool = False
    ) -> Accepted:
        """Take a task for yourself, or give it back."""
        who = self._who(actor)
        row = await self.row(address)
        target = await self._task_of(row, task)

        def decide(locked: Locked) -> Edit[Accepted]:
            event = (release_task if release else claim_task)(locked.state, target, who)
            return Edit(Accepted(address, did="released" if release else "claimed"), [event])

        return await self._edit(same_case(row), decide)

    def _run_clocks(self, locked: Locked) -> tuple[list[Event], CaseState, list[Input]]:
        """Let the tasks' own clocks take effect before anything else: an expiry beats a later answer (B1)."""
        state = CaseState.from_json(deepcopy(locked.state.to_json()))
        events: list[Event] = []
        inputs: list[Input] = []
        for _ in range(1_000):
            due = sorted(due_actions(state, locked.now), key=lambda found: found[0])
            if not due:
                break
            event = due[0][1]
            event.seq = state.seq + 1
            event.at = locked.now
            apply(state, event)
            events.append(event)
            if event.type == "task_expired":
                ref = event.data["task"]
                inputs.append(
                    Input(f"expired-{ref}", "task_decided", expiry_outcome(state.tasks[ref], ref), "timer", "engine")
                )
        return events, state, inputs

    async def _task_of(self, row: CaseRow, task: str | None) -> str:
        state = row.state
        opened = {ref: entry for ref, entry in state.tasks.items() if entry["kind"] != "require"}
        if task is None:
            if len(opened) == 1:
                return next(iter(opened))
            if not opened:
                over = await self._last_end(row)
                raise (
                    over[0]
                    if over
                    else TaskNotFound(f"{state.address} has no open task", hint=f"longcase show {state.address}")
                )
            names = ", ".join(f"{ref} ({entry['question']})" for ref, entry in opened.items())
            raise UsageError(
                f"{state.address} has {len(opened)} open tasks: {names}", hint=f"name one: --task {next(iter(opened))}"
            )
        for ref, entry in opened.items():
            if task in (ref, entry["node"], entry["node"].rpartition(":")[2]):
                return ref
        over = await self._last_end(row, task)
        raise (
            over[0]
            if over
            else TaskNotFound(f"{state.address} has no open task {task}", hint=f"longcase tasks --case {state.address}")
        )

    async def _last_end(self, row: CaseRow, task: str | None = None) -> tuple[LongcaseError, Event] | None:
        """Return what to tell somebody who answers a task that is over, and the event that ended it."""
        address = row.state.address
        for event in reversed(await self.store.events(row.case_no)):
            if event.type not in ("task_decided", "task_withdrawn") or (
                task is not None and task not in (event.data["task"], event.node, event.node.rpartition(":")[2])
            ):
                continue
            if event.type == "task_withdrawn":
                return TaskNotFound(
                    f"{address}: the task was withdrawn at {event.at}: {event.data['reason']}",
                    hint=f"longcase show {address}",
                ), event
            if event.data["expired"]:
                told = f"{address}: already expired at {event.at}: {event.data['answer']} stands"
                return AlreadyExpired(told, hint=f"longcase history {address}"), event
            told = f"{address}: already decided by {', '.join(event.data['by'])} at {event.at}: {event.data['answer']}"
            return AlreadyDecided(told, hint=f"longcase history {address}"), event
        return None

    def _check_form(self, state: CaseState, task: str, answer: Json) -> Json:
        """Check a filled form against its schema; what only the author's own validators know, the stage finds."""
        record = state.tasks[task]
        check_json(answer, what="answer", max_bytes=BODY_BYTES)
        if record["kind"] != "task":
            return answer
        hint = f"longcase tasks --case {state.address} --json  # has the form"
        if not isinstance(answer, Mapping):
            raise InvalidInput(
                f'"{record["question"]}": expected the filled form as a JSON object', reason="not_an_object", hint=hint
            )
        if problems := form_problems(record["form"] or {}, answer):
            listed = "; ".join(f"{place or '/'}: {problem}" for place, problem in problems[:8])
            more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
            told = f'"{record["question"]}": {listed}{more}'
            raise InvalidInput(told, problems=problems, reason="does_not_fit", hint=hint)
        return dict(answer)
