"""The PostgreSQL store: the port of `store.port`, on one database, for a fleet.

Writes go through `commit`; reads and small changes of rows that no turn depends on go straight to a pool.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from longcase.backoff import Backoff
from longcase.env import Env
from longcase.errors import BugError, NotFoundError, StoreCorrupt, UnavailableError
from longcase.history.event import Event
from longcase.history.state import CaseState
from longcase.model.codec import Json
from longcase.store import rows
from longcase.store.apart import Unit
from longcase.store.auditing import folded_row, folded_tasks, rebuilt
from longcase.store.kept import kept, something
from longcase.store.port import Apart
from longcase.store.postgres import auditing, keeping, migrate, reading, settings, sheet, workers
from longcase.store.postgres.apart import happened, run_apart
from longcase.store.postgres.commit import Committer
from longcase.store.postgres.connection import (
    ENDS_TRANSACTIONS,
    TRANSACTION_SECONDS,
    Address,
    connect,
    of_the_store,
    our_error,
)
from longcase.store.postgres.fence import Fence
from longcase.store.postgres.fleet import Fleet
from longcase.store.postgres.pieces import EditPiece, StartPiece, TurnPiece
from longcase.store.postgres.writing import Head
from longcase.store.records import (
    CaseRef,
    CaseRow,
    CaseWrite,
    Decide,
    DedupKey,
    Exported,
    Input,
    NewCase,
    Purge,
    Purged,
    Started,
    Stored,
    Written,
)
from longcase.store.rows import text_of
from longcase.store.unit import WriteUnit

T = TypeVar("T")
log = logging.getLogger("longcase.store")


_BY_KEY: Final = f"""
{sheet.SELECT_ROW} WHERE tenant = $1 AND workflow = $2 AND key = $3
ORDER BY (status = 'open') DESC, case_no DESC LIMIT 1
"""
_RANGES: Final = f"""
SELECT h.case_no, {", ".join(f"h.{name}" for name in rows.EVENT_COLUMNS.split(", "))}
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS t (case_no, first, last)
JOIN history AS h ON h.case_no = t.case_no AND h.seq BETWEEN t.first AND t.last
WHERE h.case_no = ANY($1::bigint[])
ORDER BY h.case_no, h.seq
"""
_VISIT_BEGIN: Final = """
SELECT coalesce(min(seq), 1) FROM history WHERE case_no = $1 AND visit = $2 AND type = 'stage_entered'
"""
_WITH_INBOXES: Final = f"{sheet.SELECT_WITH_INBOX} WHERE case_no = ANY($1::bigint[])"
_INBOXES: Final = f"""
SELECT case_no, {rows.INPUT_COLUMNS} FROM inbox WHERE case_no = ANY($1::bigint[]) ORDER BY no
"""
_FIND_MAP: Final = "SELECT number FROM maps WHERE workflow = $1 AND fingerprint = $2"
_NEWEST_MAP: Final = "SELECT graph FROM maps WHERE workflow = $1 ORDER BY number DESC LIMIT 1"
_ADD_MAP: Final = """
INSERT INTO maps (workflow, fingerprint, graph, first_seen) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING
"""


async def open_postgres(url: str, env: Env, *, create: bool = True) -> PostgresStore:
    """Open the store in the database a URL names.

    Args:
        url: postgresql://user@host/database, with libpq's options.
        env: clock, randomness and ids. Its real clock is corrected to the database's.
        create: make the schema in an empty database.

    Raises:
        StoreUnavailable: nobody answers there, or we are not let in.
        StoreCorrupt: somebody else's tables.
        SchemaMismatch: its schema is older or newer than this release's.
    """
    store = PostgresStore(Address.of(url), env)
    try:
        await store.prepare(create)
    except BaseException:
        await store.close()
        raise
    return store


class PostgresStore(Fleet):
    """Cases in one PostgreSQL database. Made by `open_postgres`."""

    def __init__(self, address: Address, env: Env) -> None:
        super().__init__(address, env)
        lossy = (self._writers, self._readers, self._loose)
        fence = Fence(lambda: self._joined, lambda: sum(pool.losses for pool in lossy))
        self._committer = Committer(
            address, self._writers, self._now, env.salt, env.signal_point, fence, self._keep_time
        )  # fmt: skip
        self._closed = False

    async def prepare(self, create: bool) -> None:
        """Make the schema in an empty database, or check that of an old one."""
        connection = await connect(self.address)
        try:
            await self._measure_clock(connection)
            if create and not await migrate.applied(connection):
                await migrate.migrate(connection, str(self.address), self._now(), self._env.signal_point)
            await migrate.check(connection, str(self.address))
            if connection.get_server_version().major >= ENDS_TRANSACTIONS:
                for pool in (self._writers, self._loose):
                    pool.bound_transactions(TRANSACTION_SECONDS)
            await settings.check_history_format(connection, str(self.address))
        except Exception as error:
            ours = our_error(error, self.address)
            if ours is error:
                raise
            raise ours from error
        finally:
            connection.terminate()

    @property
    def url(self) -> str:
        return self.address.shown  # for people and logs: without the password

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            for worker in sorted(self._joined):
                await self._leave_if_it_answers(worker)
        finally:
            await self._committer.close()
            await self._hints.close()
            for pool in self._pools:
                await pool.close()

    async def _leave_if_it_answers(self, worker: int) -> None:
        try:
            await self.leave(worker)
        except UnavailableError as error:  # whoever closes has done his work, and can do no more about it
            log.warning("worker %d has gone without a word, its lease ends by itself: %s", worker, error.message)

    # -- writing ---------------------------------------------------------------------------------

    async def start(self, new: Sequence[NewCase]) -> list[Started]:
        pieces = [StartPiece(one) for one in new]
        if not pieces:
            return []
        await self._committer.run(pieces)
        self._hints.send()
        return [piece.result for piece in pieces if piece.result is not None]

    async def write(self, writes: Sequence[CaseWrite], *, partial: bool = False) -> list[Written]:
        unit = WriteUnit(writes, self._env.salt, partial=partial)
        pieces = [TurnPiece(entry) for entry in unit.writable()]
        if pieces:
            await self._committer.run(pieces, atomic=not partial)
            if gone := self._see_the_forgotten() & self._own:
                self._tell_my_own(pieces, gone)
            errors = {id(piece.entry): piece.error for piece in pieces if piece.error is not None}
            if errors:
                unit.failed |= {p: errors[id(e)] for p, e in enumerate(unit.entries) if id(e) in errors}
        if any(write.children or write.notify or write.cancel_children for write in writes):
            self._hints.send()
        return unit.answer()

    def _tell_my_own(self, pieces: Sequence[TurnPiece], gone: set[int]) -> None:
        """Raise WorkerForgotten if turns of a worker of this process were refused for it."""
        for piece in pieces:
            outcome = piece.entry.outcome
            if piece.worker in gone and piece.error is None and outcome is not None and outcome.outcome == "stale":
                raise workers.forgotten(piece.worker)

    def _see_the_forgotten(self) -> set[int]:
        """Return the workers for which writes were refused since the last call: they are dead, whoever they are."""
        gone, self._committer.forgotten = self._committer.forgotten, set()
        for worker in gone:
            self._standing.dead(worker)
        return gone

    async def edit(self, ref: CaseRef, decide: Decide[T], dedup: DedupKey | None = None) -> T:
        piece = EditPiece(ref, decide, dedup)
        await self._committer.run([piece])
        self._hints.send()
        if piece.refusal is not None:
            raise piece.refusal
        result: T = piece.result
        return result

    holds_tables = True

    async def transact(self, case_no: int, work: Apart) -> None:
        unit = Unit(case_no, work)
        try:
            async with self._apart.use() as connection:
                async with connection.transaction():
                    await run_apart(connection, unit, self._now, self._env.salt)
                    self._env.signal_point("in_transaction")
                    self._env.signal_point("before_commit")
                    unit.committing = True
                self._env.signal_point("after_commit")
        except Exception as error:
            if not of_the_store(error):
                raise  # the user's own, as the driver or the function raised it
            if error is unit.spoilt_by and isinstance(our_error(error, self.address), BugError):
                raise  # the server refused a statement of theirs, not of ours
            if not unit.committing or not await self._happened(unit):
                raise our_error(error, self.address) from error
        self._hints.send()

    async def _happened(self, unit: Unit) -> bool:
        backoff = Backoff(self._env.random.random)
        while True:
            try:
                async with self._using(self._readers) as connection:
                    return await happened(connection, unit)
            except UnavailableError as error:
                if self._closed or not error.retryable:
                    raise
                log.warning("a transaction waits for the answer whether it was committed: %s", error.message)
            await backoff.pause()

    async def settle(self) -> None:
        await self._committer.settle()

    # -- reading one case --------------------------------------------------------------------------

    def _seen(self, found: Any) -> CaseRow:
        """Return the case of a row, and remember how it stands: the next turn on it needs no reading."""
        row = rows.case_from(tuple(found)[:-2])
        self._committer.learn(row.case_no, Head.of(found, row))
        return row

    async def load(self, ref: CaseRef) -> CaseRow | None:
        if ref.case_no:
            found = await self._read(f"{sheet.SELECT_ROW} WHERE case_no = $1", ref.case_no)
        else:
            found = await self._read(_BY_KEY, ref.tenant, ref.workflow, ref.key)
        return self._seen(found[0]) if found else None

    async def load_many(self, cases: Sequence[int]) -> dict[int, CaseRow]:
        loaded: dict[int, CaseRow] = {}
        for inputs, *found in await self._read(_WITH_INBOXES, list(cases)):
            row: CaseRow | None
            try:
                row = self._seen(found)
                row.inbox = sheet.inputs_from(inputs)
            except StoreCorrupt as error:
                row = await rebuilt(self, found[-4], error)
            if row is not None:
                loaded[row.case_no] = row
        return loaded

    async def events(
        self,
        case_no: int,
        *,
        after: int = 0,
        until: int | None = None,
        visit: int | None = None,
        limit: int | None = None,
    ) -> list[Event]:
        sql = f"SELECT {rows.EVENT_COLUMNS} FROM history WHERE case_no = $1 AND seq > $2"
        values: list[Any] = [case_no, after]
        if visit is not None:
            if visit:
                # A visit's events begin at its stage_entered: nothing older is read (B2).
                begin = (await self._read(_VISIT_BEGIN, case_no, visit))[0][0]
                values[1] = max(after, begin - 1)
            values.append(visit)
            sql += f" AND visit = ${len(values)}"
        if until is not None:
            values.append(until)
            sql += f" AND seq <= ${len(values)}"
        sql += " ORDER BY seq"
        if limit is not None:
            values.append(limit)
            sql += f" LIMIT ${len(values)}"
        return [rows.event_from(row) for row in await self._read(sql, *values)]

    async def ranges(self, wanted: Sequence[tuple[int, int, int]]) -> dict[int, list[Event]]:
        found: dict[int, list[Event]] = {case_no: [] for case_no, _, _ in wanted}
        if wanted:
            for case_no, *row in await self._read(_RANGES, *map(list, zip(*wanted, strict=True))):
                found[case_no].append(rows.event_from(tuple(row)))
        return found

    async def event(self, case_no: int, seq: int) -> Event:
        found = await self._read(
            f"SELECT {rows.EVENT_COLUMNS} FROM history WHERE case_no = $1 AND seq = $2", case_no, seq
        )
        if not found:
            raise NotFoundError(f"case {case_no} has no event {seq}")
        return rows.event_from(found[0])

    async def inbox(self, case_no: int) -> list[Input]:
        return (await self.inboxes([case_no]))[case_no]

    async def inboxes(self, cases: Sequence[int]) -> dict[int, list[Input]]:
        found: dict[int, list[Input]] = {case_no: [] for case_no in cases}
        if cases:
            for case_no, *row in await self._read(_INBOXES, list(cases)):
                found[case_no].append(rows.input_from(tuple(row)))
        return found

    # -- maps and settings ---------------------------------------------------------------------------

    async def map_number(self, workflow: str, fingerprint: str, graph: Json, nodes: Sequence[str]) -> int:
        known = await self._read(_FIND_MAP, workflow, fingerprint)
        if known:
            return int(known[0][0])

        async def work(connection: Any) -> int:
            async with connection.transaction():
                await connection.execute(_ADD_MAP, workflow, fingerprint, text_of(graph, "the map"), self._now())
                number: int = await connection.fetchval(_FIND_MAP, workflow, fingerprint)
                add = "INSERT INTO map_nodes SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING"
                await connection.execute(add, number, list(nodes))
            return number

        return await self._change(work)

    async def newest_map(self, workflow: str) -> Json:
        found = await self._read(_NEWEST_MAP, workflow)
        return kept(found[0][0], f"the newest map of {workflow}", something) if found else None

    async def setting(self, name: str) -> Json:
        """Return a fact of the store itself, None if it was never set."""
        return await settings.read(self._read, name)

    async def set_setting(self, name: str, value: Json) -> None:
        """Set a fact of the store itself."""
        await self._change(lambda connection: settings.write(connection, name, value))

    # -- asking, auditing, keeping -----------------------------------------------------------------------

    async def query(self, sql: str, parameters: Mapping[str, Any] | Sequence[Any] = ()) -> list[dict[str, Any]]:
        try:
            return await reading.ask(self._asking, sql, parameters)
        except Exception as error:
            ours = our_error(error, self.address, changing=False)
            if ours is error:
                raise
            raise ours from error

    async def stored(self, after: int, limit: int) -> list[Stored]:
        return await self._change(lambda connection: auditing.stored(connection, after, limit))

    def folded_row(self, state: CaseState) -> dict[str, Json]:
        return folded_row(state)

    def folded_tasks(self, state: CaseState) -> dict[str, dict[str, Json]]:
        return folded_tasks(state)

    async def broken_references(self) -> list[str]:
        return await self._change(auditing.broken_references, self._asking)

    async def rebuild(self, case_no: int) -> None:
        await self._change(lambda connection: auditing.rebuild(connection, case_no, self._now()))

    async def keep_receipt(self, export: Exported) -> int:
        return await self._change(lambda connection: keeping.keep_receipt(connection, self._now(), export))

    async def purge(self, what: Purge) -> list[Purged]:
        return await self._change(lambda connection: keeping.purge(connection, self._now(), what))
