"""What a declaration of a transactional activity may be (SEMANTICS A12)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from longcase import Team, Transaction, activity, minutes, seconds
from longcase.errors import DefinitionError
from longcase.store.postgres.apart import _ABOUT_IT, _first_word

desk = Team("desk")


def plain(tx: Transaction, key: str, amount: int = 3) -> str:
    return key


async def suspends(tx: Transaction, key: str) -> str:
    return key


def takes_nothing() -> None:
    return None


def by_name_only(*, tx: Transaction) -> None:
    return None


async def verifies(key: str) -> str:
    return key


@pytest.mark.parametrize(
    ("fn", "options", "told"),
    [
        (suspends, {}, "a function that suspends"),
        (takes_nothing, {}, "no first parameter"),
        (by_name_only, {}, "no first parameter"),
        (plain, {"effect": "once"}, "its outcome is never unknown"),
        (plain, {"verify": verifies}, "its outcome is never unknown"),
        (plain, {"heartbeat": seconds(1)}, "it lasts 5 seconds at most"),
        (plain, {"timeout": minutes(1)}, "expected at most 0:00:05"),
    ],
)
def test_rule_A12_what_cannot_be_transactional_is_refused(
    fn: Callable[..., Any], options: dict[str, Any], told: str
) -> None:
    with pytest.raises(DefinitionError, match=told) as refused:
        activity(owner=desk, transaction=True, **options)(fn)
    assert refused.value.hint


def test_rule_A12_its_limit_is_a_second_unless_given() -> None:
    assert activity(owner=desk, transaction=True)(plain).timeout == timedelta(seconds=1)
    assert activity(owner=desk, transaction=True, timeout=seconds(5))(plain).timeout == timedelta(seconds=5)


def test_rule_A12_the_transaction_is_no_recorded_argument() -> None:
    made = activity(owner=desk, transaction=True)(plain)
    assert list(made.codecs) == ["key", "amount"]
    assert made.encode_arguments(("k",), {}) == {"key": "k", "amount": 3}


@pytest.mark.parametrize(
    "sql",
    ["COMMIT", "  rollback;", "-- a\n/* b */ COMMIT", "/**/BEGIN", "set x = 1", "Prepare transaction 'x'", "end"],
)
def test_rule_A12_a_statement_about_the_transaction_is_known_by_its_first_word(sql: str) -> None:
    assert _first_word(sql) in _ABOUT_IT


@pytest.mark.parametrize(
    "sql", ["SELECT 1", "/* COMMIT */ INSERT INTO t VALUES (1)", "", "(SELECT 1)", "WITH a AS (x)"]
)
def test_rule_A12_other_statements_are_not(sql: str) -> None:
    assert _first_word(sql) not in _ABOUT_IT
