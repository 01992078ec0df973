"""Stops stage code that never yields: `while True: pass` would otherwise stop every case of the worker.

A thread looks once a second at how long the current turn has been running and, past the limit,
raises StageNeverYields inside it. The turn is then discarded like any other that fails and the case
becomes an incident (SEMANTICS B13).
"""

from __future__ import annotations

import threading
from types import TracebackType

from longcase.env import Env

TURN_SECONDS = 10.0
LOOK_EVERY = 1.0


class StageNeverYields(BaseException):
    """The turn ran longer than its limit without coming to rest. Not an Exception: stage code may not catch it."""


class Watchdog:
    """Guards the turns of one thread: `with watchdog: ...` around each."""

    def __init__(self, env: Env, limit: float = TURN_SECONDS) -> None:
        self._env = env
        self._monotonic = env.monotonic
        self._limit = limit
        self._lock = threading.Lock()
        self._since = 0.0
        self._thread = 0
        self._stop = threading.Event()

    def start(self) -> None:
        """Begin watching the calling thread."""
        self._thread = threading.get_ident()
        self._env.thread("longcase-watchdog", self._watch)

    def stop(self) -> None:
        """Stop watching."""
        self._stop.set()

    def __enter__(self) -> None:
        self._since = self._monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Under the lock nothing new can be raised; what was raised but not yet delivered is taken back.
        with self._lock:
            raised, self._since = self._since < 0, 0.0
            if raised:
                _raise_in(self._thread, None)

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_EVERY):
            with self._lock:
                since = abs(self._since)
                if since and self._monotonic() - since > self._limit:
                    self._since = -since
                    _raise_in(self._thread, StageNeverYields)


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Raise an error in a thread at its next instruction; None takes back one that has not come up yet."""
    import ctypes  # here, because hardly any worker ever needs it, and every start would pay for it

    raised = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)
