"""A deterministic event loop for one visit: asyncio's vocabulary without anything that could differ.

It has no selector, no clock and no threads. It runs what is ready in the order it became ready and
stops when nothing is. Time stands at the instant of the input being applied (SEMANTICS A10).
Tasks and futures hash by their creation number, so that asyncio's own sets iterate alike in every
process (A9); whatever cannot be made deterministic is refused with its replacement.

The next module on the data's way is `visit`, which gives the loop its coroutine and its inputs.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import sys
from asyncio import events, futures
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, NoReturn, Protocol, cast

from longcase.errors import Nondeterministic

STEP_LIMIT = 100_000
UNWIND_STEPS = 100  # of each task that lives when its visit is interrupted
KILL_TRIES = 200  # lines of stage code at which a coroutine that refuses to be closed is broken off
FORGET_ABOVE = 64  # finished tasks are dropped in one go, not at every turn

_SLEEPS = getattr(futures, "_set_result_unless_cancelled", None)
_SWAP: Callable[..., Any] | None = getattr(asyncio.tasks, "_swap_current_task", None)
_AS_COMPLETED = {
    code
    for code in (
        getattr(asyncio.as_completed, "__code__", None),
        getattr(getattr(getattr(asyncio.tasks, "_AsCompletedIterator", None), "__init__", None), "__code__", None),
    )
    if code is not None
}
_TASKS = asyncio.gather.__code__.co_filename  # asyncio's own code of tasks: what calls from elsewhere is not in it


_UNDEAD: list[Any] = []
_CAN_WAIT = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


class StepLimit(Exception):
    """The turn did not become quiet within the step limit."""


class Timers(Protocol):
    """Where the loop's timeouts become durable timers."""

    def arm_timeout(self, after: float, fire: Callable[[], None]) -> Callable[[], None]:
        """Arm a timer `after` seconds from now; returns what disarms it."""
        ...

    def violation(self, error: Nondeterministic) -> None:
        """Note that stage code did what cannot be replayed, even if it swallows the error."""
        ...


class _Nobody:
    """Timers of a dead loop."""

    def arm_timeout(self, after: float, fire: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    def violation(self, error: Nondeterministic) -> None:
        return


_NOBODY = _Nobody()


class _Handle:
    __slots__ = ("_cancelled", "_disarm", "args", "callback", "context")

    def __init__(
        self, callback: Callable[..., Any], args: tuple[Any, ...], context: contextvars.Context | None
    ) -> None:
        self.callback = callback
        self.args = args
        self.context = context
        self._cancelled = False
        self._disarm: Callable[[], None] | None = None

    def cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            if self._disarm is not None:
                self._disarm()

    def cancelled(self) -> bool:
        return self._cancelled

    def when(self) -> float:
        return 0.0


class VisitFuture(asyncio.Future[Any]):
    """A future that hashes by creation number."""

    number: int

    def __new__(cls, *, loop: VisitLoop) -> VisitFuture:
        self = super().__new__(cls)
        self.number = loop.next_number()
        return self

    def __hash__(self) -> int:
        return self.number

    __eq__ = object.__eq__


class VisitTask(asyncio.Task[Any]):
    """A task that hashes by creation number and knows its place in the tree of tasks."""

    number: int
    strand: str
    children: int

    def __new__(cls, coro: Coroutine[Any, Any, Any], *, loop: VisitLoop, **kwargs: Any) -> VisitTask:
        self = super().__new__(cls)
        # Task.__init__ puts the task into asyncio's set of all tasks, where the first tasks of many visits
        # meet: with their creation numbers as hashes they would all collide there.
        self.number = object.__hash__(self)
        return self

    def __init__(self, coro: Coroutine[Any, Any, Any], *, loop: VisitLoop, **kwargs: Any) -> None:
        super().__init__(coro, loop=cast(Any, loop), **kwargs)
        self.number = loop.next_number()
        self.children = 0
        parent = cast(Any, events._get_running_loop()) is loop and asyncio.tasks.current_task(cast(Any, loop))
        if isinstance(parent, VisitTask):
            self.strand = f"{parent.strand}.{parent.children}"
            parent.children += 1
        else:
            self.strand = "0"

    def __hash__(self) -> int:
        return self.number

    __eq__ = object.__eq__

    def get_loop(self) -> Any:
        loop: Any = super().get_loop()
        if cast(Any, events._get_running_loop()) is not loop:
            return loop  # the program's own loop counts its tasks, and meets those of visits
        # asyncio.all_tasks() asks every task for its loop: the one place where it can be seen.
        frame = sys._getframe(1).f_back
        while frame is not None and frame.f_code.co_name in ("_get_loop", "<setcomp>"):
            frame = frame.f_back
        if frame is not None and frame.f_code is asyncio.all_tasks.__code__ and not loop.dead:
            loop._refuse(
                "asyncio.all_tasks() in stage code names tasks of other runs", "keep the tasks you create in a list"
            )
        return loop


class VisitLoop:
    """The loop of one visit. `run` drives it until nothing is ready.

    It does not inherit asyncio.AbstractEventLoop: what it lacks should be an error of ours.
    """

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._ready: deque[_Handle] = deque()
        self._numbers = 0
        self._time = 0.0
        self.generators: list[Any] = []  # asynchronous ones that stage code has begun
        self.context = contextvars.Context()
        self.tasks: list[VisitTask] = []  # strong references: asyncio keeps weak ones only
        self.errors: list[BaseException] = []
        self._forget_above = FORGET_ABOVE
        self.dead = False
        self.stopped = False

    # -- driving ---------------------------------------------------------------------------------

    def run(self, now: float, limit: int = STEP_LIMIT) -> None:
        """Run until nothing is ready or `stopped` is set. `now` is seconds since the visit began.

        Raises:
            StepLimit: still busy after `limit` steps.
        """
        self._time = max(self._time, now)
        ready = self._ready
        handle: _Handle | None = None
        outer = self._enter()
        try:
            for _ in range(limit):
                if not ready or self.stopped:
                    return
                handle = ready.popleft()
                if handle._cancelled:
                    continue
                try:
                    if handle.context is None:
                        handle.callback(*handle.args)
                    else:
                        handle.context.run(handle.callback, *handle.args)
                except (SystemExit, KeyboardInterrupt) as error:
                    self.errors.append(error)
                except Exception as error:
                    self.errors.append(error)
            if ready:
                raise StepLimit
        finally:
            self._leave(outer)
            handle = None  # this frame may live on in the traceback of an error that the handle leads to

    def live_tasks(self) -> list[VisitTask]:
        """Return the tasks that are not done, in creation order."""
        return [task for task in self.tasks if not task.done()]

    def cancel_live(self) -> None:
        """Cancel the tasks that are not done, in creation order."""
        for task in self.live_tasks():
            # One that awaits another task is ended by that one's end. Its own `cancel` would go down the chain, and
            # where more than a thousand await each other, leave the last one cancelled and never woken.
            awaited = getattr(task, "_fut_waiter", None)
            if not isinstance(awaited, VisitTask) or awaited.done():
                with suppress(RecursionError):
                    task.cancel()

    def forget_done(self) -> None:
        """Drop references to finished tasks, so that a long visit does not keep them all."""
        if len(self.tasks) > self._forget_above:
            self.tasks = [task for task in self.tasks if not task.done() or getattr(task, "_log_traceback", False)]
            # Doubling keeps the cost of many living tasks linear.
            self._forget_above = max(FORGET_ABOVE, 2 * len(self.tasks))

    def destroy(self) -> None:
        """Close every coroutine at once, on this thread; what its cleanup does is swallowed (A8).

        The host must be dead before, so that cleanup code changes nothing. Afterwards nothing here leads back to
        the visit: it is freed with its last reference, instead of waiting for the collector with some 30 objects.
        """
        self.dead = True
        self._ready.clear()
        outer = self._enter()
        try:
            for task in self.tasks:
                if task.done():
                    if not task.cancelled():
                        task.exception()  # marks it retrieved
                    continue
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                self.context.copy().run(_end, task.get_coro())
            for task in self.tasks:
                awaited: asyncio.Future[Any] | None = getattr(task, "_fut_waiter", None)
                for future in (task, awaited):
                    if future is not None:
                        # Wakes nobody on a dead loop, but lets go of who awaits it. A task's own `cancel` would go down
                        # a chain of tasks that await each other, however deep.
                        asyncio.Future.cancel(future)
            for agen in self.generators:
                try:
                    agen.aclose().send(None)
                except BaseException:  # noqa: S110 - as above
                    pass
                if agen.ag_frame is not None:
                    _UNDEAD.append(agen)  # never given to gc, which would hand it to the program's own loop
        finally:
            self._leave(outer)
            self.tasks.clear()
            self.generators.clear()
            self._ready.clear()
            self._timers = _NOBODY
            self.context = contextvars.Context()

    def _enter(self) -> tuple[Any, Any]:
        running = events._get_running_loop()
        # From 3.12 on the current task is tracked per thread; step out of it while the visit runs.
        outer_task = _SWAP(running, None) if _SWAP is not None and running is not None else None
        if not isinstance(sys.get_asyncgen_hooks().firstiter, _Generators):
            _Generators.install()
        events._set_running_loop(cast(Any, self))
        return running, outer_task

    def _leave(self, outer: tuple[Any, Any]) -> None:
        running, outer_task = outer
        events._set_running_loop(running)
        if _SWAP is not None and running is not None:
            _SWAP(running, outer_task)

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    # -- what asyncio asks of a loop ---------------------------------------------------------------

    def time(self) -> float:
        return self._time

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None) -> Any:
        handle = _Handle(callback, args, context if context is not None else contextvars.copy_context())
        if not self.dead:
            self._ready.append(handle)
        return handle

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        return self.call_at(self._time + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        if callback is _SLEEPS:
            self._refuse(
                "asyncio.sleep() in stage code is a wait nobody owns",
                'await case.pause(days(2), because="cooling-off")',
            )
        handle = _Handle(callback, args, context if context is not None else contextvars.copy_context())
        if self.dead:
            return handle
        if when <= self._time:
            self._ready.append(handle)
            return handle

        def fire() -> None:
            handle._disarm = None  # a fired timer's cancel() is no command (A10)
            if not handle._cancelled:
                self._ready.append(handle)

        handle._disarm = self._timers.arm_timeout(when - self._time, fire)
        return handle

    def _timer_handle_cancelled(self, handle: Any) -> None:
        return

    def create_future(self) -> asyncio.Future[Any]:
        return VisitFuture(loop=cast(Any, self))

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None, **kwargs: Any) -> Any:
        if self.dead:
            coro.close()
            return self.create_future()
        self._refuse_as_completed(coro)
        task = VisitTask(coro, loop=self, name=name or f"task-{self._numbers + 1}", context=context)
        self.tasks.append(task)
        return task

    def _refuse_as_completed(self, coro: Any) -> None:
        frame = sys._getframe(2)
        for _ in range(4):
            code = frame.f_code
            if code.co_filename != _TASKS:
                return
            if code in _AS_COMPLETED:
                coro.close()
                self._refuse(
                    "asyncio.as_completed() yields in an order that differs between processes",
                    "async for result in case.as_completed([...]): ...",
                )
            if frame.f_back is None:
                return
            frame = frame.f_back

    def _refuse(self, what: str, mend: str) -> NoReturn:
        error = Nondeterministic(what, hint=mend)
        self._timers.violation(error)
        raise error

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        return

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self.dead

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        # "Task exception was never retrieved" and the like: the visit looks at its tasks itself (B3).
        return

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        return

    def get_exception_handler(self) -> None:
        return None

    def get_task_factory(self) -> None:
        return None


class _Generators:
    """The thread's hook for asynchronous generators: those of a visit go to its loop, others where they went before.

    Set once and left in place: setting it around every turn would cost more than the loop itself, as each
    setting is told to every audit hook. `loop.run_forever` of the program sets its own, and then this is
    set over that.
    """

    def __init__(self, outer: Any) -> None:
        self._outer = outer.firstiter

    def __call__(self, agen: Any) -> None:
        loop: Any = events._get_running_loop()
        if isinstance(loop, VisitLoop):
            loop.generators.append(agen)
        elif self._outer is not None:
            self._outer(agen)

    @classmethod
    def install(cls) -> None:
        outer = sys.get_asyncgen_hooks()
        # The loop of a visit holds its generators until it has closed them, so only others are finalized.
        sys.set_asyncgen_hooks(firstiter=cls(outer))


class _Killed(BaseException):
    """Raised into a coroutine that does not let itself be closed."""


def _end(coroutine: Any) -> None:
    """Close a coroutine for good.

    `while True: try: await ... except BaseException: pass` survives GeneratorExit. Left to gc it would be
    resumed without a loop, where its awaits fail at once and it spins for ever. So it is resumed here under
    a trace function that raises at the n-th line, for growing n, until it raises outside the `try`. Only lines of
    coroutines and generators count: a plain function that they call may be somebody else's finalizer.
    """
    for patience in range(KILL_TRIES):
        outer = sys.gettrace()
        if patience:
            sys.settrace(_killing_at(patience))
        try:
            coroutine.close()
        except BaseException:  # noqa: S110 - whatever the cleanup of a dead visit raises is void
            pass
        finally:
            if patience:
                sys.settrace(outer)
        if coroutine.cr_frame is None:
            return
    _UNDEAD.append(coroutine)  # never given to gc: see above


def _killing_at(line: int) -> Callable[..., Any]:
    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal line
        if event == "call" and not frame.f_code.co_flags & _CAN_WAIT:
            return None
        if event == "line":
            line -= 1
            if line == 0:
                raise _Killed
        return trace

    return trace


_REFUSED = {
    "an activity: @activity(owner=...) def ..., a plain function runs in a thread": (
        "run_in_executor", "call_soon_threadsafe", "set_default_executor", "shutdown_default_executor",
    ),
    "an activity: @activity(owner=...) async def ...": (
        "add_reader", "add_writer", "remove_reader", "remove_writer", "add_signal_handler", "remove_signal_handler",
        "connect_accepted_socket", "connect_read_pipe", "connect_write_pipe", "create_connection",
        "create_datagram_endpoint", "create_server", "create_unix_connection", "create_unix_server", "getaddrinfo",
        "getnameinfo", "sendfile", "sock_accept", "sock_connect", "sock_recv", "sock_recv_into", "sock_recvfrom",
        "sock_recvfrom_into", "sock_sendall", "sock_sendfile", "sock_sendto", "start_tls", "subprocess_exec",
        "subprocess_shell",
    ),
    "nothing: Longcase runs the loop": ("run_forever", "run_until_complete", "stop", "close", "set_task_factory"),
}  # fmt: skip


def _refusing(name: str, mend: str) -> Callable[..., Any]:
    def refuse(self: VisitLoop, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse(f"loop.{name}() in stage code cannot be replayed", mend)

    refuse.__name__ = name
    return refuse


for _mend, _names in _REFUSED.items():
    for _name in _names:
        setattr(VisitLoop, _name, _refusing(_name, f"use {_mend}"))
