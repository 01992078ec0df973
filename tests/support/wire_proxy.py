"""A proxy between a program and PostgreSQL that knows just enough of the protocol to do harm at a chosen place.

It tells requests apart by their SQL and knows which of them ends in a commit. What it can do: let the
server commit and lose the answer, cut before the server hears of it or long before that, delay, let
connections hang half open (no FIN, no bytes), refuse new ones. It runs in a thread of its own, on a socket of its own.
"""

from __future__ import annotations

import asyncio
import struct
import tempfile
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

SSL_REQUEST: Final = 80877103
GSS_REQUEST: Final = 80877104
WRITES: Final = ("INSERT ", "UPDATE ", "DELETE ")

# late: the client is cut off at once, and the server hears of it at `deliver`. A number: seconds of delay before that.
Harm = Literal["pass", "lose", "cut", "late", "hang"] | float


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked: everything up to the point where it waits for the answer."""

    connection: int
    sql: str
    commits: bool  # when it is answered, something is committed


Plan = Callable[[Request], Harm]


def pass_all(_: Request) -> Harm:
    return "pass"


@dataclass(eq=False)
class Wire:
    """One client's connection: both sockets, and what is known of the session."""

    number: int
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    statements: dict[str, str] = field(default_factory=dict)
    in_transaction: bool = False
    wrote: bool = False  # in the transaction it is in
    losing: bool = False
    hanging: bool = False

    def cut(self) -> None:
        for side in (self.client, self.server):
            with suppress(RuntimeError):  # its loop is closing
                side.transport.abort()


class WireProxy:
    """Stands between a program and the server of `url`; `with WireProxy(url) as proxy: Longcase(url=proxy.url)`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        host = parse_qs(parts.query).get("host", [""])[0]
        self._upstream = f"{host}/.s.PGSQL.5432" if host.startswith("/") else (parts.hostname, parts.port or 5432)
        self._folder = tempfile.TemporaryDirectory(prefix="longcase-wire-")
        query = f"host={quote(self._folder.name, safe='/')}"
        user = parts.netloc.rpartition("@")[0]
        self.url = urlunsplit((parts.scheme, f"{user}@" if user else "", parts.path, query, ""))
        self.plan: Plan = pass_all
        self.refusing = False
        self.done: Counter[str] = Counter()  # what was done to requests
        self._wires: set[Wire] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._count = 0
        self._delivery = asyncio.Event()
        self._late: set[Wire] = set()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.AbstractServer | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> WireProxy:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._folder.cleanup()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    # -- harm, at once -------------------------------------------------------------------------------

    def cut_all(self) -> int:
        """Cut every connection; returns how many there were."""
        return self._each(Wire.cut, "cut")

    def hang_all(self) -> int:
        """Let every connection there is hang half open: it stays, and no byte passes any more."""

        def hang(wire: Wire) -> None:
            wire.hanging = True

        return self._each(hang, "hang")

    def deliver(self) -> None:
        """Let the server hear of what is late, and wait until it has answered."""

        async def work() -> None:
            self._delivery.set()
            async with asyncio.timeout(30):
                while self._late:
                    await asyncio.sleep(0.01)

        self._call(work())

    def _each(self, harm: Callable[[Wire], None], name: str) -> int:
        async def work() -> None:
            for wire in list(self._wires):
                harm(wire)
                self.done[name] += 1

        before = self.done[name]
        self._call(work())
        return self.done[name] - before

    @property
    def connections(self) -> int:
        """How many connections there are, hanging ones included."""
        return len(self._wires)

    # -- the wire ------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        self._server = await asyncio.start_unix_server(self._accept, f"{self._folder.name}/.s.PGSQL.5432")
        Path(self._folder.name).chmod(0o755)

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for wire in list(self._wires):
            wire.cut()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            self.done["refuse"] += 1
            writer.transport.abort()
            return
        try:
            if isinstance(self._upstream, str):
                there, back = await asyncio.open_unix_connection(self._upstream)
            else:
                there, back = await asyncio.open_connection(*self._upstream)
        except OSError:  # the server is down: so are we
            writer.transport.abort()
            return
        self._count += 1
        wire = Wire(self._count, writer, back)
        self._wires.add(wire)
        try:
            await _either(self._from_client(wire, reader), self._from_server(wire, there))
        finally:
            self._wires.discard(wire)
            self._late.discard(wire)
            wire.cut()

    async def _from_client(self, wire: Wire, reader: asyncio.StreamReader) -> None:
        await self._start_up(wire, reader)
        held: list[bytes] = []
        asked: list[str] = []
        while True:
            kind, body = await _message(reader)
            held.append(kind + struct.pack("!I", len(body) + 4) + body)
            match kind:
                case b"Q":
                    asked.append(_text(body))
                case b"P":
                    name, text, *_ = body.split(b"\0", 2)
                    wire.statements[name.decode()] = _text(text)
                case b"B":
                    _, name, *_ = body.split(b"\0", 2)
                    asked.append(wire.statements.get(name.decode(), ""))
            if kind in b"QSHXpcd":
                sql = "\n".join(asked)
                asked = []
                data, held = b"".join(held), []
                await self._pass_on(wire, Request(wire.number, sql, _commits(sql, wire)), data)

    async def _start_up(self, wire: Wire, reader: asyncio.StreamReader) -> None:
        while True:
            head = await reader.readexactly(8)
            length, code = struct.unpack("!II", head)
            if code in (SSL_REQUEST, GSS_REQUEST):  # answered here: the next leg is a socket of this machine
                wire.client.write(b"N")
                continue
            wire.server.write(head + await reader.readexactly(length - 8))
            return

    async def _pass_on(self, wire: Wire, request: Request, data: bytes) -> None:
        harm = self.plan(request) if request.sql else "pass"
        self.done["pass" if harm == "pass" else harm if isinstance(harm, str) else "delay"] += 1
        match harm:
            case "cut":
                wire.cut()
                return
            case "hang":
                wire.hanging = True
            case "lose":
                wire.losing = True
            case "late":
                wire.losing = True
                self._late.add(wire)
                wire.client.transport.abort()
                await self._delivery.wait()
                wire.server.write(data)
                await asyncio.Event().wait()  # until the answer has come, and ends the connection
            case int() | float():
                await asyncio.sleep(harm)
        if not wire.hanging:
            wire.server.write(data)

    async def _from_server(self, wire: Wire, reader: asyncio.StreamReader) -> None:
        while True:
            kind, body = await _message(reader)
            if wire.hanging:
                continue
            if kind == b"Z":  # ready for the next request: what was asked is done
                wire.in_transaction = body != b"I"
                wire.wrote = wire.wrote and wire.in_transaction
                if wire.losing:
                    wire.cut()
                    return
            if not wire.losing:
                wire.client.write(kind + struct.pack("!I", len(body) + 4) + body)


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    return head[:1], await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)


async def _either(*works: Awaitable[None]) -> None:
    """Run until one of them is over; what ends a connection is no news."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _text(body: bytes) -> str:
    return body.rstrip(b"\0").decode(errors="replace")


def _commits(sql: str, wire: Wire) -> bool:
    """Tell whether something is durable when a request is answered; a COMMIT of what was only read is none."""
    said = sql.upper()
    writes = any(word in said for word in WRITES)
    if wire.in_transaction:
        wire.wrote = wire.wrote or writes
        return wire.wrote and said.lstrip().startswith("COMMIT")
    return writes and not said.lstrip().startswith("BEGIN")
