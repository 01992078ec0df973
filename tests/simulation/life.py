"""A life of a seed: what its people and clients do, and how it is judged at its end.

How the cases are moved meanwhile is said in `shuffle` (one process, every choice drawn) and in
`fleet` (workers, servers and clients as processes of their own).
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cache, partial
from random import Random
from typing import Any

import apsw
from tests.simulation import checks, model
from tests.simulation.plans import Grammar, codes
from tests.simulation.world import World

from longcase.engine.tasks import Actor
from longcase.env import Env
from longcase.errors import LongcaseError, StoreUnavailable, UnavailableError
from longcase.history.event import Event, instant_text
from longcase.history.state import CaseState
from longcase.insight.verify import verify
from longcase.service.service import Service
from longcase.store.records import CaseRef
from longcase.store.sqlite import SqliteStore, migrate
from longcase.store.sqlite.base import Options
from longcase.store.sqlite.connection import connect

PEOPLE = ("ann", "bob", "cem", "dot")
ROUNDS = 150


_MEMORY = "/lives"  # a database in this process's memory, which two connections can reach
_FILLED = ("schema_migrations", "settings")  # what a new store holds
_idle: list[apsw.Connection] = []  # of stores that were closed


class KeptStore(SqliteStore):
    """A store in memory. All but the first take over the connection of one that was closed, with its tables emptied.

    Migrations, and preparing every statement anew, cost a sixth of a life.
    """

    def _prepare(self) -> None:
        if _idle:
            self._memory = _idle.pop()
            return
        self._memory = connect(_MEMORY, create=True, synchronous=self._how.synchronous, vfs="memdb")
        migrate.migrate(self._memory, self._now())

    async def close(self) -> None:
        self._closed = self._committer._closed = True
        if self._memory.in_transaction:
            self._memory.execute("ROLLBACK")
        _empty()
        _idle.append(self._memory)


@cache
def _cleaner() -> apsw.Connection:
    """Return another connection: on the store's own the history's triggers refuse what it does."""
    made = apsw.Connection(_MEMORY, vfs="memdb")
    made.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    return made


def _empty() -> None:
    connection = _cleaner()
    with connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
            if table not in _FILLED:
                connection.execute(f"DELETE FROM {table}")


def memory_store(env: Env) -> SqliteStore:
    """Open an empty store in memory."""
    return KeptStore(":memory:", env, Options(inline=True, create=True, synchronous="NORMAL", faults=None))


class Broken(AssertionError):
    """Something that must hold did not. The seed says how to see it again."""


@dataclass
class Sent:
    """What a client asked for, and what it was told: ack, refused, or unknown."""

    kind: str
    case: str
    detail: dict[str, Any]
    told: str = "unknown"
    why: str = ""
    client: str = ""  # who asked: what he was told of is in his order


@dataclass
class Life:
    """What a seed came to."""

    seed: int
    digest: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    timeline: list[str] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)  # name and kind, in order


class Sim:
    """The life of one seed. A subclass moves its cases, and runs it through harm and calm."""

    service: Service

    def __init__(self, seed: int, env: Env, world: World, store: SqliteStore) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.env = env
        self.world = world
        self.store = store
        self.codes = codes()
        self.faulty = True
        self.queued = False  # whether plans name activities that are bound to queues
        self.cases: list[str] = []
        self.there: set[str] = set()  # those that were seen in the store
        self.bodies: dict[str, dict[str, Any]] = {}
        self.sent: list[Sent] = []
        self.latest = ""
        self.prefixes: dict[int, list[bytes]] = {}
        self.tried: dict[str, int] = {}  # closes refused for an open outcome, by case

    # -- what a subclass says ----------------------------------------------------------------------------

    async def heal(self) -> None:
        """End all faults."""
        raise NotImplementedError

    async def come_to_rest(self) -> None:
        """Go on until nothing is left to do at this instant."""
        raise NotImplementedError

    def set_clock(self, instant: str) -> None:
        """Move the store's clock."""
        raise NotImplementedError

    async def next_wake(self, after: str) -> str:
        """Return when time alone makes something due, "" if never."""
        return await self.store.next_wake(after)

    def mischief(self) -> float:
        """Draw what befalls a client's request: below 0.03 it is not sent, below 0.08 its answer is lost."""
        return self.random.random() if self.faulty else 1.0

    def client(self) -> str:
        """Name the client who asks."""
        return ""

    async def wait_a_little(self) -> None:
        """Let a client wait before he asks again."""

    # -- the client ------------------------------------------------------------------------------------

    async def ask(self, sent: Sent, call: Callable[[], Awaitable[Any]]) -> Any:
        """Let a client ask, with the answer lost now and then; he asks again with the same key."""
        sent.client = self.client()
        self.sent.append(sent)
        for _ in range(6):
            mischief = self.mischief()
            try:
                if mischief < 0.03:
                    raise StoreUnavailable("not reached")
                answer = await call()
                if mischief < 0.08:
                    raise StoreUnavailable("answer lost")
            except UnavailableError:
                await self.wait_a_little()
                continue
            except LongcaseError as error:
                sent.told, sent.why = "refused", error.code
                return None
            sent.told = "ack"
            sent.detail["duplicate"] = getattr(answer, "duplicate", False)
            return answer
        return None

    async def start(self) -> None:
        key = f"C{len(self.cases) + 1}"
        body = {"id": key, "plan": Grammar(self.random, self.queued).plan()}
        self.bodies[f"main/{key}"] = body
        self.cases.append(f"main/{key}")
        for _ in range(2 if self.random.random() < 0.3 else 1):
            await self.ask(
                Sent("start", f"main/{key}", {}),
                lambda: self.service.start("main", body, idempotency_key=f"start-{key}"),
            )

    async def signal(self, case: str, name: str, *, again: bool = False) -> None:
        earlier = [s for s in self.sent if s.kind == "signal" and s.case == case and s.detail["signal"] == name]
        if again and earlier:
            key, text = earlier[-1].detail["key"], earlier[-1].detail["text"]
        else:
            key = f"s{len(self.sent)}"
            text = f"{name}{len(self.sent)}"
        await self.signal_as(case, name, key, text)

    async def signal_as(self, case: str, name: str, key: str, text: str) -> None:
        detail = {"signal": name, "key": key, "text": text}
        await self.ask(
            Sent("signal", case, detail), lambda: self.service.signal(case, name, {"text": text}, idempotency_key=key)
        )

    async def decide(self, case: str, task: str, answer: str, by: str) -> None:
        detail = {"task": task, "answer": answer, "by": by}
        await self.ask(
            Sent("decide", case, detail),
            lambda: self.service.decide(case, answer, task=task, actor=Actor(f"person:{by}")),
        )

    async def operate(self, case: str, state: CaseState) -> bool:
        """Let an operator look at one incident as a careful person would; False if there is none."""
        for number, opened in list(state.incidents.items()):
            call = state.calls.get(opened["call"])
            kind = opened["kind"]
            if call is not None and kind == "outcome_unknown":
                self.world.call_off(call["key"], call["attempt"])
            work: Callable[[], Awaitable[Any]]
            if kind == "late_effect":
                work, what = partial(self.service.skip, case, incident=number, reason="seen"), "skip"
            elif call is not None and kind == "outcome_unknown" and call["key"] in self.world.effects:
                done = self.world.effects[call["key"]]
                work = partial(self.service.set_result, case, done, incident=number, reason="it happened")
                what = "set-result"
            elif call is not None and kind == "activity_failed" and not call["undoes"] and self.random.random() < 0.3:
                work = partial(self.service.set_result, case, "by-hand", incident=number, reason="done by hand")
                what = "set-result"
            elif kind == "unsettled_close" and self.tried.get(case, 0) >= 2:
                # What the close waits for may stand behind it: an operator goes another way round.
                work, what = partial(self.service.cancel, case, reason="cannot close"), "cancel"
            else:
                self.tried[case] = self.tried.get(case, 0) + (kind == "unsettled_close")
                work, what = partial(self.service.retry, case, incident=number, reason="again"), "retry"
            if (
                kind == "unsettled_close"
                and any(c["status"] == "running" for c in state.calls.values())
                and self.faulty
            ):
                continue
            await self.ask(Sent("repair", case, {"what": what, "incident": number, "of": kind}), work)
            return True
        return False

    async def act(self) -> None:
        """Do what some client might do now."""
        for address in self.cases:
            if address not in self.there and (await self.state(address)) is not None:
                self.there.add(address)
        open_cases = [address for address in self.cases if address in self.there]
        if not open_cases:
            return
        case = self.random.choice(open_cases)
        state = await self.state(case)
        assert state is not None
        if state.kind == "path" and self.random.random() < 0.5:  # also while an exception path runs
            await self.signal(case, "halt")
            return
        match self.random.choice(
            [
                "signal",
                "signal",
                "again",
                "decide",
                "decide",
                "decide",
                "late",
                "correct",
                "memo",
                "repair",
                "repair",
                "rare",
            ]
        ):
            case "signal":
                await self.signal(case, self.random.choice(["ping", "pong"]))
            case "again":
                await self.signal(case, self.random.choice(["ping", "pong"]), again=True)
            case "decide" if state.tasks:
                ref = self.random.choice(list(state.tasks))
                answer = self.random.choice(["approved"] * 5 + ["returned", "rejected"])
                await self.decide(case, ref, answer, self.random.choice(PEOPLE))
            case "late":
                earlier = [s for s in self.sent if s.kind == "decide" and s.case == case]
                if earlier:
                    await self.decide(
                        case, self.random.choice(earlier).detail["task"], "approved", self.random.choice(PEOPLE)
                    )
            case "correct":
                await self.ask(
                    Sent("correct", case, {}),
                    lambda: self.service.correct(case, {"amount": self.random.randint(1, 9)}, reason="typo", pin=False),
                )
            case "memo":
                await self.ask(Sent("correct", case, {}), lambda: self.service.set_fields(case, {"memo": "here"}))
            case "repair":
                await self.operate(case, state)
            case "rare" if self.random.random() < 0.5:
                what = self.random.choice(["halt", "halt", "cancel", "restart"])
                if what == "halt":
                    await self.signal(case, "halt", again=self.random.random() < 0.3)
                elif what == "restart" and state.kind == "stage" and state.visit:
                    await self.ask(
                        Sent("repair", case, {"what": "restart"}), lambda: self.service.restart(case, reason="try")
                    )
                else:
                    await self.ask(Sent("cancel", case, {}), lambda: self.service.cancel(case, reason="enough"))

    # -- looking ---------------------------------------------------------------------------------------

    def read(self, sql: str) -> list[Any]:
        """Look into the store. `Store.query` would have every statement of the connection prepared anew."""
        return self.store._read(sql)

    async def state(self, case: str) -> CaseState | None:
        workflow, _, key = case.partition("/")
        row = await self.store.load(CaseRef(0, workflow, key))
        return row.state if row is not None else None

    async def help(self, case: str) -> bool:
        """Do for an open case what its waits ask for; False if only time can help."""
        state = await self.state(case)
        assert state is not None
        if await self.operate(case, state):
            return True
        for ref, task in state.tasks.items():
            if task["kind"] == "require":
                await self.ask(Sent("correct", case, {}), lambda: self.service.set_fields(case, {"memo": "at last"}))
                return True
            voted = {vote["by"] for vote in task["votes"]}
            if task["status"] == "ready":
                await self.decide(case, ref, "approved", next(person for person in PEOPLE if person not in voted))
                return True
        for receive in state.receives.values():
            await self.signal(case, receive["signal"])
            return True
        return False

    async def calm(self) -> None:
        """Heal everything and demand progress: every case must close within a bound."""
        self.faulty = False
        self.world.trouble = 0.0
        await self.heal()
        for _ in range(ROUNDS):
            await self.come_to_rest()
            opened = [c for c in self.cases if (found := await self.state(c)) is not None and found.status == "open"]
            opened += [row[0] for row in self.read("SELECT workflow || '/' || key FROM cases WHERE status = 'open'")]
            opened = list(dict.fromkeys(opened))
            if not opened:
                return
            helped = False
            for case in opened:
                helped = await self.help(case) or helped
            if not helped:
                wake = await self.next_wake(instant_text(self.env.now()))
                if not wake:
                    break
                self.set_clock(wake)
        stuck = [f"{c}: {(await self.service.show(c)).waits}" for c in opened]
        raise Broken(f"I44: no progress: {'; '.join(stuck)}")

    # -- judging ---------------------------------------------------------------------------------------

    async def note_prefixes(self) -> None:
        """Remember every event's bytes, to see later that none was changed (I2)."""
        for case_no, seq, hashed in self.read("SELECT case_no, seq, hash FROM history ORDER BY case_no, seq"):
            known = self.prefixes.setdefault(case_no, [])
            if seq > len(known):
                known.append(hashed)
            elif known[seq - 1] != hashed:
                raise Broken(f"I2: event {seq} of case {case_no} changed")

    async def judge(self, life: Life) -> None:
        await self.note_prefixes()
        histories: dict[str, list[Event]] = {}
        digest = hashlib.sha256()
        for (case_no,) in self.read("SELECT case_no FROM cases ORDER BY case_no"):
            row = (await self.store.load_many([case_no]))[case_no]
            events = await self.store.events(case_no)
            histories[row.state.address] = events
            life.problems += checks.case_checks(row, events, self.latest)
            life.problems += model.compare(row.state, events)
            life.counts["events"] = life.counts.get("events", 0) + len(events)
            digest.update(row.hash)
        life.problems += [str(finding) async for finding in verify(self.store)]
        inbox = self.read("SELECT case_no, id FROM inbox")
        life.problems += checks.world_checks(self.world, histories)
        life.problems += checks.client_checks([vars(sent) for sent in self.sent], histories)
        if inbox:
            life.problems.append(f"I8: inputs left in the inbox of closed cases: {inbox}")
        life.digest = digest.hexdigest()
        life.counts["effects"] = len(self.world.effects)
        life.counts["cases"] = len(histories)

    async def describe(self, life: Life) -> None:
        """Write the timeline, for whoever reads the failure."""
        for case_no, address in self.read("SELECT case_no, workflow || '/' || key FROM cases"):
            life.timeline.append(f"-- {address} (case {case_no}): {self.bodies.get(address, '')}")
            for event in await self.store.events(case_no):
                shown = {
                    k: v for k, v in event.data.items() if k not in ("snapshot", "request", "body", "object", "input")
                }
                life.timeline.append(
                    f"{event.seq:4} {event.at[5:-4]} v{event.visit} {event.type} {event.node}#{event.n} {event.actor} "
                    f"{str(shown)[:200]}"
                )
        life.timeline += [
            f"client {sent.told:8} {sent.why} {sent.kind} {sent.case} {sent.detail}" for sent in self.sent
        ]
