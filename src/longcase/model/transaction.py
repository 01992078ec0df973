"""What a transactional activity gets as its first parameter: the transaction its statements run in.

Stores make it (`store.port.Statements`); next on the data's way is `model.activity`, which declares who gets it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, Protocol

from longcase.errors import DefinitionError

DEFAULT_LIMIT: Final = timedelta(seconds=1)
MOST: Final = timedelta(seconds=5)  # on SQLite nobody else writes to the file meanwhile


class Transaction(Protocol):
    """The open transaction of an `@activity(transaction=True)`, on the store's own database.

    It ends with the function: what was written is committed together with the result, or not at all. A statement
    that fails spoils the transaction, also where the function catches the error.
    """

    def execute(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows.

        Args:
            sql: in the store's own dialect. Both take `$1`, `$2`, numbered in the order of their first use; SQLite
                also takes `?`.
            values: bound to the placeholders, in order; of the types that the driver takes (apsw, asyncpg).

        Returns:
            The rows, [] where the statement has none.

        Raises:
            StatementRefused: it would end the transaction, or change what is Longcase's own; never tried again.
            TransactionOver: the activity has ended, or its time is up.
            Exception: the driver's own error; the transaction is spoilt by it.
        """
        ...

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run one statement for each row of values; otherwise as `execute`."""
        ...


def check_transaction(
    what: str, fn: Callable[..., Any], timeout: timedelta | None, heartbeat: timedelta | None, effect: str | None,
    verify: Callable[..., Any] | None,
) -> None:  # fmt: skip
    """Refuse what a transactional activity cannot be or need."""
    if inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn) or inspect.isgeneratorfunction(fn):
        raise DefinitionError(
            f"{what}: transaction=True on a function that suspends, expected a plain def: its transaction waits for "
            "nobody",
            hint="def f(tx: Transaction, ...) -> ...: and await what else there is to do in activities of its own",
        )
    first = next(iter(inspect.signature(fn).parameters.values()), None)
    if first is None or first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        raise DefinitionError(
            f"{what}: transaction=True, and no first parameter to get the transaction",
            hint="def f(tx: Transaction, ...) -> ...:",
        )
    if effect == "once" or verify is not None:
        raise DefinitionError(
            f'{what}: transaction=True with effect="once" or verify=; its outcome is never unknown',
            hint="leave effect= and verify= out",
        )
    if heartbeat is not None:
        raise DefinitionError(
            f"{what}: transaction=True with heartbeat=; it lasts {MOST.total_seconds():g} seconds at most",
            hint="leave heartbeat= out",
        )
    if timeout is not None and timeout > MOST:
        raise DefinitionError(
            f"{what}: timeout={timeout}, expected at most {MOST} with transaction=True: it keeps others from writing",
            hint="timeout=seconds(2), and several activities for what takes longer",
        )


def check_where_it_goes(what: str, fn: Callable[..., Any], hints: Mapping[str, Any], transaction: bool) -> None:
    """Refuse a function whose first parameter is no transaction where it gets one, or that wants one it does not get.

    Args:
        hints: the types of its parameters, by name.
    """
    names = list(inspect.signature(fn).parameters)
    first = names[0] if transaction else ""
    told = [name for name in names if name != first and hints.get(name) is Transaction]
    if transaction and hints.get(first) is not Transaction:
        typed = first in hints
        given = f"a {getattr(hints[first], '__name__', hints[first])}" if typed else "without a type"
        mend = f"tx: Transaction, {first}: ..." if typed else f"{first}: Transaction, ..."
        raise DefinitionError(
            f"{what}: transaction=True, and its first parameter {first} is {given}, expected the Transaction",
            hint=f"def {fn.__name__}({mend}): or leave transaction=True out",
        )
    if told and transaction:
        raise DefinitionError(
            f"{what}: {told[0]} is a second Transaction, expected one, as the first parameter",
            hint=f"leave {told[0]} out",
        )
    if told:
        raise DefinitionError(
            f"{what}: {told[0]} is a Transaction, and only an activity with transaction=True gets one",
            hint="@activity(owner=..., transaction=True), with tx: Transaction as the first parameter",
        )
