"""Find the module with the workflows: a file's path or a dotted name, as `--app` or LONGCASE_APP give it."""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path
from types import ModuleType

from longcase.cli.files import near_file
from longcase.errors import DefinitionError, LongcaseError, NotFoundError, UsageError

VARIABLE = "LONGCASE_APP"


class AppNotFound(NotFoundError):
    """No module or file of that name is there."""

    code = "app_not_found"


def load_apps(spec: str | None) -> list[ModuleType]:
    """Import the modules that `spec` (or LONGCASE_APP) names, separated by commas.

    Raises: UsageError: none is named; AppNotFound; DefinitionError: the module cannot be imported.
    """
    names = [name for name in (spec or os.environ.get(VARIABLE, "")).split(",") if name.strip()]
    if not names:
        raise UsageError(
            "this command needs the workflows: no module is named",
            hint=f"--app {likely_app()}, or {VARIABLE}={likely_app()}",
        )
    return [load_app(name.strip()) for name in names]


def load_app(spec: str) -> ModuleType:
    """Import one module; see `load_apps`."""
    try:
        return import_app(spec)
    except LongcaseError:
        raise
    except Exception as error:
        raise DefinitionError(
            f"{spec} cannot be imported: {type(error).__name__}: {error}{_place(error)}", hint=f"longcase check {spec}"
        ) from error


def import_app(spec: str) -> ModuleType:
    """Import one module; whatever the module itself raises comes as it is."""
    folder, name = _place_of(spec)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    # A worker may be started before its module is written; the finder must not remember that it was not there.
    importlib.invalidate_caches()
    try:
        with redirect_stdout(sys.stderr):  # what a module prints is no part of a command's answer
            return importlib.import_module(name)
    except SystemExit as error:  # else its status would be this command's
        raise DefinitionError(
            f"{spec} ends the program while it is imported: SystemExit: {error}",
            hint='put what the module does as a program below: if __name__ == "__main__":',
        ) from error
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            hint = near_file(f"{name.partition('.')[0]}.py", ".py")
            raise AppNotFound(f"there is no module {name}", hint=hint) from None
        raise


def likely_app(folder: Path = Path()) -> Path:
    """Return the Python file of a folder that seems to declare workflows; an example's name if there is none."""
    with suppress(OSError):
        for path in sorted(folder.glob("*.py"))[:100]:
            with suppress(OSError):
                if "Workflow(" in path.read_text("utf-8", "replace"):
                    return path
    return folder / "onboarding.py"


def _place_of(spec: str) -> tuple[str, str]:
    """Return the folder to import from and the dotted name."""
    path = Path(spec)
    if not (spec.endswith(".py") or os.sep in spec or path.is_dir()):
        if not all(part.isidentifier() for part in spec.split(".")):
            raise UsageError(f"{spec!r} is neither a path nor a module's name", hint=f"--app {likely_app()}")
        return os.getcwd(), spec
    if not path.exists():
        raise AppNotFound(f"there is no file {spec}", hint=near_file(spec, ".py"))
    if path.is_dir() and not (path / "__init__.py").is_file():
        raise UsageError(f"{spec} is a directory, expected a Python file", hint=f"--app {likely_app(path)}")
    if path.is_file() and path.suffix != ".py":
        raise UsageError(f"{spec} is no Python file: its name does not end in .py", hint=f"--app {likely_app()}")
    path = path.resolve()
    parts = [path.stem if path.suffix == ".py" else path.name]
    folder = path.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    if not all(part.isidentifier() for part in parts):
        raise UsageError(
            f"{spec} cannot be imported under the name {'.'.join(parts)}", hint="rename the file: letters, digits and _"
        )
    return str(folder), ".".join(parts)


def _place(error: Exception) -> str:
    """Return the user's own line that raised."""
    if isinstance(error, SyntaxError):
        return ""
    trace = error.__traceback__
    place = ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith("<") and f"{os.sep}longcase{os.sep}" not in file:
            place = f" ({file}:{trace.tb_lineno})"
        trace = trace.tb_next
    return place
