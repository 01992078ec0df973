"""The recorded past beside the attempted present: what must be the same on replay, and how a difference is told."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Final

from longcase.history.event import CATALOGUE, Event
from longcase.model.codec import Json, dump_json
from longcase.record import record

_OURS: Final = __file__.removesuffix("engine/comparing.py")
_PYTHONS: Final = asyncio.__file__.removesuffix("asyncio/__init__.py")

# What of an emitted event must be the same on replay, besides type, node and occurrence. What is not
# named here may change between releases (a question's wording, an expectation, a policy).
IDENTITY: dict[str, tuple[str, ...]] = {
    "object_changed": ("patch",),
    "ruling_recorded": ("decision", "nth", "digest"),
    "activity_scheduled": ("call", "activity", "digest"),
    "activity_reused": ("call", "activity", "digest"),
    "activity_cancelled": ("call",),
    "timer_set": ("timer", "kind", "span"),
    "timer_cancelled": ("timer",),
    "task_opened": ("task", "kind", "shape"),
    "task_met": ("task",),
    "task_withdrawn": ("task",),
    "receive_opened": ("receive", "signal"),
    "receive_closed": ("receive",),
    "signal_consumed": ("receive", "id", "signal"),
    "handler_started": ("handler", "id", "signal"),
    "handler_ended": ("handler",),
    "stage_returned": ("exit",),
    "child_started": ("child", "workflow", "key"),
    "child_released": ("child",),
    "undo_requested": ("undo", "since"),
}

MOST_SHOWN: Final = 200  # characters of a recorded fact: an argument may be a megabyte, and incidents are listed
_BEFORE: Final = 40  # of them before the place where two facts begin to differ
# What the shape of a task is taken of, in words.
_SHAPE = {"quorum": "quorum", "answers": "answers", "fields": "shows", "field": "field"}


@record
class Mismatch:
    """Recorded past beside attempted present."""

    recorded: str
    attempted: str
    line: str = ""

    def __str__(self) -> str:
        return f"recorded: {self.recorded}; attempted: {self.attempted}"


@record
class Fault:
    """Why a turn cannot be committed, other than an exception of the stage."""

    kind: str
    message: str
    details: dict[str, Json] = field(default_factory=dict)
    owner: str = ""  # who is to act; the owner of the stage if not said


def is_same(event: Event, kind: str, data: Mapping[str, Json], node: str, n: int) -> bool:
    """Tell whether what is attempted is what the event recorded."""
    if event.type != kind or event.node != node or event.n != n:
        return False
    recorded = event.data
    for name in IDENTITY.get(kind, ()):
        before, now = recorded.get(name), data.get(name)
        # Only text is compared as it is: of other values Python takes some for equal that are not (1 and True).
        if not (before == now if isinstance(before, str) else dump_json(before) == dump_json(now)):
            return False
    return True


def outline(kind: str, data: Mapping[str, Json], node: str, n: int) -> str:
    """Say in one line what was done: the type, the place and what must be the same."""
    return _told(kind, node, n, {name: _part(text) for name, text in _facts(kind, data).items()})


def beside(event: Event, kind: str, data: Mapping[str, Json], node: str, n: int) -> tuple[str, str]:
    """Say what was recorded and what is attempted; at the same place only the facts that differ are named."""
    before, now = _facts(event.type, event.data), _facts(kind, data)
    if (event.type, event.node, event.n) == (kind, node, n):
        differing = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        if differing:
            pairs = {name: (before.get(name, "null"), now.get(name, "null")) for name in differing}
            starts = {name: max(0, _alike(*pair) - _BEFORE) for name, pair in pairs.items()}
            before = {name: _part(one, starts[name]) for name, (one, _) in pairs.items()}
            now = {name: _part(other, starts[name]) for name, (_, other) in pairs.items()}
            return _told(event.type, event.node, event.n, before), _told(kind, node, n, now)
    return outline(event.type, event.data, event.node, event.n), outline(kind, data, node, n)


def _told(kind: str, node: str, n: int, facts: Mapping[str, str]) -> str:
    return f"{kind} {node}#{n} ({', '.join(f'{name}={text}' for name, text in facts.items())})"


def _alike(one: str, other: str) -> int:
    """Return how many characters two texts have in common before they differ."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def _part(text: str, start: int = 0) -> str:
    """Return a text, of a long one what stands from `start` on."""
    if len(text) <= MOST_SHOWN:
        return text
    shown = text[start : start + MOST_SHOWN]
    more = "..." if start + MOST_SHOWN < len(text) else ""
    return f"{'...' if start else ''}{shown}{more} [{len(text)} characters]"


def _facts(kind: str, data: Mapping[str, Json]) -> dict[str, str]:
    """Return what must be the same by name; of a digest, what it is taken of, where the event holds that."""
    found: dict[str, Json] = {}
    for name in IDENTITY.get(kind, ()):
        request, arguments = data.get("request"), data.get("input", data.get("inputs"))
        if name == "shape" and request:
            found |= {word: request[part] for part, word in _SHAPE.items() if request[part] not in ("", None)}
        elif name == "digest" and isinstance(arguments, Mapping):
            found |= {f"argument {argument}": value for argument, value in arguments.items()}
        elif name == "digest" and arguments is not None:
            found["arguments"] = arguments
        else:
            found[name] = data.get(name)
    return {name: dump_json(value) for name, value in found.items()}


def trailing_outside(recorded: deque[Event]) -> int:
    """Count the events at the end of the record that no turn has answered: outside ones and records."""
    trailing = 0
    for position, event in enumerate(reversed(recorded), start=1):
        road = CATALOGUE[event.type].road
        if road in ("input", "emitted"):
            break
        if road == "outside":
            trailing = position
    return trailing


def is_authors(file: str) -> bool:
    """Tell whether a file of source is the author's: none of ours, and none of Python's own library."""
    if file.startswith((_OURS, "<frozen ")):
        return False
    return not file.startswith(_PYTHONS) or "-packages" in file[len(_PYTHONS) :]


def where(task: asyncio.Task[Any]) -> str:
    """Name the innermost line of user code a suspended task stands at."""
    awaiting: Any = task.get_coro()
    line = ""
    while awaiting is not None:
        frame = getattr(awaiting, "cr_frame", None) or getattr(awaiting, "ag_frame", None)
        if frame is not None and is_authors(frame.f_code.co_filename):
            line = f"{frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno} in {frame.f_code.co_name}"
        awaiting = getattr(awaiting, "cr_await", None) or getattr(awaiting, "ag_await", None)
    return line or f"{task.get_name()} in {getattr(task.get_coro(), '__qualname__', 'a coroutine')}"
