"""Before a deploy: every open case of a store is replayed on this code, and nothing is written.

What a worker would find out when each case moves is told at once: who would be held, where and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Final

from longcase.engine.code import WorkflowCode
from longcase.engine.incidents import TurnDiscarded
from longcase.engine.turn import Resident
from longcase.env import Env
from longcase.history.event import Event
from longcase.history.state import blocked
from longcase.model.codec import Json
from longcase.model.names import MAIN_TENANT
from longcase.record import record
from longcase.runtime.watchdog import StageNeverYields, Watchdog
from longcase.store.port import Store
from longcase.store.records import CaseRow

CASES: Final = 100  # read at once: bounds memory
_OPEN: Final = """
SELECT case_no FROM cases
WHERE status = 'open' AND case_no > :after AND (:workflow = '' OR workflow = :workflow) ORDER BY case_no LIMIT :limit
"""


@record
class Held:
    """A case that this code would not move: the incident it would become."""

    case: str
    stage: str
    visit: int
    kind: str  # of the incident: code_changed, object_invalid, stage_never_yields ...
    why: str
    details: dict[str, Json]
    tenant: str = MAIN_TENANT

    def to_json(self) -> dict[str, Any]:
        """Return it as the faces print it."""
        return {
            "case": self.case, "stage": self.stage, "visit": self.visit, "kind": self.kind, "why": self.why,
            "details": self.details, "tenant": self.tenant,
        }  # fmt: skip


@record(frozen=False)
class Rehearsal:
    """What a replay of the open cases came to."""

    fits: int = 0  # cases that go on
    held: list[Held] = field(default_factory=list)
    in_incident: int = 0  # stand still by an incident that is open already; not replayed
    not_loaded: dict[str, int] = field(default_factory=dict)  # cases by workflow that this code does not have

    def to_json(self) -> dict[str, Any]:
        """Return it as the faces print it."""
        return {
            "fits": self.fits, "held": [one.to_json() for one in self.held], "in_incident": self.in_incident,
            "not_loaded": self.not_loaded,
        }  # fmt: skip


async def rehearse(store: Store, env: Env, codes: Mapping[str, WorkflowCode], workflow: str = "") -> Rehearsal:
    """Replay the current visit of every tenant's open cases, of one workflow or of all; reads, and writes nothing.

    Each case is taken as of one instant, so workers of the code that runs now may go on meanwhile.
    """
    found = Rehearsal()
    watchdog = Watchdog(env)
    watchdog.start()
    after = 0
    try:
        while chunk := await store.query(_OPEN, {"after": after, "workflow": workflow, "limit": CASES}):
            after = chunk[-1]["case_no"]
            rows = await store.load_many([row["case_no"] for row in chunk])
            wanted = [
                (case_no, row.state.entered_seq, row.state.seq)
                for case_no, row in rows.items()
                if row.state.visit and row.state.workflow in codes
            ]
            visits = await store.ranges(wanted) if wanted else {}
            for case_no in sorted(rows):
                _judge(found, rows[case_no], visits.get(case_no, []), codes, watchdog)
    finally:
        watchdog.stop()
    return found


def _judge(
    found: Rehearsal,
    row: CaseRow,
    visit: list[Event],
    codes: Mapping[str, WorkflowCode],
    watchdog: Watchdog,
) -> None:
    state = row.state
    code = codes.get(state.workflow)
    if code is None:
        found.not_loaded[state.workflow] = found.not_loaded.get(state.workflow, 0) + 1
    elif blocked(state):
        found.in_incident += 1
    elif state.status == "open":
        place = (state.address, state.stage, state.visit)
        resident = Resident(row.case_no, code, state, _nobody)
        try:
            with watchdog:
                resident.rebuild(visit)
            found.fits += 1
        except TurnDiscarded as discarded:
            found.held.append(Held(*place, discarded.kind, discarded.message, discarded.details, state.tenant))
        except StageNeverYields:
            why = f"{state.stage} ran longer than the limit of one turn"
            found.held.append(Held(*place, "stage_never_yields", why, {}, state.tenant))
        finally:
            resident.discard()


def _nobody(*_: Any) -> int:
    return 0  # no attempt begins here
