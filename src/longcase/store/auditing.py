"""What `verify` and `rebuild` do alike on every store: read rows as they are, damaged ones too, and
say what a state's row must hold."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any, Final, Protocol

from longcase.errors import BugError, StoreCorrupt
from longcase.history.chain import GENESIS, is_sound, link
from longcase.history.event import Event
from longcase.history.state import CaseState, fold
from longcase.model.codec import Json
from longcase.store import rows
from longcase.store.records import CaseRef, CaseRow

log = logging.getLogger("longcase.store")

ROW_COLUMNS: Final = rows.STATE_COLUMNS
OPERATION: Final = ("wake_at", "lease", "parent_case")  # columns outside the fold
_JSON_COLUMNS: Final = frozenset({"state", "object", "whose", "decided_by", "data"})


def folded_row(state: CaseState) -> dict[str, Json]:
    """Return what the row of a case in that state must hold."""
    return decoded(ROW_COLUMNS, rows.state_values(state))


def folded_tasks(state: CaseState) -> dict[str, dict[str, Json]]:
    """Return what the tasks projection must hold for a state folded from the first event."""
    tasks = {**state.ended_tasks, **state.tasks}
    return {name: decoded(rows.TASK_COLUMNS, rows.task_values(task)) for name, task in tasks.items()}


def refolded(case_no: int, events: Sequence[Event]) -> CaseState:
    """Return the state that a case's events fold to.

    Raises:
        StoreCorrupt: the history itself does not hold together.
    """
    _refuse_damaged(case_no, events)
    try:
        return fold(events)
    except (BugError, KeyError, ValueError, TypeError) as error:
        raise StoreCorrupt(
            f"case {case_no}: its history cannot be folded: {error}", hint="longcase restore BACKUP"
        ) from error


class Rebuilding(Protocol):
    """A store that can read a case, and write its row anew."""

    async def load(self, ref: CaseRef) -> CaseRow | None: ...
    async def rebuild(self, case_no: int) -> None: ...


async def rebuilt(store: Rebuilding, case_no: int, damage: StoreCorrupt) -> CaseRow | None:
    """Return a case whose row is damaged, written anew from its history; None if that is damaged too."""
    try:
        await store.rebuild(case_no)
    except StoreCorrupt as error:
        log.error("%s, nor can it be rebuilt: %s (hint: %s)", damage.message, error.message, error.hint)
        return None
    log.error("%s; it was rebuilt from the history", damage.message)
    return await store.load(CaseRef(case_no))


def _refuse_damaged(case_no: int, events: Sequence[Event]) -> None:
    previous = GENESIS
    for seq, event in enumerate(events, 1):
        if event.seq != seq or not is_sound(event) or event.hash != link(previous, event):
            raise StoreCorrupt(
                f"case {case_no}: event {seq} is not what was recorded; a rebuild would make the damage true",
                hint="longcase restore BACKUP, or compare with one: longcase verify --store BACKUP",
            )
        previous = event.hash
    if not events:
        raise StoreCorrupt(f"case {case_no} has no history", hint="longcase restore BACKUP")


def decoded(columns: Sequence[str], values: Sequence[Any]) -> dict[str, Json]:
    decoded: dict[str, Json] = {}
    for column, value in zip(columns, values, strict=True):
        if column in _JSON_COLUMNS:
            try:
                value = json.loads(value)
            except ValueError:
                value = {"not JSON": value.decode("utf-8", "replace") if isinstance(value, bytes) else value}
        decoded[column] = value
    return decoded
