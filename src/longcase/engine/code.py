"""What the engine needs to know of a loaded workflow: its stages, its map, its activities by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from longcase.model.activity import Activity
from longcase.model.exits import Again, Close
from longcase.model.places import CANCEL_PATH
from longcase.model.workflow import Stage, Workflow
from longcase.record import record


@record(frozen=False)
class WorkflowCode:
    """A workflow as loaded in this process.

    Attributes:
        activities: by recorded name, earlier names (`was=`) included.
        nodes: ids of the compiled map; an event elsewhere is refused (`off_map`). Empty: not checked.
        map_number: the store's number of that map, stamped on every event.
        fingerprint: tells this release of the code from another one; "" if unknown.
    """

    workflow: Workflow[Any]
    activities: Mapping[str, Activity[..., Any]]
    nodes: frozenset[str] = frozenset()
    map_number: int = 0
    fingerprint: str = ""
    cancel_path: Stage[Any] = field(init=False)
    first_limit: int = field(init=False)  # events of a case below which none of the workflow's limits is reached

    def __post_init__(self) -> None:
        self.first_limit = self.workflow.history.first
        path = self.workflow.paths.get("")
        self.cancel_path = path.stage if path else Stage(
            self.workflow, _cancelled, name=CANCEL_PATH, was=(), owner=None, expect=None, kind="path"
        )  # fmt: skip

    def stage(self, name: str) -> Stage[Any] | None:
        """Return the stage or exception path of that name, the built-in cancel path included."""
        return self.cancel_path if name == self.cancel_path.name else self.workflow.declared(name)

    def exit_name(self, returned: object) -> str:
        """Return how the map names an exit that a stage has returned, or "" if it is none."""
        match returned:
            case Close():
                return f"close:{returned.name}"
            case Again():
                return "again"
            case Stage() if self.workflow.declared(returned.name) is returned and returned.kind == "stage":
                return f"to:{returned.name}"
        return ""

    def is_told_why(self, stage: Stage[Any]) -> bool:
        """Whether the stage is the built-in cancel path, which closes with the reason it is entered with."""
        return stage.fn is _cancelled


async def _cancelled(case: Any, why: str = "cancelled") -> Close:
    """The reaction to `cancel` where the workflow declares none: undo, then close with the reason given."""
    await case.undo()
    return Close("cancelled", reason=why)
