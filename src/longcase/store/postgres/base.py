"""What every part of the store stands on: its connections, and one way to use them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import asyncpg

from longcase.env import Env
from longcase.history.event import instant_text
from longcase.store.postgres.apart import TRANSACTIONS
from longcase.store.postgres.commit import WRITERS
from longcase.store.postgres.connection import Address, Pool, collided, our_error

T = TypeVar("T")

READERS: Final = 4
COLLISIONS: Final = 3  # of a change with other transactions, before its caller is told


class Base:
    """The pools of one database, and the instant."""

    def __init__(self, address: Address, env: Env) -> None:
        self.address = address
        self._env = env
        self._writers = Pool(address, WRITERS)
        self._readers = Pool(address, READERS)
        # Claims and signs of life that a crash of the server may lose: they are made again.
        self._loose = Pool(address, 2, settings={"synchronous_commit": "off"})
        self._asking = Pool(address, 2, plain=True)
        self._apart = Pool(address, TRANSACTIONS, plain=True, lent_for_long=True)  # by users
        self._pools = (self._writers, self._readers, self._loose, self._asking, self._apart)
        for pool in self._pools:
            pool.relatives = self._pools

    def _now(self) -> str:
        return instant_text(self._env.now())

    @asynccontextmanager
    async def _using(self, pool: Pool, *, changing: bool = True) -> AsyncIterator[Any]:
        """Lend a connection, and turn asyncpg's errors into ours; those of a mere question leave nothing in doubt."""
        try:
            async with pool.use() as connection:
                yield connection
        except Exception as error:
            ours = our_error(error, self.address, changing=changing)
            if ours is error:
                raise
            raise ours from error

    async def _read(self, sql: str, *values: Any) -> list[Any]:
        async with self._using(self._readers, changing=False) as connection:
            found: list[Any] = await connection.fetch(sql, *values)
        return found

    async def _change(self, work: Callable[[Any], Awaitable[T]], pool: Pool | None = None) -> T:
        """Run a small change of its own; once more if another transaction stood in its way."""
        for _ in range(COLLISIONS):
            async with self._using(pool or self._readers) as connection:
                try:
                    return await work(connection)
                except asyncpg.PostgresError as error:
                    if not collided(error):
                        raise
        async with self._using(pool or self._readers) as connection:
            return await work(connection)
