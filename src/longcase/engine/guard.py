"""What Python lets us see at run time of stage code that cannot be replayed: files, sockets, sleeps.

`longcase check` finds these in the source; this guard catches what came in through a library. It
uses the interpreter's audit events (PEP 578) and looks only while a visit's context is current.
Clocks and random generators raise no audit event: those are found by `check` alone. Threads raise one since Python
3.12, `time.sleep` since 3.13.
"""

from __future__ import annotations

import asyncio
import linecache
import sys
import weakref
import zoneinfo
from types import FrameType
from typing import Any, Protocol

from longcase.engine import loop
from longcase.errors import Nondeterministic
from longcase.model.host import current_host

_FILES = "read or write files in an activity"
_PROGRAMS = "run programs in an activity"
_OTHERS = "talk to other systems in an activity"
_THREAD = ("threading.Thread.start()", "a plain `def` activity runs in a thread")
_FORBIDDEN = {
    "open": ("open()", _FILES),
    **{
        event: (f"{event}()", _FILES)
        for event in (
            *("os.listdir", "os.scandir", "os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link", "os.symlink"),
            *("os.truncate", "os.chmod", "os.chown", "os.utime", "os.chdir"),
        )
    },
    "builtins.input": ("input()", "ask a person: await case.ask(...)"),
    "time.sleep": ("time.sleep()", 'await case.pause(minutes(1), because="...")'),
    "socket.connect": ("socket.connect()", _OTHERS),
    "socket.bind": ("socket.bind()", "listen in your own program, and signal the case"),
    "socket.getaddrinfo": ("socket.getaddrinfo()", _OTHERS),
    "socket.gethostbyname": ("socket.gethostbyname()", _OTHERS),
    "socket.sendto": ("socket.sendto()", _OTHERS),
    "subprocess.Popen": ("subprocess.Popen()", _PROGRAMS),
    "os.system": ("os.system()", _PROGRAMS),
    "os.exec": ("os.exec()", _PROGRAMS),
    "os.posix_spawn": ("os.posix_spawn()", _PROGRAMS),
    "os.fork": ("os.fork()", "run programs in an activity; a plain `def` activity runs in a thread"),
    "os.forkpty": ("os.forkpty()", _PROGRAMS),
    "_thread.start_new_thread": _THREAD,
    "_thread.start_joinable_thread": _THREAD,  # since Python 3.13
    "sqlite3.connect": ("sqlite3.connect()", "use databases in an activity"),
}
_STDLIB = asyncio.__file__.rpartition("/asyncio/")[0] + "/"
_SITE = "/site-packages/"
_OURS = __file__.rpartition("/engine/")[0] + "/"
_LOOP = loop.__file__
_HARMLESS = (linecache.__file__, weakref.__file__)  # the second calls finalizers


class _Visit(Protocol):
    def violation(self, error: Nondeterministic) -> None: ...


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in _FORBIDDEN:
        return
    host: Any = current_host.get()
    if host is None or not _by_user_code(sys._getframe(1)):
        return
    if event == "open" and _is_zone(str(arguments[0])):
        return
    what, mend = _FORBIDDEN[event]
    error = Nondeterministic(f"{what} in stage code cannot be replayed", hint=mend)
    visit: _Visit = host
    visit.violation(error)
    raise error


def _is_zone(path: str) -> bool:
    """Tell whether a file is one of the time zones: `ZoneInfo("Europe/Amsterdam")` in stage code reads it once."""
    return path.startswith(tuple(f"{place}/" for place in zoneinfo.TZPATH))


def _by_user_code(frame: FrameType | None) -> bool:
    """Tell whether the user's code asked for it: itself, or through a library.

    Imports, and what Longcase itself does for the stage, are allowed: time zone files, tracebacks, the
    texts of the holidays package. A library called by the visit's loop is a task of the user's. What a finalizer
    does is nobody's wish: the collector runs it wherever it happens to be.
    """
    library = False
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith("<frozen importlib") or "/importlib/" in file or file in _HARMLESS:
            return False
        if frame.f_code.co_name == "__del__":
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
