"""What Python lets us see at run time of stage code that cannot be replayed: files, sockets, sleeps.

`longcase check` finds these in the source; this guard catches what came in through a library. It
uses the interpreter's audit events (PEP 578) and looks only while a visit's context is current.
Clocks and random generators raise no audit event: those are found by `check` alone.
"""

from __future__ import annotations

import asyncio
import linecache
import sys
from types import FrameType
from typing import Any, Protocol

from longcase.engine import loop
from longcase.errors import Nondeterministic
from longcase.model.host import current_host

_FORBIDDEN = {
    "open": ("open()", "read or write files in an activity"),
    "time.sleep": ("time.sleep()", 'await case.pause(minutes(1), because="...")'),
    "socket.connect": ("socket.connect()", "talk to other systems in an activity"),
    "socket.bind": ("socket.bind()", "listen in your own program, and signal the case"),
    "socket.getaddrinfo": ("socket.getaddrinfo()", "talk to other systems in an activity"),
    "subprocess.Popen": ("subprocess.Popen()", "run programs in an activity"),
    "os.system": ("os.system()", "run programs in an activity"),
    "_thread.start_new_thread": ("threading.Thread.start()", "a plain `def` activity runs in a thread"),
    "sqlite3.connect": ("sqlite3.connect()", "use databases in an activity"),
}
_STDLIB = asyncio.__file__.rpartition("/asyncio/")[0] + "/"
_SITE = "/site-packages/"
_OURS = __file__.rpartition("/engine/")[0] + "/"
_LOOP = loop.__file__


class _Visit(Protocol):
    def violation(self, error: Nondeterministic) -> None: ...


def _watch(event: str, _: tuple[Any, ...]) -> None:
    if event not in _FORBIDDEN:
        return
    host: Any = current_host.get()
    if host is None or not _by_user_code(sys._getframe(1)):
        return
    what, mend = _FORBIDDEN[event]
    error = Nondeterministic(f"{what} in stage code cannot be replayed", hint=mend)
    visit: _Visit = host
    visit.violation(error)
    raise error


def _by_user_code(frame: FrameType | None) -> bool:
    """Tell whether the user's code asked for it: itself, or through a library.

    Imports, and what Longcase itself does for the stage, are allowed: time zone files, tracebacks, the
    texts of the holidays package. A library called by the visit's loop is a task of the user's.
    """
    library = False
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith("<frozen importlib") or "/importlib/" in file or file == linecache.__file__:
            return False
        if file.startswith(_OURS):
            return library and file == _LOOP
        if _SITE in file:
            library = True
        elif not file.startswith(_STDLIB):
            return True
        frame = frame.f_back
    return False


_installed = False


def install() -> None:
    """Install the guard for this process, once. Audit hooks cannot be removed; idle, it costs nothing."""
    global _installed
    if not _installed:
        _installed = True
        sys.addaudithook(_watch)
