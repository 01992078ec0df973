"""What a name means in a function, found without running it: through its locals, closure and globals.

Only what cannot change between two runs is resolved: modules, classes, and the objects that module
and closure names stand for. A local name is unknown. A few calls that make plain values are
evaluated (`days(2)`, `Team(...)`, `act.labelled("x")`), because waits and owners are written so.
"""

from __future__ import annotations

import ast
import builtins
import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from enum import Enum
from types import FunctionType, ModuleType
from typing import Any, Final, Literal

from longcase.errors import LongcaseError
from longcase.model import span
from longcase.model.activity import Activity
from longcase.model.calendar import BusinessSpan
from longcase.model.decision import Decision
from longcase.model.ladder import Escalation
from longcase.model.map.source import FunctionDef
from longcase.model.one_of import OneOf, one_of
from longcase.model.part import Part
from longcase.model.people import System, Team
from longcase.record import record


class _Unknown(Enum):
    UNKNOWN = "unknown"


UNKNOWN: Final = _Unknown.UNKNOWN
"""The value of an expression that cannot be read without running it."""
Unknown = Literal[_Unknown.UNKNOWN]

_MAKERS: tuple[Any, ...] = (
    span.seconds,
    span.minutes,
    span.hours,
    span.days,
    span.business_hours,
    span.business_days,
    timedelta,
    BusinessSpan,
    Escalation,
    Team,
    System,
    one_of,
)
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_NUMBERS = (int, float, timedelta)


@record
class Scope:
    """The names one function sees. `local` hides the outer names; `imports` are made in the function."""

    names: Mapping[str, Any]
    local: frozenset[str]
    imports: Mapping[str, str]

    def hiding(self, names: set[str]) -> Scope:
        """Return the scope inside a comprehension, a lambda or a nested function."""
        return replace(self, local=self.local | names) if names else self

    def value(self, node: ast.expr) -> Any:
        """Return the object an expression stands for, or UNKNOWN."""
        match node:
            case ast.Constant(value):
                return value
            case ast.Name(name):
                return self._name(name)
            case ast.Attribute(base, name):
                return _attribute(self.value(base), name)
            case ast.Tuple(items) | ast.List(items):
                values = [self.value(item) for item in items]
                return UNKNOWN if UNKNOWN in values else tuple(values)
            case ast.Dict(keys, items):
                pairs = [
                    (UNKNOWN if key is None else self.value(key), self.value(item))
                    for key, item in zip(keys, items, strict=True)
                ]
                return UNKNOWN if any(UNKNOWN in pair for pair in pairs) else _made(dict, pairs)
            case ast.UnaryOp(ast.USub(), operand):
                number = self.value(operand)
                return -number if isinstance(number, _NUMBERS) else UNKNOWN
            case ast.BinOp(left, op, right) if type(op) in _BINARY:
                a, b = self.value(left), self.value(right)
                both = isinstance(a, _NUMBERS) and isinstance(b, _NUMBERS)
                return _made(_BINARY[type(op)], a, b) if both else UNKNOWN
            case ast.Call():
                return self._called(node)
            case _:
                return UNKNOWN

    def dotted(self, node: ast.expr) -> str:
        """Return the full name of what an expression stands for ("datetime.datetime.now"), or ""."""
        match node:
            case ast.Name(name):
                if name in self.imports:
                    return self.imports[name]
                return full_name(self._name(name))
            case ast.Attribute(base, name):
                known = self.value(node)
                if known is not UNKNOWN and (exact := full_name(known)):
                    return exact
                start = self.dotted(base)
                return f"{start}.{name}" if start else ""
            case ast.Call(func):
                # `Path("x").read_text`, `Random(7).random`: named by the class that is called.
                made = self.value(func)
                return full_name(made) if isinstance(made, type) else ""
            case _:
                return ""

    def _name(self, name: str) -> Any:
        if name in self.imports:
            return _imported(self.imports[name])
        if name in self.local:
            return UNKNOWN
        return self.names.get(name, getattr(builtins, name, UNKNOWN))

    def _called(self, node: ast.Call) -> Any:
        match node:
            case ast.Call(ast.Attribute(base, "labelled"), [ast.Constant(str(label))], []):
                labelled = self.value(base)
                return _made(labelled.labelled, label) if isinstance(labelled, Activity | Decision | Part) else UNKNOWN
        maker = self.value(node.func)
        if not any(maker is known for known in _MAKERS):
            return UNKNOWN
        args = [self.value(arg) for arg in node.args]
        kwargs = {keyword.arg: self.value(keyword.value) for keyword in node.keywords}
        if None in kwargs or any(value is UNKNOWN for value in (*args, *kwargs.values())):
            return UNKNOWN
        return _made(maker, *args, **{name: value for name, value in kwargs.items() if name})


def scope_of(fn: Callable[..., Any], tree: FunctionDef) -> Scope:
    """Return the scope of a function's body."""
    names: dict[str, Any] = dict(getattr(fn, "__globals__", {}))
    if isinstance(fn, FunctionType):
        for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
            try:
                names[name] = cell.cell_contents
            except ValueError:  # not yet assigned in the enclosing function
                names.pop(name, None)
    outer = {name for node in ast.walk(tree) if isinstance(node, ast.Global | ast.Nonlocal) for name in node.names}
    return Scope(names, frozenset(local_names(tree) - outer), imported_names(tree))


def local_names(tree: FunctionDef | ast.Lambda) -> set[str]:
    """Return the names a function binds itself: parameters and whatever it stores to."""
    arguments = tree.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    found = {argument.arg for argument in every if argument}
    for node in own_nodes(tree):
        match node:
            case ast.Name(name, ast.Store() | ast.Del()):
                found.add(name)
            case ast.MatchAs(_, str(name)) | ast.MatchStar(str(name)) | ast.ExceptHandler(_, str(name)):
                found.add(name)
            case ast.MatchMapping(rest=str(name)):
                found.add(name)
            case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) | ast.ClassDef(name):
                found.add(name)
    return found | set(imported_names(tree))


def imported_names(tree: FunctionDef | ast.Lambda) -> dict[str, str]:
    """Return the names a function imports, each with the full name of what it stands for."""
    found = {}
    for node in own_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def own_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a function's body in source order, without what nested scopes bind."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef) and child in tree.decorator_list:
            continue
        yield child
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        for inner in own_nodes(child):
            if not (isinstance(child, ast.comprehension) and isinstance(inner, ast.Name) and _bound(child, inner)):
                yield inner


def walk_body(tree: FunctionDef, scope: Scope) -> Iterator[tuple[ast.AST, Scope]]:
    """Yield every node of a function's body with the scope it is read in; see `scoped_walk`."""
    for statement in tree.body:
        yield statement, scope
        yield from scoped_walk(statement, scope)


def scoped_walk(tree: ast.AST, scope: Scope) -> Iterator[tuple[ast.AST, Scope]]:
    """Yield every node of the tree with the scope it is read in; annotations and decorators are left out."""
    for child in ast.iter_child_nodes(tree):
        inner = scope
        match child:
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                inner = scope.hiding(comprehension_names(child))
            case ast.Lambda():
                inner = scope.hiding(local_names(child))
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                nested = scope.hiding(local_names(child))
                yield child, scope
                for statement in child.body:
                    yield statement, nested
                    yield from scoped_walk(statement, nested)
                continue
            case ast.arguments():
                yield child, scope
                for default in (*child.defaults, *filter(None, child.kw_defaults)):
                    yield default, scope
                    yield from scoped_walk(default, scope)
                continue
            case ast.AnnAssign(target, _, value):
                yield child, scope
                for part in (target, value):
                    if part is not None:
                        yield part, scope
                        yield from scoped_walk(part, scope)
                continue
        yield child, inner
        yield from scoped_walk(child, inner)


def comprehension_names(node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> set[str]:
    """Return the names a comprehension binds."""
    return {
        name.id for generator in node.generators for name in ast.walk(generator.target) if isinstance(name, ast.Name)
    }


def full_name(known: Any) -> str:
    """Return the dotted name of a module, class, function or method; "" for any other object."""
    if known is UNKNOWN:
        return ""
    if isinstance(known, ModuleType):
        return known.__name__
    name = getattr(known, "__qualname__", None)
    if not isinstance(name, str):
        return ""
    bound_to = getattr(known, "__self__", None)
    module = getattr(known, "__module__", None)
    if bound_to is not None and not isinstance(bound_to, ModuleType | type):
        module, name = type(bound_to).__module__, f"{type(bound_to).__qualname__}.{known.__name__}"
    elif module is None and isinstance(bound_to, type):
        module = bound_to.__module__
    elif isinstance(bound_to, ModuleType):
        module = bound_to.__name__
    return f"{module}.{name}" if module else name


def targets_of(known: Any) -> dict[str, Any]:
    """Return the members of a `one_of(...)` table, each under its key as text."""
    return {str(key): target for key, target in known.items()} if isinstance(known, OneOf) else {}


def _bound(comprehension: ast.comprehension, name: ast.Name) -> bool:
    return any(name is inner for inner in ast.walk(comprehension.target))


def _attribute(owner: Any, name: str) -> Any:
    if isinstance(owner, type):
        return getattr(owner, name, UNKNOWN)
    if not isinstance(owner, ModuleType):
        return UNKNOWN
    # Not getattr: a module's own __getattr__ may import, and reading a workflow runs none of it.
    return vars(owner).get(name, sys.modules.get(f"{owner.__name__}.{name}", UNKNOWN))


def _imported(name: str) -> Any:
    # Looked up, never imported: reading a workflow runs none of it.
    module, _, attribute = name.rpartition(".")
    if name in sys.modules:
        return sys.modules[name]
    return _attribute(sys.modules.get(module), attribute)


def _made(maker: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return maker(*args, **kwargs)
    except (LongcaseError, TypeError, ValueError, ArithmeticError):
        return UNKNOWN
