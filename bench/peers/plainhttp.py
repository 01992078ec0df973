"""A client of HTTP/1.1 with kept connections: so that hundreds of open requests cost the driver next to nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Sequence
from typing import Any

OK = range(200, 300)


class Refused(Exception):
    """The server answered, but with another status than success."""


async def bounded(work: Sequence[Coroutine[Any, Any, Any]], limit: int) -> list[Any]:
    """Wait for many coroutines, at most `limit` of them at once; results in the order given."""
    gate = asyncio.Semaphore(limit)

    async def one(coroutine: Coroutine[Any, Any, Any]) -> Any:
        async with gate:
            return await coroutine

    return await asyncio.gather(*(one(coroutine) for coroutine in work))


class Http:
    """Requests to one port of this machine; as many connections as there are requests at once."""

    def __init__(self, port: str) -> None:
        self._port = int(port)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request; returns the decoded answer, None if it is empty."""
        sent = b"" if body is None else json.dumps(body).encode()
        kind = "content-type: application/json\r\n" if sent else ""
        head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: application/json\r\n{kind}"
        request = f"{head}content-length: {len(sent)}\r\n\r\n".encode() + sent
        first, reader, writer = b"", None, None
        while not first:  # the server may have closed a kept connection meanwhile; all requests here may be repeated
            kept = bool(self._idle)
            reader, writer = self._idle.pop() if kept else await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(request)
            first = await reader.readline()
            if not first and not kept:
                raise Refused(f"{method} {path}: no answer")
        assert reader is not None
        assert writer is not None
        status = int(first.split()[1])
        headers: dict[str, str] = {}
        while line := (await reader.readline()).decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        answer = await self._body(reader, headers)
        self._idle.append((reader, writer))
        if status not in OK:
            raise Refused(f"{method} {path}: {status} {answer[:300]!r}")
        return json.loads(answer) if answer.strip() else None

    async def _body(self, reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return await reader.readexactly(int(headers.get("content-length", "0")))
        parts: list[bytes] = []
        while size := int(await reader.readline(), 16):
            parts.append(await reader.readexactly(size))
            await reader.readline()
        await reader.readline()
        return b"".join(parts)

    def close(self) -> None:
        """Close the connections nobody uses."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()
