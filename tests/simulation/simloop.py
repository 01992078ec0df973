"""An asyncio loop without a machine: its own time, a seeded order, and processes that can be killed.

Of all processes that are ready the next is drawn, and takes its next step; time jumps to the next
timer when none is. What runs belongs to a process (a context variable says which): a killed process takes no
further step, a paused one takes its steps later. Two runs of one seed take the same steps.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any, cast

LIMIT = 8_000  # steps of one life; a life of a seed takes some hundreds, a long one two thousand
STEP = 0.00005  # seconds a step takes, so that nobody can wait without time going on


class Stuck(BaseException):
    """Nothing is ready and nothing is scheduled, or there is no end to it. Nobody may swallow it."""


class Place:
    """Where something runs: a process of the simulated fleet."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.paused = False
        self.ready: deque[asyncio.Handle] = deque()  # in order, as on any loop
        self.tasks: dict[SimTask, None] = {}


here: ContextVar[Place | None] = ContextVar("here", default=None)


class SimTask(asyncio.Task[Any]):
    """A task that hashes by creation number: sets of tasks have the same order in every run."""

    number: int

    def __new__(cls, coro: Coroutine[Any, Any, Any], *, loop: SimLoop, **kwargs: Any) -> SimTask:
        self = super().__new__(cls)
        self.number = loop.next_number()
        return self

    def __init__(self, coro: Coroutine[Any, Any, Any], *, loop: SimLoop, **kwargs: Any) -> None:
        super().__init__(coro, loop=cast(Any, loop), **kwargs)

    def __hash__(self) -> int:
        return self.number

    __eq__ = object.__eq__


class SimLoop:
    """Runs one life. Only what asyncio's tasks, futures, events and timeouts ask for is there.

    It does not inherit asyncio.AbstractEventLoop: what it lacks should be an error at once.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._time = 0.0
        self.outside = Place("outside")  # the network, and who runs the life
        self._busy: list[Place] = []  # places with something ready
        self._timers: list[tuple[float, int, asyncio.TimerHandle, Place]] = []
        self._numbers = 0
        self.steps = 0
        self.errors: list[str] = []

    # -- driving ---------------------------------------------------------------------------------------

    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        """Run until `main` is done."""
        outer = events._get_running_loop()
        events._set_running_loop(cast(Any, self))
        try:
            task = self.create_task(main)
            while not task.done():
                self._step()
            return task.result()
        finally:
            events._set_running_loop(outer)

    def _step(self) -> None:
        timers, busy = self._timers, self._busy
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not busy:
            if not timers:
                raise Stuck("nothing is ready, and no timer is set")
            self._time = max(self._time, timers[0][0])
        while timers and timers[0][0] <= self._time:
            _, _, timer, place = heapq.heappop(timers)
            if not timer.cancelled():
                self._queue(timer, place)
        if not busy:
            return
        self.steps += 1
        self._time += STEP
        if self.steps > LIMIT:
            raise Stuck(f"no rest after {LIMIT} steps")
        drawn = int(self._random.random() * len(busy)) if len(busy) > 1 else 0
        place = busy[drawn]
        handle = place.ready.popleft()
        if not place.ready:
            busy[drawn] = busy[-1]
            busy.pop()
        if not handle.cancelled():
            handle._run()

    def _queue(self, handle: asyncio.Handle, place: Place) -> None:
        if place.dead:
            return
        if not place.ready and not place.paused:
            self._busy.append(place)
        place.ready.append(handle)

    def pause(self, place: Place) -> None:
        """Let a process take no step until it is resumed; what it waits for comes to pass meanwhile."""
        place.paused = True
        if place in self._busy:
            self._busy.remove(place)

    def resume(self, place: Place) -> None:
        """Let a paused process go on."""
        if place.paused and place.ready:
            self._busy.append(place)
        place.paused = False

    def kill(self, place: Place) -> None:
        """End a process: not one more step of it runs. Its coroutines are closed when it is buried."""
        place.dead = True
        place.ready.clear()
        if place in self._busy:
            self._busy.remove(place)

    def bury(self, place: Place) -> None:
        """Close the coroutines of a dead process, in the order they were made."""
        outer = events._get_running_loop()
        events._set_running_loop(cast(Any, self))
        for task in list(place.tasks):
            if task.done():
                if not task.cancelled():
                    task.exception()
                continue
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coro = cast(Coroutine[Any, Any, Any], task.get_coro())
            for _ in range(5):  # a `finally` that awaits refuses to be closed, once for each await
                try:
                    coro.close()
                    break
                except BaseException:
                    pass
        place.tasks.clear()
        events._set_running_loop(outer)

    def _place(self, context: Context) -> Place:
        place: Place | None = context.get(cast(Any, here))
        return place or self.outside

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    # -- what asyncio asks of a loop -------------------------------------------------------------------

    def time(self) -> float:
        return self._time

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.Handle:
        context = context if context is not None else copy_context()
        handle = asyncio.Handle(callback, args, cast(Any, self), context)
        self._queue(handle, self._place(context))
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._time + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        context = context if context is not None else copy_context()
        handle = asyncio.TimerHandle(when, callback, args, cast(Any, self), context)
        heapq.heappush(self._timers, (when, self.next_number(), handle, self._place(context)))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        return

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=cast(Any, self))

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None, **kwargs: Any) -> Any:
        task = SimTask(coro, loop=self, name=name or "task", context=context)
        place = self._place(context) if context is not None else here.get() or self.outside
        place.tasks[task] = None
        return task

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and not isinstance(error, (asyncio.CancelledError, Stuck)):
            self.errors.append(f"{context.get('message')}: {error!r}")

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        raise RuntimeError("there are no threads in a simulation")
