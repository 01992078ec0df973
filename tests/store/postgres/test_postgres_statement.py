"""The statement's parameters: a column of a batch is one text, whatever stands in its values."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.support.cases import new_case, receive, turn
from tests.support.postgres import run_sql

from longcase.store.postgres import PostgresStore
from longcase.store.postgres.statement import _SEPARATORS, _parameters
from longcase.store.records import CaseRef


async def test_texts_that_hold_the_separator_are_kept_as_they_are(store: PostgresStore) -> None:
    keys = [f"a{chr(code)}b" for code in _SEPARATORS[:4]] + ['{"', '\\"}', "NULL", ",", "'"]
    started = await store.start([new_case(key, note=key) for key in keys])
    assert [one.existing for one in started] == [False] * len(keys)
    rows = await store.load_many([one.case_no for one in started])
    assert [rows[one.case_no].state.key for one in started] == keys
    assert [rows[one.case_no].state.object["note"] for one in started] == keys


def test_the_separator_is_one_that_no_value_has() -> None:
    separator, numbers, texts = _parameters([(("seq", "key"), [(1, "a\x1e"), (None, "\x1c")])])
    assert texts.split(separator) == ["a\x1e", "\x1c"]
    assert numbers == "{1,NULL}"


async def test_a_lone_empty_text_of_a_batch_stays_an_empty_text(
    store: PostgresStore, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A turn and a start share a statement: each table has one row, with empty texts in it.
    async def carefully(*_: Any) -> None:
        raise AssertionError("the statement was refused")

    monkeypatch.setattr(store._committer, "_carefully", carefully)
    (first,) = await store.start([new_case("K")])
    row = await store.load(CaseRef(first.case_no))
    assert row is not None
    asked = turn(row, receive("a", "1.r2"))
    _, (second,) = await asyncio.gather(store.write([asked]), store.start([new_case("L")]))
    assert not second.existing
    written = await asyncio.to_thread(
        run_sql, postgres_url, "SELECT wait_kind, wait_what, closed_at FROM cases ORDER BY case_no"
    )
    assert [tuple(one) for one in written] == [("signal", "signal a", ""), ("", "", "")]
