"""The port: what the engine's runtime asks of a store. One conformance suite runs on every store.

Model. A case is one row (its folded `CaseState` and a few operational columns) and its events. A
store never runs user code and decides nothing: it assigns seq, hash and case numbers, checks that
what a turn was computed on still holds, and makes rows durable before it answers.

Operational columns, outside the fold (I3 compares the rest):
    wake_at   when the case wants to be advanced: an instant, or "" for not at all
    lease     the worker incarnation that keeps it moving, 0 for none
    inbox     accepted inputs that no turn has applied yet

Guarantees.
    - Every write names the `seen_seq` it was computed on. If a seen event came in between, that case
      is not written and its outcome says `stale`; the other cases of the batch are (A2). If only
      unseen events came in between, the new events are appended after them and the state is folded
      again from the stored one.
    - A write of a worker the store has forgotten, or one that gives it a lease, is refused: WorkerForgotten if
      the worker joined here, else `stale` (a new case: `failed`). It is checked where leases lapse by a clock;
      elsewhere what it runs is written, and the case wants a turn at once.
    - When a method that writes returns, what it wrote survives a power cut.
    - Methods are coroutines. The SQLite store finishes them without suspending when it is opened with
      `inline=True`, so that synchronous programs and simulations can drive them.
Errors: StoreUnavailable, StorageFull, StoreCorrupt, SchemaMismatch; nothing is half-written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from longcase.history.event import Event
from longcase.history.state import CaseState
from longcase.model.codec import Json
from longcase.model.transaction import Transaction
from longcase.store.records import (
    CaseRef,
    CaseRow,
    CaseWrite,
    Decide,
    DedupKey,
    Edit,
    Exported,
    Input,
    Locked,
    NewCase,
    Purge,
    Purged,
    QueueLimits,
    Started,
    Stored,
    Taken,
    WorkerRow,
    Written,
)

T = TypeVar("T")


class Heart(Protocol):
    """An incarnation's sign of life, given from a thread of its own: the event loop may be busy."""

    every: float  # seconds between two beats
    lease: float  # seconds a beat keeps it, from when it was sent at the least

    def beat(self) -> None:
        """Renew the lease; waits for the answer.

        Raises:
            WorkerForgotten: the lease has lapsed and others have taken over.
            UnavailableError: the store did not answer; the lease goes on lapsing.
        """
        ...

    def close(self) -> None: ...


class Store(Protocol):
    """A place where cases live."""

    @property
    def url(self) -> str: ...

    async def close(self) -> None:
        """Finish what is queued, give back what is held, close the files."""
        ...

    # -- writing ---------------------------------------------------------------------------------

    async def start(self, new: Sequence[NewCase]) -> list[Started]:
        """Accept cases: one row and one `case_started` event each, in one transaction.

        A live case of the same tenant, workflow and key is answered as existing; so is a closed one
        unless `again`. The same dedup key with another body raises IdempotencyConflict.
        """
        ...

    async def write(self, writes: Sequence[CaseWrite], *, partial: bool = False) -> list[Written]:
        """Append the turns of many cases in one transaction; outcomes in the order given.

        A case whose inbox holds an input newer than `heard` wants a turn now, whatever `wake_at` says;
        without `heard` any input there does, unless an incident blocks the case.

        Args:
            partial: an entry that cannot be written (its data is no JSON, say) comes back as `failed`
                and the others are written; without it such an entry raises and nothing of this call is.
        """
        ...

    async def edit(self, ref: CaseRef, decide: Decide[T], dedup: DedupKey | None = None) -> T:
        """Run `decide` under the lock of the case's row and write what it returns, in one transaction.

        Joins the group commit. `decide` is pure, may be called again, must not wait. With `dedup`, an
        earlier answer under that key comes as `Locked.duplicate`; another body raises IdempotencyConflict.

        Raises:
            CaseNotFound: nothing is known by that reference.
        """
        ...

    async def settle(self) -> None:
        """Have decided what became of writes of this process that failed without an answer.

        What a read after that does not show, of what was sent before it, is never written.

        Raises:
            StoreUnavailable: one of them may still be under way.
        """
        ...

    # -- reading one case --------------------------------------------------------------------------

    async def load(self, ref: CaseRef) -> CaseRow | None: ...
    async def load_many(self, cases: Sequence[int]) -> dict[int, CaseRow]: ...  # without those it cannot read
    async def events(
        self,
        case_no: int,
        *,
        after: int = 0,
        until: int | None = None,
        visit: int | None = None,
        limit: int | None = None,
    ) -> list[Event]:
        """Return events in seq order; `visit` gives that visit's events, its `stage_entered` first."""
        ...

    async def ranges(self, wanted: Sequence[tuple[int, int, int]]) -> dict[int, list[Event]]:
        """Return the events of many cases at once: for each `(case_no, first seq, last seq)`, in seq order."""
        ...

    async def event(self, case_no: int, seq: int) -> Event: ...
    async def inbox(self, case_no: int) -> list[Input]: ...
    async def inboxes(self, cases: Sequence[int]) -> dict[int, list[Input]]: ...

    # -- moving --------------------------------------------------------------------------------------

    async def ready(self, now: str, worker: int, limit: int, workflows: Sequence[str] | None = None) -> list[int]:
        """Return cases whose `wake_at` has come and that no other living worker leases, due first.

        Where several workers live they are leased to `worker` by it, so that two do not compute the same
        turn; the turn's write ends that. A lone worker on SQLite is spared that write: nobody
        competes with it. Cases are left out that the worker's code declined. Worker 0 looks and claims nothing.

        Args:
            workflows: only cases of these; a worker asks for those it has loaded.
        """
        ...

    async def next_wake(self, after: str) -> str:
        """Return the earliest `wake_at` later than `after`, or ""."""
        ...

    async def join(
        self, host: str, pid: int, *, codes: Mapping[str, str] | None = None, serves: Sequence[str] = ()
    ) -> int:
        """Register a worker incarnation; returns its number (never reused).

        Args:
            codes: the fingerprint of its code by workflow: `ready` and `decline` go by it.
            serves: the queues it serves, for the eye.
        """
        ...

    def heart(self, worker: int) -> Heart | None:
        """Return what keeps the incarnation's lease; None where nothing lapses, and `beat` is for the eye."""
        ...

    async def leave(self, worker: int) -> None:
        """Give back every lease of the incarnation and remove it."""
        ...

    async def beat(self, worker: int) -> None:
        """Note that the incarnation moves cases. For the eye (`longcase doctor`): death is told by `dead_workers`.

        Raises:
            WorkerForgotten: it was taken for dead, and others have what it held.
        """
        ...

    async def workers(self) -> list[WorkerRow]:
        """Return every registered incarnation, oldest first."""
        ...

    async def dead_workers(self) -> list[int]:
        """Return the incarnations to `recover`: it takes over what they hold and forgets them.

        Their death is certain; where leases lapse by a clock they are late, and `recover` looks once more.
        """
        ...

    def is_dead(self, worker: int) -> bool:
        """Tell whether an incarnation is dead, or gone: as of now, or of the last `dead_workers`. Cheap."""
        ...

    async def recover(self, worker: int) -> int:
        """Void a dead incarnation's leases so that its cases are ready now; returns how many.

        Where leases lapse by a clock 0 is returned, too, if it has given a beat meanwhile or is just writing.
        """
        ...

    async def decline(self, case_no: int, visit: int, code: str, worker: int) -> frozenset[str]:
        """Give back a case whose visit this code does not replay; returns all codes that declined the visit.

        Effects: its lease ends if `worker` holds it; `ready` and `take` offer it to no worker of that code while the
        visit lasts, or until a worker leaves or dies: the code that is left may be the only one then.
        """
        ...

    async def declined(self, case_no: int, visit: int) -> frozenset[str]:
        """Return the codes that declined a visit."""
        ...

    async def undecline(self, case_no: int) -> None:
        """Forget who declined a case."""
        ...

    # -- queues ----------------------------------------------------------------------------------------

    async def take(
        self, worker: int, served: Sequence[QueueLimits], now: str, limit: int,
        workflows: Sequence[str] | None = None, granted: Sequence[tuple[int, str]] | None = None,
    ) -> Taken:  # fmt: skip
        """Claim up to `limit` calls that wait in these queues and are due, as far as the queues' limits allow.

        Highest priority first; among equals the tenant that was served longest ago, then the earliest due.
        A claim is the worker's until its turn begins the attempt (`CaseWrite.queued`), it gives it back, or
        it leaves or dies; a rate counts it unless it ended before the attempt had begun. Calls of cases are left
        out whose visit the worker's code declined.

        Args:
            workflows: only calls of cases of these; a worker asks for those it has loaded.
            granted: the claims (case, call) the worker knows it has. Others of its claims, not begun, are given
                to it once more, before anything else: an answer of `take` or a `give_back` was lost. None: no claims
                are looked up.

        Raises:
            WorkerForgotten: where leases lapse by a clock, the worker's has (`ready` says so as well).
        """
        ...

    async def give_back(self, worker: int, calls: Sequence[tuple[int, str, int]]) -> None:
        """End claims (case, call, number of the taking) that were not begun: others may take the calls.

        A rate no longer counts them. What the worker has taken once more since then stays with it.
        """
        ...

    async def stops(self, worker: int) -> list[tuple[int, str, int]]:
        """Return the queued attempts running on `worker` that are asked to stop: case, call, number."""
        ...

    async def keep_heartbeat(self, case_no: int, call: str, attempt: int, details: Json) -> None:
        """Keep an attempt's heartbeat details, so that they outlive its worker. No event; the last one counts."""
        ...

    async def last_heartbeat(self, case_no: int, call: str) -> tuple[int, Json] | None:
        """Return the attempt and the details of a call's last heartbeat, None if none was kept."""
        ...

    async def forget_heartbeats(self, case_no: int, calls: Sequence[str]) -> None:
        """Remove the kept heartbeats of calls that are over."""
        ...

    def changed(self) -> bool:
        """Tell cheaply whether another process has committed since the last call."""
        ...

    def gone(self) -> bool:
        """Tell whether what was opened is no longer what the URL names: deleted, or replaced."""
        ...

    # -- maps ----------------------------------------------------------------------------------------

    async def map_number(self, workflow: str, fingerprint: str, graph: Json, nodes: Sequence[str]) -> int:
        """Return the number of a map, storing it at its first appearance."""
        ...

    async def newest_map(self, workflow: str) -> Json:
        """Return the graph of the map stored last of a workflow, None if there is none."""
        ...

    # -- settings ------------------------------------------------------------------------------------

    async def setting(self, name: str) -> Json:
        """Return a fact of the store itself, None if it was never set."""
        ...

    async def set_setting(self, name: str, value: Json) -> None:
        """Set a fact of the store itself."""
        ...

    # -- asking ---------------------------------------------------------------------------------------

    async def query(self, sql: str, parameters: Mapping[str, Any] | Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Read from the documented views; refuses anything but reading."""
        ...


class Statements(Transaction, Protocol):
    """The open transaction as the user's function sees it; it is over when `Apart.run` has returned or raised."""

    @property
    def inline(self) -> bool:
        """Whether it is to be used on the caller's thread; else on any other than the event loop's."""
        ...


class Apart(Protocol):
    """What is done in a transaction of its own, in this order: `admit`, `run`, `record`, commit."""

    def admit(self, locked: Locked) -> None:
        """Look whether it may be done at all. Raises to refuse."""
        ...

    async def run(self, statements: Statements) -> None:
        """Have the user's function do its work; whatever it raises rolls everything back."""
        ...

    def record(self, locked: Locked) -> Edit[None]:
        """Return what is written with it, under the lock of the case's row. Raises to refuse."""
        ...


class Transacting(Protocol):
    """What transactional activities ask of a store beyond the port."""

    @property
    def holds_tables(self) -> bool:
        """Whether tables of the user's can be in it, that outlive this process."""
        ...

    async def transact(self, case_no: int, work: Apart) -> None:
        """Run a unit of work of the user's in a transaction of its own; returns when it is durable.

        On SQLite it has the file's one writer for itself, and other commits wait. If the answer to its COMMIT is
        lost the store is asked, for as long as it takes, whether it happened.

        Raises:
            Exception: what `work` raised, or the store's own error; nothing of it was written.
        """
        ...


class Audited(Protocol):
    """What `verify` asks of a store beyond the port."""

    async def stored(self, after: int, limit: int) -> list[Stored]:
        """Return up to `limit` cases with numbers above `after`, by number, each as of one instant."""
        ...

    def folded_row(self, state: CaseState) -> dict[str, Json]:
        """Return what the row of a case in that state must hold, for the columns that follow from the history."""
        ...

    def folded_tasks(self, state: CaseState) -> dict[str, dict[str, Json]]:
        """Return what the tasks projection must hold; `state` is a fold from the first event."""
        ...

    async def broken_references(self) -> list[str]:
        """Return every reference to a row that is not there."""
        ...

    async def rebuild(self, case_no: int) -> None:
        """Write the case's row and tasks anew from its history.

        Raises:
            StoreCorrupt: the history itself does not hold together.
        """
        ...


class Keeping(Protocol):
    """What retention asks of a store beyond the port; the views `retention` and `purged` are in every store."""

    async def keep_receipt(self, export: Exported) -> int:
        """Remember an export; returns its number. A case whose history has grown since is not covered by it."""
        ...

    async def purge(self, what: Purge) -> list[Purged]:
        """Delete up to `limit` cases that may go, oldest close first, in one transaction; [] if none may.

        Every condition is looked at again under the lock. A tombstone is written with each deletion.
        """
        ...
