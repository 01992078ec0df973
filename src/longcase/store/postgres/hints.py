"""LISTEN and NOTIFY: a hint that another process has committed, over polling, which is the truth.

The listener has a connection of its own, direct to the server (LONGCASE_LISTEN_URL where the store's URL goes
through a pooler). Without it nothing is lost: the store is then looked at every POLL seconds.
A notification carries who sent it and nothing else; a process sends at most one every GATHER seconds.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine
from typing import Any, Final

from longcase.backoff import Backoff
from longcase.env import Env
from longcase.errors import LongcaseError
from longcase.store.postgres.connection import Address, Pool, connect, of_the_store

log = logging.getLogger("longcase.store")

CHANNEL: Final = "longcase"
LISTENED_POLL: Final = 1.0  # seconds between looks while hints come
POLL: Final = 0.1  # seconds between looks without them
GATHER: Final = 0.005
PROBE: Final = 5.0  # seconds between looks whether the line is still there


class Hints:
    """Both ends of the channel for one process."""

    def __init__(self, address: Address, pool: Pool, me: str, env: Env) -> None:
        url = os.environ.get("LONGCASE_LISTEN_URL", "")
        self._address = Address.of(url) if url else address
        self._pool = pool
        self._me = me
        self._monotonic = env.monotonic
        self._backoff = Backoff(env.random.random)  # while nobody can be listened to
        self._heard = False
        self._looked = env.monotonic()
        self._listener: Any = None
        self._proven = False  # something was heard over it: a pooler takes a LISTEN, and nothing ever comes
        self._listening: asyncio.Task[None] | None = None
        self._sending: asyncio.Task[None] | None = None  # the one that gathers
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def changed(self) -> bool:
        """Tell whether another process may have committed since the last call."""
        if self._listening is None and not self._closed:
            self._listening = self._spawn(self._listen(), "longcase-listen")
        now = self._monotonic()
        hears = self._proven and self._listener is not None and not self._listener.is_closed()
        due = now - self._looked >= (LISTENED_POLL if hears else POLL)
        if self._heard or due:
            self._heard = False
            self._looked = now
            return True
        return False

    def send(self) -> None:
        """Tell other processes, soon, that there is something for them."""
        if self._sending is None and not self._closed:
            self._sending = self._spawn(self._send(), "longcase-notify")

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _send(self) -> None:
        try:
            await asyncio.sleep(GATHER)
            self._sending = None  # what comes from here on is for the next one
            async with self._pool.use() as connection:
                await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, self._me)
        except Exception as error:
            if not isinstance(error, LongcaseError) and not of_the_store(error):
                raise
            log.debug("no hint was sent: %s", error)
        finally:
            if self._sending is asyncio.current_task():
                self._sending = None

    async def _listen(self) -> None:
        """Keep the listening connection; the log says once when there is none."""
        told = False
        while not self._closed:
            try:
                if self._listener is None or self._listener.is_closed():
                    self._listener = await connect(self._address, plain=True)
                    await self._listener.add_listener(CHANNEL, self._hear)
                    self._heard = True  # what was sent while nobody listened
                    self._proven = told = False
                    self.send()
                else:
                    await self._probe(self._listener)
            except Exception as error:
                if not isinstance(error, LongcaseError) and not of_the_store(error):
                    raise
                if not told:
                    why = getattr(error, "message", error)
                    log.warning("no LISTEN on the store: it is looked at every %g s instead: %s", POLL, why)
                told = True
                await self._backoff.pause()
            else:
                self._backoff.reset()
                await asyncio.sleep(PROBE)

    async def _probe(self, listener: Any) -> None:
        """Find out a line that is half open: it would say nothing for ever."""
        try:
            await listener.execute("SELECT 1", timeout=PROBE)
        except BaseException:
            listener.terminate()
            raise

    def _hear(self, connection: Any, pid: int, channel: str, payload: object) -> None:
        self._proven = True
        if payload != self._me:
            self._heard = True

    async def close(self) -> None:
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.terminate()
