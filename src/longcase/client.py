"""Longcase from synchronous programs (Django, Flask, scripts): start, signal, decide, repair, ask.

The asynchronous door is written once; this face drives its coroutines to their end. It runs no worker:
a worker of another process moves the cases.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping, Sequence
from threading import RLock
from types import ModuleType, TracebackType
from typing import Any, TypeVar

from pydantic import BaseModel

from longcase.app import Longcase
from longcase.engine.tasks import Actor
from longcase.env import Env
from longcase.errors import UsageError
from longcase.history.event import Event
from longcase.model.codec import Json
from longcase.model.names import MAIN_TENANT
from longcase.model.signal import Signal
from longcase.model.workflow import Stage, Workflow
from longcase.runtime.driving import Driver
from longcase.service.service import Accepted, CaseView, Receipt, Service, TaskView

T = TypeVar("T")


class LongcaseClient:
    """The door for code without an event loop; safe to share between threads.

        with LongcaseClient([onboarding], url="sqlite:///cases.db") as longcase:
            longcase.start(onboarding, Client(id="C-1", name="Acme"))

    Arguments as for `Longcase`; `actor` may be a name too. Every method takes the options of the one of that name of
    `Service` (`tasks`: of `open_tasks`), has its effects and raises its errors; what it changes is durable when it
    returns.
    """

    def __init__(
        self,
        workflows: Iterable[Workflow[Any] | ModuleType] = (),
        *,
        url: str | None = None,
        env: Env | None = None,
        actor: Actor | str | None = None,
        tenant: str = MAIN_TENANT,
    ) -> None:
        who = Actor(actor) if isinstance(actor, str) and actor else actor or None
        self._app = Longcase(workflows, url=url, env=env, inline=True, actor=who, tenant=tenant)
        self._lock = RLock()
        self._driver = Driver(self._app.url)
        try:
            self._do(self._app.open())
        except BaseException:  # nobody gets the object that could be closed
            self._driver.close()
            raise
        self._open = True

    def close(self) -> None:
        """Close the store; once is enough."""
        if self._open:
            self._open = False
            self._do(self._app.close())
            self._driver.close()

    @property
    def _door(self) -> Service:
        if not self._open:
            raise UsageError("the client is closed", hint="with LongcaseClient([onboarding]) as longcase: ...")
        return self._app.service

    def __enter__(self) -> LongcaseClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(
        self,
        workflow: Workflow[Any] | str,
        body: BaseModel | Mapping[str, Json],
        *,
        again: bool = False,
        idempotency_key: str | None = None,
        actor: Actor | None = None,
    ) -> Receipt:
        """Start a case, or return the one that has the key."""
        return self._do(self._door.start(workflow, body, again=again, idempotency_key=idempotency_key, actor=actor))

    def signal(
        self,
        case: str,
        signal: Signal[Any] | str,
        body: BaseModel | Mapping[str, Json],
        *,
        idempotency_key: str | None = None,
        actor: Actor | None = None,
    ) -> Accepted:
        """Send a signal to a case."""
        return self._do(self._door.signal(case, signal, body, idempotency_key=idempotency_key, actor=actor))

    def decide(
        self,
        case: str,
        answer: Json,
        *,
        task: str | None = None,
        reason: str = "",
        actor: Actor | None = None,
        shown: str | None = None,
    ) -> Accepted:
        """Answer a task of a case."""
        return self._do(self._door.decide(case, answer, task=task, reason=reason, actor=actor, shown=shown))

    def tasks(self, case: str) -> list[TaskView]:
        """Return the open tasks of a case."""
        return self._do(self._door.open_tasks(case))

    def set_fields(
        self, case: str, fields: Mapping[str, Json], *, actor: Actor | None = None, reason: str = "data provided"
    ) -> Accepted:
        """Provide data a case waits for."""
        return self._do(self._door.set_fields(case, fields, actor=actor, reason=reason))

    def correct(
        self, case: str, fields: Mapping[str, Json], *, reason: str, actor: Actor | None = None, pin: bool = True
    ) -> Accepted:
        """Correct fields of the object."""
        return self._do(self._door.correct(case, fields, reason=reason, actor=actor, pin=pin))

    def retry(
        self, case: str, *, incident: str | None = None, reason: str | None = None, actor: Actor | None = None
    ) -> Accepted:
        """Try the incident's call, or its input, again."""
        return self._do(self._door.retry(case, incident=incident, reason=reason, actor=actor))

    def redo(
        self,
        case: str,
        *,
        call: str | None = None,
        arguments: Mapping[str, Json] | None = None,
        never_happened: bool = False,
        reason: str | None = None,
        actor: Actor | None = None,
    ) -> Accepted:
        """Have a call in flight called anew, with what was corrected since."""
        return self._do(
            self._door.redo(
                case, call=call, arguments=arguments, never_happened=never_happened, reason=reason, actor=actor
            )
        )

    def skip(
        self, case: str, *, incident: str | None = None, reason: str | None = None, actor: Actor | None = None
    ) -> Accepted:
        """Go on without the incident's call."""
        return self._do(self._door.skip(case, incident=incident, reason=reason, actor=actor))

    def set_result(
        self,
        case: str,
        result: Json,
        *,
        incident: str | None = None,
        reason: str | None = None,
        actor: Actor | None = None,
    ) -> Accepted:
        """Supply the result of the incident's call."""
        return self._do(self._door.set_result(case, result, incident=incident, reason=reason, actor=actor))

    def move(
        self, case: str, stage: Stage[Any] | str, *, reason: str, repeat: bool = False, actor: Actor | None = None
    ) -> Accepted:
        """Move a case to another stage."""
        return self._do(self._door.move(case, stage, reason=reason, repeat=repeat, actor=actor))

    def restart(self, case: str, *, reason: str, actor: Actor | None = None) -> Accepted:
        """Begin the current visit anew."""
        return self._do(self._door.restart(case, reason=reason, actor=actor))

    def cancel(self, case: str, *, reason: str, actor: Actor | None = None) -> Accepted:
        """Cancel a case."""
        return self._do(self._door.cancel(case, reason=reason, actor=actor))

    def show(self, case: str) -> CaseView:
        """Return what one screen says of a case."""
        return self._do(self._door.show(case))

    def history(self, case: str) -> list[Event]:
        """Return a case's events in order."""
        return self._do(self._door.history(case))

    def query(self, sql: str, parameters: Mapping[str, Any] | Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Read from the documented views: of all tenants, unless the SQL says `WHERE tenant = ...`."""
        return self._do(self._door.query(sql, parameters))

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end."""
        with self._lock:
            return self._driver(work)
