"""Expressions of a stage, in the order they are evaluated, as blocks.

What is awaited is claimed here: a durable call becomes a node, what asyncio bounds or joins
becomes structure, and anything else is a finding, never passed over in silence.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from typing import Any

from longcase.model.activity import Activity
from longcase.model.decision import Decision
from longcase.model.map.aio import (
    SYNC,
    SYNC_WAITS,
    TASK_MAKERS,
    asyncio_name,
    is_zero_sleep,
    timer_of,
)
from longcase.model.map.atlas import Atlas, FunctionReading, Site
from longcase.model.map.block import (
    NOTHING,
    Alt,
    Arm,
    Block,
    Edit,
    Inline,
    Limit,
    Loop,
    Par,
    Spawn,
    Step,
    nodes_in,
    seq,
)
from longcase.model.map.calls import Called, called
from longcase.model.map.source import shown
from longcase.model.map.waits import WaitReader
from longcase.model.workflow import Part

ReadPart = Callable[["ExpressionReader", Part[Any, ..., Any], ast.Call], Block]


class ExpressionReader:
    """Reads the expressions of one function; `statements` reads what stands around them."""

    def __init__(self, atlas: Atlas, reading: FunctionReading, read_part: ReadPart, inside: tuple[Any, ...]) -> None:
        self.atlas = atlas
        self.reading = reading
        self.inside = inside  # the functions being read, outermost first, against recursion
        self._read_part = read_part
        self._waits = WaitReader(atlas, reading)
        self._bounded = 0  # how many timeouts enclose what is being read

    def find(self, code: str, node: ast.AST, message: str, hint: str = "") -> None:
        self.atlas.findings.append(self.reading.finding(code, node, message, hint))

    # -- any expression ------------------------------------------------------------------------------

    def expr(self, node: ast.expr | None) -> Block:
        """Return what evaluating an expression does, as a block."""
        match node:
            case None | ast.Constant() | ast.Name() | ast.Lambda():
                return NOTHING
            case ast.Await(value):
                self.reading.awaits.add(id(node))
                return self.awaited(value)
            case ast.Call():
                return self.call(node)
            case ast.BoolOp(_, [first, *rest]):
                block = self.expr(first)
                for value in rest:
                    later = self.expr(value)
                    block = seq(block, _maybe(shown(node), later))
                return block
            case ast.IfExp(test, body, other):
                return seq(self.expr(test), _either(shown(test), self.expr(body), self.expr(other)))
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                return self.comprehension(node)
            case ast.NamedExpr(_, value):
                return self.expr(value)
            case _:
                return seq(*(self.expr(child) for child in _parts(node)))

    def comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> Block:
        """Read a comprehension that awaits as it goes: a loop."""
        items = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        inner = seq(*(self.expr(item) for item in items))
        for generator in reversed(node.generators):
            tests = seq(*(self.expr(test) for test in generator.ifs))
            body = seq(tests, _maybe("", inner)) if generator.ifs else inner
            over = self.async_over(generator.iter, node) if generator.is_async else self.expr(generator.iter)
            loop = (
                Loop(f"for {shown(generator.target)} in {shown(generator.iter)}", body) if body != NOTHING else NOTHING
            )
            inner = seq(over, loop)
        return inner

    def async_over(self, over: ast.expr, owner: ast.AST) -> Block:
        """Read what an `async for` runs over: `case.as_completed([...])` and nothing else."""
        self.reading.awaits.add(id(owner))
        match over:
            case ast.Call(ast.Attribute(ast.Name(name), "as_completed"), [awaitables]) if name == self.reading.case:
                return self.parallel([awaitables])
            case _:
                self.find(
                    "async_for_not_readable",
                    owner,
                    f"async for over {shown(over)} has no place on the map",
                    "async for result in case.as_completed([check(x) for x in items])",
                )
                return self.expr(over)

    # -- calls that are not awaited --------------------------------------------------------------------

    def call(self, node: ast.Call) -> Block:
        """Read a call: a decision, a change, a spawn or a task; else its parts."""
        found = called(node, self.reading.scope, self.reading.case)
        if found is not None and not found.awaited:
            return self._at_once(found)
        if self._makes_task(node):
            first = self.branch(node.args[0]) if node.args else NOTHING
            return Spawn(first) if first != NOTHING else NOTHING
        if asyncio_name(node.func, self.reading.scope) in ("gather", "shield"):
            return self.parallel(node.args)
        return seq(*(self.expr(child) for child in _parts(node)))

    def _makes_task(self, node: ast.Call) -> bool:
        if asyncio_name(node.func, self.reading.scope) in TASK_MAKERS:
            return True
        return isinstance(node.func, ast.Attribute) and node.func.attr == "create_task"

    def _at_once(self, found: Called) -> Block:
        before = self._arguments(found.call)
        match found.what:
            case "decision":
                return seq(before, self._decision(found))
            case "update":
                return seq(before, Edit(self.change(found.call), NOTHING))
            case _:
                place = self._waits.read("spawn", found.call, False)
                return seq(before, Step(place)) if place else before

    def _decision(self, found: Called) -> Block:
        decision: Decision[Any, Any] = found.targets[0]
        self.reading.references.update(map(id, found.refs))
        self.atlas.decisions.setdefault(decision.name, decision)
        node = self.atlas.node(
            self.reading,
            found.call,
            "decision",
            decision.name,
            label=decision.label,
            owner=decision.owner.name,
            title=decision.question,
            target=decision,
            answers=_answers(decision),
        )
        again = isinstance(found.call.func, ast.Attribute) and found.call.func.attr == "rule_again"
        place = self.atlas.claim(self.reading, found.call, node, again=again)
        self.reading.sites.append(Site(place, "decision", found.call, decision))
        return Step(place)

    def change(self, node: ast.AST) -> str:
        """Claim the one node that changes of the object have in this stage or part."""
        return self.atlas.claim(self.reading, node, self.atlas.node(self.reading, node, "change"))

    def timer(self, node: ast.AST) -> str:
        """Claim the one node that timeouts have in this stage or part."""
        return self.atlas.claim(self.reading, node, self.atlas.node(self.reading, node, "timeout"))

    def limited(self, node: ast.AST, read: Callable[[], Block]) -> Block:
        """Return what `read` reads, under a timeout written at `node`."""
        self._bounded += 1
        try:
            return Limit(self.timer(node), read())
        finally:
            self._bounded -= 1

    # -- what is awaited ---------------------------------------------------------------------------------

    def awaited(self, node: ast.expr) -> Block:
        """Read the operand of an await."""
        match node:
            case ast.Call():
                return self._awaited_call(node)
            case ast.IfExp(test, body, other):
                return seq(self.expr(test), _either(shown(test), self.awaited(body), self.awaited(other)))
            case ast.NamedExpr(_, value):
                return self.awaited(value)
            case _ if self.reading.locals.kind(node) == "task":
                return NOTHING
            case _:
                return self._unreadable(node)

    def _awaited_call(self, node: ast.Call) -> Block:
        found = called(node, self.reading.scope, self.reading.case)
        if found is not None and found.awaited:
            return self.durable(found)
        name = asyncio_name(node.func, self.reading.scope)
        match name:
            case "gather" | "shield":
                return self.parallel(node.args)
            case "wait_for":
                first, rest = node.args[:1], node.args[1:]
                before = seq(*(self.expr(arg) for arg in rest))
                if not timer_of(name, node):
                    return seq(before, self.parallel(first))
                return seq(before, self.limited(node, lambda: self.parallel(first)))
            case "wait":
                if not timer_of(name, node):
                    return self.parallel(node.args[:1])
                return self.limited(node, lambda: self.parallel(node.args[:1]))
            case "sleep":
                return self._sleep(node)
            case _ if name in TASK_MAKERS or self._makes_task(node):
                return self.parallel(node.args[:1])
        if self._is_sync_wait(node) or self.reading.locals.kind(node) == "task":
            return seq(*(self.expr(child) for child in _parts(node)))
        return self._unreadable(node)

    def _is_sync_wait(self, node: ast.Call) -> bool:
        match node.func:
            case ast.Attribute(base, method) if method in SYNC_WAITS:
                # A module-level one is understood too; that it is shared between cases is a finding of its own.
                known = self.reading.scope.value(base)
                return self.reading.locals.kind(base) in SYNC or type(known).__name__ in SYNC
            case _:
                return False

    def _sleep(self, node: ast.Call) -> Block:
        if is_zero_sleep(node):
            return NOTHING
        self.find(
            "sleep_in_stage",
            node,
            f"{shown(node)}: a sleep has no reason, no owner and no expectation",
            'await case.pause(days(2), because="cooling-off")',
        )
        return NOTHING

    def _unreadable(self, node: ast.expr) -> Block:
        if isinstance(node, ast.Call) and (helper := self._helper(node)) is not None:
            workflow = self.reading.workflow.name.replace("-", "_")
            self.find(
                "helper_not_a_part",
                node,
                f"{shown(node.func)} is a plain coroutine: what it awaits has no place on the map",
                f"@{workflow}.part\nasync def {helper}(case: Case[...], ...) -> ...: ...",
            )
        else:
            self.find(
                "await_not_readable",
                node,
                f"await {shown(node)}: which durable call this is cannot be read from the code",
                'call it by its name, or choose from a literal table: await one_of({"a": a, "b": b})[key](x)',
            )
        return seq(*(self.expr(child) for child in _parts(node)))

    def _helper(self, node: ast.Call) -> str | None:
        known = self.reading.scope.value(node.func)
        if inspect.iscoroutinefunction(known):
            return str(getattr(known, "__name__", "helper"))
        nested = isinstance(node.func, ast.Name) and any(
            isinstance(inner, ast.AsyncFunctionDef) and inner.name == node.func.id
            for inner in ast.walk(self.reading.source.tree)
            if inner is not self.reading.source.tree
        )
        return node.func.id if nested and isinstance(node.func, ast.Name) else None

    # -- durable calls -------------------------------------------------------------------------------------

    def durable(self, found: Called) -> Block:
        """Claim the node, or the part, of a durable call."""
        self.reading.references.update(map(id, found.refs))
        before = self._arguments(found.call)
        if found.what not in ("activity", "part"):
            place = self._waits.read(found.what, found.call, self._bounded > 0)
            # A durable call whose name is missing is claimed by its finding.
            self.reading.nodes_at.setdefault(id(found.call), [])
            return seq(before, Step(place)) if place else before
        blocks = [self._target(found, target) for target in found.targets]
        if not found.keys:
            return seq(before, blocks[0])
        assert isinstance(found.call.func, ast.Subscript)
        key = self.expr(found.call.func.slice)
        arms = tuple(Arm(name, block) for name, block in zip(found.keys, blocks, strict=True))
        return seq(key, before, Alt(shown(found.call.func.slice), arms))

    def _target(self, found: Called, target: Any) -> Block:
        if isinstance(target, Part):
            block = self._read_part(self, target, found.call)
            self.reading.nodes_at.setdefault(id(found.call), []).extend(sorted(nodes_in(block)))
            return Inline(part_name(target), block)
        assert isinstance(target, Activity)
        self.register(target, found.call)
        node = self.atlas.node(
            self.reading,
            found.call,
            "activity",
            target.name,
            label=target.label,
            owner=target.owner.name,
            system=target.system.name if target.system else "",
            undo=target.undo_activity.name if target.undo_activity else "",
            was=target.was,
            target=target,
        )
        place = self.atlas.claim(self.reading, found.call, node)
        self.reading.sites.append(Site(place, "activity", found.call, target, bounded=self._bounded > 0))
        return Step(place)

    def register(self, activity: Activity[Any, Any], node: ast.AST) -> None:
        """Enter an activity and its undo under the names the history may know them by."""
        for entry in (activity, activity.undo_activity):
            if entry is None:
                continue
            for name in (entry.name, *entry.was):
                known = self.atlas.activities.setdefault(name, entry)
                if known.raw is not entry.raw:
                    self.find(
                        "name_clash",
                        node,
                        f"two activities are named {name}: {_where(known)} and {_where(entry)}",
                        f'name one of them anew: @activity(owner=..., name="other-{name}", was=("{name}",))',
                    )

    def _arguments(self, node: ast.Call) -> Block:
        values = [*node.args, *(keyword.value for keyword in node.keywords)]
        return seq(*(self.expr(value) for value in values))

    # -- strands ---------------------------------------------------------------------------------------------

    def parallel(self, nodes: list[ast.expr]) -> Block:
        """Read what is handed to gather, wait, shield or as_completed: strands side by side."""
        branches: list[Block] = []
        each = False
        for node in nodes:
            match node:
                case ast.Starred(ast.ListComp() | ast.GeneratorExp() | ast.SetComp() as inner):
                    branches.append(self._each(inner))
                    each = True
                case ast.ListComp() | ast.GeneratorExp() | ast.SetComp():
                    branches.append(self._each(node))
                    each = True
                case ast.Starred(ast.List(items) | ast.Tuple(items) | ast.Set(items)):
                    branches.extend(self.branch(item) for item in items)
                case ast.List(items) | ast.Tuple(items) | ast.Set(items):
                    branches.extend(self.branch(item) for item in items)
                case ast.Starred(inner):
                    branches.append(self.branch(inner))
                case _:
                    branches.append(self.branch(node))
        kept = tuple(branch for branch in branches if branch != NOTHING)
        return Par(kept, each) if kept else NOTHING

    def _each(self, node: ast.ListComp | ast.GeneratorExp | ast.SetComp) -> Block:
        for generator in node.generators:
            # Tests and sources run in the caller's strand; durable ones there are read as they come.
            before = seq(self.expr(generator.iter), *(self.expr(test) for test in generator.ifs))
            if before != NOTHING:
                return seq(before, self.branch(node.elt))
        return self.branch(node.elt)

    def branch(self, node: ast.expr) -> Block:
        """Read one coroutine, task or future handed to asyncio."""
        match node:
            case ast.Await():
                return self.expr(node)
            case ast.Call():
                if self._makes_task(node):
                    return self.branch(node.args[0]) if node.args else NOTHING
                return self._awaited_call(node)
            case ast.IfExp(test, body, other):
                return seq(self.expr(test), _either(shown(test), self.branch(body), self.branch(other)))
            case _ if self.reading.locals.kind(node) in ("task", "tasks"):
                return NOTHING
            case _:
                return self._unreadable(node)


def _parts(node: ast.AST) -> list[ast.expr]:
    """Return the expressions directly inside, in the order of the source, through keywords and slices."""
    found: list[ast.expr] = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            found.append(child)
        elif isinstance(child, ast.keyword):
            found.append(child.value)
    return found


def _maybe(title: str, block: Block) -> Block:
    return Alt(title, (Arm("", block), Arm("", NOTHING))) if block != NOTHING else NOTHING


def _either(title: str, body: Block, other: Block) -> Block:
    if body == NOTHING and other == NOTHING:
        return NOTHING
    return Alt(title, (Arm(title, body), Arm("else", other)))


def part_name(part: Part[Any, ..., Any]) -> str:
    """Return what a part adds to the path of its nodes, as the running part does."""
    return f"{part.name}:{part.label}" if part.label else part.name


def _where(activity: Activity[Any, Any]) -> str:
    code = getattr(activity.raw, "__code__", None)
    return f"{activity.raw.__module__}:{code.co_firstlineno}" if code else activity.raw.__module__


def _answers(decision: Decision[Any, Any]) -> tuple[str, ...]:
    try:
        return decision.answers
    except Exception:  # an annotation that cannot be resolved; `check` reports the declaration itself
        return ()
