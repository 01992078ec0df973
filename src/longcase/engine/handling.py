"""Handlers that do not interrupt: tasks of a visit that begin with a signal and run beside its stage (SEMANTICS B8).

They begin and end where the visit has come to rest, and nowhere else, so that replay finds the same places:

    a signal is kept, its handler covers the stage and does not run     handler_started, and the visit goes on
    a handler has returned                                              handler_ended
    the stage has returned, and handlers run                            stage_returned: the exit waits for them

Once the stage has returned no handler begins, but those that had begun before a restart of the visit, whose calls may
be under way: what is still kept is of the next visit that is covered, or is listed at the close. An interrupt ends
stage and handlers alike, in the order in which their tasks were made (A7).

The next module on the data's way is `visit`.
"""

from __future__ import annotations

import contextvars
from collections.abc import Mapping
from typing import Any, cast

from longcase.engine.code import WorkflowCode
from longcase.engine.loop import VisitTask
from longcase.engine.track import Begin, Run, Track, running
from longcase.history.event import Event
from longcase.history.state import CaseState, KeptSignal
from longcase.model.case import Case
from longcase.model.codec import Json
from longcase.model.host import Host, current_host
from longcase.model.names import printable
from longcase.model.places import node_id
from longcase.model.workflow import Handler, Stage


class Handling(Track):
    """A visit with its handlers."""

    def __init__(
        self, code: WorkflowCode, stage: Stage[Any], state: CaseState, begin: Begin, emitted: list[Event]
    ) -> None:
        super().__init__(code, stage, state, begin, emitted)
        handlers = code.workflow.handlers
        self._covering: Mapping[str, Handler[Any]] = (
            {name: handler for name, handler in handlers.items() if handler.covers(stage)} if handlers else handlers
        )
        self._tended = bool(self._covering)
        self._runs: dict[str, tuple[Run, VisitTask]] = {}  # by the handler's name, in the order they began
        self._begun = 0
        self._returned = False

    # -- what the turn asks ------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether there is something to conclude: all has returned, or one has failed."""
        done = self.root is not None and self.root.done()
        return (done and not self._returned) or self.broken() is not None if self._runs else done

    def broken(self) -> tuple[Stage[Any], BaseException | None] | None:
        """Return the first handler that has failed, with its error; None as error if it cancelled itself."""
        for run, task in self._runs.values():
            if task.done() and task.cancelled():
                return run.stage, None
            if task.done() and (error := task.exception()) is not None:
                return run.stage, error
        return None

    def discard(self) -> None:
        """Destroy all coroutines at once; see `Track.discard`."""
        super().discard()
        self._runs.clear()  # a task's context leads back to the visit

    # -- at rest -----------------------------------------------------------------------------------------

    @property
    def _stage_done(self) -> bool:
        return self.root is not None and self.root.done()

    def _tend(self) -> None:
        while self._goes_on():
            self._end()
            if not self._goes_on() or not self._begin_next():
                break
            self._drive()
        if self._runs and not self._returned and self._goes_on() and self._stage_done:
            self._tell_returned()

    def _goes_on(self) -> bool:
        return self.fault is None and self.mode in ("live", "replay") and self.broken() is None

    def _end(self) -> None:
        """Record which handlers have returned."""
        for name, (run, task) in list(self._runs.items()):
            if not task.done():
                continue
            result, alive = task.result(), self.dangling(task)
            owner = run.stage.owner.name
            if result is not None:
                what = f"handler {name} returned {printable(result)}, expected nothing"
                hint = "return nothing: what comes next the stage says"
                self._fault("stage_failed", what, {"handler": name, "hint": hint}, owner)
            elif alive:
                self._fault("dangling_work", f"handler {name} returned while {alive}", {"handler": name}, owner)
            if self.fault is not None:
                return
            del self._runs[name]
            self._emit("handler_ended", {"handler": name}, run.place)

    def _begin_next(self) -> bool:
        """Begin, for each handler that is free, the first signal kept for it; False if there is none."""
        begun = False
        for kept in list(self.state.signals):
            handler = self._covering.get(kept["signal"])
            if handler is None or handler.stage.name in self._runs:
                continue
            if self._stage_done and kept.get("begun") != self.state.lineage:
                continue  # the stage has returned: none begins any more, but those that had before a restart
            self._begin_run(handler, kept)
            if self.fault is not None or self.mode == "dead":
                return False
            begun = True
        return begun

    def _begin_run(self, handler: Handler[Any], kept: KeptSignal) -> None:
        stage = handler.stage
        self._begun += 1
        node, n = self._arrive(node_id(stage.name, (), "on", kept["signal"]))
        place = node, n, f"h{self._begun}"
        expected = self._due(stage.expect, stage.owner.calendar or self.stage.owner.calendar) if stage.expect else ""
        data: dict[str, Json] = {
            "handler": stage.name, "id": kept["id"], "signal": kept["signal"], "whose": stage.owner.name,
            "expected": expected,
        }  # fmt: skip
        self._emit("handler_started", data, place)
        if self.mode == "dead":
            return
        run = Run(stage, f"{stage.name}@{kept['seq']}/", place)
        context = contextvars.Context()
        context.run(current_host.set, cast(Host, self))
        context.run(running.set, run)
        case: Case[Any] = Case(cast(Host, self), self.code.workflow)
        coroutine = _handle(handler, case, kept["body"])
        task = cast(VisitTask, context.run(lambda: self.loop.create_task(coroutine, context=context)))
        task.strand = place[2]
        self._runs[stage.name] = run, task

    def _tell_returned(self) -> None:
        """Record that the stage has returned and waits for its handlers."""
        root = self.root
        if root is None or root.cancelled() or root.exception() is not None:
            return
        name = self.code.exit_name(root.result())
        if not name:
            return
        alive = self.dangling(root)
        if alive:
            self._fault("dangling_work", f"{self.stage.name} returned while {alive}")
            return
        node, n = self._arrive(node_id(self.stage.name, (), "exit", name))
        self._returned = True
        self._emit("stage_returned", {"exit": name, "handlers": list(self._runs)}, (node, n, "0"))


async def _handle(handler: Handler[Any], case: Case[Any], body: Json) -> object:
    """Run a handler over the body as it was stored: what cannot be read any more fails here, as its code would."""
    return await handler.stage.fn(case, handler.signal.codec.decode(body, f"signal {handler.signal.name}"))
