"""An export is verified by nothing but the file: whatever is changed in it by hand is found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.support.cases import asked, closed, decided, do, entered, new_case, new_env, turn, voted

from longcase.history.chain import payload_digest
from longcase.insight.export import Examination, Sealed
from longcase.store.records import CaseRef
from longcase.store.sqlite import SqliteStore, open_sqlite


@pytest.fixture
async def lines() -> list[bytes]:
    """Return an export of two cases, the first with a question that two people answered."""
    store = await open_sqlite(":memory:", new_env())
    first, second = await store.start([new_case("k1", name="Ådne\u2028"), new_case("k2")])
    await store.write([turn(first, entered(), asked())])
    await store.edit(CaseRef(1), do(voted("ann"), voted("ben", decides=True)))
    row = await store.load(CaseRef(1))
    assert row is not None
    await store.write([turn(row, decided(), closed()), turn(second, entered(), closed("lost"))])
    found = await exported(store)
    await store.close()
    return found


async def exported(store: SqliteStore) -> list[bytes]:
    written: list[bytes] = []
    out = Sealed(written.append)
    out.head(tenant="main", at="2026-03-02T12:00:00.000000Z", by="person:ada", release="0")
    for stored in await store.stored(0, 10):
        out.case(stored)
    out.end()
    return written


def found(lines: list[bytes]) -> list[str]:
    return [str(finding) for finding in Examination().findings(lines)]


def test_a_good_export_has_no_findings_and_tells_its_digest(lines: list[bytes]) -> None:
    examination = Examination()
    assert list(examination.findings(lines)) == []
    assert {no: count for no, (count, _) in examination.read.cases.items()} == {1: 7, 2: 3}
    assert examination.read.events == 10
    assert len(examination.read.digest) == 32


def test_every_line_is_json_that_any_tool_reads(lines: list[bytes]) -> None:
    kinds = [next(iter(json.loads(line))) for line in b"".join(lines).decode().split("\n")[:-1]]
    assert kinds == [
        "export", "case", *["event"] * 7, "task", "case_end", "case", *["event"] * 3, "case_end", "end",
    ]  # fmt: skip


def edited(line: bytes, **changes: Any) -> bytes:
    value = json.loads(line)
    value.update(changes)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def another_payload(lines: list[bytes]) -> Iterator[bytes]:
    """Change what somebody answered, digest and all: only the chain tells."""
    for line in lines:
        if b"vote_given" in line and b'\\"by\\":\\"ann\\"' in line:
            value = json.loads(line)
            text = value["data"].replace('"approved"', '"rejected"')
            assert text != value["data"]
            yield edited(line, data=text, digest=payload_digest(value["salt"], text).hex())
        else:
            yield line


def place(lines: list[bytes], what: bytes) -> int:
    return next(number for number, line in enumerate(lines) if what in line)


def without_newest(lines: list[bytes]) -> list[bytes]:
    end = place(lines, b"case_end")
    return lines[: end - 2] + lines[end - 1 :]  # a task stands between


def without_second(lines: list[bytes]) -> list[bytes]:
    return lines[: place(lines, b"k2")] + lines[-1:]


def second_twice(lines: list[bytes]) -> list[bytes]:
    return lines[:-1] + lines[place(lines, b"k2") :]


def replaced(old: bytes, new: bytes, times: int = -1) -> Callable[[list[bytes]], list[bytes]]:
    return lambda lines: [line.replace(old, new, times) for line in lines]


Change = Callable[[list[bytes]], list[bytes]]
NOT_AFTER = "does not follow the event before it"
TAMPERED: dict[str, tuple[Change, str]] = {
    "a payload": (replaced(b"Sign off?", b"Sign on??"), "I39: onboarding/k1"),
    "a payload with its digest": (lambda lines: list(another_payload(lines)), NOT_AFTER),
    "who did it": (replaced(b"person:ben", b"person:eve"), NOT_AFTER),
    "the row": (replaced(b'"owner":"sales"', b'"owner":"eve"', 1), "I3"),
    "an event dropped": (lambda lines: lines[:4] + lines[5:], "event 4: event 3 is missing"),
    "events swapped": (lambda lines: [*lines[:4], lines[5], lines[4], *lines[6:]], "I1"),
    "the newest event dropped": (without_newest, "its end says events 7, it has 6"),
    "a task dropped": (
        lambda lines: [line for line in lines if not line.startswith(b'{"task"')],
        "is missing from the tasks",
    ),
    "a case dropped": (without_second, "says 2 cases and 10 events, the file has 1 case and 7 events"),
    "a case twice": (second_twice, "stands here a second time"),
    "cut off": (lambda lines: lines[:-1], "ends without its last line: it was cut off"),
    "cut in a line": (lambda lines: [*lines[:6], lines[6][:40]], "is no JSON object of an export"),
    "more behind it": (lambda lines: [*lines, lines[1]], "stands behind the last line"),
    "the head gone": (lambda lines: lines[1:], "expected the head"),
    "blank space": (
        lambda lines: [lines[0], lines[1].replace(b'","', b'", "', 1), *lines[2:]],
        "not those that were sealed",
    ),
    "another file": (lambda lines: [b"hello\n"], "is no JSON object of an export"),
    "nothing": (lambda lines: [], "is empty"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_what_is_changed_by_hand_is_found(lines: list[bytes], what: str) -> None:
    change, told = TAMPERED[what]
    changed = change(lines)
    assert changed != lines
    problems = found(changed)
    assert problems
    assert any(told in problem for problem in problems), problems


def test_a_file_of_a_newer_format_is_refused(lines: list[bytes]) -> None:
    assert "newer format" in found([edited(lines[0], export=2), *lines[1:]])[0]


def test_any_single_byte_that_changes_is_found(lines: list[bytes]) -> None:
    whole = b"".join(lines)
    for place in range(0, len(whole), 37):
        changed = bytearray(whole)
        changed[place] ^= 1
        assert found(bytes(changed).splitlines(keepends=True)), place
