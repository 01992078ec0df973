"""Who moves which case: claims, incarnations and their locks, queues, kept heartbeats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Final

from longcase.env import Env
from longcase.errors import LongcaseError, UsageError
from longcase.model.codec import Json
from longcase.store.kept import kept_json
from longcase.store.port import Heart
from longcase.store.records import QueueLimits, Taken, WorkerRow
from longcase.store.rows import text_of
from longcase.store.sqlite import queues, workers
from longcase.store.sqlite.base import Base, Options
from longcase.store.sqlite.connection import MEMORY, mapped
from longcase.store.sqlite.transaction import Transaction

_DUE: Final = """
SELECT case_no FROM cases
WHERE wake_at <> '' AND wake_at <= ? AND (lease IN (0, ?) OR lease NOT IN (SELECT no FROM workers)) {only}
ORDER BY wake_at, case_no LIMIT ?
"""
_ONLY: Final = f"""
AND workflow IN (SELECT value FROM json_each(?)) AND NOT {queues.DECLINED.format(worker="?")}
"""
_LEASE: Final = "UPDATE cases SET lease = ? WHERE case_no IN (SELECT value FROM json_each(?))"
_NEXT_WAKE: Final = "SELECT coalesce(min(wake_at), '') FROM cases WHERE wake_at <> '' AND wake_at > ?"
_HEARTBEAT: Final = """
INSERT INTO heartbeats (case_no, call, attempt, details, at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET attempt = excluded.attempt, details = excluded.details, at = excluded.at
WHERE excluded.attempt >= heartbeats.attempt
"""


class Fleet(Base):
    """The part of the store that workers share."""

    def __init__(self, path: str, env: Env, how: Options) -> None:
        super().__init__(path, env, how)
        self._locks = workers.Locks(path)
        self._takings = count(1)
        self._version = 0

    async def ready(self, now: str, worker: int, limit: int, workflows: Sequence[str] | None = None) -> list[int]:
        sql, parameters = _DUE.format(only=""), [now, worker, limit]
        if workflows is not None:
            sql = _DUE.format(only=_ONLY)
            parameters[2:2] = [text_of(list(workflows), "workflows"), worker]
        found = [row[0] for row in self._read(sql, parameters)]
        if not found or not worker or self._read("SELECT count(*) FROM workers")[0][0] < 2:
            return found

        def unit(tx: Transaction) -> list[int]:
            cases = [row[0] for row in tx.execute(sql, parameters)]
            tx.execute(_LEASE, (worker, text_of(cases, "cases")))
            return cases

        return await self._committer.run(unit)

    async def next_wake(self, after: str) -> str:
        return str(self._read(_NEXT_WAKE, (after,))[0][0])

    async def join(
        self, host: str, pid: int, *, codes: Mapping[str, str] | None = None, serves: Sequence[str] = ()
    ) -> int:
        taken: list[int] = []

        def unit(tx: Transaction) -> int:
            worker = workers.join(tx, self._locks, host, pid, codes or {}, serves)
            taken.append(worker)
            return worker

        try:
            return await self._committer.run(unit)
        except LongcaseError:
            for worker in taken:
                self._locks.drop(worker)
            raise

    async def leave(self, worker: int) -> None:
        def unit(tx: Transaction) -> None:
            workers.leave(tx, worker)

        await self._committer.run(unit)
        self._locks.drop(worker)

    def heart(self, worker: int) -> Heart | None:
        return None

    async def beat(self, worker: int) -> None:
        await self._committer.run(lambda tx: workers.beat(tx, worker))

    async def workers(self) -> list[WorkerRow]:
        """Return every registered incarnation, oldest first."""
        return workers.rows_of(self._read, self._locks)

    async def dead_workers(self) -> list[int]:
        return [row[0] for row in self._read("SELECT no FROM workers ORDER BY no") if not self._locks.alive(row[0])]

    async def recover(self, worker: int) -> int:
        if self._locks.alive(worker):
            raise UsageError(
                f"worker {worker} is alive; only a dead worker's leases are voided", hint="longcase doctor"
            )
        freed = 0
        while some := await self._committer.run(lambda tx: workers.free_some(tx, worker)):
            freed += some
        await self._committer.run(lambda tx: workers.forget(tx, worker))
        self._locks.drop(worker)
        return freed

    async def decline(self, case_no: int, visit: int, code: str, worker: int) -> frozenset[str]:
        return await self._committer.run(lambda tx: workers.decline(tx, case_no, visit, code, worker))

    async def declined(self, case_no: int, visit: int) -> frozenset[str]:
        return frozenset(row[0] for row in self._read(workers.DECLINED, (case_no, visit)))

    async def undecline(self, case_no: int) -> None:
        await self._committer.run(lambda tx: workers.undecline(tx, case_no))

    async def take(
        self, worker: int, served: Sequence[QueueLimits], now: str, limit: int,
        workflows: Sequence[str] | None = None, granted: Sequence[tuple[int, str]] | None = None,
    ) -> Taken:  # fmt: skip
        names = text_of([queue.name for queue in served], "queues")
        if not self._read(queues.ANY, (names, worker, granted is not None))[0][0]:
            return Taken((), "")
        claim = next(self._takings)
        return await self._committer.run(
            lambda tx: queues.take(tx, worker, claim, served, now, limit, workflows, granted)
        )

    async def give_back(self, worker: int, calls: Sequence[tuple[int, str, int]]) -> None:
        if calls:
            await self._committer.run(lambda tx: queues.give_back(tx, worker, calls))

    async def stops(self, worker: int) -> list[tuple[int, str, int]]:
        return list(self._read(queues.STOPS, (worker,)))

    async def keep_heartbeat(self, case_no: int, call: str, attempt: int, details: Json) -> None:
        values = (case_no, call, attempt, text_of(details, "heartbeat details"))

        def unit(tx: Transaction) -> None:
            tx.execute(_HEARTBEAT, (*values, tx.now))

        await self._committer.run(unit)

    async def last_heartbeat(self, case_no: int, call: str) -> tuple[int, Json] | None:
        found = self._read("SELECT attempt, details FROM heartbeats WHERE case_no = ? AND call = ?", (case_no, call))
        return (found[0][0], kept_json(found[0][1], f"the heartbeat of {call}")) if found else None

    async def forget_heartbeats(self, case_no: int, calls: Sequence[str]) -> None:
        def unit(tx: Transaction) -> None:
            of_calls = [(case_no, call) for call in calls]
            tx.cursor.executemany("DELETE FROM heartbeats WHERE case_no = ? AND call = ?", of_calls)

        await self._committer.run(unit)

    def is_dead(self, worker: int) -> bool:
        return not self._locks.alive(worker)

    def abandon(self, worker: int) -> None:
        """Let an incarnation of this process die as in a crash: its lock is free, its leases stay. For tests."""
        self._locks.drop(worker)

    def changed(self) -> bool:
        writer = self._committer.connection
        if writer is None or self.path == MEMORY:
            return False  # asked again soon; the version is still another then
        with mapped(self.path):
            # On the writer, because a connection does not see its own commits here.
            version: int = writer.execute("PRAGMA data_version").get
        before, self._version = self._version, version
        return before not in (0, version)
