"""Looking at a store after a crash: states, counts, attempts, and the shared invariants."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from longcase.env import Env
from longcase.history.state import CaseState
from longcase.insight.verify import verify
from longcase.store.port import CaseRef
from longcase.store.sqlite import open_sqlite


class Inspection:
    """Opens a store, reads everything a test asks of it, and closes it again."""

    def __init__(self, path: Path) -> None:
        asyncio.run(self._read(str(path)))

    async def _read(self, path: str) -> None:
        store = await open_sqlite(path, Env(), inline=True, create=False)
        try:
            self._findings = [str(finding) async for finding in verify(store)]
            self._states: dict[str, CaseState] = {}
            self._events: dict[str, list[Any]] = {}
            for row in await store.query("SELECT case_no FROM cases"):
                case = await store.load(CaseRef(row["case_no"]))
                assert case is not None
                self._states[case.state.address] = case.state
                self._events[case.state.address] = await store.events(case.case_no)
        finally:
            await store.close()

    def state(self, address: str) -> CaseState:
        return self._states[address]

    def waits(self, address: str) -> str:
        return f"{address}: {self._states[address].to_json()}"

    def count(self, address: str, kind: str) -> int:
        return sum(event.type == kind for event in self._events[address])

    def attempts(self) -> set[tuple[str, int]]:
        """Return (idempotency key, attempt number) of every attempt in history."""
        found: set[tuple[str, int]] = set()
        for events in self._events.values():
            keys: dict[str, str] = {}
            for event in events:
                data = event.data
                if event.type in ("activity_scheduled", "undo_started"):
                    keys[data["call"]] = data["key"]
                    if data["attempt"]:
                        found.add((data["key"], 1))
                elif event.type == "attempt_started":
                    found.add((keys[data["call"]], data["attempt"]))
        return found

    def broken_invariants(self) -> list[str]:
        return self._findings
