"""What the local names of a function hold, as far as the map must know: tasks, locks, sets, answers.

One pass over the assignments, repeated until nothing changes; no types are inferred beyond that.
"""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import field

from longcase.model.map.aio import SYNC, TASK_MAKERS, asyncio_name
from longcase.model.map.scope import Scope, own_nodes
from longcase.model.map.source import FunctionDef
from longcase.record import record

PASSES_LIMIT = 8
"""How often the assignments are read; each pass follows one more step from name to name."""


@record(frozen=False)
class Locals:
    """The kind of each local name ("task", "tasks", "set", "object", "group", or a class of asyncio),
    how often it is assigned, and the expressions assigned to it."""

    kinds: dict[str, str] = field(default_factory=dict)
    stores: Counter[str] = field(default_factory=Counter)
    values: dict[str, list[ast.expr]] = field(default_factory=dict)

    def kind(self, node: ast.expr) -> str:
        """Return the kind of what an expression reads: a name, or an item of it."""
        match node:
            case ast.Name(name):
                return self.kinds.get(name, "")
            case ast.Subscript(ast.Name(name)) | ast.Call(ast.Attribute(ast.Name(name), "pop" | "popleft" | "get")):
                return "task" if self.kinds.get(name) == "tasks" else ""
            case ast.Call(ast.Attribute(ast.Name(name), "values" | "keys" | "items" | "copy")):
                return "tasks" if self.kinds.get(name) == "tasks" else ""
            case ast.Call(ast.Name("list" | "tuple" | "sorted" | "set" | "reversed"), [inner], []):
                return "tasks" if self.kind(inner) == "tasks" else ""
            case ast.BinOp(left, _, right):
                return "tasks" if "tasks" in (self.kind(left), self.kind(right)) else ""
            case _:
                return ""

    def once(self, name: str) -> ast.expr | None:
        """Return the expression assigned to a name that is assigned only once."""
        return self.every(name)[0] if self.stores[name] == 1 and self.every(name) else None

    def every(self, name: str) -> list[ast.expr]:
        """Return all expressions assigned to a name; [] if it gets a value in other ways too."""
        known = self.values.get(name, [])
        return known if len(known) == self.stores[name] else []


def locals_of(tree: FunctionDef, scope: Scope, case: str) -> Locals:
    """Return what the local names of a function hold; `case` is the name of its case."""
    found = Locals()
    nodes = list(own_nodes(tree))
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.stores[node.id] += 1
    arguments = [*tree.args.posonlyargs, *tree.args.args, *tree.args.kwonlyargs]
    for argument in arguments:
        if argument.annotation is not None and (kind := _annotated(argument.annotation, scope)):
            found.kinds[argument.arg] = kind
    reader = _Reader(found, scope, case)
    for _ in range(PASSES_LIMIT):
        before = dict(found.kinds)
        for node in nodes:
            reader.note(node)
        if found.kinds == before:
            break
    return found


def _annotated(annotation: ast.expr, scope: Scope) -> str:
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        try:
            annotation = ast.parse(annotation.value, mode="eval").body
        except SyntaxError:
            return ""
    bare = annotation.value if isinstance(annotation, ast.Subscript) else annotation
    name = asyncio_name(bare, scope)
    if name in SYNC:
        return name
    return {"TaskGroup": "group", "Task": "task", "Future": "task"}.get(name, "")


class _Reader:
    def __init__(self, found: Locals, scope: Scope, case: str) -> None:
        self._found = found
        self._scope = scope
        self._case = case

    def note(self, node: ast.AST) -> None:
        match node:
            case ast.Assign([ast.Name(name)], value) | ast.NamedExpr(ast.Name(name), value):
                self._assigned(name, value)
            case ast.AnnAssign(ast.Name(name), _, ast.expr() as value):
                self._assigned(name, value)
            case ast.Assign([ast.Tuple([ast.Name(done), ast.Name(pending)])], ast.Await(ast.Call(func))):
                if asyncio_name(func, self._scope) == "wait":
                    self._found.kinds[done] = self._found.kinds[pending] = "tasks"
                else:
                    self._unpacked(node)
            case ast.Assign([ast.Tuple()]):
                self._unpacked(node)
            case ast.For(ast.Name(name), over) | ast.AsyncFor(ast.Name(name), over):
                self._item(name, over)
            case ast.comprehension(ast.Name(name), over):
                self._item(name, over)
            case ast.withitem(ast.Call(func), ast.Name(name)):
                if asyncio_name(func, self._scope) == "TaskGroup":
                    self._found.kinds[name] = "group"
            case ast.Call(ast.Attribute(ast.Name(name), "append" | "add"), [value], []):
                if self.kind(value) == "task":
                    self._found.kinds[name] = "tasks"
            case ast.Assign([ast.Subscript(ast.Name(name))], value):
                if self.kind(value) == "task":
                    self._found.kinds[name] = "tasks"
            case _:
                pass

    def _unpacked(self, node: ast.Assign) -> None:
        """Read `a, b = await asyncio.gather(f(), g())`: each name has its own call."""
        match node:
            case ast.Assign([ast.Tuple(names)], ast.Await(ast.Call(func, args))) if len(names) == len(args):
                if asyncio_name(func, self._scope) == "gather" and not any(isinstance(a, ast.Starred) for a in args):
                    for name, value in zip(names, args, strict=True):
                        if isinstance(name, ast.Name):
                            self._assigned(name.id, value)

    def _assigned(self, name: str, value: ast.expr) -> None:
        known = self._found.values.setdefault(name, [])
        if not any(value is other for other in known):
            known.append(value)
        if kind := self.kind(value):
            self._found.kinds.setdefault(name, kind)

    def _item(self, name: str, over: ast.expr) -> None:
        if self._found.kind(over) == "tasks":
            self._found.kinds[name] = "task"

    def kind(self, value: ast.expr) -> str:
        match value:
            case ast.Call(func):
                if self._makes_task(func):
                    return "task"
                name = asyncio_name(func, self._scope)
                if name in SYNC:
                    return name
                if isinstance(func, ast.Name) and func.id in ("set", "frozenset") and func.id not in self._scope.local:
                    return "tasks" if value.args and self.kind(value.args[0]) == "tasks" else "set"
                return self._found.kind(value)
            case ast.List(items) | ast.Tuple(items) | ast.Set(items) if any(
                self.kind(item) == "task" for item in items
            ):
                return "tasks"
            case ast.ListComp(item) | ast.SetComp(item) | ast.DictComp(_, item) if self.kind(item) == "task":
                return "tasks"
            case ast.DictComp(item) if self.kind(item) == "task":
                return "tasks"
            case ast.Dict(keys, items) if any(key and self.kind(key) == "task" for key in keys) or any(
                self.kind(item) == "task" for item in items
            ):
                return "tasks"
            case ast.Set() | ast.SetComp():
                return "set"
            case ast.BinOp(left, ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor(), right):
                kinds = {self.kind(left), self.kind(right)}
                return "tasks" if "tasks" in kinds else "set" if "set" in kinds else ""
            case ast.IfExp(_, body, other):
                kinds = {self.kind(body), self.kind(other)}
                return kinds.pop() if len(kinds) == 1 else ""
            case ast.Attribute(base) if reads_object(base, self._case, self._found) or is_object(value, self._case):
                return "object"
            case _:
                return self._found.kind(value)

    def _makes_task(self, func: ast.expr) -> bool:
        if asyncio_name(func, self._scope) in TASK_MAKERS | {"gather", "shield"}:
            return True
        return isinstance(func, ast.Attribute) and func.attr in ("create_task", "create_future")


def is_object(node: ast.expr, case: str) -> bool:
    """Tell whether an expression is `case.object`."""
    return isinstance(node, ast.Attribute) and node.attr == "object" and _is_name(node.value, case)


def reads_object(node: ast.expr, case: str, known: Locals) -> bool:
    """Tell whether an expression is the business object, a field of it, or a name that holds one."""
    match node:
        case ast.Name(name):
            return known.kinds.get(name) == "object"
        case ast.Attribute(base):
            return is_object(node, case) or reads_object(base, case, known)
        case ast.Subscript(base):
            return reads_object(base, case, known)
        case _:
            return False


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name
