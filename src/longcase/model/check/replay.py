"""What stage code may not ask: the clock, chance, the machine, memory addresses, module state.

The function itself is read, and with it every plain helper of the same module that it calls.
Names are resolved before they are judged: `from time import time as now` is found under any name,
and a business object's field called `time` is not.
"""

from __future__ import annotations

import ast
import inspect
from collections import deque
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, Final

from longcase.model.activity import Activity
from longcase.model.check.objects import IN_PLACE
from longcase.model.decision import Decision
from longcase.model.finding import Finding
from longcase.model.map.aio import ALLOWED, LOOP_REFUSED, REPLACEMENTS, SHARED, asyncio_name, is_error
from longcase.model.map.atlas import FunctionReading
from longcase.model.map.calls import called
from longcase.model.map.locals import Locals, is_object, locals_of
from longcase.model.map.scope import UNKNOWN, Scope, scope_of, walk_body
from longcase.model.map.source import Source, SourceNotFound, shown, source_of
from longcase.record import record

HELPERS_LIMIT = 500
"""The most helper functions that are read for one stage."""

_ACTIVITY = "do it in an @activity, and await that"
_TIME = "case.now(): the instant of the input being applied"
_SLEEP = 'a wait is the stage\'s: await case.pause(days(2), because="cooling-off")'
_CHANCE = "case.random() and case.uuid(): the same on replay"
_THREAD = "an @activity declared with def runs in a thread"
_SAME = "compare by value: what is the same in every process"
_OBJECT = "keep it in the object: with case.change() as draft: ..."
_CHANGEABLE: Final = (list, dict, set, bytearray, deque)  # and what is made of them: defaultdict, Counter, OrderedDict
_IN_PLACE: Final = frozenset({"appendleft", "extendleft", "popleft", "rotate", "subtract", "move_to_end"})
_FIXED = "write the code out: the map is read from it"

_REFUSED: Final[dict[str, tuple[str, str]]] = {
    **dict.fromkeys(
        (
            "time",
            "datetime.datetime.now",
            "datetime.datetime.utcnow",
            "datetime.datetime.today",
            "datetime.date.today",
        ),
        ("time_in_stage", _TIME),
    ),
    "time.sleep": ("time_in_stage", _SLEEP),
    **dict.fromkeys(
        ("random", "secrets", "uuid.uuid1", "uuid.uuid4", "uuid.getnode", "os.urandom", "numpy.random"),
        ("random_in_stage", _CHANCE),
    ),
    **dict.fromkeys(
        (
            *("os", "io", "builtins.open", "builtins.input", "_io", "posix", "shutil", "tempfile", "glob", "fileinput"),
            *("socket", "ssl", "select", "selectors", "subprocess", "asyncio.subprocess", "signal", "platform"),
            *(
                "requests",
                "httpx",
                "aiohttp",
                "urllib.request",
                "urllib3",
                "http.client",
                "smtplib",
                "ftplib",
                "imaplib",
            ),
            *("sqlite3", "apsw", "psycopg", "psycopg2", "asyncpg", "sqlalchemy", "pymongo", "redis", "boto3"),
            *(
                f"{module}.{kind}.{method}"
                for module in ("pathlib", "pathlib._local", "pathlib._abc")  # Python 3.13 keeps the classes apart
                for kind in ("Path", "PosixPath", "WindowsPath", "PathBase")
                for method in (
                    *("open", "read_text", "read_bytes", "write_text", "write_bytes", "exists", "is_file", "is_dir"),
                    *("iterdir", "glob", "rglob", "stat", "mkdir", "rmdir", "unlink", "rename", "replace", "touch"),
                    *("cwd", "home", "resolve", "expanduser", "owner", "chmod", "symlink_to"),
                )
            ),
        ),
        ("io_in_stage", _ACTIVITY),
    ),
    **dict.fromkeys(("threading", "_thread", "multiprocessing", "concurrent.futures"), ("thread_in_stage", _THREAD)),
    **dict.fromkeys(("builtins.id", "builtins.hash", "weakref", "gc"), ("memory_address", _SAME)),
    **dict.fromkeys(
        ("builtins.exec", "builtins.eval", "builtins.compile", "builtins.__import__", "importlib"),
        ("dynamic_code", _FIXED),
    ),
    "builtins.print": ("print_in_stage", "case.log(...): written once, silent on replay"),
}
_PURE: Final = frozenset(
    {
        *(f"os.path.{name}" for name in ("join", "basename", "dirname", "split", "splitext", "normpath")),
        *(f"posixpath.{name}" for name in ("join", "basename", "dirname", "split", "splitext", "normpath")),
        "os.PathLike",
        "os.fspath",
        "io.StringIO",
        "io.BytesIO",
        "_io.StringIO",
        "_io.BytesIO",
    }
)
_BEFORE_OR_AFTER: Final = "do it in an activity of its own, before or after, and pass what it returned in"
_ENDINGS: Final = frozenset({"BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"})
_IN_DECISIONS: Final = frozenset({"time_in_stage", "random_in_stage", "io_in_stage", "thread_in_stage", "dynamic_code"})


@record
class _Read:
    """One function that is read for one stage: the stage's own, or a helper of it."""

    source: Source
    scope: Scope
    locals: Locals
    where: str
    case: str


def replay_findings(reading: FunctionReading) -> Iterator[Finding]:
    """Yield what in a stage, and in the helpers it calls, would differ on replay."""
    own = _Read(
        reading.source, reading.scope, reading.locals, f"{reading.stage.kind} {reading.stage.name}", reading.case
    )
    yield from _names(own)
    yield from _module_state(own)
    for helper in _helpers(own, reading.workflow.object):
        yield from _names(helper)
        yield from _module_state(helper)
        yield from _hidden(helper)


def decision_findings(decision: Decision[Any, Any]) -> Iterator[Finding]:
    """Yield what a decision asks of the world: it is a function of its inputs alone."""
    read = _read(decision.raw, f"decision {decision.name}")
    if read is not None:
        yield from (found for found in _names(read) if found.code in _IN_DECISIONS)


def transaction_findings(declared: Activity[Any, Any]) -> Iterator[Finding]:
    """Yield what a transactional activity does besides its statements: others wait for it meanwhile."""
    own = _read(declared.raw, f"transactional activity {declared.name}") if declared.transaction else None
    if own is None:
        return
    tx = next(iter(own.source.fn.__code__.co_varnames), "")
    for read in (own, *_helpers(own, object)):
        for node, scope in walk_body(read.source.tree, read.scope):
            if not isinstance(node, ast.Call):
                continue
            name = _dotted(node.func, scope, read.locals)
            if name == "time.sleep" or (_refused(name) or ("",))[0] in ("io_in_stage", "thread_in_stage"):
                yield _finding(read, node, "io_in_transaction", f"{shown(node.func)} in {read.where}", _BEFORE_OR_AFTER)
            elif (word := _ending(node, tx)) and read is own:
                message = f"{word} in {read.where}"
                yield _finding(read, node, "transaction_ended_by_hand", message, "return to commit, raise to roll back")


def _ending(call: ast.Call, tx: str) -> str:
    """Return the word of a literal statement that would end the transaction, or ""."""
    match call:
        case ast.Call(ast.Attribute(ast.Name(name), "execute"), [ast.Constant(str(sql)), *_]) if name == tx:
            word = sql.split(maxsplit=1)[0].rstrip(";").upper() if sql.split() else ""
            return word if word in _ENDINGS else ""
    return ""


def _read(fn: Callable[..., Any], where: str, case: str = "") -> _Read | None:
    try:
        source = source_of(fn)
    except SourceNotFound:
        return None
    scope = scope_of(source.fn, source.tree)
    return _Read(source, scope, locals_of(source.tree, scope, case), where, case)


# -- names -----------------------------------------------------------------------------------------------


def _names(read: _Read) -> Iterator[Finding]:
    judged: set[int] = set()  # inner parts of a name that was judged as a whole: `os.path` in `os.path.join`
    for node, scope in walk_body(read.source.tree, read.scope):
        if isinstance(node, ast.ExceptHandler) and node.type is not None:
            judged.update(id(inner) for inner in ast.walk(node.type))
        if not isinstance(node, ast.Name | ast.Attribute) or id(node) in judged or not isinstance(node.ctx, ast.Load):
            continue
        name = _dotted(node, scope, read.locals)
        if name:
            judged.update(id(inner) for inner in ast.walk(node))
        known = scope.value(node)
        if isinstance(known, type) and issubclass(known, BaseException):
            continue
        found = _refused(name)
        if found is not None:
            code, hint = found
            yield _finding(read, node, code, f"{shown(node)} in {read.where}", hint)
        elif isinstance(known, SHARED):
            kind = type(known).__name__
            yield _finding(
                read,
                node,
                "shared_asyncio_object",
                f"{shown(node)} is an asyncio.{kind} of the module, shared by all cases: {read.where}",
                f"make it in the stage: {shown(node)} = asyncio.{kind}()",
            )
        else:
            yield from _asyncio(read, node, scope)


def _refused(name: str) -> tuple[str, str] | None:
    parts = name.split(".") if name else []
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in _PURE:
            return None
        if prefix in _REFUSED:
            return _REFUSED[prefix]
    return None


def _asyncio(read: _Read, node: ast.Name | ast.Attribute, scope: Scope) -> Iterator[Finding]:
    name = asyncio_name(node, scope)
    if name and name not in ALLOWED and not is_error(name):
        hint = REPLACEMENTS.get(name, _ACTIVITY)
        yield _finding(read, node, "asyncio_not_replayable", f"asyncio.{name} in {read.where} differs on replay", hint)
    elif isinstance(node, ast.Attribute) and node.attr in LOOP_REFUSED:
        yield _finding(
            read, node, "asyncio_not_replayable", f"{shown(node)} in {read.where} reaches outside the visit", _ACTIVITY
        )
    elif isinstance(node, ast.Attribute) and node.attr == "__del__":
        yield _finding(read, node, "memory_address", f"{shown(node)} in {read.where}", _SAME)


def _dotted(node: ast.expr, scope: Scope, known: Locals) -> str:
    match node:
        case ast.Attribute(ast.Name(name), method) if (made := known.once(name)) is not None:
            # `path = Path("x"); path.read_text()`: named by the class that was called.
            return scope.dotted(ast.Attribute(made, method, ast.Load())) if isinstance(made, ast.Call) else ""
        case _:
            return scope.dotted(node)


def _module_state(read: _Read) -> Iterator[Finding]:
    for node, scope in walk_body(read.source.tree, read.scope):
        if isinstance(node, ast.Global):
            names = ", ".join(node.names)
            yield _finding(
                read,
                node,
                "module_state",
                f"{read.where} writes {names} of its module: other cases and the next replay see it",
                _OBJECT,
            )
        elif (changed := _changed(node)) is not None and _is_module_state(changed, scope):
            yield _finding(
                read,
                node,
                "module_state",
                f"`{shown(node)}` in {read.where} changes {shown(changed)} of its module: other cases and the next "
                "replay see it",
                _OBJECT,
            )


def _changed(node: ast.AST) -> ast.expr | None:
    """Return what a node changes in place: `CACHE["a"] = 1`, `LOG.append(x)`."""
    match node:
        case ast.Subscript(base, _, ast.Store() | ast.Del()):
            return base
        case ast.Call(ast.Attribute(ast.Name() | ast.Attribute() as base, method)) if method in IN_PLACE | _IN_PLACE:
            return base  # not of CACHE["a"].pop(): what that is nobody can tell
    return None


def _is_module_state(node: ast.expr, scope: Scope) -> bool:
    """Tell whether an expression is certainly a list, dict or set that a module's name, or a part of it, holds."""
    while isinstance(node, ast.Subscript):
        node = node.value  # CACHE["a"]["b"] = x
    return isinstance(node, ast.Name | ast.Attribute) and isinstance(scope.value(node), _CHANGEABLE)


# -- helpers ---------------------------------------------------------------------------------------------


def _helpers(own: _Read, model: type[Any]) -> Iterator[_Read]:
    """Yield the plain functions of the same module that a function calls, and those they call."""
    module = getattr(own.source.fn, "__globals__", None)
    todo, seen = [own], {own.source.fn}
    while todo and len(seen) < HELPERS_LIMIT:
        caller = todo.pop(0)
        for node, scope in walk_body(caller.source.tree, caller.scope):
            if not isinstance(node, ast.Call):
                continue
            fn = _plain_function(node.func, scope, caller, model)
            if fn is None or fn in seen or getattr(fn, "__globals__", None) is not module:
                continue
            seen.add(fn)
            read = _read(fn, f"{fn.__name__}, called from {own.where}", _handed(node, fn, caller.case))
            if read is not None:
                todo.append(read)
                yield read


def _plain_function(func: ast.expr, scope: Scope, caller: _Read, model: type[Any]) -> FunctionType | None:
    known = scope.value(func)
    if known is UNKNOWN and isinstance(func, ast.Attribute) and is_object(func.value, caller.case):
        known = getattr(model, func.attr, UNKNOWN)
    if isinstance(known, Activity | Decision):
        return None  # an activity may do what it likes; a decision is read by itself
    known = getattr(known, "__wrapped__", known)
    return known if isinstance(known, FunctionType) and not inspect.iscoroutinefunction(known) else None


def _handed(call: ast.Call, fn: FunctionType, case: str) -> str:
    """Return the name under which a helper gets the case, or ""."""
    names = fn.__code__.co_varnames[: fn.__code__.co_argcount + fn.__code__.co_kwonlyargcount]
    for name, arg in [*zip(names, call.args, strict=False), *((k.arg or "", k.value) for k in call.keywords)]:
        if case and isinstance(arg, ast.Name) and arg.id == case:
            return name
    return ""


def _hidden(read: _Read) -> Iterator[Finding]:
    """Yield what a plain helper decides, changes or starts: the map reads the stage and its parts only."""
    for node, scope in walk_body(read.source.tree, read.scope):
        calls_change = (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "change"
            and isinstance(node.func.value, ast.Name)
            and bool(read.case)
            and node.func.value.id == read.case
        )
        if isinstance(node, ast.Call) and (calls_change or called(node, scope, read.case or "\0") is not None):
            yield _finding(
                read,
                node,
                "helper_not_a_part",
                f"{shown(node)} in {read.where} has no place on the map",
                "call it in the stage, or make the helper a part of the workflow",
            )


def _finding(read: _Read, node: ast.AST, code: str, message: str, hint: str) -> Finding:
    return Finding(read.source.file, getattr(node, "lineno", 0), code, message, hint)
