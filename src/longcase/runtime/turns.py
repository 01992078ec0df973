"""The turn over a store: written once, called by every mover (HOST.md).

    load or rebuild -> advance (engine) -> write (store) -> commands

`advance` is idempotent: whatever is not committed is computed again from the store. A mover may call
it for any case at any time, twice, late, or for nothing.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from longcase.engine.advance import (
    Accepted,
    Advance,
    Command,
    Ended,
    Item,
    Verified,
    Work,
    advance,
    blocked,
    refuse_input,
    wake_at,
)
from longcase.engine.attempts import Success, Verdict, failed_attempt, outcome_counts
from longcase.engine.code import WorkflowCode
from longcase.engine.incidents import TurnDiscarded, incident
from longcase.engine.start import case_started
from longcase.engine.tasks import Actor
from longcase.engine.turn import Resident
from longcase.env import Env
from longcase.errors import BugError, DefinitionError, LongcaseError, UnavailableError
from longcase.history.event import Event, instant_of, instant_text
from longcase.history.state import CaseState, apply
from longcase.model.activity import Activity
from longcase.runtime.limits import Slots
from longcase.runtime.performing import storable
from longcase.runtime.watchdog import StageNeverYields, Watchdog
from longcase.store.port import (
    CaseRef,
    CaseRow,
    CaseWrite,
    DedupKey,
    Input,
    NewCase,
    Started,
    Store,
    Written,
    differing,
)

log = logging.getLogger("longcase.runtime")

LIVE_CASES = 512  # coroutines kept in memory; a parked case beyond it is rows and nothing else
ITEMS_A_TURN = 256  # inputs of one case applied in one commit; a bound on what a crash repeats


_NOBODY = CaseState()


@dataclass(slots=True)
class Moved:
    """What became of one case in a commit: commands to carry out, and whether it wants more."""

    case_no: int
    state: CaseState
    code: WorkflowCode
    events: list[Event]
    commands: list[Command]
    left: list[Item] = field(default_factory=list)  # outcomes not applied yet; give them to the next advance
    again: bool = False
    wake_at: str = ""
    refused: tuple[str, ...] = ()  # limits that held back attempts of the case


@dataclass(slots=True)
class _Prepared:
    resident: Resident
    result: Advance
    items: list[Item]
    write: CaseWrite | None
    reserved: list[Activity[..., Any]]
    left: list[Item]
    more: bool
    untaken: int  # inbox inputs that had to stay there
    refused: tuple[str, ...] = ()


class Turns:
    """Moves cases over a store. One per mover; holds the residents, which are a cache and nothing more."""

    def __init__(
        self,
        store: Store,
        env: Env,
        codes: Mapping[str, WorkflowCode],
        worker: int,
        slots: Slots,
        *,
        live: int = LIVE_CASES,
    ) -> None:
        self.store = store
        self.env = env
        self.codes = codes
        self.worker = worker
        self.slots = slots
        self.live = live
        self.watchdog = Watchdog(env.monotonic)
        self._dead: set[int] = set()  # death is final, so it is asked for once
        self._residents: OrderedDict[int, Resident] = OrderedDict()
        self._reserved: list[Activity[..., Any]] = []
        self._batch_now = ""
        self._unsure: list[_Prepared] = []
        self._doubtful: dict[int, dict[tuple[str, int], Activity[..., Any]]] = {}

    @property
    def resident_count(self) -> int:
        return len(self._residents)

    async def advance(
        self, cases: Mapping[int, Sequence[Item]], look: frozenset[int] | set[int] = frozenset()
    ) -> list[Moved]:
        """Move cases, each by the items given; those in `look` also by what the store holds for them.

        Effects: one transaction over all cases. A case that lost a race is thrown away and, if it was
        given items, moved again at once. What could not be applied is kept in the store's inbox.
        """
        moved: list[Moved] = []
        todo: dict[int, list[Item]] = {case_no: list(items) for case_no, items in cases.items()}
        looking = set(look)
        for _ in range(20):
            try:
                prepared = await self._prepare(todo, looking)
            except LongcaseError:
                self._carry_later(moved)
                raise
            todo, looking = {}, set()
            writes = [entry for entry in prepared if entry.write is not None]
            moved.extend(self._unwritten(entry) for entry in prepared if entry.write is None)
            try:
                batch = [entry.write for entry in writes if entry.write is not None]
                outcomes = await self.store.write(batch, partial=True) if batch else []
            except LongcaseError:
                for entry in writes:
                    self._doubt(entry)
                self._carry_later(moved)
                raise
            for entry, outcome in zip(writes, outcomes, strict=True):
                if outcome.outcome == "stale":
                    self._release(entry.reserved)
                    self.evict(entry.resident.case_no)
                    todo[entry.resident.case_no] = entry.items
                    looking.add(entry.resident.case_no)
                elif outcome.outcome == "failed":
                    self._release(entry.reserved)
                    self.evict(entry.resident.case_no)
                    await self._hold(entry.resident.case_no, entry.items, outcome.error, "not_storable")
                else:
                    moved.append(self._written(entry, outcome))
            if not todo:
                return moved
        raise BugError(f"cases {sorted(todo)} lost every race for the row")

    async def _hold(self, case_no: int, items: Sequence[Item], error: Exception | None, kind: str) -> None:
        """Open an incident on a case that this process cannot move on; its inputs and outcomes are kept.

        What waits in the inbox stays there; what has ended in this process goes there, or is tried again.
        """
        row = (await self.store.load_many([case_no])).get(case_no)
        if row is None:
            return
        state, now = row.state, self.now(row.state)
        code = self.codes.get(state.workflow)
        if code is None:
            return
        seq, seen = state.seq, state.seen_seq
        resident = Resident(case_no, code, state, self._begin)
        kept = [item for item in items if not self._tried_again(resident, item, now)]
        write = CaseWrite(case_no, seq, seen, resident.emitted, state)
        write.notify = [(case_no, _as_input(item, seq, position)) for position, item in enumerate(kept)]
        if not blocked(state):
            discarded = TurnDiscarded(kind, storable(str(error)), owner=code.workflow.owner.name)
            resident.append(incident(state, discarded, instant_of(now)), now)
        write.lease, write.wake_at = self._lease(state, now), wake_at(state, now)
        await self.store.write([write])

    def _tried_again(self, resident: Resident, item: Item, now: str) -> bool:
        """Record a failed attempt that is due again; True if nothing of the item is left to keep."""
        if not isinstance(item, Ended):
            return not isinstance(item, Verified) or item.answer != "happened"
        call = resident.state.calls.get(item.call)
        if call is None or not outcome_counts(resident.state, item.call, item.number):
            return True
        if isinstance(item.outcome, Success):
            return False
        again = Verdict("again", now)
        resident.append(
            failed_attempt(resident.state, item.call, call, item.outcome, again, f"worker:{item.worker}"), now
        )
        return True

    async def start(self, new: Sequence[NewCase]) -> tuple[list[Started], list[Moved]]:
        """Accept cases and run each to its first wait, in one transaction: a start without a second commit.

        A case whose first turn cannot be committed is accepted all the same; its next turn opens the incident.
        """
        entries = {place: entry for place, one in enumerate(new) if (entry := self._first_turn(one)) is not None}
        try:
            outcomes = await self.store.write(
                [entry.write for entry in entries.values() if entry.write is not None], partial=True
            )
        except LongcaseError as error:
            for entry in entries.values():
                entry.resident.discard()
                if isinstance(error, UnavailableError) and entry.reserved:
                    self._unsure.append(entry)
                else:
                    self._release(entry.reserved)
            raise
        answers: dict[int, Started] = {}
        moved: list[Moved] = []
        for (place, entry), outcome in zip(entries.items(), outcomes, strict=True):
            answer = self._started(new[place], entry, outcome, moved)
            if answer is not None:
                answers[place] = answer
        plain = [place for place in range(len(new)) if place not in answers]
        if plain:
            answers |= zip(plain, await self.store.start([new[place] for place in plain]), strict=True)
        return [answers[place] for place in range(len(new))], moved

    def _started(self, new: NewCase, entry: _Prepared, outcome: Written, moved: list[Moved]) -> Started | None:
        resident = entry.resident
        state = outcome.state or resident.state
        if outcome.outcome in ("existing", "failed"):
            resident.discard()
            self._release(entry.reserved)
            if outcome.outcome == "failed":
                return None  # accepted without its first turn
            return Started(outcome.case_no, True, state, differing(state.object, new.started.data["object"]))
        resident.case_no = outcome.case_no
        entry.result.commands = [replace(command, case_no=outcome.case_no) for command in entry.result.commands]
        self._residents[outcome.case_no] = resident
        moved.append(self._written(entry, outcome))
        return Started(outcome.case_no, False, state)

    async def settle_starts(self) -> list[int]:
        """Look up starts whose commit's answer was lost; returns the cases whose attempts must be carried out."""
        found: list[int] = []
        for entry in list(self._unsure):
            state = entry.resident.state
            row = await self.store.load(CaseRef(0, state.workflow, state.key, state.tenant))
            self._unsure.remove(entry)
            if row is not None and row.state.uid == state.uid:
                entry.resident.case_no = row.case_no
                self._doubt(entry)
                found.append(row.case_no)
            else:
                self._release(entry.reserved)
        return found

    def _first_turn(self, new: NewCase) -> _Prepared | None:
        """Compute a new case's first turn; None if it cannot be committed and the case is only to be accepted."""
        now = self.now()
        started = new.started
        state = CaseState()
        started.seq, started.at = 1, now
        apply(state, started)
        resident = Resident(0, self.codes[started.data["workflow"]], state, self._begin)
        self._reserved = []
        self.slots.refusing.clear()
        try:
            with self.watchdog:
                result = self._turn(resident, (), Work(now, (), self._is_dead, self.env.random.random), False)
            entry = _Prepared(resident, result, [], None, self._reserved, [], False, 0, tuple(self.slots.refusing))
            entry.write = self._write(resident, result, 1, 1, now, False, None)
        except Exception as error:
            log.info("%s: first turn left for later: %s", state.address, error)
            resident.discard()
            self._release(self._reserved)
            started.seq, started.at = 0, ""
            return None
        assert entry.write is not None
        entry.write.new = new
        return entry

    # -- preparing -----------------------------------------------------------------------------------

    async def _prepare(self, todo: Mapping[int, list[Item]], looking: set[int]) -> list[_Prepared]:
        residents = self._residents
        unknown = [case_no for case_no in todo if case_no in looking or case_no not in residents]
        rows = await self.store.load_many(unknown) if unknown else {}
        inboxes = (
            await self.store.inboxes([case_no for case_no in unknown if case_no in rows and rows[case_no].pending])
            if rows
            else {}
        )
        asked = set(unknown)
        self._batch_now = instant_text(self.env.now())
        recorded = await self._recorded(rows)
        prepared: list[_Prepared] = []
        for case_no, items in todo.items():
            row = rows.get(case_no)
            if row is None and case_no in asked:
                continue
            try:
                entry = await self._prepare_one(case_no, row, items, inboxes.get(case_no, ()), recorded.get(case_no))
            except UnavailableError:
                raise
            except Exception as error:
                # One case that breaks a promise of ours must not stop the others: it is held, with its owner.
                log.exception("case %d cannot be moved", case_no)
                self._release(self._reserved)
                self.evict(case_no)
                await self._hold(case_no, items, error, "engine_fault")
                continue
            if entry is not None:
                prepared.append(entry)
        return prepared

    async def _recorded(self, rows: Mapping[int, CaseRow]) -> dict[int, list[Event]]:
        """Read the current visits of the cases that must be rebuilt, in one query.

        Up to what their rows say: another process may have appended to a history since.
        """
        wanted = [
            (case_no, row.state.entered_seq, row.state.seq)
            for case_no, row in rows.items()
            if row.state.visit and row.state.status == "open" and not self._is_resident(case_no, row)
        ]
        return await self.store.ranges(wanted) if wanted else {}

    def _is_resident(self, case_no: int, row: CaseRow) -> bool:
        resident = self._residents.get(case_no)
        return resident is not None and resident.visit is not None and resident.state.seq == row.state.seq

    async def _prepare_again(self, case_no: int, local: list[Item]) -> _Prepared | None:
        """Prepare a case anew from what the store holds by now."""
        prepared = await self._prepare({case_no: local}, {case_no})
        return prepared[0] if prepared else None

    async def _prepare_one(
        self,
        case_no: int,
        row: CaseRow | None,
        local: list[Item],
        inbox: Sequence[Input],
        recorded: Sequence[Event] | None = None,
    ) -> _Prepared | None:
        resident = self._residents.get(case_no)
        if resident is not None and row is not None and resident.state.seq != row.state.seq:
            self.evict(case_no)
            resident = None
        name = resident.state.workflow if resident is not None else row.state.workflow if row is not None else ""
        code = self.codes.get(name)
        if code is None:
            return None  # this process does not have the workflow; another worker moves the case
        # One reading of the clock serves the batch; never before what the case has already seen.
        now = max(
            self._batch_now, (resident.state if resident is not None else row.state if row is not None else _NOBODY).at
        )
        accepted: list[Accepted] = []
        for entry_ in inbox[:ITEMS_A_TURN]:
            # In the order of acceptance, also if the clock went back in between (I11).
            accepted.append(_accepted(entry_, accepted[-1].at if accepted else ""))
        items: list[Item] = sorted([*local, *accepted], key=lambda item: item.at) if accepted else list(local)
        if items:
            now = max(now, items[-1].at)  # the clock may have gone back since it was accepted
        self._reserved = []
        self.slots.refusing.clear()
        limit: int | None = None
        left: list[Item] = []
        for _ in range(3):
            if resident is None:
                row = row or (await self.store.load_many([case_no])).get(case_no)
                if row is None:
                    return None
                # A commit works on the state it was given: the row's copy must stay as it was read.
                fresh = CaseState.from_json(row.state.to_json()) if limit is not None else row.state
                resident = Resident(case_no, code, fresh, self._begin)
            base_seq, base_seen = resident.state.seq, resident.state.seen_seq
            work = Work(now, items, self._is_dead, self.env.random.random, limit)
            try:
                events: Sequence[Event] = ()
                rebuild = resident.visit is None and resident.state.status == "open" and not blocked(resident.state)
                if rebuild and resident.state.visit:
                    first, last = resident.state.entered_seq, resident.state.seq
                    if recorded is None or not recorded or recorded[0].seq != first or recorded[-1].seq != last:
                        recorded = (await self.store.ranges([(case_no, first, last)]))[case_no]
                    events = recorded
                with self.watchdog:
                    result = self._turn(resident, events, work, rebuild)
                break
            except TurnDiscarded as discarded:
                applied: int = discarded.applied
                item: Item | None = discarded.item
                resident.discard()
                recorded = None  # the discarded state grew on their snapshot
                self.evict(case_no)
                self._release(self._reserved)
                self._reserved = []
                row = (await self.store.load_many([case_no])).get(case_no)
                if row is None:
                    return None
                if row.state.seq != base_seq:
                    # Another process moved the case meanwhile: what was discarded may not be so any more.
                    return await self._prepare_again(case_no, local)
                log.info("%s: turn discarded: %s: %s", row.state.address, discarded.kind, discarded.message)
                resident = None
                if applied:
                    limit = applied
                    continue
                resident = Resident(case_no, code, row.state, self._begin)
                base_seq, base_seen = resident.state.seq, resident.state.seen_seq
                result = refuse_input(resident, Work(now, (), self._is_dead, self.env.random.random), discarded, item)
                left = [other for other in items if other is not item and not isinstance(other, Accepted)]
                break
        else:
            raise BugError(f"case {case_no}: a turn that was fine is discarded at its second run")
        if limit is not None:
            left = [other for other in items[result.items_applied :] if not isinstance(other, Accepted)]
        more = bool(left) or limit is not None or len(inbox) > ITEMS_A_TURN
        entry = _Prepared(
            resident,
            result,
            local,
            None,
            self._reserved,
            left,
            more,
            len(accepted) - len(result.taken),
            tuple(self.slots.refusing),
        )
        self._residents[case_no] = resident
        self._residents.move_to_end(case_no)
        entry.write = self._write(resident, result, base_seq, base_seen, now, more, row)
        if (
            entry.write is not None
            and row is not None
            and not any(e.type in ("stage_entered", "case_closed") for e in entry.write.events)
        ):
            # What was refused for as long as an exception path ran is looked at again where the visit ends (B7).
            entry.write.heard = max((item.no for item in inbox), default=0)
        return entry

    def _turn(self, resident: Resident, events: Sequence[Event], work: Work, rebuild: bool) -> Advance:
        """Run user code: replay if there is no coroutine, then the turns. No await in here: see Watchdog."""
        row_seq = resident.state.seq
        try:
            if rebuild:
                resident.rebuild(events, instant_of(work.now))
                replayed = resident.state.seq - len(resident.emitted)
                if replayed != row_seq:
                    raise BugError(f"{resident.state.address}: replay ended at {replayed}, the row says {row_seq}")
            return advance(resident, work)
        except StageNeverYields:
            owner = resident.visit.stage.owner.name if resident.visit is not None else resident.code.workflow.owner.name
            raise TurnDiscarded(
                "stage_never_yields", f"{resident.state.stage} ran longer than the limit of one turn", owner=owner
            ) from None

    def _begin(self, activity: Activity[..., Any]) -> int:
        if not self.slots.take(activity):
            return 0
        self._reserved.append(activity)
        return self.worker

    def _is_dead(self, worker: int) -> bool:
        if worker == self.worker:
            return False
        if worker not in self._dead and self.store.is_dead(worker):
            self._dead.add(worker)
        return worker in self._dead

    def _release(self, reserved: Sequence[Activity[..., Any]]) -> None:
        for activity in reserved:
            self.slots.give_back(activity)

    def now(self, state: CaseState | None = None) -> str:
        """Return the store's instant, never before what the case has already seen."""
        now = instant_text(self.env.now())
        return max(now, state.at) if state is not None else now

    # -- writing -------------------------------------------------------------------------------------

    def _write(
        self,
        resident: Resident,
        result: Advance,
        base_seq: int,
        base_seen: int,
        now: str,
        more: bool,
        row: CaseRow | None,
    ) -> CaseWrite | None:
        state = resident.state
        events = resident.emitted
        resident.emitted = []
        if resident.visit is not None:
            resident.visit.emitted = resident.emitted
        wake = now if more or result.again else wake_at(state, now)
        write = CaseWrite(
            resident.case_no, base_seq, base_seen, events, state,
            lease=self._lease(state, now), wake_at=wake, taken=result.taken,
        )  # fmt: skip
        write.children = [self._child(resident, event) for event in events if event.type == "child_started"]
        write.cancel_children = list(resident.cancel_children)
        for event in events:
            if event.type == "child_released" and event.data["cancel"] and "key" in event.data:
                data = event.data
                why = "the parent no longer waits for it"
                write.cancel_children.append((data["child"], data["workflow"], data["key"], why))
        write.notify = [
            (case_no, Input(ref, "child_closed", data, "engine", "engine", cause=None))
            for case_no, ref, data in resident.notify
        ]
        for position, item in enumerate(result.kept):
            write.notify.append((resident.case_no, _as_input(item, state.seq, position)))
        resident.cancel_children.clear()
        resident.notify.clear()
        if (
            not events
            and not write.taken
            and not write.notify
            and row is not None
            and row.wake_at == wake
            and row.lease == write.lease
        ):
            return None
        return write

    def _lease(self, state: CaseState, now: str) -> int:
        """Return whose death must wake the case: whoever runs an attempt of it, or has yet to begin one."""
        if not state.calls:
            return 0
        holders = [call["worker"] for call in state.calls.values() if call["status"] == "running"]
        if self.worker in holders:
            return self.worker
        if holders:
            return max(holders)
        asked = {opened["call"] for opened in state.incidents.values()}
        unbegun = any(
            call["status"] == "ready"
            or (call["status"] == "unknown" and ref not in asked)
            or (call["status"] == "backoff" and call["next_try"] <= now)  # due, but no slot was free
            for ref, call in state.calls.items()
        )
        return self.worker if unbegun else 0

    def _child(self, resident: Resident, event: Event) -> NewCase:
        data = event.data
        code = self.codes.get(data["workflow"])
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
            code.workflow, data["body"], uid=self.env.new_id(), tenant=resident.state.tenant, now=self.env.now(),
            actor=Actor("engine", "engine"), parent=parent,
        )  # fmt: skip
        return NewCase(started, DedupKey(f"child:{resident.state.uid}", data["child"], ""), again=True)

    def _doubt(self, entry: _Prepared) -> None:
        """Remember what a commit of unknown outcome began: if it did happen, nobody else runs these attempts."""
        resident = entry.resident
        begun = self._doubtful.setdefault(resident.case_no, {})
        assert entry.write is not None
        for event in entry.write.events:
            if event.data.get("worker") == self.worker and event.data.get("attempt"):
                call = resident.state.calls.get(event.data["call"])
                name = event.data.get("activity") or (call["activity"] if call is not None else "")
                begun[event.data["call"], event.data["attempt"]] = resident.code.activities[name]
        self.evict(resident.case_no)

    def _carry_later(self, moved: Sequence[Moved]) -> None:
        """Keep the commands of cases that did move when another case of the batch failed."""
        for entry in moved:
            for command in entry.commands:
                call = entry.state.calls.get(command.call)
                if command.kind == "perform" and call is not None:
                    begun = self._doubtful.setdefault(entry.case_no, {})
                    begun[command.call, command.number] = entry.code.activities[call["activity"]]

    def _settle_doubt(self, case_no: int, state: CaseState) -> list[Command]:
        """Return what must still be carried out of commits whose answer was lost."""
        commands: list[Command] = []
        for (ref, number), activity in self._doubtful.pop(case_no, {}).items():
            call = state.calls.get(ref)
            if (
                call is not None
                and call["status"] == "running"
                and call["attempt"] == number
                and call["worker"] == self.worker
            ):
                commands.append(Command("perform", case_no, ref, number))
            else:
                self.slots.give_back(activity)
        return commands

    def _unwritten(self, entry: _Prepared) -> Moved:
        resident = entry.resident
        if resident.case_no in self._doubtful:
            entry.result.commands += self._settle_doubt(resident.case_no, resident.state)
        return Moved(
            resident.case_no,
            resident.state,
            resident.code,
            [],
            entry.result.commands,
            entry.left,
            entry.more,
            refused=entry.refused,
        )

    def _written(self, entry: _Prepared, outcome: Written) -> Moved:
        resident = entry.resident
        case_no = resident.case_no
        write = entry.write
        assert write is not None
        if outcome.interleaved or resident.state.status == "closed" or blocked(resident.state):
            # The coroutine's state is no longer the row's; the next advance reads it again.
            self.evict(case_no)
        if case_no in self._doubtful:
            begun = [(command.call, command.number) for command in entry.result.commands if command.kind == "perform"]
            for command in self._settle_doubt(case_no, outcome.state or resident.state):
                if (command.call, command.number) not in begun:
                    entry.result.commands.append(command)
        self._shrink()
        known = entry.untaken + len(entry.result.kept)
        again = entry.more or entry.result.again or (outcome.pending > known and not blocked(resident.state))
        return Moved(
            case_no,
            outcome.state or resident.state,
            resident.code,
            write.events,
            entry.result.commands,
            entry.left,
            again,
            write.wake_at,
            entry.refused,
        )

    def evict(self, case_no: int) -> None:
        """Forget a case's coroutine; it is rebuilt from rows when it moves again."""
        resident = self._residents.pop(case_no, None)
        if resident is not None:
            resident.discard()

    def evict_all(self) -> None:
        """Forget every coroutine."""
        for case_no in list(self._residents):
            self.evict(case_no)

    def _shrink(self) -> None:
        while len(self._residents) > self.live:
            self.evict(next(iter(self._residents)))


def _accepted(entry: Input, earliest: str) -> Accepted:
    at = max(entry.accepted_at, earliest)
    return Accepted(
        entry.no, entry.id, entry.type, entry.data, entry.actor, entry.channel, entry.on_behalf, entry.cause, at
    )


def _as_input(item: Item, seq: int, position: int) -> Input:
    """Turn an outcome that cannot be applied now into a durable input of the same case."""
    match item:
        case Ended():
            assert isinstance(item.outcome, Success) or item.outcome is not None
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
