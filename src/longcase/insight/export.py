"""The export: closed cases as JSON Lines that an outsider can verify with nothing but the file.

    {"export": 1, ...}                 the head: format, release, who, when
    {"case": "claims/C-1", ...}        a case: its row as it stood, and the head of its chain
    {"event": 1, ...}                  its events in order; `data` is the payload as text, byte for byte what
    ...                                `digest` is over together with `salt`; `hash` chains them (history/chain.py)
    {"task": "1.q1", ...}              its questions to people
    {"case_end": "claims/C-1", ...}    how many events and tasks it has, and the head again
    {"end": {...}}                     how many cases and events, and the SHA-256 of every byte above

Nothing here touches files: `service.exporting` writes them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import field
from hashlib import sha256
from typing import Any, Final

from longcase.history.event import HISTORY_FORMAT, Event
from longcase.insight.invariants import CHECKS, CaseFacts, Finding
from longcase.model.codec import Json
from longcase.model.names import counted
from longcase.record import record
from longcase.store.auditing import folded_row, folded_tasks
from longcase.store.records import Stored

FORMAT: Final = 1
FILE: Final = "the file"
HEAD: Final = f'{{"export": {FORMAT}, ...}}'
_COLUMNS: Final = (
    "visit", "type", "version", "at", "actor", "on_behalf", "channel", "cause", "map", "node", "n", "strand",
)  # fmt: skip


# -- writing -----------------------------------------------------------------------------------------


class Sealed:
    """Lines on their way into a file: counted, and sealed at the end by their digest."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._inner = sha256()  # of what stands above the last line
        self._whole = sha256()
        self.cases: dict[int, tuple[int, bytes]] = {}
        self.events = 0

    def head(self, *, tenant: str, at: str, by: str, release: str) -> None:
        """Write the first line."""
        self._line(
            {
                "export": FORMAT, "history_format": HISTORY_FORMAT, "release": release, "tenant": tenant, "at": at,
                "by": by,
            }
        )  # fmt: skip

    def case(self, stored: Stored) -> None:
        """Write a case."""
        address = f"{stored.row['workflow']}/{stored.row['key']}"
        head = stored.hash.hex()
        self._line({"case": address, "case_no": stored.case_no, "hash": head, "row": stored.row})
        for event in stored.events:
            self._line(_event_line(event))
        for name, row in stored.tasks.items():
            self._line({"task": name, "row": row})
        self._line({"case_end": address, "events": len(stored.events), "tasks": len(stored.tasks), "hash": head})
        self.cases[stored.case_no] = (len(stored.events), stored.hash)
        self.events += len(stored.events)

    def end(self) -> bytes:
        """Write the last line; returns the digest of the whole file."""
        self._line({"end": {"cases": len(self.cases), "events": self.events, "sha256": self._inner.hexdigest()}})
        return self._whole.digest()

    def _line(self, value: Json) -> None:
        data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass") + b"\n"
        self._write(data)
        self._whole.update(data)
        if "end" not in value:
            self._inner.update(data)


def _event_line(event: Event) -> dict[str, Json]:
    columns = {name: getattr(event, name) for name in _COLUMNS}
    return {
        "event": event.seq, **columns, "data": event.text, "salt": event.salt, "digest": event.digest.hex(),
        "hash": event.hash.hex(),
    }  # fmt: skip


def is_a_line(line: bytes) -> bool:
    """Tell whether a line may stand in an export at all: of another file, each would be a finding."""
    try:
        value = json.loads(line.decode("utf-8", "surrogatepass"))
    except ValueError:
        return False
    return isinstance(value, dict) and next(iter(value), "") in ("export", "case", "event", "task", "case_end", "end")


# -- verifying ---------------------------------------------------------------------------------------


@record(frozen=False)
class Examined:
    """What was read of an export. `complete` once its last line was there."""

    cases: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    events: int = 0
    digest: bytes = b""  # of the whole file
    complete: bool = False


class Examination:
    """Reads an export line by line and says what does not hold; the file alone is enough."""

    def __init__(self) -> None:
        self.read = Examined()
        self._open: Stored | None = None
        self._inner = sha256()
        self._whole = sha256()
        self._line = 0

    def findings(self, lines: Iterable[bytes]) -> Iterator[Finding]:
        """Yield everything that is wrong, with the number of its line where it is of the file's form."""
        for line in lines:
            self._line += 1
            self._whole.update(line)
            yield from self._take(line)
            if not line.startswith(b'{"end":'):
                self._inner.update(line)
        self.read.digest = self._whole.digest()
        if not self._line:
            yield self._wrong("is empty, expected an export")
        elif not self.read.complete:
            yield self._wrong("ends without its last line: it was cut off")

    def _take(self, line: bytes) -> Iterator[Finding]:
        try:
            value = json.loads(line.decode("utf-8", "surrogatepass"))
            kind = next(iter(value))
        except (ValueError, TypeError, StopIteration, AttributeError):
            yield self._wrong("is no JSON object of an export")
            return
        if self.read.complete:
            yield self._wrong("stands behind the last line")
        elif (self._line == 1) != (kind == "export"):
            yield self._wrong(f"expected the head, {HEAD}" if self._line == 1 else "a second head")
        try:
            yield from self._taken(kind, value)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            yield self._wrong(f"{kind}: {type(error).__name__}: {error}")

    def _taken(self, kind: str, value: dict[str, Any]) -> Iterator[Finding]:
        if kind == "export":
            if value["export"] > FORMAT or value["history_format"] > HISTORY_FORMAT:
                yield self._wrong("is of a newer format than this release reads: upgrade Longcase")
        elif kind == "case":
            if self._open is not None:
                yield self._wrong(f"case {self._open.case_no} has no end")
            self._open = Stored(value["case_no"], value["row"], bytes.fromhex(value["hash"]), [], [], {})
            if self._open.case_no in self.read.cases:
                yield self._wrong(f"case {self._open.case_no} stands here a second time")
        elif kind == "end":
            yield from self._ended(value["end"])
        elif self._open is None:
            yield self._wrong(f"{kind} stands in no case")
        elif kind == "event":
            self._open.events.append(_event_from(value))
        elif kind == "task":
            self._open.tasks[value["task"]] = value["row"]
        elif kind == "case_end":
            stored, self._open = self._open, None
            yield from self._case(stored, value)
        else:
            yield self._wrong(f"{kind!r} is no line of an export")

    def _case(self, stored: Stored, end: dict[str, Any]) -> Iterator[Finding]:
        case = CaseFacts(stored, folded_row, folded_tasks)
        for name, there in (("events", len(stored.events)), ("tasks", len(stored.tasks)), ("hash", stored.hash.hex())):
            if end[name] != there:
                yield case.finding("file", f"its end says {name} {end[name]}, it has {there}")
        if stored.row["status"] != "closed":
            yield case.finding("file", f"is {stored.row['status']}; an export holds closed cases")
        for check in CHECKS:
            yield from check(case)
        self.read.cases[stored.case_no] = (len(stored.events), stored.hash)
        self.read.events += len(stored.events)

    def _ended(self, end: dict[str, Any]) -> Iterator[Finding]:
        self.read.complete = True
        if self._open is not None:
            yield self._wrong(f"case {self._open.case_no} has no end")
        if (end["cases"], end["events"]) != (len(self.read.cases), self.read.events):
            there = f"{counted(len(self.read.cases), 'case')} and {counted(self.read.events, 'event')}"
            yield self._wrong(f"says {end['cases']} cases and {end['events']} events, the file has {there}")
        if end["sha256"] != self._inner.hexdigest():
            yield self._wrong("the bytes above are not those that were sealed")

    def _wrong(self, message: str) -> Finding:
        return Finding("file", 0, FILE, self._line, message)


def _event_from(value: dict[str, Any]) -> Event:
    text = value["data"]
    try:
        data = json.loads(text)
    except ValueError:
        data = {}  # the digest of the payload tells
    columns = {name: value[name] for name in _COLUMNS}
    return Event(
        data=data, text=text, seq=value["event"], salt=value["salt"], digest=bytes.fromhex(value["digest"]),
        hash=bytes.fromhex(value["hash"]), **columns,
    )  # fmt: skip
