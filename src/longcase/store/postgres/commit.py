"""The group commit: pieces of work of many callers, one statement, one commit.

Pieces are queued. One of a few writers takes all that wait and clash with nothing in flight, writes
them by one statement, and answers: the fast road, one round trip. What did not land, because somebody else
changed its case, or touches several cases, goes the careful road: its rows are locked in the order of their
numbers, read, judged anew and written in a transaction of its own.

    queue --> fast: one statement --landed--> answers
                       `--not landed--> careful: BEGIN, lock, read, judge, the same statement, COMMIT

Guarantees. A piece's own error goes to its caller and spoils no other. An error of the connection fails
every piece that was under way with StoreUnavailable: what became of them is unknown. Whoever cancels his
wait does not cancel what was queued: it may still be written.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, Final

import asyncpg

from longcase.errors import CaseNotFound, StoreUnavailable
from longcase.store.postgres.connection import Address, Pool, collided, of_the_store, our_error
from longcase.store.postgres.fence import OPEN, Fence
from longcase.store.postgres.pieces import Piece
from longcase.store.postgres.sheet import Sheet, Unread, Wanted
from longcase.store.postgres.statement import Draft, flush
from longcase.store.postgres.writing import Head

WRITERS: Final = 2  # one computes or waits for the disk while the other works
MAX_PIECES: Final = 512  # of one statement: bounds the time its rows are locked
HEADS: Final = 4_096  # cases whose newest revision is remembered
ATTEMPTS: Final = 5  # on the careful road, before somebody is in the way for too long


# Somebody took a key meanwhile; then also what refers to the case that did not get it.
_RACES: Final = (asyncpg.UniqueViolationError, asyncpg.ForeignKeyViolationError)


class Job:
    """What one caller asked for: pieces that are answered together, and perhaps written together."""

    __slots__ = ("about", "answered", "atomic", "error", "future", "pieces")

    def __init__(self, pieces: Sequence[Any], *, atomic: bool) -> None:
        self.pieces: Sequence[Piece] = pieces
        self.atomic = atomic and len(pieces) > 1
        self.about: set[Hashable] = {thing for piece in pieces for thing in piece.about}
        self.error: BaseException | None = None
        self.answered = False  # what it is about is free for others since then
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class _Missed(Exception):
    """Something of a locked transaction was not written: it is rolled back, and tried again without `fenced`."""

    def __init__(self, fenced: Piece | None) -> None:
        super().__init__()
        self.fenced = fenced


class Committer:
    """Owns the writer connections and what is known of the rows they write."""

    def __init__(
        self, address: Address, pool: Pool, now: Callable[[], str], salt: Callable[[], str],
        signal_point: Callable[[str], None], fence: Fence, keep_time: Callable[[Any], Awaitable[None]],
    ) -> None:  # fmt: skip
        self._address = address
        self._pool = pool
        self._now = now
        self.now = ""
        self.salt = salt
        self._point = signal_point
        self._queue: deque[Job] = deque()
        self._busy: set[Hashable] = set()  # what pieces in flight write to
        self._writers: set[asyncio.Task[None]] = set()
        self._heads: dict[int, Head] = {}
        self._fence = fence
        self._keep_time = keep_time  # before the instant of a write is taken
        self._closed = False
        self.forgotten: set[int] = set()  # workers whose writes were refused: they are no longer registered

    # -- what is known -------------------------------------------------------------------------------

    def head(self, case_no: int) -> Head | None:
        """Return how a case's row stood when it was last seen."""
        return self._heads.get(case_no)

    def learn(self, case_no: int, head: Head) -> None:
        """Remember how a row stands, unless something newer is known of it."""
        known = self._heads.pop(case_no, None)
        self._heads[case_no] = head if known is None or known.revision <= head.revision else known
        if len(self._heads) > HEADS:
            del self._heads[next(iter(self._heads))]

    async def _after_a_loss(self, connection: Any) -> None:
        self._heads.clear()  # the server may have crashed, and lost what did not wait for the disk
        await self._fence.raise_up(connection)

    async def settle(self) -> None:
        """Refuse what was sent over lines that broke, if it has not landed by now (see `Store.settle`)."""
        if self._fence.holds:
            return
        try:
            async with self._pool.use() as connection:
                await self._after_a_loss(connection)
        except Exception as error:
            raise self._own(error) from error
        if not self._fence.holds:
            raise StoreUnavailable("a turn that was not answered may still be under way", hint="try again")

    # -- the way in ----------------------------------------------------------------------------------

    async def run(self, pieces: Sequence[Any], *, atomic: bool = True) -> None:
        """Write pieces in the next statement, beside those of other callers.

        Args:
            atomic: an error of one piece fails them all, and is raised; else each keeps its own.
        """
        if self._closed:
            raise StoreUnavailable(f"the store {self._address} is closed", hint="open it again")
        job = Job(pieces, atomic=atomic)
        self._queue.append(job)
        self._wake()
        await job.future
        if job.error is not None:
            raise job.error
        if atomic:
            for piece in pieces:
                if piece.error is not None:
                    raise piece.error

    def _wake(self) -> None:
        if len(self._writers) < WRITERS:
            task = asyncio.get_running_loop().create_task(self._write(), name="longcase-commit")
            self._writers.add(task)

    async def _write(self) -> None:
        """Be one of the writers for as long as there is something to write."""
        me = asyncio.current_task()
        assert me is not None
        try:
            while jobs := self._take():
                try:
                    async with self._pool.use() as connection:
                        if not self._fence.holds:
                            await self._after_a_loss(connection)
                        await self._keep_time(connection)
                        await self._transact(connection, jobs)
                except Exception as error:
                    ours = our_error(error, self._address)
                    if ours is not error:
                        ours.__cause__ = error
                    self._fail(jobs, ours)
                except BaseException:
                    self._fail(jobs, None)
                    raise
                finally:
                    self._answer(jobs)
        finally:
            self._writers.discard(me)

    def _take(self) -> list[Job]:
        """Take the jobs that clash with nothing in flight, oldest first."""
        taken: list[Job] = []
        left: list[Job] = []
        waiting: set[Hashable] = set()  # what jobs before them wait for: nobody overtakes on one case
        room = MAX_PIECES
        while self._queue and room > 0:
            job = self._queue.popleft()
            if job.future.cancelled():
                continue
            if self._busy.isdisjoint(job.about) and waiting.isdisjoint(job.about):
                self._busy |= job.about
                taken.append(job)
                room -= len(job.pieces)
            else:
                waiting |= job.about
                left.append(job)
        self._queue.extendleft(reversed(left))
        return taken

    def _answer(self, jobs: Sequence[Job]) -> None:
        """Let the callers go on, and others write to the same cases; a job is answered once."""
        for job in jobs:
            if job.answered:
                continue
            job.answered = True
            self._busy -= job.about
            if not job.future.done():
                job.future.set_result(None)
        if self._queue:
            self._wake()  # somebody may have waited for just these

    def _fail(self, jobs: Sequence[Job], error: BaseException | None) -> None:
        for job in jobs:
            if job.error is None and not job.future.done():
                job.error = error or StoreUnavailable(
                    f"the store {self._address} was stopped while it wrote; what became of this write is unknown",
                    hint="read the case again before repeating",
                )

    # -- the fast road -------------------------------------------------------------------------------

    async def _transact(self, connection: Any, jobs: Sequence[Job]) -> None:
        self.now = self._now()
        sheet = await self._read_ahead(connection, jobs)
        drafts: list[Draft] = []
        owners: list[tuple[Job, Piece]] = []
        careful: list[tuple[Job, list[Piece]]] = []
        cases: set[Hashable] = set()
        spent: set[int] = set()
        for job in jobs:
            made = self._drafts_of(job, sheet, spent)
            names = [draft.case_no or draft.ref for _, draft in made if draft is not None]
            slow = [piece for piece, draft in made if draft is None]
            if len(set(names)) < len(names) or not cases.isdisjoint(names) or (job.atomic and slow):
                careful += self._groups(job, [piece for piece, _ in made])
                continue
            cases.update(names)
            careful += self._groups(job, slow)
            for piece, draft in made:
                if draft is not None:
                    drafts.append(draft)
                    owners.append((job, piece))
        careful = await self._together(connection, drafts, owners) + careful
        waiting = {id(job) for job, _ in careful}
        self._answer([job for job in jobs if id(job) not in waiting])
        groups = [pieces for _, pieces in careful]
        alone = [piece for pieces in groups if len(pieces) == 1 for piece in pieces if piece.alone]
        if len(alone) > 1 and await self._at_once(connection, alone):
            groups = [pieces for pieces in groups if len(pieces) > 1 or not pieces[0].alone]
        for pieces in groups:
            await self._carefully(connection, pieces)

    async def _together(
        self, connection: Any, drafts: Sequence[Draft], owners: Sequence[tuple[Job, Piece]]
    ) -> list[tuple[Job, list[Piece]]]:
        """Write drafts by one statement; returns what must go the careful road after all."""
        if not drafts:
            return []
        try:
            self._point("before_commit")
            landed = await flush(connection, drafts, self._fence.number)
            self._point("after_commit")
        except Exception as error:
            if of_the_store(error) and not collided(error):
                raise
            # One of them spoils it, or two transactions stood in each other's way: each by itself.
            jobs = {id(job): job for job, _ in owners}.values()
            return [group for job in jobs for group in self._groups(job, [p for other, p in owners if other is job])]
        missed: list[tuple[Job, list[Piece]]] = []
        for (job, piece), draft, there in zip(owners, drafts, landed, strict=True):
            if there:
                self._landed(piece, draft)
            else:
                self._heads.pop(draft.case_no, None)
                missed.append((job, [piece]))
        return missed

    def _groups(self, job: Job, pieces: Sequence[Piece]) -> list[tuple[Job, list[Piece]]]:
        """Return the pieces of a job as they must be written: together, or each by itself."""
        open_ = [piece for piece in pieces if piece.error is None]
        if job.atomic:
            return [(job, list(job.pieces))] if open_ else []
        return [(job, [piece]) for piece in open_]

    async def _read_ahead(self, connection: Any, jobs: Sequence[Job]) -> Sheet:
        """Read, without a lock, what the edits of a batch are about."""
        sheet = Sheet(self.now, self.salt)
        wanted = Wanted()
        reading = False
        for job in jobs:
            for piece in job.pieces:
                if piece.reads:
                    reading = True
                    wanted |= piece.wanted()
        if reading:
            await sheet.read(connection, wanted, lock=False, inboxes=False)
        return sheet

    def _drafts_of(self, job: Job, sheet: Sheet, spent: set[int]) -> list[tuple[Piece, Draft | None]]:
        """Return the draft of each piece that has something to write; None: it needs the careful road.

        Args:
            spent: cases of the sheet that a piece has changed already: the next one must see that written.
        """
        made: list[tuple[Piece, Draft | None]] = []
        for piece in job.pieces:
            try:
                if not piece.reads:
                    made.append((piece, piece.fast(self)))
                    continue
                if any(case_no in spent for case_no in sheet.numbers_of(piece.wanted())):
                    made.append((piece, None))
                    continue
                piece.judge(sheet)
            except Unread:
                piece.inbox = True
                made.append((piece, None))
                continue
            except Exception as error:
                piece.error = self._own(error)
            for held in [held for held in sheet.cases.values() if held.touched and held.row.case_no not in spent]:
                spent.add(held.row.case_no)
                if piece.error is None:
                    made.append((piece, held.draft()))
        return [] if job.atomic and any(piece.error is not None for piece in job.pieces) else made

    def _own(self, error: Exception) -> Exception:
        if isinstance(error, CaseNotFound) and not self._fence.holds:
            return StoreUnavailable(f"{error.message} yet: a start may still be under way", hint="try again")
        ours = our_error(error, self._address)
        assert isinstance(ours, Exception)
        if ours is not error:
            ours.__cause__ = error
        return ours

    def _landed(self, piece: Piece, draft: Draft) -> None:
        head = self._heads.get(draft.case_no)
        piece.landed(draft, head)
        # The numbers its inputs got are not known here; a parked case is read again before its next turn.
        if draft.puts or piece.reads or not draft.lease:
            self._heads.pop(draft.case_no, None)
            return
        pending = head.pending - len(draft.taken) if head is not None else 0
        if head is not None or draft.kind == "fresh":
            self.learn(draft.case_no, Head.after(draft, pending, head.newest if head is not None and pending else 0))

    # -- the careful road ----------------------------------------------------------------------------

    async def _at_once(self, connection: Any, pieces: Sequence[Piece]) -> bool:
        """Write pieces that have no case in common by one commit; False if one of them spoils it for the others.

        After a lost connection nothing is known of any case. Were each of a batch committed by itself, a line that
        breaks every few commits would never let a whole batch through, and the batch would come again for ever.
        """
        try:
            await self._locked(connection, pieces)
        except Exception as error:
            if of_the_store(error) and not collided(error):
                raise
            return False
        return True

    async def _carefully(self, connection: Any, pieces: Sequence[Piece]) -> None:
        """Write pieces in a transaction of their own, their rows locked; sets their outcomes or errors."""
        left = list(pieces)
        for attempt in range(ATTEMPTS):
            try:
                await self._locked(connection, left)
                return
            except _Missed as missed:
                left = [piece for piece in left if piece is not missed.fenced]
                if not left:
                    return
            except Exception as error:
                # Somebody was first with a key, or stood in the way: judged anew, he is seen.
                again = collided(error) or isinstance(error, (*_RACES, Unread))
                for piece in left:
                    piece.inbox = True  # perhaps an input with its id waits there
                if again and attempt < ATTEMPTS - 1:
                    continue
                if of_the_store(error) and not collided(error):
                    raise
                for piece in left:
                    piece.error = self._own(error)
                return
        for piece in left:
            piece.error = StoreUnavailable(
                f"the store {self._address}: other processes were first {ATTEMPTS} times in a row", hint="try again"
            )

    async def _locked(self, connection: Any, pieces: Sequence[Piece]) -> None:
        wanted = Wanted()
        for piece in pieces:
            wanted |= piece.wanted()
        sheet = Sheet(self._now(), self.salt)
        async with connection.transaction():
            alive = await self._registered(connection, pieces)
            if (fenced := self._fenced(pieces, alive)) is not None:
                raise _Missed(fenced)
            sheet.gone = {worker for piece in pieces for worker in piece.runs} - alive
            await sheet.read(connection, wanted, lock=True, inboxes=any(piece.inbox for piece in pieces))
            for piece in pieces:
                piece.judge(sheet)
            drafts = sheet.drafts()
            if drafts and not all(await flush(connection, drafts, OPEN)):
                raise _Missed(None)
            self._point("before_commit")
        self._point("after_commit")
        for draft in drafts:
            self._heads.pop(draft.case_no, None)

    async def _registered(self, connection: Any, pieces: Sequence[Piece]) -> set[int]:
        """Return which of the workers that the pieces name are registered, and stay it until the commit."""
        workers = {worker for piece in pieces for worker in piece.workers | piece.runs}
        if not workers:
            return workers
        known = "SELECT no FROM workers WHERE no = ANY($1::bigint[]) AND NOT lapsed FOR SHARE"
        return {row[0] for row in await connection.fetch(known, sorted(workers))}

    def _fenced(self, pieces: Sequence[Piece], alive: set[int]) -> Piece | None:
        """Return the first piece whose worker is no longer registered; its outcome is told to it."""
        self.forgotten |= {worker for piece in pieces for worker in piece.workers} - alive
        for piece in pieces:
            if not piece.workers <= alive:
                piece.fenced()
                return piece
        return None

    async def close(self) -> None:
        """Finish what is queued."""
        self._closed = True
        while self._writers:
            await asyncio.wait(set(self._writers))
