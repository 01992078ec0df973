"""The URL of a PostgreSQL store: which options it takes, what it says of others, and that no secret is ever shown."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from ssl import SSLCertVerificationError
from typing import Any

import pytest
from tests.support.cases import new_case, new_env
from tests.support.cli import Cli
from tests.support.postgres import run_sql

from longcase.errors import StoreUnavailable, UsageError
from longcase.opening import open_store
from longcase.store.postgres.connection import Address, connect, our_error

HOST = "postgresql://ann:secret@127.0.0.1:1/cases"


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ("bogus=1", "has the option bogus, which is not taken", "taken: application_name, connect_timeout, "),
        ("sslmod=require", "has the option sslmod", "did you mean sslmode?"),
        ("channel_binding=require", "has the option channel_binding", "leave it away"),
        ("search_path=x", "has the option search_path", "options=-c%20NAME=VALUE"),
        ("sslmode=maybe", "sslmode=maybe in the store's URL, expected one of disable, allow,", "?sslmode=verify-full"),
        ("target_session_attrs=x", "expected one of any, primary,", "?target_session_attrs="),
        ("connect_timeout=x", "connect_timeout=x in the store's URL, expected a whole number from 1", "=10"),
        ("connect_timeout=0", "expected a whole number from 1 to 3600", "?connect_timeout=10"),
        ("statement_cache_size=-1", "expected a whole number from 0", "?statement_cache_size=0"),
        ("port=x", "port=x in the store's URL, expected a number", "?port=5432"),
        ("sslmode", "the option sslmode of the store's URL has no value", "give it one"),
        (
            "sslrootcert=/no/such.pem",
            "sslrootcert=/no/such.pem in the store's URL: there is no such file",
            "whole path",
        ),
    ],
)
def test_an_option_that_is_not_taken_is_named(options: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as refused:
        Address.of(f"{HOST}?{options}")
    assert message in refused.value.message
    assert hint in refused.value.hint
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:se/cret@db.example/cases",
        "postgresql://ann:12/cret@db.example/cases",
        "postgresql://ann:se?cret=1@db.example/cases",
        "postgresql://ann:x@se?cret@db.example/cases",
        "postgresql://ann:se#cret@db.example/cases",
        "postgresql://ann:x@se#cret@db.example/cases",
        "postgresql://ann:se[cret@db.example/cases",
        "postgresql://ann:secret/cases",
        "postgresql:/ann:secret@db.example/cases",
        "postgres//ann:secret@db.example/cases",
        "POSTGRESQL:/ann:se/cret@db.example/cases",
        "mysql://ann:se/cret@db.example/cases",
    ],
)
def test_a_password_that_cuts_the_url_in_the_wrong_place_is_not_shown_in_part(cli: Cli, url: str) -> None:
    for command in (("list",), ("doctor",), ("migrate", "--check"), ("backup", "x.db"), ("worker",)):
        for form in ((), ("--json",)):
            told = cli(*command, *form, "--store", url)
            assert told.status == 2, told
            assert "cret" not in told.out + told.err
            assert "12" not in told.err


def test_an_at_sign_in_a_password_stays_in_the_password() -> None:
    address = Address.of("postgresql://ann:p@se%2Fcret@db.example/cases")
    assert str(address) == "postgresql://ann:***@db.example/cases"
    assert address.url == "postgresql://ann:p%40se%2Fcret@db.example/cases"


def test_options_that_say_where_the_database_is_are_shown_and_no_others() -> None:
    address = Address.of("postgresql://ann@/cases?host=/run/postgresql&port=5433&sslmode=require&password=s3cret")
    assert str(address) == "postgresql://ann@/cases?host=/run/postgresql&port=5433"


async def test_the_options_that_libpq_has_reach_the_server(postgres_url: str) -> None:
    mark = "&" if "?" in postgres_url else "?"
    options = "application_name=report&connect_timeout=5&target_session_attrs=read-write&sslmode=disable"
    address = Address.of(f"{postgres_url}{mark}{options}&options=-c%20work_mem%3D5MB")
    connection = await connect(address)
    try:
        assert await connection.fetchval("SELECT current_setting('application_name')") == "report"
        assert await connection.fetchval("SELECT current_setting('work_mem')") == "5MB"
        assert await connection.fetchval("SELECT current_setting('enable_seqscan')") == "off", "ours are there too"
    finally:
        await connection.close()


async def test_a_setting_that_the_server_does_not_know_is_the_urls_fault(postgres_url: str) -> None:
    mark = "&" if "?" in postgres_url else "?"
    with pytest.raises(UsageError, match=r'refuses a setting in the URL .* "bogus"'):
        await open_store(f"{postgres_url}{mark}options=-c%20bogus%3D1", new_env())


@pytest.mark.parametrize("words", [("list",), ("show", "claims/C-1"), ("doctor",), ("migrate", "--check")])
def test_a_question_to_a_server_that_is_not_there_leaves_nothing_in_doubt(cli: Cli, words: tuple[str, ...]) -> None:
    told = cli(*words, "--store", HOST)
    assert told.status == 6
    said = told.out + told.err
    assert "the store postgresql://ann:***@127.0.0.1:1/cases does not answer" in said
    assert "look whether PostgreSQL runs there, and at host and port of the URL" in said
    assert "unknown" not in said
    assert "secret" not in said


async def test_a_write_that_is_cut_off_says_that_its_fate_is_unknown_and_a_question_does_not(postgres_url: str) -> None:
    store: Any = await open_store(postgres_url, new_env())
    try:
        await store.start([new_case("k1")])
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        where = f"{others} AND datname = current_database()"

        async def cut_off(work: Any) -> str:
            async def cutting(connection: Any) -> Any:
                run_sql(postgres_url, where)
                return await connection.fetch("SELECT 1")

            with pytest.raises(StoreUnavailable) as lost:
                await work(cutting)
            return lost.value.message

        async def question(cutting: Any) -> None:
            async with store._using(store._readers, changing=False) as connection:
                await cutting(connection)

        assert "unknown" in await cut_off(store._change)
        assert "unknown" not in await cut_off(question)
    finally:
        await store.close()


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """A command line in an empty folder."""
    return Cli(tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("options", "answer", "message", "hint"),
    [
        ("?sslmode=require", b"N", "speaks no TLS, and the URL asks for it (sslmode)", "sslmode=prefer"),
        ("", b"H", "is no PostgreSQL server", "look at host and port of the URL"),
    ],
    ids=["no TLS", "no PostgreSQL"],
)
def test_a_server_that_answers_is_not_said_to_be_down(
    cli: Cli, options: str, answer: bytes, message: str, hint: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse_tls() -> None:  # N is what PostgreSQL says with ssl = off
            line, _ = server.accept()
            with line:
                line.recv(8)
                line.sendall(answer)

        answering = threading.Thread(target=refuse_tls)
        answering.start()
        port = server.getsockname()[1]
        error = cli.refused(6, "list", "--store", f"postgresql://ann@127.0.0.1:{port}/cases{options}").error
        answering.join(30)
    assert message in error["message"]
    assert hint in error["hint"]
    assert "PostgreSQL runs" not in error["hint"]


def test_a_certificate_that_nobody_known_signed_is_told_as_such() -> None:
    refused = SSLCertVerificationError(1, "certificate verify failed")
    error = our_error(refused, "postgresql://db/cases", changing=False)
    assert isinstance(error, StoreUnavailable)
    assert "no TLS with the server of the store postgresql://db/cases" in error.message
    assert "sslrootcert=" in error.hint
