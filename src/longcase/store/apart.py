"""What both stores do alike for a transaction of the user's: what is not theirs to change, and when it is over."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from longcase.errors import StatementRefused, TransactionOver
from longcase.store.migrations import Migration
from longcase.store.port import Apart
from longcase.store.records import Edit, Locked

_MADE: Final = re.compile(r"^CREATE (?:TABLE|VIEW) (\w+)", re.MULTILINE)


def own_names(migrations: Iterable[Migration]) -> frozenset[str]:
    """Return the names of the tables and views that are Longcase's."""
    return frozenset({"schema_migrations"}.union(*(_MADE.findall(one.sql) for one in migrations)))


def ends_it(what: str) -> StatementRefused:
    """Return the refusal of a statement that begins or ends a transaction."""
    return StatementRefused(
        f"{what} in a transactional activity: its transaction is begun and ended by Longcase",
        hint="return to commit, raise to roll back",
    )


def of_the_session(what: str) -> StatementRefused:
    """Return the refusal of a statement that would stay on the connection, for whoever uses it next."""
    return StatementRefused(
        f"{what} in a transactional activity: it is about the connection, which is not the activity's own",
        hint="leave it out; make tables that stay, before the worker starts, and settings in the server or the role"
        if what.startswith("CREATE TEMP")
        else "leave it out",
    )


def not_yours(table: str) -> StatementRefused:
    """Return the refusal of a change to a table of Longcase's."""
    return StatementRefused(
        f"a transactional activity changes or locks {table}, which is Longcase's own; it may only read it",
        hint="keep what is yours in tables of your own; cases are changed by stages, signals and repairs",
    )


class Unit:
    """A unit of work of the user's on its way through a store, and by what it is known again after a lost answer."""

    def __init__(self, case_no: int, work: Apart) -> None:
        self.case_no = case_no
        self.work = work
        self.spoilt_by: BaseException | None = None  # the error of the user's own statement that failed first
        self.committing = False  # its COMMIT was sent: whether it happened is the store's to say
        self._wanted: Edit[None] = Edit(None)

    def record(self, locked: Locked) -> Edit[None]:
        """Return what is written with it."""
        self._wanted = self.work.record(locked)
        return self._wanted

    @property
    def mark(self) -> tuple[int, str]:
        """The seq of its first event and the event's salt, which no other event has."""
        event = self._wanted.events[0]
        return event.seq, event.salt


class Use:
    """The use of one transaction by a thread of the user's: one statement at a time, none once it is over."""

    def __init__(self) -> None:
        self.over = False
        self.error: BaseException | None = None  # of the first statement that failed: it has spoilt the transaction
        self.lock = threading.Lock()

    @contextmanager
    def statement(self) -> Iterator[None]:
        """Run one statement inside; a failure is remembered."""
        with self.lock:
            self.check()
            try:
                yield
            except BaseException as error:
                if self.over:  # its time was up meanwhile, and the statement was interrupted
                    raise _over() from error
                self.error = error
                raise

    def check(self) -> None:
        """Refuse a statement after the end, and any after one that failed."""
        if self.over:
            raise _over()
        if self.error is not None:
            raise self.error

    def end(self) -> None:
        """Close it at the end of the function; a statement that failed fails the whole, whoever caught the error."""
        with self.lock:
            self.over = True
        if self.error is not None:
            raise self.error


def _over() -> TransactionOver:
    return TransactionOver(
        "the transaction was used after its activity had ended, or after its time was up",
        hint="use tx inside the function only; a longer timeout= is 5 seconds at most",
    )
