"""What every command has: the options all share, who acts, and the open door to the cases."""

from __future__ import annotations

import errno
import inspect
import os
import re
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from longcase.cli import steps, terminal
from longcase.cli.files import read_bytes
from longcase.errors import InvalidInput, LongcaseError, UnavailableError, UsageError
from longcase.model.names import printable
from longcase.record import record

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
_JSON_KINDS = ((str, "text"), (bool, "true or false"), ((int, float), "a number"), (list, "a list"), (object, "null"))
_drivers: list[Driver] = []  # of the stores that are open, the innermost last

_JSON = Annotated[bool, typer.Option("--json", help="Answer in JSON; errors too, on stderr.")]
_AS = Annotated[
    str | None, typer.Option("--as", metavar="PERSON", help="Who acts; LONGCASE_ACTOR, else the user of this machine.")
]
_TENANT = Annotated[
    str | None, typer.Option("--tenant", metavar="NAME", help="Whose cases; LONGCASE_TENANT, else main.")
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


class OutputRefused(UnavailableError):
    """The answer cannot be written where standard output goes."""

    code = "output_refused"


@record(frozen=False)
class Session:
    """One run of one command. `store` is a URL, `named` what the user called it; `tenant` is None if none was named."""

    json: bool = False
    person: str | None = None
    app: str | None = None
    store: str | None = None
    tenant: str | None = None
    named: str | None = None

    def __post_init__(self) -> None:
        self.named = self.store
        if self.store and "://" not in self.store:
            self.store = f"sqlite:///{self.store}"

    @property
    def has_app(self) -> bool:
        """Whether the workflows are named, here or in the environment."""
        from longcase.cli.loading import VARIABLE

        return bool(self.app or os.environ.get(VARIABLE))

    def paste(self, text: str, tenant: str | None = None) -> str:
        """Return a text whose commands are ready to paste: for the store and the workflows of this run.

        Args:
            tenant: whose case its commands name, if not that of this run.
        """
        from longcase.opening import mask

        named = mask(self.named) if self.named and "://" in self.named else self.named
        return steps.pasteable(text, store=named, app=self.app, tenant=tenant or self.tenant)

    @property
    def of_tenant(self) -> str:
        """Whose cases this run is about: the tenant named here or in the environment, else the main one."""
        from longcase.model.names import MAIN_TENANT

        return self.tenant if self.tenant is not None else os.environ.get("LONGCASE_TENANT") or MAIN_TENANT

    @property
    def actor(self) -> Actor:
        """Who acts, by the channel `cli`."""
        from longcase.engine.tasks import Actor

        given = self.person
        name = given if given is not None else os.environ.get("LONGCASE_ACTOR") or _os_user()
        if not _PERSON.fullmatch(name) or not name.isprintable():
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
        longcase = Longcase(modules, url=url, inline=True, actor=self.actor, tenant=self.of_tenant, create=create)
        with _driven(longcase.url), _damage_noted(self.paste):
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


@contextmanager
def _damage_noted(paste: Callable[[str], str]) -> Iterator[None]:
    """Print what the store says of damaged rows beside the answer, which is of the others; of each once."""
    import logging

    seen: set[str] = set()

    class Noted(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = paste(record.getMessage())
            if text not in seen:
                seen.add(text)
                terminal.note(text)

    handler, logger = Noted(logging.WARNING), logging.getLogger("longcase.store")
    if not logger.parent or not logger.parent.handlers:  # else this process writes a log
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine over the store that the session has open."""
    return _drivers[-1](work)


def command(
    app: typer.Typer, panel: str, name: str | None = None, *, every_tenant: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a command whose function gets a Session first; the shared options are added to its own.

    Args:
        every_tenant: it looks at all cases there are, and refuses to be told whose.
    """

    def add(function: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(function, eval_str=True)
        keyword = inspect.Parameter.KEYWORD_ONLY
        shared = [
            inspect.Parameter("shared_json", keyword, default=False, annotation=_JSON),
            inspect.Parameter("shared_as", keyword, default=None, annotation=_AS),
            inspect.Parameter("shared_app", keyword, default=None, annotation=_APP),
            inspect.Parameter("shared_store", keyword, default=None, annotation=_STORE),
            inspect.Parameter("shared_tenant", keyword, default=None, annotation=_TENANT),
        ]
        parameters = [p.replace(kind=keyword) for p in list(own.parameters.values())[1:]]
        known_as = name or function.__name__.replace("_", "-")

        def run(**values: Any) -> None:
            session = Session(*(values.pop(p.name) for p in shared))
            try:
                _check_words([session.named, session.app, session.person, *values.values()])
                if every_tenant and session.tenant is not None:
                    raise UsageError(
                        f"{known_as} is for all tenants: --tenant cannot narrow it", hint="leave --tenant away"
                    )
                function(session, **values)
                if sys.stdout is not None:
                    sys.stdout.flush()
            except LongcaseError as error:
                error.hint = session.paste(error.hint)
                raise
            except KeyboardInterrupt:
                raise terminal.Interrupted from None
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
        steps.commands.add(known_as)
        if every_tenant:
            steps.of_every_tenant.add(known_as)
        app.command(known_as, rich_help_panel=panel)(run)
        return function

    return add


def _check_words(values: Iterable[Any]) -> None:
    """Refuse a word that is no text: a byte of another encoding than the machine's."""
    for value in values:
        for word in value if isinstance(value, list) else [value]:
            if isinstance(word, str) and not word.isascii() and any("\ud800" <= letter <= "\udfff" for letter in word):
                raise InvalidInput(
                    f"{printable(word)} is no text in UTF-8", reason="invalid_text", hint="look at: locale; echo $LANG"
                )


def _os_user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise UsageError("nobody is named: this machine does not know its user", hint="--as anna.visser") from None


def json_argument(text: str, what: str, limit: int) -> Json:
    """Return the value of a JSON argument; "-" reads it from stdin."""
    from longcase.model.strict_json import parse_json

    return parse_json(read_bytes("-", limit) if text == "-" else text, max_bytes=limit, what=what)


def json_object(text: str, what: str, limit: int, like: str = "") -> dict[str, Json]:
    """Return the object of a JSON argument; `like` is the hint where it is none, if the usual one does not fit."""
    try:
        value = json_argument(text, what, limit)
    except InvalidInput as error:
        if like and error.reason == "invalid_json":
            error.hint = like
        raise
    if not isinstance(value, dict):
        got = next(name for kind, name in _JSON_KINDS if isinstance(value, kind))
        told = f"{what}: expected a JSON object, got {got}"
        raise InvalidInput(told, reason="not_an_object", hint=like or """like '{"id": "C-1"}'""")
    return value


__all__ = ["LongcaseError", "Session", "command", "finish", "json_argument", "json_object"]
