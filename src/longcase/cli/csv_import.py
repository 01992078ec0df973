"""Start a case for each row of a CSV, and say of each row what became of it.

Rows are accepted in batches, each in one transaction; a row is started wholly or not at all. Ctrl-C
ends the import between two batches, and running it again goes on: rows that have a case answer
`existing`. A row that does not fit is refused with its reason and does not stop the others.
"""

from __future__ import annotations

import csv
import io
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import IO, TYPE_CHECKING, Any, Final

from longcase.cli import terminal
from longcase.cli.fields import Fields, fields_of, unknown_field
from longcase.cli.files import named, read_bytes
from longcase.cli.frame import Session, finish
from longcase.errors import InvalidInput, LongcaseError, RefusedError, UsageError
from longcase.model.names import counted
from longcase.record import record

if TYPE_CHECKING:
    from longcase.service.service import Service
    from longcase.store.records import NewCase

BATCH: Final = 200  # rows of one transaction
FILE_BYTES: Final = 256 * 1024 * 1024
_QUOTING: Final = 'a cell with a comma, a quote or a line break stands in quotes: "Smith, ""Jo"" "'
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


class ResultsUnread(LongcaseError):
    """Whoever read the results has gone; the import has stopped behind the batch in hand."""

    code = "results_unread"


class RowsRefused(RefusedError):
    """Some rows of an import were refused; the others are started."""

    code = "rows_refused"


@record(frozen=False)
class RowResult:
    """What became of one row. `row` is its line of the file, the header being 1."""

    row: int
    key: str
    did: str  # started | existing | refused
    case: str = ""
    differs: str = ""
    code: str = ""
    reason: str = ""


def import_csv(session: Session, workflow: str, file: str, results: str | None, *, again: bool) -> None:
    """Start the rows of a CSV; see the module."""
    text = _decoded(read_bytes(file, FILE_BYTES), file)
    with session.open(code=True, create=True) as longcase:
        service = longcase.service
        fields = fields_of(service, workflow)
        header = _header(text, file, fields, service.codes[workflow].workflow.key_field)
        importing = _Import(service, workflow, fields, header, again)
        with _results_file(results) as out, _progress(session, text) as tick, _ctrl_c() as stopped:
            counts = Counter({"started": 0, "existing": 0, "refused": 0})
            differing = 0
            for batch in _batches(importing.rows(text)):
                done = importing.accept(batch)
                counts.update(result.did for result in done)
                differing += sum(bool(result.differs) for result in done)
                try:
                    for result in done:
                        _tell(session, result, out, verbose=results is None)
                except BrokenPipeError:
                    terminal.turn_away()
                    told = f"nobody reads the results any more; stopped after {counted(sum(counts.values()), 'row')}"
                    raise ResultsUnread(told, hint="run it again, with --results FILE") from None
                tick(sum(counts.values()))
                if stopped:
                    break
    _say_end(session, counts, differing, interrupted=bool(stopped), results=results)


class _Import:
    def __init__(self, service: Service, workflow: str, fields: Fields, header: list[str], again: bool) -> None:
        self.service = service
        self.workflow = workflow
        self.fields = fields
        self.header = header
        self.again = again
        self.keys: dict[str, int] = {}  # the first row of each
        self.key_field = service.codes[workflow].workflow.key_field

    def rows(self, text: str) -> Iterator[tuple[RowResult, NewCase | None]]:
        """Yield each row, validated."""
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        next(reader)
        while True:
            begin = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield RowResult(begin, "", "refused", code="invalid_csv", reason=str(error)), None
                return
            if cells is None:
                return
            if cells:
                yield self._row(begin, cells)

    def _row(self, number: int, cells: list[str]) -> tuple[RowResult, NewCase | None]:
        result = RowResult(number, dict(zip(self.header, cells, strict=False)).get(self.key_field, "")[:128], "refused")
        try:
            if len(cells) != len(self.header):
                raise InvalidInput(
                    f"{counted(len(cells), 'cell')}, expected {len(self.header)}", reason="cells", hint=_QUOTING
                )
            what = f"row {number}"
            body = {
                n: self.fields.value(n, cell, what) for n, cell in zip(self.header, cells, strict=True) if cell != ""
            }
            return result, self.service.new_case(self.workflow, body, again=self.again)
        except LongcaseError as error:
            result.code, result.reason = error.code, error.message
            return result, None

    def accept(self, batch: list[tuple[RowResult, NewCase | None]]) -> list[RowResult]:
        """Accept the valid rows of a batch in one transaction."""
        valid = [(result, new) for result, new in batch if new is not None]
        receipts = finish(self.service.start_prepared([new for _, new in valid])) if valid else []
        for (result, _), receipt in zip(valid, receipts, strict=True):
            result.did = "existing" if receipt.existing else "started"
            result.case = receipt.address
            result.differs = ", ".join(receipt.differs)
            first = self.keys.setdefault(result.key, result.row)
            if result.differs and first != result.row:
                result.reason = f"row {first} has the same key"
        return [result for result, _ in batch]


def _decoded(data: bytes, file: str) -> str:
    if len(data) > FILE_BYTES:
        raise UsageError(f"{file} is over {FILE_BYTES:,} bytes", hint="split it: each part can be imported by itself")
    try:
        return data.decode("utf-8-sig")  # spreadsheets write a byte order mark
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        encoding = "UTF-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "WINDOWS-1252"
        raise UsageError(
            f"{file}, line {line}: byte 0x{data[error.start]:02x} is no UTF-8",
            hint=f"iconv -f {encoding} -t UTF-8 {shlex.quote(file)} > utf8.csv",
        ) from None


def _header(text: str, file: str, fields: Fields, key_field: str) -> list[str]:
    """Return the names of the columns; every one must be a field of the object."""
    try:
        header = next(csv.reader(io.StringIO(text, newline=""), strict=True), [])
    except csv.Error as error:
        raise UsageError(f"{file}, line 1: {error}", hint=_QUOTING) from None
    if not header:
        raise UsageError(f"{file} is empty, expected a line of column names", hint=",".join(fields.names))
    for separator in ";\t|":
        if len(header) == 1 and separator in header[0]:
            shown = {"\t": "tabs"}.get(separator, repr(separator))
            raise UsageError(f"{file}: its columns are parted by {shown}, expected commas", hint=",".join(fields.names))
    for name in header:
        if name not in fields.names:
            raise unknown_field(name, fields.names, file)
        if header.count(name) > 1:
            raise UsageError(f"{file} has the column {name} twice", hint="keep one of them")
    if key_field not in header:
        raise UsageError(f"{file} has no column {key_field}, the key of the case", hint=",".join(fields.names))
    return header


def _batches(rows: Iterator[tuple[RowResult, NewCase | None]]) -> Iterator[list[tuple[RowResult, NewCase | None]]]:
    batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


@contextmanager
def _ctrl_c() -> Iterator[list[int]]:
    """Note a first Ctrl-C, so that the batch in hand is finished; a second one ends at once."""
    stopped: list[int] = []

    def note(number: int, frame: Any) -> None:
        stopped.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _results_file(path: str | None) -> Iterator[Any]:
    """Yield a writer of result rows, or None."""
    if path is None:
        yield None
        return
    file: IO[str]
    with named(path, "written"):
        file = open(path, "w", newline="", encoding="utf-8")  # noqa: SIM115  # closed below
    with file:
        writer = csv.writer(file)
        writer.writerow([column.name for column in fields(RowResult)])
        yield writer


@contextmanager
def _progress(session: Session, text: str) -> Iterator[Any]:
    """Yield a function that is told how many rows are done; draws a bar where somebody looks."""
    if session.json or sys.stderr is None or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    total = max(0, sum(1 for row in csv.reader(io.StringIO(text, newline="")) if row) - 1)
    columns = (TextColumn("importing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("importing", total=total)
        yield lambda done: bar.update(task, completed=done)


def _tell(session: Session, result: RowResult, out: Any, *, verbose: bool) -> None:
    if out is not None:
        out.writerow([_cell(value) for value in asdict(result).values()])
    if session.json:
        terminal.data({name: value for name, value in asdict(result).items() if value != ""})
    elif verbose and result.did == "refused":
        terminal.line(f"row {result.row} {result.key}: refused, {result.code}: {result.reason}")
    elif verbose and result.reason:  # of one file two rows that say different things: one of them is not applied
        terminal.line(f"row {result.row} {result.key}: existing, differs in {result.differs}: {result.reason}")


def _cell(value: object) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    text = terminal.escape(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _say_end(
    session: Session, counts: dict[str, int], differing: int, *, interrupted: bool, results: str | None
) -> None:
    differ = f" ({differing} differ{'s' * (differing == 1)} from the case, and changed nothing)" if differing else ""
    told = ", ".join(f"{count} {did}{differ if did == 'existing' else ''}" for did, count in counts.items())
    if session.json:
        terminal.data({"summary": counts, "interrupted": interrupted})
    else:
        terminal.line(f"{told}{f'; each row: {results}' if results else ''}")
    if interrupted:
        terminal.note("stopped between two batches; the same command goes on from here")
        raise KeyboardInterrupt
    if counts["refused"]:
        raise RowsRefused(
            f"refused: {counts['refused']} of {counted(sum(counts.values()), 'row')}"
            + "; the others have their cases" * (counts["refused"] < sum(counts.values())),
            hint="mend those rows and run the same command again",
        )
