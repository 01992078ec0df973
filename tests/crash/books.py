"""The program under fire whose effects are rows of its own, in the store's database: written by transactions.

Run as `python -m tests.crash.books URL SECONDS`: a worker over the store that ends when no case is open, or
after SECONDS. The table takes a row twice if it is written twice, so that it can tell.
"""

from __future__ import annotations

import asyncio
import sys

import apsw
from pydantic import BaseModel
from tests.support.postgres import run_sql

from longcase import Case, Longcase, Next, Retry, Team, Transaction, Workflow, activity, attempt, days, seconds

desk = Team("desk")
LINES = 3
TABLE = "CREATE TABLE booked (place TEXT NOT NULL)"
SLOW = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT max(i) FROM n"


class Order(BaseModel):
    id: str


@activity(owner=desk, transaction=True, retry=Retry(max_attempts=4, initial=seconds(0.01), cap=seconds(0.05)))
def book(tx: Transaction, order: str, line: int) -> str:
    tx.execute(f"INSERT INTO booked VALUES ('{order}:{line}')")
    if line == 1 and attempt().number == 1:
        raise OSError("the pen is empty")
    tx.execute(SLOW)  # long enough to be killed in
    return f"{order}:{line}"


books = Workflow("books", object=Order, key="id", owner=desk, expect=days(1))


@books.stage(expect=days(1))
async def booking(case: Case[Order]) -> Next:
    first = await book(case.key, 0)
    second = await book.labelled("second")(case.key, 1)
    third = await book.labelled("third")(case.key, 2)
    return books.close("done", result=[first, second, third])


def make_table(url: str) -> None:
    """Make the user's table in a store that is there."""
    if url.startswith("sqlite"):
        connection = apsw.Connection(url.removeprefix("sqlite:///"))
        connection.set_busy_timeout(30_000)
        connection.execute(TABLE)
        connection.close()
    else:
        run_sql(url, TABLE)


async def main(url: str, limit: float) -> None:
    async with Longcase([books], url=url) as longcase, longcase.working():
        end = asyncio.get_running_loop().time() + limit
        while asyncio.get_running_loop().time() < end:
            rows = await longcase.service.query("SELECT count(*) AS n FROM cases WHERE status = 'open'")
            if rows[0]["n"] == 0:
                return
            await asyncio.sleep(0.02)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
