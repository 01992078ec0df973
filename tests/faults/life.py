"""A life under faults: a worker and a client in one process, orders with an outside ledger, a client log.

The orders are those of `tests.crash.program`. The client repeats what it was not told of under its old
keys, as docs/explanation/guarantees.md says; what it was told stands in its log.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from tests.crash import program
from tests.crash.inspection import Inspection

from longcase import Longcase
from longcase.errors import UnavailableError

T = TypeVar("T")
BOUND = 90.0  # seconds a test waits for what it can see, before it says that it did not come


class Life:
    """A store with a worker, and its client."""

    def __init__(self, longcase: Longcase) -> None:
        self.longcase = longcase
        self.told: list[tuple[str, str]] = []  # (start | word, order)
        self.refused: Counter[str] = Counter()  # codes of the errors the client got
        self.on_error: Callable[[], object] = lambda: None

    async def order(self, key: str) -> None:
        """Start an order and send it its word twice, each repeated until it is acknowledged."""
        service = self.longcase.service
        await self.insist(lambda: service.start("orders", {"id": key}))
        self.told.append(("start", key))
        for _ in range(2):
            await self.insist(
                lambda: service.signal(f"orders/{key}", "word", {"text": key}, idempotency_key=f"word-{key}")
            )
        self.told.append(("word", key))

    async def insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat a call of the door until it is answered."""
        async with asyncio.timeout(BOUND):
            while True:
                try:
                    return await call()
                except UnavailableError as error:
                    if not error.retryable:
                        raise
                    self.refused[error.code] += 1
                    self.on_error()
                    await asyncio.sleep(0.005)

    async def open_orders(self) -> int:
        query = "SELECT count(*) AS n FROM cases WHERE status = 'open'"
        rows = await self.insist(lambda: self.longcase.service.query(query))
        return int(rows[0]["n"])

    async def all_closed(self) -> None:
        async with asyncio.timeout(BOUND):
            while await self.open_orders():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def living(url: str, synchronous: str = "FULL") -> AsyncIterator[Life]:
    """Open a store and let a worker move what the client sends, for the length of the block."""
    async with Longcase([program.orders], url=url, synchronous=synchronous) as longcase, longcase.working():
        yield Life(longcase)


def check_orders(
    url: str, ledger: Path, keys: Iterable[str], words: Mapping[str, str] | None = None, *, zombies: bool = False
) -> int:
    """Hold every promise about orders that are over; returns the number of effects in the world.

    Args:
        words: what an order was told, where that is not its own key.
        zombies: workers were taken for dead that lived. One that stood still in an attempt, before its effect,
            takes effect when it wakes, although it was asked about and made again meanwhile: the outside sees it
            twice, under one key. No runtime can keep that from it.
    """
    keys = list(keys)
    inspection = Inspection(url)
    assert inspection.broken_invariants() == []
    assert sorted(inspection.addresses()) == sorted(f"orders/{key}" for key in keys)
    lines = [line.split() for line in ledger.read_text().splitlines()]
    of_call: dict[str, set[str]] = {}
    recorded = inspection.attempts()
    for what, key, attempt in lines:
        of_call.setdefault(what, set()).add(key)
        assert (key, int(attempt)) in recorded, f"{what}: attempt {attempt} is not in history"
    expected = {f"{what}:{key}" for key in keys for what in ("pack", "charge", "pick")}
    notes = {what for what in of_call if what.startswith("note:")}
    assert {":".join(what.split(":")[:2]) for what in of_call.keys() - notes} == expected
    assert all(len(found) == 1 for found in of_call.values()), "one key a call"
    charged = [what for what, _, _ in lines if what.startswith("charge:")]
    assert len(set(charged)) == len(keys), "effect=once was not done"
    doubled = [what for what in set(charged) if charged.count(what) > 1]
    for what in doubled:
        assert zombies, f"effect=once was repeated: {what}"
        settled = [e for e in inspection.events(f"orders/{what.partition(':')[2]}") if e.type == "attempt_lost"]
        assert charged.count(what) <= 1 + sum(e.data["activity"] == "charge" for e in settled), f"{what}: {settled}"
    for key in keys:
        state = inspection.state(f"orders/{key}")
        assert state.close == {"name": "done", "result": (words or {}).get(key, key), "reason": ""}, inspection.waits(
            f"orders/{key}"
        )
        assert inspection.count(f"orders/{key}", "signal_consumed") == 1
        remarks = {f"note:{key}:{text}" for text in state.object["remarks"]}
        assert {what for what in notes if what.startswith(f"note:{key}:")} == remarks
    return len(lines)
