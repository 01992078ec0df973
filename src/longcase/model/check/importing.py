"""A module that cannot be imported is a finding too, and one missing owner does not hide the next."""

from __future__ import annotations

import ast
import importlib
import linecache
import traceback

import longcase.errors
from longcase.errors import LongcaseError
from longcase.model.finding import Finding, in_order
from longcase.model.map.source import SourceNotFound, parsed

_OWNED = {"activity": "activity", "decision": "decision", "Workflow": "workflow", "System": "system"}
_IMPORTER = importlib.__file__.rpartition("__init__")[0]
_PACKAGE = longcase.errors.__file__.rpartition("errors")[0]


def import_findings(error: BaseException, module: str) -> list[Finding]:
    """Return the findings that an error raised by importing `module` stands for, at the author's own line.

    Args:
        error: what the import raised, with its traceback.
        module: the name it was imported under, for an error that has no line.
    """
    file, line = _place(error, module)
    summary = error.message if isinstance(error, LongcaseError) else f"{type(error).__name__}: {error}"
    hint = error.hint if isinstance(error, LongcaseError) else _mend(error)
    missing = _without_owner(file)
    found = [] if missing and "owner" in summary else [Finding(file, line, "not_importable", summary, hint)]
    return in_order([*found, *missing])


def _mend(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"pip install {error.name.partition('.')[0]}, or run it where that module lies beside this one"
    if isinstance(error, ImportError) and "relative import" in str(error):
        return "put an empty __init__.py beside it, or import by the whole name"
    return ""


def _place(error: BaseException, module: str) -> tuple[str, int]:
    """Return the innermost line outside Longcase and the import system that led to the error."""
    if isinstance(error, SyntaxError) and error.filename:
        return error.filename, error.lineno or 0
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((_PACKAGE, _IMPORTER, "<")) and linecache.getlines(frame.filename)
    ]
    return (frames[-1].filename, frames[-1].lineno or 0) if frames else (module, 0)


def _without_owner(file: str) -> list[Finding]:
    """Return a finding for every declaration of a file that names no owner; read, not run."""
    try:
        tree = parsed(linecache.getlines(file))
    except SourceNotFound:
        return []
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        kind = _OWNED.get(_last_name(node.func))
        named = {keyword.arg for keyword in node.keywords}
        if kind is None or named & {"owner", None} or (kind == "system" and len(node.args) > 1):
            continue
        found.append(
            Finding(
                file, node.lineno, "owner_missing", f"{kind} {_name_of(node, tree)} has no owner", "owner=desk, a Team"
            )
        )
    return found


def _last_name(func: ast.expr) -> str:
    return func.id if isinstance(func, ast.Name) else func.attr if isinstance(func, ast.Attribute) else ""


def _name_of(call: ast.Call, tree: ast.Module) -> str:
    if call.args and isinstance(call.args[0], ast.Constant):
        return str(call.args[0].value)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and call in node.decorator_list:
            return node.name
    return ast.unparse(call.func)
