"""Statements of a stage as blocks: branches, loops, tries, context managers, returns."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import sys
import typing
from collections.abc import Sequence
from typing import Any

from longcase.errors import ActivityFailed
from longcase.model.map.aio import LIMITS, LOCKS, asyncio_name, timer_of
from longcase.model.map.answers import Answers, answers_of, pattern_texts, remaining, said, tested
from longcase.model.map.block import (
    NOTHING,
    Alt,
    Arm,
    Block,
    Edit,
    Group,
    Guard,
    Jump,
    Limit,
    Loop,
    seq,
)
from longcase.model.map.calls import called
from longcase.model.map.exits import ExitReader
from longcase.model.map.expressions import ExpressionReader
from longcase.model.map.flow import completes
from longcase.model.map.scope import own_nodes
from longcase.model.map.source import shown

_NEVER_RETURN = (typing.assert_never, sys.exit)


class StatementReader:
    """Reads the body of one function."""

    def __init__(self, expressions: ExpressionReader) -> None:
        self._expressions = expressions
        self._reading = expressions.reading
        self._exits = ExitReader(expressions)
        self._narrowed: dict[str, tuple[str, ...]] = {}  # the answers still possible, by their expression

    def body(self, statements: Sequence[ast.stmt], subject: str = "", left: tuple[str, ...] = ()) -> Block:
        """Return the statements as one block; what earlier ones rule out is known to later ones.

        Args: `subject`, `left`: an expression and the answers it can still have here.
        """
        before = self._narrowed
        self._narrowed = {**before, subject: left} if subject else dict(before)
        try:
            return seq(*(self._next(statement) for statement in statements))
        finally:
            self._narrowed = before

    def _next(self, statement: ast.stmt) -> Block:
        if isinstance(statement, ast.For | ast.AsyncFor | ast.While):
            self._forget(statement)  # a later round may come with other answers
        block = self._statement(statement)
        self._forget(statement)
        if isinstance(statement, ast.While) and not _breaks(statement):
            self._left(statement)
        return block

    def _forget(self, statement: ast.stmt) -> None:
        """Forget what was ruled out about names that the statement assigns."""
        stored = [n.id for n in own_nodes(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        for name in stored:
            for key in [key for key in self._narrowed if f"id='{name}'" in key]:
                del self._narrowed[key]

    def _left(self, loop: ast.While) -> None:
        """Note that behind a loop its test is false."""
        known = tested(loop.test, self._reading)
        if known is not None:
            possible = remaining(self._narrowed, known.subject, known.answers)
            self._narrowed[ast.dump(known.subject)] = tuple(a for a in possible if a not in known.true)

    def _statement(self, node: ast.stmt) -> Block:
        expr = self._expressions.expr
        match node:
            case ast.Expr(value):
                self._dropped(value)
                return seq(expr(value), Jump("raise")) if self._never_returns(value) else expr(value)
            case ast.Assign(targets, value):
                return seq(expr(value), *(expr(target) for target in targets))
            case ast.AugAssign(target, _, value):
                return seq(expr(target), expr(value))
            case ast.AnnAssign(target, _, value):
                return seq(expr(value), expr(target))
            case ast.Return():
                return seq(expr(node.value), Jump("return")) if self._reading.is_part else self._exits.read(node)
            case ast.Raise(exc, cause):
                return seq(expr(exc), expr(cause), Jump("raise"))
            case ast.Break():
                return Jump("break")
            case ast.Continue():
                return Jump("continue")
            case ast.Assert(test, message):
                return seq(expr(test), expr(message))
            case ast.Delete(targets):
                return seq(*(expr(target) for target in targets))
            case ast.If():
                return self._if(node)
            case ast.Match():
                return self._match(node)
            case ast.For(target, over, body, rest):
                title = f"for {shown(target)} in {shown(over)}"
                return seq(expr(over), Loop(title, self.body(body), rest=self.body(rest)))
            case ast.AsyncFor(target, over, body, rest):
                title = f"async for {shown(target)}"
                first = self._expressions.async_over(over, node)
                return seq(first, Loop(title, self.body(body), rest=self.body(rest)))
            case ast.While():
                return self._while(node)
            case ast.With(items, body):
                return self._with(items, body, node)
            case ast.AsyncWith(items, body):
                self._reading.awaits.add(id(node))
                return self._async_with(items, body, node)
            case ast.Try() | ast.TryStar():
                return self._try(node)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                outer = [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]
                return seq(*(expr(value) for value in outer))
            case _:  # pass, import, global, class: nothing that awaits
                return NOTHING

    # -- branches ----------------------------------------------------------------------------------------

    def _if(self, node: ast.If) -> Block:
        before = self._expressions.expr(node.test)
        known = tested(node.test, self._reading)
        if known is None:
            body, rest = self.body(node.body), self.body(node.orelse)
            if body == rest == NOTHING:
                return before
            arms = (Arm(shown(node.test), body), Arm("else" if node.orelse else "", rest))
            return seq(before, Alt(shown(node.test), arms))
        for unknown in known.unknown:
            self._find(
                "unknown_answer", node.test, f'"{unknown}" is not one of the answers {said(known.answers.values)}'
            )
        key = ast.dump(known.subject)
        possible = remaining(self._narrowed, known.subject, known.answers)
        yes = tuple(answer for answer in possible if answer in known.true)
        no = tuple(answer for answer in possible if answer not in known.true)
        body = self.body(node.body, key, yes)
        rest = self.body(node.orelse, key, no)
        chosen = [Arm(said(left), block) for left, block in ((yes, body), (no, rest)) if left]
        if yes and not completes(body):
            self._narrowed[key] = no
        elif no and not completes(rest):
            self._narrowed[key] = yes
        if all(arm.block == NOTHING for arm in chosen) and len(chosen) > 1:
            return before
        return seq(before, Alt(shown(node.test), tuple(chosen), self._by(known.answers)))

    def _match(self, node: ast.Match) -> Block:
        before = self._expressions.expr(node.subject)
        answers = answers_of(node.subject, self._reading)
        open_answers = remaining(self._narrowed, node.subject, answers) if answers else ()
        key = ast.dump(node.subject)
        arms: list[Arm] = []
        anything = False  # an arm that takes whatever comes
        for case in node.cases:
            texts = pattern_texts(case.pattern, self._reading)
            label = shown(case.pattern)
            takes: tuple[str, ...] = ()
            if texts == () and case.guard is None:
                anything = True
                takes, label = open_answers, said(open_answers) or "else"
            elif texts and answers:
                for unknown in [text for text in texts if text not in answers.values]:
                    self._find(
                        "unknown_answer", case.pattern, f'"{unknown}" is not one of the answers {said(answers.values)}'
                    )
                takes, label = tuple(text for text in texts if text in open_answers), said(texts)
            guard = self._expressions.expr(case.guard)
            arms.append(Arm(label, seq(guard, self.body(case.body, key if takes else "", takes))))
            if case.guard is None:
                open_answers = tuple(answer for answer in open_answers if answer not in takes)
        if answers and open_answers and not anything:
            self._find(
                "answer_not_handled",
                node,
                f"the answer{'s' * (len(open_answers) > 1)} {', '.join(map(repr, open_answers))} "
                f"of {shown(node.subject)} {'are' if len(open_answers) > 1 else 'is'} not handled",
                f'case "{open_answers[0]}": return ...',
            )
        elif not answers and not anything:
            arms.append(Arm("", NOTHING))
        return seq(before, Alt(shown(node.subject), tuple(arms), self._by(answers)))

    def _by(self, answers: Answers | None) -> str:
        places = self._reading.nodes_at.get(id(answers.call)) if answers and answers.call else None
        return places[0] if places else ""

    def _dropped(self, value: ast.expr) -> None:
        """Find an approval or choice whose answer nobody looks at."""
        if not (isinstance(value, ast.Await) and isinstance(value.value, ast.Call)):
            return
        found = called(value.value, self._reading.scope, self._reading.case)
        if found is not None and found.what in ("approval", "choice"):
            self._find(
                "answer_not_handled",
                value,
                f"nobody looks at the answer of this {found.what}",
                f"{found.what} = await case.{found.what}(...)\nmatch {found.what}.answer: ...",
            )

    # -- loops -------------------------------------------------------------------------------------------

    def _while(self, node: ast.While) -> Block:
        if isinstance(node.test, ast.Constant) and node.test.value:
            return Loop("while True", self.body(node.body), endless=True)
        title = f"while {shown(node.test)}"
        test = self._expressions.expr(node.test)
        body, rest = self.body(node.body), self.body(node.orelse)
        if test == NOTHING:
            return Loop(title, body, rest=rest)
        # The test runs before every round, and once more before the loop is left.
        leave = seq(rest, Jump("break"))
        return Loop(title, seq(test, Alt("", (Arm("", body), Arm("", leave)))), endless=True)

    # -- with --------------------------------------------------------------------------------------------

    def _with(self, items: list[ast.withitem], body: list[ast.stmt], node: ast.With) -> Block:
        if not items:
            return self.body(body)
        first, rest = items[0], items[1:]
        call = first.context_expr
        match call:
            case ast.Call(ast.Attribute(ast.Name(name), "change"), [], []) if name == self._reading.case:
                if waiting := _first_await(body):
                    self._find(
                        "await_inside_change",
                        waiting,
                        "an await inside case.change(): the object may change meanwhile, and this change would undo it",
                        "await first, then open the change and set the fields",
                    )
                return Edit(self._expressions.claims.change(call), self._with(rest, body, node))
            case ast.Call(func) if self._reading.scope.value(func) is contextlib.suppress:
                if _first_await(body):
                    self._find(
                        "suppress_around_await",
                        node,
                        f"{shown(call)} around an await: the failure it hides has no edge on the map",
                        "try: ...\nexcept ActivityFailed: ...",
                    )
                inner = self._with(rest, body, node)
                return Guard(inner, (Arm("suppressed", NOTHING, ("activity", "timeout")),))
            case _:
                return seq(self._expressions.expr(call), self._with(rest, body, node))

    def _async_with(self, items: list[ast.withitem], body: list[ast.stmt], node: ast.AsyncWith) -> Block:
        if not items:
            return self.body(body)
        first, rest = items[0], items[1:]
        context = first.context_expr
        name = asyncio_name(context.func, self._reading.scope) if isinstance(context, ast.Call) else ""
        if isinstance(context, ast.Call) and name in LIMITS:
            before = seq(*(self._expressions.expr(arg) for arg in context.args))
            # A timeout of None under a name may be set later: `limit.reschedule(...)`.
            if not timer_of(name, context) and first.optional_vars is None:
                return seq(before, self._async_with(rest, body, node))
            timer = self._expressions.claims.timer(context)
            with self._expressions.bounded():
                inner = self._async_with(rest, body, node)
            return seq(before, Limit(timer, inner))
        if name == "TaskGroup":
            return Group(self._async_with(rest, body, node))
        known = self._reading.scope.value(context)
        if not LOCKS & {name, self._reading.locals.kind(context), type(known).__name__}:
            self._find(
                "async_with_not_readable",
                node,
                f"async with {shown(context)} has no place on the map",
                "async with asyncio.timeout(...), asyncio.TaskGroup() or a lock made in this stage",
            )
        return seq(self._expressions.expr(context), self._async_with(rest, body, node))

    # -- try ---------------------------------------------------------------------------------------------

    def _try(self, node: ast.Try | ast.TryStar) -> Block:
        body = self.body(node.body)
        handlers = tuple(
            Arm(shown(handler.type) if handler.type else "any error", self.body(handler.body), self._catches(handler))
            for handler in node.handlers
        )
        rest, final = self.body(node.orelse), self.body(node.finalbody)
        return Guard(body, handlers, rest, final)

    def _catches(self, handler: ast.ExceptHandler) -> tuple[str, ...]:
        """Return the kinds of node whose failure a handler takes."""
        kinds = []
        types = caught(handler, self._reading.scope.value)
        if any(issubclass(ActivityFailed, kind) for kind in types):
            kinds.append("activity")
        if any(issubclass(asyncio.TimeoutError, kind) for kind in types):
            kinds.append("timeout")
        return tuple(kinds)

    def _never_returns(self, value: ast.expr) -> bool:
        if not isinstance(value, ast.Call):
            return False
        known = self._reading.scope.value(value.func)
        returns = getattr(known, "__annotations__", {}).get("return")
        return known in _NEVER_RETURN or returns in (typing.NoReturn, typing.Never, "NoReturn", "Never")

    def _find(self, code: str, node: ast.AST, message: str, hint: str = "") -> None:
        self._expressions.find(code, node, message, hint)


def caught(handler: ast.ExceptHandler, value: Any) -> tuple[type[BaseException], ...]:
    """Return the exception classes a handler names; a bare one names BaseException."""
    if handler.type is None:
        return (BaseException,)
    named = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    known = [value(name) for name in named]
    return tuple(kind for kind in known if isinstance(kind, type) and issubclass(kind, BaseException))


def _breaks(loop: ast.While) -> bool:
    todo: list[ast.AST] = list(loop.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Break):
            return True
        if not isinstance(node, ast.For | ast.AsyncFor | ast.While | ast.FunctionDef | ast.AsyncFunctionDef):
            todo.extend(ast.iter_child_nodes(node))
    return False


def _first_await(body: Sequence[ast.stmt]) -> ast.AST | None:
    """Return the first await of the statements, nested functions left out."""
    todo: list[ast.AST] = list(body)
    while todo:
        node = todo.pop(0)
        if isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith):
            return node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo[:0] = ast.iter_child_nodes(node)
    return None
