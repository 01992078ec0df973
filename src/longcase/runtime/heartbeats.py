"""Heartbeat details of attempts, kept in the store so that they outlive their worker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from longcase.env import Env
from longcase.errors import LongcaseError
from longcase.history.state import Call, CaseState
from longcase.model.codec import Json
from longcase.runtime.performing import Running
from longcase.store.port import Store

log = logging.getLogger("longcase.worker")

BEAT_EVERY = 1.0  # seconds between heartbeat details made durable for one attempt

Spawn = Callable[[Coroutine[Any, Any, None]], None]


class Heartbeats:
    """Keeps the details of this worker's attempts, hands them to the next one, and removes what is over."""

    def __init__(self, store: Store, env: Env, spawn: Spawn) -> None:
        self._store = store
        self._env = env
        self._spawn = spawn
        self._kept: dict[int, set[str]] = {}  # case -> calls of which the store holds a heartbeat

    def follow(self, case_no: int, running: Running) -> None:
        """Keep what the attempt says at its heartbeats, from whatever thread it says it."""
        loop = asyncio.get_running_loop()

        def beat(beating: Running) -> None:
            now = self._env.monotonic()
            if beating.details is not None and now - beating.kept_at >= BEAT_EVERY:
                beating.kept_at = now
                loop.call_soon_threadsafe(self._keep, case_no, beating, beating.details)

        running.on_beat = beat

    async def hand_over(self, case_no: int, call: Call, running: Running) -> None:
        """Give an attempt the details of the last one, where they are newer than those its failure left."""
        kept = await self._store.last_heartbeat(case_no, running.call)
        if kept is not None:
            self._kept.setdefault(case_no, set()).add(running.call)
            # The details of a failure are the last of its attempt; those kept of a later one are newer.
            if kept[0] > call.get("details_of", 0):
                running.previous_details = kept[1]

    def forget_ended(self, case_no: int, state: CaseState) -> None:
        """Remove the kept heartbeats of the case's calls that are over."""
        kept = self._kept.get(case_no)
        if kept is None:
            return
        over = sorted(kept - state.calls.keys())
        kept.difference_update(over)
        if not kept:
            del self._kept[case_no]
        if over:
            self._spawn(self._remove(case_no, over))

    def _keep(self, case_no: int, running: Running, details: Json) -> None:
        if not running.ended:
            self._kept.setdefault(case_no, set()).add(running.call)
            self._spawn(self._write(case_no, running, details))

    async def _write(self, case_no: int, running: Running, details: Json) -> None:
        try:
            await self._store.keep_heartbeat(case_no, running.call, running.number, details)
            if running.call not in self._kept.get(case_no, ()):  # the call has ended meanwhile
                await self._store.forget_heartbeats(case_no, [running.call])
        except LongcaseError as error:
            log.warning("%s: heartbeat details not kept: %s", running.case, error.message)

    async def _remove(self, case_no: int, calls: list[str]) -> None:
        try:
            await self._store.forget_heartbeats(case_no, calls)
        except LongcaseError as error:
            log.warning("case %d: heartbeats of calls that are over stay: %s", case_no, error.message)
