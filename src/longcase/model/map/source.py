"""The source of a function: its file, its syntax tree at its real lines, and the comments beside it.

Whole modules are parsed, not single functions, so that line numbers are those of the file and a
function declared inside another is found as well. Read through `linecache`: no file is opened here.
"""

from __future__ import annotations

import ast
import inspect
import linecache
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

from longcase.record import record

SOURCE_LIMIT = 2_000_000
"""The longest module that is read, in characters."""
PARSES_LIMIT = 5
"""How often a module is parsed anew. Python 3.11 raises SystemError from a parse in whose middle the
garbage collector logs the failure of a task nobody awaited: the log's traceback is parsed as well."""
TECHNICAL = "# longcase: technical"
"""The comment that says: this branch is no decision of the business."""

FunctionDef: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


class SourceNotFound(Exception):
    """The function's source cannot be read; the text says why."""


@record(eq=False)
class Source:
    """One function with its place: the function, its syntax tree, the file and the file's lines."""

    fn: Callable[..., Any]
    tree: FunctionDef
    file: str
    lines: tuple[str, ...]

    def marked_technical(self, node: ast.expr) -> bool:
        """Tell whether the comment stands on the expression's lines, or alone on the line above."""
        first, last = node.lineno, node.end_lineno or node.lineno
        above = self.lines[first - 2].strip() if first >= 2 else ""
        return above.startswith(TECHNICAL) or any(TECHNICAL in line for line in self.lines[first - 1 : last])


def source_of(fn: Callable[..., Any]) -> Source:
    """Return the source of a plain function.

    Raises:
        SourceNotFound: it is no Python function, or its file is gone, too long, or says something else.
    """
    fn = inspect.unwrap(fn)
    code = getattr(fn, "__code__", None)
    if code is None:
        raise SourceNotFound(f"{fn!r} is not a Python function")
    file = code.co_filename
    lines = linecache.getlines(file, getattr(fn, "__globals__", None))
    if not lines:
        raise SourceNotFound(f"{file} cannot be read")
    for tree in functions_in(parsed(lines)):
        if tree.name == code.co_name and first_line(tree) == code.co_firstlineno:
            return Source(fn, tree, file, tuple(lines))
    raise SourceNotFound(f"{file} has no function {code.co_name} at line {code.co_firstlineno} any more")


def parsed(lines: list[str]) -> ast.Module:
    """Return the syntax tree of a module's lines; parsed once for each text."""
    text = "".join(lines)
    if len(text) > SOURCE_LIMIT:
        raise SourceNotFound(f"the source is longer than {SOURCE_LIMIT:,} characters")
    return _parse(text)


@lru_cache(maxsize=64)
def _parse(text: str) -> ast.Module:
    error: Exception | None = None
    for _ in range(PARSES_LIMIT):
        try:
            return ast.parse(text)
        except SystemError as disturbed:
            error = disturbed
        except (SyntaxError, RecursionError, MemoryError, ValueError) as unreadable:
            error = unreadable
            break
    raise SourceNotFound(f"the source cannot be parsed: {error}")


def forget_sources() -> None:
    """Let go of the syntax trees read so far: they take fifty times their text, and a worker needs them once."""
    _parse.cache_clear()


def functions_in(tree: ast.AST) -> list[FunctionDef]:
    """Return every function of the tree, nested ones included, in the order of the source."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return sorted(found, key=lambda node: (node.lineno, node.col_offset))


def first_line(tree: FunctionDef) -> int:
    """Return the line a function begins on, decorators included."""
    return min([tree.lineno, *(decorator.lineno for decorator in tree.decorator_list)])


def shown(node: ast.AST, limit: int = 60) -> str:
    """Return the code of a node on one line, cut at `limit`."""
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
