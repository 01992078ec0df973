"""Simulate: the real engine and the real store on a virtual clock, driven step by step by a test.

    sim = Simulation([onboarding], fakes={check_registry: lambda legal_entity: RegistryEntry(rating="A")})
    case = sim.start(onboarding, Client(id="C-1", name="Acme"))
    sim.advance(hours(24))
    assert sim.show(case).waits[0].whose == "sales-director"

Nothing sleeps: `advance` moves the clock from one due instant to the next and lets each take effect
in its order. Activities run inline, as fakes (plain functions or coroutines) or as declared.
"""

from __future__ import annotations

import asyncio
import inspect
import tempfile
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, TypeVar, cast

from pydantic import BaseModel

from longcase.app import Longcase
from longcase.engine.attempts import Failure, Success
from longcase.engine.tasks import Actor
from longcase.engine.work import Command, Ended, Item, Verified
from longcase.env import Env, VirtualClock
from longcase.errors import BugError, UsageError
from longcase.history.event import Event, instant_of, instant_text
from longcase.history.state import CaseState
from longcase.history.waits import Wait
from longcase.model.activity import Activity
from longcase.model.calendar import Calendar, due
from longcase.model.codec import Json
from longcase.model.span import Span
from longcase.model.workflow import Workflow
from longcase.opening import store_url
from longcase.runtime.limits import Slots
from longcase.runtime.moved import Moved
from longcase.runtime.performing import Running, perform, verify
from longcase.runtime.transacting import transact
from longcase.runtime.turns import Turns
from longcase.service.service import Accepted, CaseView, Receipt, Service, TaskView
from longcase.store.port import Transacting
from longcase.testing.fakes import accepting, check_fake, tell_slow

T = TypeVar("T")
ROUNDS = 1_000_000
BATCH = 64


class Simulation:
    """A store, a virtual clock and a mover in one hand.

    Args:
        workflows: workflow objects or modules.
        fakes: what runs instead of an activity's own function.
        now: where the clock starts; Monday 2026-01-05 09:00 UTC unless given.
        path: a SQLite file to keep; a temporary one otherwise.
        url: of the store, instead of a path: an empty PostgreSQL database, say.
        seed: of ids and jitter, so that a run is repeatable.
        live: coroutines kept in memory; 0 rebuilds every case at every turn.
    """

    def __init__(
        self,
        workflows: Iterable[Workflow[Any] | ModuleType],
        *,
        fakes: Mapping[Activity[..., Any], Callable[..., Any]] | None = None,
        now: datetime | None = None,
        path: str | Path | None = None,
        url: str | None = None,
        seed: int = 0,
        live: int = 512,
        synchronous: str = "FULL",
    ) -> None:
        for activity, fake in (fakes or {}).items():
            check_fake(activity, fake)
        self.clock = VirtualClock(_checked_now(now))
        self.env = Env(self.clock, seed=seed)
        self.performed: list[tuple[str, str, int]] = []  # (case, activity, attempt) in order
        if url is not None:
            url = store_url(url)
        self._loop = asyncio.new_event_loop()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.url = url or (f"sqlite:///{path}" if path is not None else self._place())
        self._fakes: dict[str, Callable[..., Any]] = {activity.name: fn for activity, fn in (fakes or {}).items()}
        self._inline = self.url.startswith("sqlite:")  # its store never suspends, and costs no loop
        self._live = live
        self._together = False
        try:
            self._app = Longcase(
                workflows, url=self.url, env=self.env, inline=self._inline, live=live, synchronous=synchronous
            )
        except BaseException:
            self._let_go()
            raise
        try:
            self._do(self._app.open())
            self._do(self._app.record_maps())
            self._join()
        except BaseException:  # nobody gets the object that could be closed
            self._give_up()
            raise

    def _place(self) -> str:
        """Return the URL of a store that lasts as long as this simulation."""
        self._folder = tempfile.TemporaryDirectory()
        return f"sqlite:///{self._folder.name}/cases.db"

    def _join(self) -> None:
        self._worker = self._do(self._app.store.join("simulation", 1))
        self._slots = Slots(self.env.now)
        self._freed: list[int] = []  # cases that were told of a free slot
        self._turns = Turns(self._app.store, self.env, self._app.codes, self._worker, self._slots, live=self._live)
        self._do(self._take_over())

    async def _take_over(self) -> None:
        """Set free what a mover before this one held when it died: a store may be opened again after a kill."""
        store = self._app.store
        for dead in await store.dead_workers():
            await store.recover(dead)

    def __enter__(self) -> Simulation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the store and drop the temporary file."""
        self._turns.evict_all()
        self._give_up()

    def _give_up(self) -> None:
        self._do(self._app.close())
        self._let_go()

    def _let_go(self) -> None:
        self._loop.close()
        if self._folder is not None:
            self._folder.cleanup()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self._loop.run_until_complete(work)
        work.close()
        raise UsageError("a Simulation runs its own event loop", hint="use it from a plain `def test_...`")

    def _at_once(self, work: Coroutine[Any, Any, T]) -> T:
        """Finish a call of the door or the store: opened inline, they never suspend, so no loop is needed."""
        if not self._inline:
            return self._do(work)
        try:
            work.send(None)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        raise BugError(f"{work!r} suspended in a store that was opened inline")

    # -- the clock -----------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """The virtual instant."""
        return self.clock.now()

    def advance(self, span: Span, calendar: Calendar | None = None) -> None:
        """Let `span` pass: everything due on the way takes effect at its own instant, in order."""
        self.advance_to(due(self.now, span, calendar))

    def advance_to(self, instant: datetime) -> None:
        """Let time pass until `instant`."""
        self.run()
        for _ in range(ROUNDS):
            wake = self._at_once(self._app.store.next_wake(instant_text(self.now)))
            if self._slots.retry_at is not None:  # a rate limit lets the next attempt begin
                retry = instant_text(self._slots.retry_at)
                wake = min(wake, retry) if wake else retry
            if not wake or instant_of(wake) > instant:
                break
            self.clock.set(instant_of(wake))
            self.run()
        else:
            raise BugError("the simulation does not come to rest")
        self.clock.set(max(instant, self.now))  # nothing is due on the rest of the way

    def run(self) -> None:
        """Move every case that can move at this instant, and run its activities, until all is quiet."""
        if not self._together and (ready := self._at_once(self._ready()) or self._held_back()):
            self._do(self._run(ready))

    async def _ready(self) -> list[int]:
        return await self._app.store.ready(instant_text(self.now), self._worker, BATCH)

    def _held_back(self) -> list[int]:
        """Return cases whose attempts found no slot, and may find one now."""
        waiting, self._freed = self._freed, []
        return [*waiting, *self._slots.due()]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let everything handed in inside the block be accepted at one instant, before any case moves.

        Two people who answer at once, for example; or many inputs, to move their cases in one commit.
        """
        self._together = True
        try:
            yield
        finally:
            self._together = False
        self.run()

    def crash(self) -> None:
        """Kill the mover: its memory is gone, its leases are void, a new one takes over."""
        self._turns.evict_all()
        gone = cast(Any, self._app.store).abandon(self._worker)
        if gone is not None:  # where the lease of a dead one stands in the database
            self._do(gone)
        self._join()

    # -- the door ------------------------------------------------------------------------------------

    @property
    def service(self) -> Service:
        """The door, for whatever has no short form here; call `run()` afterwards."""
        return self._app.service

    def start(self, workflow: Workflow[Any] | str, body: BaseModel | Mapping[str, Json], **options: Any) -> str:
        """Start a case and run it until it waits; returns its address."""
        receipt: Receipt = self._at_once(self.service.start(workflow, body, **options))
        self.run()
        return receipt.address

    def signal(self, case: str, signal: Any, body: BaseModel | Mapping[str, Json], **options: Any) -> Accepted:
        """Send a signal."""
        return self._act(self.service.signal(case, signal, body, **options))

    def decide(self, case: str, answer: Json, *, by: str = "tester", **options: Any) -> Accepted:
        """Answer the case's task as a person."""
        return self._act(self.service.decide(case, answer, actor=Actor(f"person:{by}"), **options))

    def set(self, case: str, **fields: Json) -> Accepted:
        """Provide fields of the object."""
        return self._act(self.service.set_fields(case, fields))

    def correct(self, case: str, *, reason: str = "test", **fields: Json) -> Accepted:
        """Correct fields of the object."""
        return self._act(self.service.correct(case, fields, reason=reason))

    def retry(self, case: str, **options: Any) -> Accepted:
        return self._act(self.service.retry(case, **options))

    def redo(self, case: str, **options: Any) -> Accepted:
        return self._act(self.service.redo(case, **options))

    def skip(self, case: str, **options: Any) -> Accepted:
        return self._act(self.service.skip(case, **options))

    def set_result(self, case: str, result: Json, **options: Any) -> Accepted:
        return self._act(self.service.set_result(case, result, **options))

    def move(self, case: str, stage: Any, *, reason: str = "test", **options: Any) -> Accepted:
        return self._act(self.service.move(case, stage, reason=reason, **options))

    def restart(self, case: str, *, reason: str = "test") -> Accepted:
        return self._act(self.service.restart(case, reason=reason))

    def cancel(self, case: str, *, reason: str = "test") -> Accepted:
        return self._act(self.service.cancel(case, reason=reason))

    def _act(self, work: Coroutine[Any, Any, Accepted]) -> Accepted:
        try:
            return self._at_once(work)
        finally:
            self.run()

    # -- looking ---------------------------------------------------------------------------------------

    def show(self, case: str) -> CaseView:
        """Return what one screen says of a case."""
        return self._at_once(self.service.show(case))

    def state(self, case: str) -> CaseState:
        return self.show(case).state

    def waits(self, case: str) -> list[Wait]:
        """Return the case's open waits, the headline first."""
        return self.show(case).waits

    def tasks(self, case: str) -> list[TaskView]:
        return self._at_once(self.service.open_tasks(case))

    def history(self, case: str) -> list[Event]:
        return self._at_once(self.service.history(case))

    def types(self, case: str) -> list[str]:
        """Return the types of the case's events, in order."""
        return [event.type for event in self.history(case)]

    def query(self, sql: str, parameters: Any = ()) -> list[dict[str, Any]]:
        return self._at_once(self.service.query(sql, parameters))

    def fake(self, activity: Activity[..., Any], fn: Callable[..., Any]) -> None:
        """Replace what runs for an activity from now on."""
        check_fake(activity, fn)
        self._fakes[activity.name] = fn

    # -- the mover -----------------------------------------------------------------------------------------

    async def _run(self, ready: list[int]) -> None:
        for _ in range(ROUNDS):
            moved = await self._turns.advance({case_no: [] for case_no in ready}, set(ready))
            await self._carry_out(moved)
            ready = await self._ready() or self._held_back()
            if not ready:
                return
        raise BugError("the simulation does not come to rest")

    async def _carry_out(self, moved: list[Moved]) -> None:
        while moved:
            outcomes: dict[int, list[Item]] = {}
            for entry in moved:
                if entry.refused:
                    self._slots.keep_waiting(entry.case_no, entry.refused)
                items = outcomes.setdefault(entry.case_no, list(entry.left))
                for command in entry.commands:
                    item = await self._command(entry, command)
                    if item is not None:
                        items.append(item)
            todo = {case_no: items for case_no, items in outcomes.items() if items}
            moved = await self._turns.advance(todo, set(todo)) if todo else []

    async def _command(self, moved: Moved, command: Command) -> Item | None:
        call = moved.state.calls.get(command.call)
        if command.kind == "stop" or call is None:
            return None
        commanded = await self._app.store.event(moved.case_no, call["seq"])
        running = Running(moved.state.address, command.call, command.number, call["key"], call.get("details"))
        activity = moved.code.activities.get(call["activity"])
        if activity is None:
            return None
        if command.kind == "verify":
            if activity.verify_function is None:
                return Verified(
                    command.call, command.number, "unknown", None, "no verify function", instant_text(self.now)
                )
            told, result, why = await verify(activity, running, commanded.data["input"], None)
            return Verified(command.call, command.number, told, result, why, instant_text(self.now))
        self.performed.append((moved.state.address, activity.name, command.number))
        result = None
        arguments = commanded.data.get("input", {})
        if call["undoes"]:
            result = (await self._app.store.event(moved.case_no, commanded.data["result"])).data["result"]
            arguments = (await self._app.store.event(moved.case_no, commanded.data["of"])).data["input"]
        given = (arguments, result, bool(call["undoes"]), None)
        outcome: Success | Failure | None
        if activity.transaction and activity.name not in self._fakes:
            place = (moved.case_no, self._worker, moved.code.map_number)
            outcome = await transact(cast(Transacting, self._app.store), activity, running, place, *given)
        else:
            began = self.env.monotonic()
            outcome = await perform(self._with_fake(activity), running, *given)
            took = self.env.monotonic() - began
            if activity.name in self._fakes:
                tell_slow(activity.name, took)
        self._slots.give_back(activity)
        self._freed += self._slots.freed_by(activity)
        if outcome is None:
            return None  # its result is in the inbox
        return Ended(command.call, command.number, outcome, self._worker, instant_text(self.now))

    def _with_fake(self, activity: Activity[..., Any]) -> Activity[..., Any]:
        fake = self._fakes.get(activity.name)
        if fake is None:
            return activity
        _ = activity.codecs  # made of the declaration: a fake need not be annotated
        twin: Activity[..., Any] = Activity.__new__(Activity)
        twin.__dict__.update(activity.__dict__)
        twin._raw = accepting(fake, activity)
        twin.is_async = inspect.iscoroutinefunction(fake)
        return twin


def _checked_now(now: datetime | None) -> datetime | None:
    """Return where the clock starts.

    Raises:
        UsageError: it is no instant, or one without a zone.
    """
    if now is not None and (not isinstance(now, datetime) or now.tzinfo is None):
        raise UsageError(
            f"the simulation starts at {now!r}, expected a datetime with a zone",
            hint="now=datetime(2026, 1, 5, 9, tzinfo=UTC)",
        )
    return now
