"""The exits of a stage, read from its returns: a stage by its name, a close by a literal, `case.again()`."""

from __future__ import annotations

import ast
from typing import Any

from longcase.model.map.answers import answers_of, said, tested, text_of
from longcase.model.map.block import NOTHING, Alt, Arm, Block, Exit, Jump, seq
from longcase.model.map.calls import is_again
from longcase.model.map.expressions import ExpressionReader
from longcase.model.map.scope import targets_of
from longcase.model.map.source import shown
from longcase.model.workflow import Stage, Workflow
from longcase.nearest import nearest

_FORMS = 'return review   |   return workflow.close("name")   |   return case.again()   |   return a if x else b'


class ExitReader:
    """Reads the returns of one stage or exception path."""

    def __init__(self, expressions: ExpressionReader) -> None:
        self._expressions = expressions
        self._reading = expressions.reading

    def read(self, node: ast.Return) -> Block:
        """Return the block of one return statement."""
        self._reading.exits_at[id(node)] = []
        if self._reading.stage.kind == "handler":
            return self._nothing(node)
        empty = node.value is None or (isinstance(node.value, ast.Constant) and node.value.value is None)
        if node.value is None or empty:
            self._find("stage_falls_off", node, f"{self._reading.stage.name} returns nothing here", _FORMS)
            return Jump("raise")
        return self._exit(node.value, node)

    def _nothing(self, node: ast.Return) -> Block:
        """Read the return of a handler: it ends the handler and says nothing of the stage."""
        if not (node.value is None or (isinstance(node.value, ast.Constant) and node.value.value is None)):
            self._find(
                "handler_returns",
                node,
                f"handler {self._reading.stage.name} returns {shown(node.value)}, and runs beside a stage, "
                "whose return alone says what comes next",
                "return   |   without interrupts=False: an exception path, which ends the stage and says what follows",
            )
        return seq(self._expressions.expr(node.value), Jump("return"))

    def _exit(self, value: ast.expr, node: ast.Return) -> Block:
        match value:
            case ast.IfExp(test, body, other):
                return seq(self._expressions.expr(test), self._either(test, body, other, node))
            case ast.Subscript(table, key):
                return self._table(table, key, node)
            case ast.Call():
                return self._call(value, node)
        target = self._reading.scope.value(value)
        if isinstance(target, Stage):
            return self._to(target, node)
        return self._unreadable(value, node)

    def _either(self, test: ast.expr, body: ast.expr, other: ast.expr, node: ast.Return) -> Block:
        known = tested(test, self._reading)
        if known is None or known.unknown:
            arms = (Arm(shown(test), self._exit(body, node)), Arm("else", self._exit(other, node)))
            return Alt(shown(test), arms)
        false = tuple(answer for answer in known.answers.values if answer not in known.true)
        arms = (Arm(said(known.true), self._exit(body, node)), Arm(said(false), self._exit(other, node)))
        return Alt(shown(test), arms, self._by(known.answers.call))

    def _table(self, table: ast.expr, key: ast.expr, node: ast.Return) -> Block:
        """Read `return {"yes": review, "no": activate}[needs_sign_off(client)]`, or a `one_of` table."""
        scope = self._reading.scope
        before = self._expressions.expr(key)
        answers = answers_of(key, self._reading)
        if isinstance(table, ast.Call) and table.args and isinstance(table.args[0], ast.Dict):
            table = table.args[0]
        arms: dict[str, Block] = {}
        if isinstance(table, ast.Dict):
            for name, exit in zip(table.keys, table.values, strict=True):
                text = text_of(scope.value(name)) if name is not None else None
                if text is None:
                    return seq(before, self._unreadable(ast.Subscript(table, key), node))
                arms[text] = self._exit(exit, node)
        else:
            targets = targets_of(scope.value(table))
            arms = {k: self._to(t, node) for k, t in targets.items() if isinstance(t, Stage)}
        if answers is None or not arms:
            return seq(before, self._unreadable(ast.Subscript(table, key), node))
        for missing in [answer for answer in answers.values if answer not in arms]:
            self._find("answer_not_handled", node, f'no exit for the answer "{missing}"', f'"{missing}": ...')
        for unknown in [answer for answer in arms if answer not in answers.values]:
            self._find("unknown_answer", node, f'"{unknown}" is not one of {said(answers.values)}')
        chosen = tuple(Arm(name, block) for name, block in arms.items())
        return seq(before, Alt(shown(key), chosen, self._by(answers.call)))

    def _call(self, call: ast.Call, node: ast.Return) -> Block:
        if is_again(call, self._reading.case):
            return self._leave("again", node)
        match call.func:
            case ast.Attribute(base, "close") if isinstance(workflow := self._reading.scope.value(base), Workflow):
                return self._close(workflow, call, node)
            case _:
                return self._unreadable(call, node)

    def _close(self, workflow: Workflow[Any], call: ast.Call, node: ast.Return) -> Block:
        own = self._reading.workflow
        if workflow is not own:
            self._find(
                "foreign_stage",
                node,
                f"a close of {workflow.name}, this is a stage of {own.name}",
                "close the own workflow",
            )
        given = [*call.args[:1], *(keyword.value for keyword in call.keywords if keyword.arg == "name")]
        rest = [*call.args[1:], *(keyword.value for keyword in call.keywords if keyword.arg != "name")]
        before = seq(*(self._expressions.expr(value) for value in rest))
        match given:
            case [ast.Constant(str(name))]:
                return seq(before, self._leave(f"close:{name}", node))
            case _:
                return seq(before, self._unreadable(call, node))

    def _to(self, stage: Stage[Any], node: ast.Return) -> Block:
        own = self._reading.workflow
        if stage.workflow is not own:
            self._find(
                "foreign_stage",
                node,
                f"{stage.name} is a stage of {stage.workflow.name}, not of {own.name}",
                "start that workflow as a child: await case.child(...)",
            )
        elif stage.kind == "path":
            self._find(
                "exit_not_readable",
                node,
                f"{stage.name} is an exception path: it begins with its signal, not by a return",
                "move what they share into a stage, and return that from both",
            )
        return self._leave(f"to:{stage.name}", node)

    def _leave(self, name: str, node: ast.Return) -> Block:
        expressions = self._expressions
        place = expressions.atlas.claim(self._reading, node, expressions.atlas.node(self._reading, node, "exit", name))
        self._reading.exits_at[id(node)].append(place)
        return Exit(place)

    def _by(self, call: ast.Call | None) -> str:
        return next(iter(self._reading.nodes_at.get(id(call), ())), "")

    def _unreadable(self, value: ast.expr, node: ast.Return) -> Block:
        stages = self._reading.workflow.stages
        near = nearest(value.id, stages) if isinstance(value, ast.Name) else []
        hint = f"did you mean {near[0]}?" if near and isinstance(value, ast.Name) and near[0] != value.id else _FORMS
        self._find(
            "exit_not_readable",
            node,
            f"where `return {shown(value)}` leads cannot be read without running it; "
            f"the stages are {', '.join(stages)}",
            hint,
        )
        before = self._expressions.expr(value) if not isinstance(value, ast.Subscript) else NOTHING
        return seq(before, Jump("raise"))

    def _find(self, code: str, node: ast.AST, message: str, hint: str = "") -> None:
        self._expressions.find(code, node, message, hint)
