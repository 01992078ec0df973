"""What a declaration of a transactional activity may be (SEMANTICS A12)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from longcase import Team, Transaction, activity, minutes, seconds
from longcase.errors import DefinitionError, UsageError
from longcase.runtime.performing import failure
from longcase.store.apart import ends_it, of_the_session
from longcase.store.postgres.apart import _ENDS_IT, _OF_THE_SESSION, _first_word

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


def gets_none(key: str) -> str:
    return key


def untyped(tx, key: str) -> str:  # type: ignore[no-untyped-def]
    return key


def gets_two(tx: Transaction, other: Transaction) -> None:
    return None


@pytest.mark.parametrize(
    ("fn", "transaction", "told", "hint"),
    [
        (gets_none, True, "its first parameter key is a str, expected the Transaction", "def gets_none(tx: Tr"),
        (untyped, True, "its first parameter tx is without a type", "def untyped(tx: Transaction, ...)"),
        (gets_two, True, "other is a second Transaction", "leave other out"),
        (plain, False, "tx is a Transaction, and only an activity with transaction=True gets one", "transaction=True"),
    ],
)
def test_rule_A12_the_transaction_is_the_first_parameter_of_a_transactional_activity_and_of_no_other(
    fn: Callable[..., Any], transaction: bool, told: str, hint: str
) -> None:
    made: Any = activity(owner=desk, transaction=transaction)(fn)  # type: ignore[call-overload]
    with pytest.raises(DefinitionError, match=told) as refused:
        _ = made.codecs
    assert hint in refused.value.hint


def test_the_hint_of_an_error_that_an_activity_raised_stands_in_its_line() -> None:
    told = failure("non_retryable", ends_it("COMMIT")).message
    assert told.endswith("is begun and ended by Longcase (hint: return to commit, raise to roll back)")
    assert "\n" not in told
    assert failure("error", UsageError("no")).message == "no"


@pytest.mark.parametrize(("what", "mend"), [("PRAGMA", "leave it out"), ("CREATE TEMP TABLE", "make tables that stay")])
def test_a_statement_about_the_connection_is_not_told_to_return_to_commit(what: str, mend: str) -> None:
    refused = of_the_session(what)
    assert "it is about the connection" in refused.message
    assert mend in refused.hint


def test_rule_A12_transaction_is_true_or_false() -> None:
    with pytest.raises(DefinitionError, match="transaction='yes', expected True or False"):
        activity(owner=desk, transaction="yes")(plain)  # type: ignore[call-overload]


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
    assert _first_word(sql) in _ENDS_IT | _OF_THE_SESSION


@pytest.mark.parametrize(
    "sql", ["SELECT 1", "/* COMMIT */ INSERT INTO t VALUES (1)", "", "(SELECT 1)", "WITH a AS (x)"]
)
def test_rule_A12_other_statements_are_not(sql: str) -> None:
    assert _first_word(sql) not in _ENDS_IT | _OF_THE_SESSION
