"""Numbered SQL files: what every store's schema is made of, and what may be applied to which store.

What was applied is recorded in the store with the checksum of its text: a file edited after its release
is found, never applied twice. How a file is applied, and resumed after a kill, is the store's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from typing import Final

from longcase.errors import BugError, SchemaMismatch
from longcase.record import record

_NAME: Final = re.compile(r"(\d{4})_(\w+)\.sql")


@record
class Migration:
    """One numbered file of SQL. `complete` tells whether a text that ends in ; is a whole statement."""

    version: int
    name: str
    sql: str
    complete: Callable[[str], bool]

    @property
    def checksum(self) -> str:
        return sha256(self.sql.encode()).hexdigest()

    def statements(self) -> Iterator[str]:
        """Yield the statements in order; the body of a trigger or a function belongs to its statement."""
        statement = ""
        for line in self.sql.splitlines(keepends=True):
            statement += line
            if line.rstrip().endswith(";") and self.complete(statement):
                yield statement.strip()
                statement = ""
        rest = "".join(line for line in statement.splitlines() if not line.lstrip().startswith("--")).strip()
        if rest:
            raise BugError(f"migration {self.version} ends in the middle of a statement: {rest[:60]}")


def load(package: str, complete: Callable[[str], bool]) -> tuple[Migration, ...]:
    """Return every migration a package of stores knows, oldest first: versions 1, 2, 3 ... without a gap."""
    found = []
    for file in files(package).joinpath("migrations").iterdir():
        if match := _NAME.fullmatch(file.name):
            found.append(Migration(int(match[1]), match[2], file.read_text("utf-8"), complete))
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise BugError(f"migrations are not numbered 1, 2, 3 ...: {[migration.version for migration in found]}")
    return tuple(found)


def missing(known: Sequence[Migration], applied: Mapping[int, str], store: str) -> list[Migration]:
    """Return the migrations a store lacks, in order; `applied` are checksums by version.

    Raises:
        SchemaMismatch: the schema is newer than this release, or an applied migration's text is not
            the one this release has.
    """
    newest, version = known[-1].version, max(applied, default=0)
    if version > newest:
        raise SchemaMismatch(
            f"the store {store} has schema version {version}, this release knows up to {newest}",
            hint="upgrade Longcase to the release that ran `longcase migrate` on it, or restore the backup made before",
            found=version,
            needed=newest,
        )
    for migration in known:
        if applied.get(migration.version, migration.checksum) != migration.checksum:
            raise SchemaMismatch(
                f"{store}: migration {migration.version} ({migration.name}) was applied with another text than "
                "this release has",
                hint="install the release that made this store, then upgrade step by step",
            )
    return [migration for migration in known if migration.version > version]


def refuse_older(known: Sequence[Migration], applied: Mapping[int, str], store: str) -> None:
    """Refuse a store whose schema is not this release's.

    Raises:
        SchemaMismatch: it is older or newer; the message names both versions.
    """
    if missing(known, applied, store):
        version, newest = max(applied, default=0), known[-1].version
        # A URL is shown without its secret and its options: none to paste.
        migrate = "longcase migrate" if "://" in store else f"longcase migrate --store {store}"
        raise SchemaMismatch(
            f"the store {store} has schema version {version}, this release needs {newest}"
            if version
            else f"the store {store} is empty: it has no tables yet",
            hint=f"longcase backup, then: {migrate}" if version else f"{migrate}, or start a worker: it makes them",
            found=version,
            needed=newest,
        )


def script(wanted: Sequence[Migration], *, store: str, run: str, begin: str, book: str, now: str, end: str) -> str:
    """Return the text that does by hand what `migrate` does: one transaction, with the records a store goes by.

    Args:
        store: what kind of store it is for, and `run` how it is run.
        begin, end: the statements around it.
        book: what makes the table of the records.
        now: the expression for the instant.
    """
    if not wanted:
        return ""
    span = " and ".join(dict.fromkeys(f"{one.version:04} {one.name}" for one in (wanted[0], wanted[-1])))
    head = [
        f"-- Longcase: the schema of a {store} store, {'migration' if len(wanted) == 1 else 'migrations'} {span}.",
        f"-- Stop the workers and make a backup first. Run it whole: {run}",
        begin,
    ]
    parts = ["\n".join(head)]
    for one in wanted:
        parts.append(f"-- {one.version:04} {one.name}, sha256 {one.checksum}\n{one.sql.strip()}")
        values = f"{one.version}, '{one.name}', '{one.checksum}', {now}"
        parts.append(f"{book.strip()};\nINSERT INTO schema_migrations VALUES ({values});")
    return "\n\n".join([*parts, end]) + "\n"
