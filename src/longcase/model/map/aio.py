"""The asyncio vocabulary of a stage: what may be used, what is bounded or joined by it, what is refused."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Mapping
from typing import Any

from longcase.model.map.scope import UNKNOWN, Scope

_NAMES: Mapping[int, str] = {
    id(thing): name for name, thing in vars(asyncio).items() if callable(thing) and not name.startswith("_")
}

SYNC = frozenset(
    {"Event", "Lock", "Semaphore", "BoundedSemaphore", "Condition", "Barrier", "Queue", "LifoQueue", "PriorityQueue"}
)
"""What tasks of one visit wait on each other with."""
SYNC_WAITS = frozenset({"wait", "wait_for", "get", "put", "join", "acquire"})
"""The methods of those that are awaited; none of them waits for anything outside the visit."""
LOCKS = frozenset({"Lock", "Semaphore", "BoundedSemaphore", "Condition"})
SHARED: tuple[type[Any], ...] = (
    asyncio.Event,
    asyncio.Lock,
    asyncio.Semaphore,
    asyncio.Condition,
    asyncio.Barrier,
    asyncio.Queue,
    asyncio.Future,
    asyncio.TaskGroup,
)
LIMITS = frozenset({"timeout", "timeout_at"})
TASK_MAKERS = frozenset({"create_task", "ensure_future"})
ALLOWED = (
    SYNC
    | LIMITS
    | TASK_MAKERS
    | {"gather", "wait", "wait_for", "shield", "sleep", "TaskGroup", "Future", "Task", "Timeout"}
    | {"current_task", "get_running_loop", "isfuture", "iscoroutine", "iscoroutinefunction"}
)
"""The functions and classes of asyncio that replay; errors are allowed besides."""
REPLACEMENTS = {
    "as_completed": "async for result in case.as_completed([...])",
    "to_thread": "an @activity declared with def runs in a thread",
    "all_tasks": "keep the tasks you made in a list",
    "run": "await it",
    "sleep": 'await case.pause(days(2), because="cooling-off")',
}
LOOP_REFUSED = frozenset(
    {
        "run_in_executor",
        "add_signal_handler",
        "add_reader",
        "add_writer",
        "call_soon_threadsafe",
        "create_connection",
        "create_server",
        "create_datagram_endpoint",
        "subprocess_exec",
        "subprocess_shell",
        "getaddrinfo",
        "sock_recv",
        "sock_sendall",
        "sock_connect",
        "set_default_executor",
    }
)
"""Methods of the event loop that reach outside it."""


def asyncio_name(node: ast.expr, scope: Scope) -> str:
    """Return which function or class of asyncio an expression stands for, or ""."""
    known = scope.value(node)
    return "" if known is UNKNOWN else _NAMES.get(id(known), "")


def is_error(name: str) -> bool:
    """Tell whether a name of asyncio is an exception class."""
    known = getattr(asyncio, name, None)
    return isinstance(known, type) and issubclass(known, BaseException)


def timer_of(name: str, call: ast.Call) -> bool:
    """Tell whether a call of `timeout`, `wait_for` or `wait` arms a timer: its span is not None."""
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    position = {"timeout": 0, "timeout_at": 0, "wait_for": 1}.get(name)
    if position is not None and len(call.args) > position:
        span: ast.expr | None = call.args[position]
    else:
        span = given.get("timeout") or given.get("delay") or given.get("when")
    return span is not None and not (isinstance(span, ast.Constant) and span.value is None)


def is_zero_sleep(call: ast.Call) -> bool:
    """Tell whether a call of `asyncio.sleep` only lets others run."""
    return bool(call.args) and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0
