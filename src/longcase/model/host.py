"""The stage-facing half of the seam: what a running stage may ask of whoever hosts it (HOST.md).

Implemented by the engine. The face (`Case`, `Activity`, `Decision`) holds no logic of its own: it
turns typed calls into these requests and the answers back into typed values.

What is declared is handed over whole. Here it is `Declared`, because an activity or a workflow knows
this module: naming their types would close a circle. The engine names them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import datetime
from random import Random
from typing import Any, Literal, Protocol
from uuid import UUID

from longcase.model.codec import Json
from longcase.model.ladder import Escalation
from longcase.model.people import Owner
from longcase.model.span import Span
from longcase.record import record

Declared = Any  # an Activity, Decision, Signal, Stage or Workflow
TaskKind = Literal["approval", "choice", "task"]


@record
class TaskRequest:
    """A question for people, as the stage asks it."""

    kind: TaskKind
    question: str
    label: str | None
    of: Owner
    answers: tuple[str, ...]  # the closed set; empty for a form
    form: Json | None  # JSON Schema of the answer, for kind "task"
    fields: tuple[str, ...] | None  # the object's fields that are shown; None shows nothing
    constants: Mapping[str, Json]  # values shown that are not fields, recorded as asked
    quorum: int
    within: Span | None
    remind: Span | None
    escalate: tuple[Escalation, ...]
    expires: tuple[Span, str] | None


@record
class RequireRequest:
    """A field of the object the stage cannot go on without."""

    field: str
    asked_of: Owner
    within: Span
    remind: Span | None
    escalate: tuple[Escalation, ...]


class Host(Protocol):
    """What a stage can ask for. Awaitable requests become stored facts before anything happens."""

    def now(self) -> datetime: ...
    def random(self) -> Random: ...
    def uuid(self) -> UUID: ...
    def key(self) -> str: ...
    def visit(self) -> int: ...
    def object(self) -> Json: ...
    def change(self, patch: Mapping[str, Json]) -> None: ...
    def log(self, message: str, fields: Mapping[str, Any]) -> None: ...
    def rule(self, decision: Declared, inputs: Json, decide: Callable[[], Json], again: bool) -> Json: ...
    def enter_part(self, name: str) -> Callable[[], None]: ...

    async def perform(self, activity: Declared, label: str | None, arguments: Json) -> Json: ...
    async def pause(self, span: Span, because: str, label: str | None) -> None: ...
    async def receive(self, signal: Declared, within: Span | None, label: str | None) -> Json: ...
    async def ask(self, request: TaskRequest) -> Mapping[str, Json]: ...
    async def require(self, request: RequireRequest) -> Json: ...
    async def child(
        self, workflow: Declared, body: Json, within: Span | None, on_close: str, label: str | None
    ) -> Mapping[str, Json]: ...
    def spawn(self, workflow: Declared, body: Json, on_close: str, label: str | None) -> str: ...
    async def undo(self, since: Declared | None) -> None: ...


class Attempt(Protocol):
    """What a running attempt may ask of the worker that runs it."""

    @property
    def idempotency_key(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def case(self) -> str: ...
    @property
    def previous_details(self) -> Json: ...
    def heartbeat(self, details: Json = None) -> None: ...
    def cancelled(self) -> bool: ...


current_host: ContextVar[Host | None] = ContextVar("longcase_host", default=None)
current_attempt: ContextVar[Attempt | None] = ContextVar("longcase_attempt", default=None)
