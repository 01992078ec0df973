"""Exporting closed cases into a file, which is read back and verified before the store keeps a receipt of it."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from longcase.engine.tasks import Actor
from longcase.env import Env
from longcase.errors import FileMissing, StorageFull, StoreCorrupt, UsageError
from longcase.history.event import instant_text
from longcase.insight.export import Examination, Sealed
from longcase.model.names import MAIN_TENANT
from longcase.service import queries
from longcase.service.retention import KeptStore, Retention
from longcase.store.durable import rename_durably
from longcase.store.records import Exported, Stored

PAGE: Final = 500  # case numbers looked up at a time
TOGETHER: Final = 50  # cases read at once where they stand close together: bounds memory

Progress = Callable[[int, int], None]


class Exporter:
    """Picks closed cases, writes them, reads them back."""

    def __init__(self, store: KeptStore, env: Env, actor: Actor, release: str, tenant: str = MAIN_TENANT) -> None:
        self._store = store
        self._env = env
        self._actor = actor
        self._release = release
        self._tenant = tenant

    async def wanted(self, *, workflow: str = "", due: bool = False, again: bool = False) -> list[Wanted]:
        """Return which cases an export would hold: closed, and in no export as they are now.

        Args:
            workflow: only of this one.
            due: only those that are older than the period of their workflow.
            again: also those that an export holds already.

        Raises:
            WorkflowNotFound: nothing here is of that workflow.
        """
        if workflow:
            await queries.check_workflow(self._store, self._tenant, workflow, ())
        parts: list[Wanted] = []
        if not due:
            parts.append(Wanted("workflow = :workflow" if workflow else "1 = 1", {"workflow": workflow}))
        else:
            for one in await Retention(self._store, self._env, self._actor, self._tenant).due(workflow):
                parts.append(
                    Wanted(
                        "workflow = :workflow AND closed_at <= :until", {"workflow": one.workflow, "until": one.until}
                    )
                )
        for part in parts:
            part.narrow(self._tenant, again=again)
            found = await self._store.query(part.select("count(*) AS cases"), part.values)
            part.cases = int(found[0]["cases"])
        return parts

    async def write(
        self, wanted: Iterable[Wanted], write: Callable[[bytes], object], progress: Progress = lambda done, total: None
    ) -> Exported:
        """Write the cases; returns what to keep a receipt of, once the file has been read back."""
        parts = list(wanted)
        total = sum(part.cases for part in parts)
        out = Sealed(write)
        out.head(tenant=self._tenant, at=instant_text(self._env.now()), by=self._actor.name, release=self._release)
        for part in parts:
            async for stored in self._cases(part):
                out.case(stored)
                progress(len(out.cases), max(total, len(out.cases)))
        return Exported("", out.end(), self._actor.name, out.cases)

    async def _cases(self, part: Wanted) -> AsyncIterator[Stored]:
        after = 0
        while True:
            found = await self._store.query(
                part.select("case_no") + " AND case_no > :after ORDER BY case_no LIMIT :limit",
                {**part.values, "after": after, "limit": PAGE},
            )
            numbers = [int(row["case_no"]) for row in found]
            for first in range(0, len(numbers), TOGETHER):
                some = numbers[first : first + TOGETHER]
                for start, limit in _reads(some):
                    for stored in await self._store.stored(start - 1, limit):
                        if stored.case_no in some:
                            yield stored
            after = numbers[-1] if numbers else after
            if len(found) < PAGE:
                return

    async def to_file(
        self,
        path: str,
        wanted: Iterable[Wanted],
        *,
        force: bool = False,
        progress: Progress = lambda done, total: None,
    ) -> tuple[int, Exported]:
        """Write the cases to a file and keep its receipt; returns the export's number and what it holds.

        The file appears whole: written under another name, synced, read back and verified, then renamed. A kill
        before the receipt leaves at most a file that no receipt speaks of.

        Raises:
            UsageError: the file is there and `force` is off, or its folder is not.
            StoreCorrupt: what was written does not verify: the store is damaged; no file is left.
            StorageFull: the disk of the file is full; no file is left.
        """
        with _refusals(path), NewFile(path, force=force) as file:
            export = await self.write(wanted, file.write, progress)
            file.seal()
            self._read_back(file, export)
            file.keep()
        receipt = Exported(path, export.digest, export.by, export.cases)
        return await self._store.keep_receipt(receipt), receipt

    def _read_back(self, file: NewFile, export: Exported) -> None:
        examination = Examination()
        for finding in examination.findings(file.lines()):
            raise StoreCorrupt(f"the export does not verify: {finding}", hint="longcase verify")
        if (examination.read.digest, examination.read.cases) != (export.digest, export.cases):
            raise StoreCorrupt(f"{file.path} does not hold what was written to it", hint="longcase doctor")


def _reads(numbers: list[int]) -> list[tuple[int, int]]:
    """Return how to read cases, as (first number, how many at most): at once, unless many others stand between."""
    span = numbers[-1] - numbers[0] + 1
    return [(numbers[0], span)] if span <= 2 * len(numbers) else [(number, 1) for number in numbers]


class Wanted:
    """A part of an export: a condition on the view `retention`, and how many cases it holds."""

    __slots__ = ("cases", "values", "where")

    def __init__(self, where: str, values: dict[str, Any]) -> None:
        self.where = where
        self.values = {name: value for name, value in values.items() if value}
        self.cases = 0

    def select(self, columns: str) -> str:
        """Return the question for these columns; its conditions are texts of ours, its values are bound."""
        return f"SELECT {columns} FROM retention WHERE {self.where}"  # noqa: S608

    def narrow(self, tenant: str, *, again: bool) -> None:
        """Leave out other tenants' cases, and those that an export holds already."""
        self.where += " AND tenant = :tenant" + ("" if again else " AND export IS NULL")
        self.values["tenant"] = tenant


class NewFile:
    """A file that appears whole: written under another name, sealed on the disk, then kept; else nothing is left."""

    def __init__(self, path: str, *, force: bool) -> None:
        if os.path.exists(path) and not force:
            raise UsageError(f"{path} is there already", hint="choose another name, or add --force to replace it")
        self.path = path
        self._part = f"{path}.part"
        self._file = open(self._part, "wb", opener=_for_its_owner)  # noqa: SIM115  # closed by seal or on leaving
        self.write = self._file.write

    def seal(self) -> None:
        """Bring what was written to the disk; nothing more is written."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def lines(self) -> Iterator[bytes]:
        """Yield what stands on the disk."""
        with open(self._part, "rb") as file:
            yield from file

    def keep(self) -> None:
        """Give the file its name."""
        rename_durably(self._part, self.path)

    def __enter__(self) -> NewFile:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what is still to be written finds no room either
            self._file.close()
        with suppress(FileNotFoundError):
            os.unlink(self._part)


def _for_its_owner(path: str, flags: int) -> int:
    """Open a file that nobody else may read: it holds people's data."""
    return os.open(path, flags, 0o600)


@contextmanager
def _refusals(path: str) -> Iterator[None]:
    """Turn what the file system refuses into our errors."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageFull(f"{path} cannot be written: {error.strerror}", hint=f"df -h {path}") from error
        if error.errno == errno.ENOENT and not os.path.exists(folder := os.path.dirname(os.path.abspath(path))):
            raise FileMissing(f"there is no folder {folder}", hint=f"mkdir -p {shlex.quote(folder)}") from error
        raise UsageError(f"{path} cannot be written: {error.strerror}", hint="name a file you may write") from error
