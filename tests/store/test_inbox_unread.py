"""A signal to a case for which thousands wait must not read them: a burst would cost the square of its length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.support.cases import do, entered, new_case, new_env, receive, signal, turn
from tests.support.wire_proxy import Harm, Request, WireProxy

from longcase.store.postgres import open_postgres
from longcase.store.records import CaseRef, Edit, Locked
from longcase.store.sqlite import open_sqlite
from longcase.store.sqlite.transaction import Transaction

KEY = CaseRef(workflow="onboarding", key="k1")


async def case_with_input(store: Any) -> None:
    (base,) = await store.start([new_case("k1")])
    await store.write([turn(base, entered(), receive())])
    await store.edit(KEY, do(inputs=[signal("s-1")]))


def asking(locked: Locked) -> Edit[list[str]]:
    return Edit([item.id for item in locked.pending])


async def test_a_signal_reads_no_inbox_of_postgresql(postgres_url: str) -> None:
    asked: list[str] = []

    def plan(request: Request) -> Harm:
        asked.append(request.sql)
        return "pass"

    with WireProxy(postgres_url) as wire:
        store = await open_postgres(wire.url, new_env())
        await case_with_input(store)
        wire.plan = plan
        await store.edit(KEY, do(inputs=[signal("s-2")]))
        assert asked
        assert not [sql for sql in asked if "FROM inbox" in sql]
        await store.edit(KEY, do(inputs=[signal("s-2")]))  # a repeat is found out by the table, and judged anew
        assert await store.edit(KEY, asking) == ["s-1", "s-2"]
        await store.close()


async def test_a_signal_reads_no_inbox_of_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await open_sqlite(str(tmp_path / "cases.db"), new_env())
    await case_with_input(store)
    read, pending = [], Transaction.pending

    def reading(tx: Transaction, case_no: int) -> Any:
        read.append(case_no)
        return pending(tx, case_no)

    monkeypatch.setattr(Transaction, "pending", reading)
    await store.edit(KEY, do(inputs=[signal("s-2")]))
    assert read == []
    assert await store.edit(KEY, asking) == ["s-1", "s-2"]
    assert len(read) == 1
    await store.close()
