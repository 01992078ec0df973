"""Looking at a store after a crash: states, counts, attempts, and the shared invariants."""

from __future__ import annotations

import asyncio
from typing import Any

from longcase.env import Env
from longcase.history.state import CaseState
from longcase.insight.verify import verify
from longcase.opening import open_store
from longcase.store.records import CaseRef


class Inspection:
    """Opens a store, reads everything a test asks of it, and closes it again."""

    def __init__(self, url: str) -> None:
        asyncio.run(self._read(url))

    async def _read(self, url: str) -> None:
        store = await open_store(url, Env(), create=False)
        try:
            self._findings = [str(finding) async for finding in verify(store)]  # type: ignore[arg-type]
            self._states: dict[str, CaseState] = {}
            self._events: dict[str, list[Any]] = {}
            self._inboxes: dict[str, list[str]] = {}
            for row in await store.query("SELECT case_no FROM cases"):
                case = await store.load(CaseRef(row["case_no"]))
                assert case is not None
                self._states[case.state.address] = case.state
                self._events[case.state.address] = await store.events(case.case_no)
                self._inboxes[case.state.address] = [item.id for item in await store.inbox(case.case_no)]
        finally:
            await store.close()

    def addresses(self) -> list[str]:
        return list(self._states)

    def has_input(self, address: str, ident: str) -> bool:
        """Tell whether an accepted input waits in the inbox or stands in the history: I8 says never both."""
        waits = ident in self._inboxes[address]
        stands: int = sum(
            event.data["id"] == ident for event in self._events[address] if event.type == "signal_received"
        )
        assert waits + stands <= 1, f"{address}: {ident} is there {waits + stands} times"
        return waits + stands == 1

    def events(self, address: str) -> list[Any]:
        return self._events[address]

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
