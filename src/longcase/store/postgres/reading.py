"""Questions in SQL: anybody's SELECT in a transaction that can do nothing else.

A question is written as for SQLite: `?` and `:name` stand for its parameters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import asyncpg

from longcase.errors import StoreUnavailable, UsageError
from longcase.store.postgres.connection import Pool

SECONDS: Final = 30.0  # how long one question may run

# What a parameter is not: a string, a quoted name, a comment, a cast. Then what it is.
_TOKEN: Final = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | --[^\n]* | /\*.*?\*/ | :: | :(?P<name>[A-Za-z_]\w*) | (?P<mark>\?)""",
    re.VERBOSE | re.DOTALL,
)
_BEGINS: Final = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/|\()*(select|with|values)\b", re.IGNORECASE | re.DOTALL)


def translated(sql: str, parameters: Mapping[str, Any] | Sequence[Any]) -> tuple[str, list[Any]]:
    """Return a question with numbered parameters, and their values in that order.

    Raises:
        UsageError: a parameter has no value, or there are values too many.
    """
    values: list[Any] = []
    numbers: dict[str, int] = {}

    def numbered(found: re.Match[str]) -> str:
        name = found["name"]
        if name is not None:
            if not isinstance(parameters, Mapping) or name not in parameters:
                raise UsageError(f"the query's parameter :{name} has no value", hint=f'{{"{name}": ...}}')
            if name not in numbers:
                values.append(parameters[name])
                numbers[name] = len(values)
            return f"${numbers[name]}"
        if found["mark"] is not None:
            if isinstance(parameters, Mapping) or len(values) >= len(parameters):
                raise UsageError(
                    f"the query has more ? than its {len(parameters)} values", hint="give one value for each"
                )
            values.append(parameters[len(values)])
            return f"${len(values)}"
        return found[0]

    text = _TOKEN.sub(numbered, sql)
    if not isinstance(parameters, Mapping) and len(values) != len(parameters):
        raise UsageError(f"the query takes {len(values)} values, got {len(parameters)}", hint="one value for each ?")
    return text, values


async def ask(pool: Pool, sql: str, parameters: Mapping[str, Any] | Sequence[Any]) -> list[dict[str, Any]]:
    """Return the rows of a SELECT.

    Raises:
        UsageError: it is not a SELECT, or PostgreSQL does not understand it.
        StoreUnavailable: it ran too long.
    """
    if not _BEGINS.match(sql):
        raise UsageError("a query may only read", hint="write a single SELECT over the documented views")
    text, values = translated(sql, parameters)
    async with pool.use() as connection:
        try:
            async with connection.transaction(readonly=True):
                await connection.execute(f"SET LOCAL statement_timeout = {int(SECONDS * 1000)}")
                return [dict(row) for row in await connection.fetch(text, *values)]
        except asyncpg.ReadOnlySQLTransactionError as error:
            raise UsageError("a query may only read", hint="write a single SELECT over the documented views") from error
        except asyncpg.QueryCanceledError as error:
            raise StoreUnavailable(
                f"the query ran for more than {SECONDS:g} s and was stopped", hint="narrow it"
            ) from error
        except (
            asyncpg.SyntaxOrAccessError, asyncpg.DataError, asyncpg.exceptions.DataError,
            asyncpg.FeatureNotSupportedError,
        ) as error:  # fmt: skip
            raise UsageError(
                f"the query does not run: {error}",
                hint="SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'",
            ) from error
