"""What every command has: the options all share, who acts, and the open door to the cases."""

from __future__ import annotations

import errno
import inspect
import os
import re
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from longcase.cli import terminal
from longcase.errors import LongcaseError, NotFoundError, RefusedError, UnavailableError, UsageError

if TYPE_CHECKING:
    from longcase.app import Longcase
    from longcase.engine.tasks import Actor
    from longcase.model.codec import Json
    from longcase.runtime.driving import Driver
    from longcase.service.service import Service

T = TypeVar("T")
_PERSON = re.compile(r"[^\s\x00-\x1f\x7f-\x9f]{1,128}")
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_KINDS = ("person:", "service:")
_drivers: list[Driver] = []  # of the stores that are open, the innermost last

_JSON = Annotated[bool, typer.Option("--json", help="Answer in JSON; errors too, on stderr.")]
_AS = Annotated[
    str | None, typer.Option("--as", metavar="PERSON", help="Who acts; LONGCASE_ACTOR, else the user of this machine.")
]
_APP = Annotated[
    str | None, typer.Option("--app", metavar="APP", help="Module or file with the workflows; LONGCASE_APP.")
]
_STORE = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Where cases live, a URL or a file; LONGCASE_DATABASE_URL, else sqlite:///longcase.db.",
    ),
]


class FileMissing(NotFoundError):
    """No file of that name is there."""

    code = "file_not_found"


class FileRefused(RefusedError):
    """The file may not be read or written by this user."""

    code = "file_refused"


class OutputRefused(UnavailableError):
    """The answer cannot be written where standard output goes."""

    code = "output_refused"


@dataclass(slots=True)
class Session:
    """One run of one command."""

    json: bool = False
    person: str | None = None
    app: str | None = None
    store: str | None = None

    @property
    def actor(self) -> Actor:
        """Who acts, by the channel `cli`."""
        from longcase.engine.tasks import Actor

        given = self.person
        name = given if given is not None else os.environ.get("LONGCASE_ACTOR") or _os_user()
        if not _PERSON.fullmatch(name):
            raise UsageError(
                f"{name!r} names nobody: expected 1 to 128 characters without blanks", hint="--as anna.visser"
            )
        return Actor(name if name.startswith(_KINDS) else f"person:{name}", "cli")

    @contextmanager
    def open(self, *, code: bool = False, create: bool = False) -> Iterator[Longcase]:
        """Open the store, with the workflows if the command needs their code."""
        from longcase.app import Longcase
        from longcase.cli.loading import load_apps
        from longcase.opening import shared_store

        url = shared_store(self.store)
        modules = load_apps(self.app) if code else []
        longcase = Longcase(modules, url=url, inline=True, actor=self.actor, create=create)
        with _driven(longcase.url):
            finish(longcase.open())
            try:
                yield longcase
            finally:
                finish(longcase.close())

    def ask(self, work: Callable[[Service], Coroutine[Any, Any, T]], *, code: bool = False, create: bool = False) -> T:
        """Open the store, do one thing at the door, close it."""
        with self.open(code=code, create=create) as longcase:
            return finish(work(longcase.service))


@contextmanager
def _driven(url: str) -> Iterator[None]:
    """Let `finish` drive coroutines over the store of that URL for the length of the block."""
    from longcase.runtime.driving import Driver

    driver = Driver(url)
    _drivers.append(driver)
    try:
        yield
    finally:
        _drivers.pop()
        driver.close()


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine over the store that the session has open."""
    return _drivers[-1](work)


def command(
    app: typer.Typer, panel: str, name: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a command whose function gets a Session first; the shared options are added to its own."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(function, eval_str=True)
        keyword = inspect.Parameter.KEYWORD_ONLY
        shared = [
            inspect.Parameter("shared_json", keyword, default=False, annotation=_JSON),
            inspect.Parameter("shared_as", keyword, default=None, annotation=_AS),
            inspect.Parameter("shared_app", keyword, default=None, annotation=_APP),
            inspect.Parameter("shared_store", keyword, default=None, annotation=_STORE),
        ]
        parameters = [p.replace(kind=keyword) for p in list(own.parameters.values())[1:]]

        def run(**values: Any) -> None:
            session = Session(*(values.pop(p.name) for p in shared))
            if session.store and "://" not in session.store:
                session.store = f"sqlite:///{session.store}"
            try:
                function(session, **values)
                if sys.stdout is not None:
                    sys.stdout.flush()
            except BrokenPipeError:
                # Under another name: the option parser would make it a failure.
                terminal.turn_away()
                raise terminal.ReaderGone from None
            except OSError as error:
                if error.filename is not None or error.errno not in _UNWRITABLE:
                    raise
                terminal.turn_away()
                raise OutputRefused(
                    f"the answer cannot be written: {error.strerror}", hint="look where standard output goes: df -h"
                ) from None

        run.__signature__ = own.replace(parameters=[*parameters, *shared])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in [*parameters, *shared]}
        run.__name__ = function.__name__
        run.__doc__ = function.__doc__
        app.command(name or function.__name__.replace("_", "-"), rich_help_panel=panel)(run)
        return function

    return add


def _os_user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise UsageError("nobody is named: this machine does not know its user", hint="--as anna.visser") from None


def read_bytes(path: str, limit: int) -> bytes:
    """Return the bytes of a file, or of stdin for "-"; one more than `limit` at most."""
    if path == "-":
        if sys.stdin is None or sys.stdin.closed:
            raise UsageError("there is no standard input to read", hint="name a file, or give the JSON itself")
        return sys.stdin.buffer.read(limit + 1)
    try:
        with open(path, "rb") as file:
            return file.read(limit + 1)
    except FileNotFoundError:
        raise FileMissing(f"there is no file {path}") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a directory, expected a file") from None
    except PermissionError:
        raise FileRefused(f"{path} may not be read by this user", hint=f"ls -l {path}") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


def json_argument(text: str, what: str, limit: int) -> Json:
    """Return the value of a JSON argument; "-" reads it from stdin."""
    from longcase.model.strict_json import parse_json

    return parse_json(read_bytes("-", limit) if text == "-" else text, max_bytes=limit, what=what)


def json_object(text: str, what: str, limit: int) -> dict[str, Json]:
    """Return the object of a JSON argument."""
    from longcase.errors import InvalidInput

    value = json_argument(text, what, limit)
    if not isinstance(value, dict):
        raise InvalidInput(f"{what}: expected a JSON object, got {type(value).__name__}", reason="not_an_object")
    return value


__all__ = ["FileMissing", "LongcaseError", "Session", "command", "finish", "json_argument", "json_object", "read_bytes"]
