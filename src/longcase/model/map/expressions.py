"""Expressions of a stage, in the order they are evaluated, as blocks.

What is awaited is claimed here: a durable call becomes a node, what asyncio bounds or joins
becomes structure, and anything else is a finding, never passed over in silence.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from longcase.model.activity import Activity
from longcase.model.map.aio import (
    SYNC,
    SYNC_WAITS,
    TASK_MAKERS,
    asyncio_name,
    is_zero_sleep,
    timer_of,
)
from longcase.model.map.atlas import Atlas, FunctionReading
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
from longcase.model.map.claims import Claims
from longcase.model.map.source import shown
from longcase.model.map.waits import WaitReader
from longcase.model.part import Part

ReadPart = Callable[["ExpressionReader", Part[Any, ..., Any], ast.Call], Block]
Strand: TypeAlias = tuple[Block, Block]
"""What the caller does first (the arguments are its own work), and what the awaited thing does."""


class ExpressionReader:
    """Reads the expressions of one function; `statements` reads what stands around them."""

    def __init__(self, atlas: Atlas, reading: FunctionReading, read_part: ReadPart, inside: tuple[Any, ...]) -> None:
        self.atlas = atlas
        self.reading = reading
        self.inside = inside  # the functions being read, outermost first, against recursion
        self._read_part = read_part
        self.claims = Claims(atlas, reading)
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
                return seq(*self._operand(value))
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
                return seq(*self._parallel([awaitables]))
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
            before, strand = self._strand(node.args[0]) if node.args else (NOTHING, NOTHING)
            return seq(before, Spawn(strand)) if strand != NOTHING else before
        if asyncio_name(node.func, self.reading.scope) in ("gather", "shield"):
            return seq(*self._parallel(node.args))
        return seq(*(self.expr(child) for child in _parts(node)))

    def _makes_task(self, node: ast.Call) -> bool:
        if asyncio_name(node.func, self.reading.scope) in TASK_MAKERS:
            return True
        return isinstance(node.func, ast.Attribute) and node.func.attr == "create_task"

    def _at_once(self, found: Called) -> Block:
        before = self._arguments(found.call)
        match found.what:
            case "decision":
                return seq(before, Step(self.claims.decision(found)))
            case "update":
                return seq(before, Edit(self.claims.change(found.call), NOTHING))
            case _:
                place = self._waits.read("spawn", found.call, False)
                return seq(before, Step(place)) if place else before

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """Note that what is read meanwhile stands under a timeout."""
        self._bounded += 1
        try:
            yield
        finally:
            self._bounded -= 1

    # -- what is awaited ---------------------------------------------------------------------------------

    def _operand(self, node: ast.expr) -> Strand:
        """Read the operand of an await, or of a task."""
        match node:
            case ast.Call():
                return self._awaited_call(node)
            case ast.IfExp(test, body, other):
                title, first = shown(test), self.expr(test)
                one, two = self._operand(body), self._operand(other)
                return seq(first, _either(title, one[0], two[0])), _either(title, one[1], two[1])
            case ast.NamedExpr(_, value):
                return self._operand(value)
            case _ if self.reading.locals.kind(node) == "task":
                return NOTHING, NOTHING
            case _:
                return self._unreadable(node), NOTHING

    def _awaited_call(self, node: ast.Call) -> Strand:
        found = called(node, self.reading.scope, self.reading.case)
        if found is not None and found.awaited:
            return self._durable(found)
        name = asyncio_name(node.func, self.reading.scope)
        if name in ("gather", "shield"):
            return self._parallel(node.args)
        if name in ("wait_for", "wait"):
            return self._limited_call(name, node)
        if name == "sleep":
            self._sleep(node)
            return NOTHING, NOTHING
        if self._makes_task(node):
            return self._parallel(node.args[:1])
        if self._is_sync_wait(node) or self.reading.locals.kind(node) == "task":
            return seq(*(self.expr(child) for child in _parts(node))), NOTHING
        return self._unreadable(node), NOTHING

    def _limited_call(self, name: str, node: ast.Call) -> Strand:
        """Read `wait_for` and `wait`: their coroutines are strands, their timeout a node."""
        if not timer_of(name, node):
            return self._parallel(node.args[:1])
        timer = self.claims.timer(node)
        with self.bounded():
            before, strands = self._parallel(node.args[:1])
        spans = [*node.args[1:], *(keyword.value for keyword in node.keywords)]
        return seq(before, *map(self.expr, spans)), Limit(timer, strands)

    def _is_sync_wait(self, node: ast.Call) -> bool:
        match node.func:
            case ast.Attribute(base, method) if method in SYNC_WAITS:
                # A module-level one is understood too; that it is shared between cases is a finding of its own.
                known = self.reading.scope.value(base)
                return self.reading.locals.kind(base) in SYNC or type(known).__name__ in SYNC
            case _:
                return False

    def _sleep(self, node: ast.Call) -> None:
        if not is_zero_sleep(node):
            self.find(
                "sleep_in_stage",
                node,
                f"{shown(node)}: a sleep has no reason, no owner and no expectation",
                'await case.pause(days(2), because="cooling-off")',
            )

    def _unreadable(self, node: ast.expr) -> Block:
        if isinstance(node, ast.Call) and (helper := self._helper(node)) is not None:
            workflow = self.reading.workflow.variable
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

    def _durable(self, found: Called) -> Strand:
        """Claim the node, or the part, of a durable call."""
        self.reading.references.update(map(id, found.refs))
        before = self._arguments(found.call)
        if found.what not in ("activity", "part"):
            place = self._waits.read(found.what, found.call, self._bounded > 0)
            # A durable call whose name is missing is claimed by its finding.
            self.reading.nodes_at.setdefault(id(found.call), [])
            return before, Step(place) if place else NOTHING
        blocks = [self._target(found, target) for target in found.targets]
        if not found.keys:
            return before, blocks[0]
        assert isinstance(found.call.func, ast.Subscript)
        key = found.call.func.slice
        arms = tuple(Arm(name, block) for name, block in zip(found.keys, blocks, strict=True))
        return seq(self.expr(key), before), Alt(shown(key), arms)

    def _target(self, found: Called, target: Any) -> Block:
        if isinstance(target, Activity):
            return Step(self.claims.activity(found, target, self._bounded > 0))
        block = self._read_part(self, target, found.call)
        self.reading.nodes_at.setdefault(id(found.call), []).extend(sorted(nodes_in(block)))
        return Inline(part_name(target), block)

    def _arguments(self, node: ast.Call) -> Block:
        values = [*node.args, *(keyword.value for keyword in node.keywords)]
        return seq(*(self.expr(value) for value in values))

    # -- strands ---------------------------------------------------------------------------------------------

    def _parallel(self, nodes: list[ast.expr]) -> Strand:
        """Read what is handed to gather, wait, shield or as_completed: strands side by side."""
        first: list[Block] = []
        strands: list[Block] = []
        each = False
        for node in nodes:
            inner = node.value if isinstance(node, ast.Starred) else node
            if isinstance(inner, ast.ListComp | ast.GeneratorExp | ast.SetComp):
                each = True
                before, strand = self._one_each(inner)
                first.append(before)
                strands.append(strand)
                continue
            items = inner.elts if isinstance(inner, ast.List | ast.Tuple | ast.Set) else [inner]
            for before, strand in map(self._strand, items):
                first.append(before)
                strands.append(strand)
        kept = tuple(strand for strand in strands if strand != NOTHING)
        return seq(*first), Par(kept, each) if kept else NOTHING

    def _one_each(self, node: ast.ListComp | ast.GeneratorExp | ast.SetComp) -> Strand:
        """Read `[f(await g(x)) for x in xs]`, handed to gather: what the caller does, it does in a loop."""
        outermost, *inner = node.generators
        over = self.expr(outermost.iter)
        rounds = [*map(self.expr, outermost.ifs)]
        for generator in inner:
            rounds.extend(map(self.expr, [generator.iter, *generator.ifs]))
        before, strand = self._strand(node.elt)
        loop = Loop(f"for {shown(outermost.target)} in {shown(outermost.iter)}", seq(*rounds, before))
        return seq(over, loop) if loop.body != NOTHING else over, strand

    def _strand(self, node: ast.expr) -> Strand:
        """Read one coroutine, task or future handed to asyncio."""
        match node:
            case ast.Call() if self._makes_task(node):
                return self._strand(node.args[0]) if node.args else (NOTHING, NOTHING)
            case ast.Await():
                return self.expr(node), NOTHING
            case ast.Call() | ast.IfExp():
                return self._operand(node)
            case _ if self.reading.locals.kind(node) in ("task", "tasks"):
                return NOTHING, NOTHING
            case _:
                return self._unreadable(node), NOTHING


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
