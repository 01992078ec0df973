"""What a caller is told when the server goes, when a connection breaks, when two stand in each other's way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from tests.support.cases import corrected, do, entered, first_turn, new_case, noted, receive, signal, turn
from tests.support.postgres import database_of, run_sql
from tests.support.wire_proxy import Harm, Request, WireProxy

from longcase.env import Env
from longcase.errors import InvalidInput, StoreUnavailable, UsageError
from longcase.insight.verify import verify
from longcase.opening import open_store
from longcase.store.postgres import PostgresStore, open_postgres
from longcase.store.postgres.connection import ENDS_TRANSACTIONS, Address
from longcase.store.postgres.statement import flush
from longcase.store.records import CaseRef, DedupKey

CUT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


async def findings(store: Any) -> list[str]:
    return [str(finding) async for finding in verify(store)]


async def test_inv_06_after_its_connections_are_cut_the_store_goes_on(store: PostgresStore, postgres_url: str) -> None:
    (base,) = await store.start([new_case("k1")])
    for _ in range(3):
        await asyncio.to_thread(run_sql, postgres_url, CUT)
        for _ in range(10):  # each connection that was cut is found out once
            try:
                await store.edit(CaseRef(base.case_no), do(noted()))
                row = await store.load(CaseRef(base.case_no))
                break
            except StoreUnavailable:
                continue
        else:
            raise AssertionError("the store never came back")
    assert row is not None
    assert row.state.seq >= 4
    assert await findings(store) == []


async def test_a_connection_whose_end_is_noticed_in_the_middle_is_not_lent_again_and_a_hint_over_it_is_just_lost(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")
    lent: list[Any] = []

    async def lend() -> None:
        async with store._loose.use() as connection:
            lent.append(connection)
            raise ends

    with pytest.raises(asyncpg.InternalClientError):
        await lend()
    async with store._loose.use() as connection:
        assert connection not in lent

    async def ended(*about: Any) -> None:
        lent.append(about)
        raise ends

    monkeypatch.setattr(asyncpg.Connection, "execute", ended)
    await store._hints._send()
    assert len(lent) == 2


async def test_a_store_whose_line_breaks_while_it_is_closed_is_closed_all_the_same(
    postgres_url: str, env: Env, caplog: pytest.LogCaptureFixture
) -> None:
    with WireProxy(postgres_url) as wire:
        store = await open_postgres(wire.url, env)
        worker = await store.join("here", 1)
        wire.plan = lambda request: "lose" if request.commits else "pass"
        await store.close()
        assert wire.done["lose"] == 1
    assert f"worker {worker} has gone without a word" in caplog.text


async def test_a_server_that_is_not_there_is_named_without_its_password(env: Env) -> None:
    with pytest.raises(StoreUnavailable) as refused:
        await open_postgres("postgresql://ann:secret@127.0.0.1:1/none", env)
    assert "127.0.0.1:1" in refused.value.message
    assert "secret" not in str(refused.value)


async def test_a_database_that_is_not_there_is_named(postgres_url: str, env: Env) -> None:
    with pytest.raises(StoreUnavailable, match='"nowhere" does not exist'):
        await open_postgres(database_of(postgres_url, "nowhere"), env)


@pytest.mark.parametrize("url", ["postgresql://h/d?statement_cache_size=x", "mysql://h/d"])
async def test_a_url_that_cannot_be_read_is_refused(url: str, env: Env) -> None:
    with pytest.raises(UsageError):
        await open_store(url, env)


def test_an_address_shows_no_secret() -> None:
    address = Address.of("postgresql://ann:se%40cret@db.example/cases?sslmode=require&statement_cache_size=0")
    assert str(address) == "postgresql://ann:***@db.example/cases"
    assert address.statements == 0
    assert "statement_cache_size" not in address.url
    assert "sslmode=require" in address.url


async def test_text_that_postgresql_cannot_keep_fails_alone(store: PostgresStore) -> None:
    good, bad = await store.start([new_case("k1"), new_case("k2")])
    spoilt = entered(owner="nul \x00 owner")
    written = await store.write([turn(good, entered(), receive()), turn(bad, spoilt)], partial=True)
    assert [one.outcome for one in written] == ["done", "failed"]
    assert isinstance(written[1].error, InvalidInput)
    assert await findings(store) == []


async def test_two_processes_that_edit_one_case_lose_nothing(store: PostgresStore, other: PostgresStore) -> None:
    (base,) = await store.start([new_case("k1")])
    ref = CaseRef(base.case_no)
    await asyncio.gather(
        *(store.edit(ref, do(noted(f"here-{number}"))) for number in range(20)),
        *(other.edit(ref, do(noted(f"there-{number}"))) for number in range(20)),
    )
    events = await store.events(base.case_no)
    assert [event.seq for event in events] == list(range(1, 42))
    assert len({event.data["key"] for event in events[1:]}) == 40
    assert await findings(store) == []


async def test_inv_09_two_processes_that_send_one_message_apply_it_once(
    store: PostgresStore, other: PostgresStore
) -> None:
    (base,) = await store.start([new_case("k1")])
    dedup = DedupKey("signal", "m-1", "body")
    seen: list[Any] = []

    def send(name: str) -> Any:
        def decide(locked: Any) -> Any:
            edit = do(inputs=[signal(f"from-{name}")], dedup=dedup, answer=name)(locked)
            if locked.duplicate is None:
                return edit
            edit.result, edit.inputs = locked.duplicate, []
            seen.append(name)
            return edit

        return decide

    await asyncio.gather(
        store.edit(CaseRef(base.case_no), send("here"), dedup),
        other.edit(CaseRef(workflow="onboarding", key="k1"), send("there"), dedup),
    )
    assert len(await store.inbox(base.case_no)) == 1
    assert len(seen) == 1


async def test_inv_12_two_processes_that_start_one_key_make_one_case(
    store: PostgresStore, other: PostgresStore
) -> None:
    for number in range(10):
        key = f"k{number}"
        (one,), (two,) = await asyncio.gather(store.start([new_case(key)]), other.start([new_case(key)]))
        assert one.case_no == two.case_no
        assert sorted([one.existing, two.existing]) == [False, True]


async def test_a_turn_that_another_process_overtook_is_stale_although_its_row_was_known(
    store: PostgresStore, other: PostgresStore
) -> None:
    (base,) = await store.start([new_case("k1")])
    await store.load(CaseRef(base.case_no))
    late = turn(base, entered(), receive())
    await other.edit(CaseRef(base.case_no), do(corrected(name="Acme")))
    (written,) = await store.write([late])
    assert written.outcome == "stale"


@pytest.mark.parametrize("known", [False, True])
async def test_an_input_of_another_process_is_not_slept_over(
    store: PostgresStore, other: PostgresStore, known: bool
) -> None:
    """Nothing but the row's revision tells of it: an accepted input is no event yet."""
    (base,) = await store.start([new_case("k1")])
    if known:
        await store.load(CaseRef(base.case_no))
    parked = turn(base, entered(), receive(), wake_at="")
    await other.edit(CaseRef(base.case_no), do(inputs=[signal("s-1")]))
    (written,) = await store.write([parked])
    assert (written.outcome, written.pending) == ("done", 1)
    row = await store.load(CaseRef(base.case_no))
    assert row is not None
    assert row.wake_at != ""


async def test_batches_that_hold_the_same_cases_in_any_order_all_end(
    store: PostgresStore, other: PostgresStore
) -> None:
    started = await store.start([new_case(f"k{i}") for i in range(12)])
    first = [turn(one, entered(), receive()) for one in started]
    second = [turn(one, entered(), receive()) for one in reversed(started)]
    outcomes = await asyncio.gather(store.write(first, partial=True), other.write(second, partial=True))
    told = [one.outcome for answers in outcomes for one in answers]
    assert sorted(told) == ["done"] * 12 + ["stale"] * 12
    assert await findings(store) == []


@pytest.mark.parametrize("spoilt", [False, True])
async def test_turns_on_cases_of_which_nothing_is_known_are_one_commit_unless_one_spoils_it(
    store: PostgresStore, postgres_url: str, env: Env, spoilt: bool
) -> None:
    """As after a lost connection. One by one, a line cut at every sixth commit let no batch of eight through, ever."""
    committed: list[str] = []

    def counted(request: Request) -> Harm:
        if request.commits:
            committed.append(request.sql)
        return "pass"

    started = await store.start([new_case(f"k{number}") for number in range(8)])
    await store.edit(CaseRef(started[3].case_no), do(corrected(name="Acme")))  # overtakes the turn below
    turns = [turn(one, entered(), receive()) for one in started]
    if spoilt:
        turns[5] = turn(started[5], entered(owner="nul \x00 owner"))
    with WireProxy(postgres_url) as proxy:
        opened = await open_postgres(proxy.url, env)
        try:
            proxy.plan = counted
            written = await opened.write(turns, partial=True)
        finally:
            await opened.close()
    told = ["done", "done", "done", "stale", "done", "failed" if spoilt else "done", "done", "done"]
    assert [one.outcome for one in written] == told
    assert len(committed) == (6 if spoilt else 1), committed
    assert await findings(store) == []


async def test_a_hint_of_another_process_is_heard_and_ones_own_is_not(
    store: PostgresStore, other: PostgresStore
) -> None:
    store._hints._monotonic, store._hints._looked = (lambda: 0.0), 0.0  # no poll falls due

    async def until(reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not reached():
                await asyncio.sleep(0.01)

    await until(lambda: store.changed() or store._hints._proven)  # it listens, and has heard itself
    await until(lambda: store._hints._proven)
    store.changed()
    (base,) = await store.start([new_case("k1")])
    await until(lambda: store._hints._sending is None)
    await store.query("SELECT 1")
    assert not store.changed()
    await other.edit(CaseRef(base.case_no), do(wake=True))
    await until(store.changed)


async def test_without_prepared_statements_it_works_as_well(postgres_url: str, env: Env) -> None:
    mark = "&" if "?" in postgres_url else "?"
    opened = await open_postgres(f"{postgres_url}{mark}statement_cache_size=0", env)
    try:
        (base,) = await opened.start([new_case("k1")])
        await opened.write([turn(base, entered(), receive())])
        await opened.edit(CaseRef(base.case_no), do(noted()))
        assert await findings(opened) == []
    finally:
        await opened.close()


async def test_a_parent_that_is_numbered_anew_is_the_parent_its_child_knows(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first try is rolled back, as when another process takes a key meanwhile; the second gets other numbers.
    tried: list[int] = []

    async def missing_once(connection: Any, drafts: Any, fence: int) -> list[bool]:
        landed = await flush(connection, drafts, fence)
        tried.append(len(drafts))
        return landed if len(tried) > 1 else [False] * len(landed)

    monkeypatch.setattr("longcase.store.postgres.commit.flush", missing_once)
    child = new_case("c1", workflow="check")
    child.started.data["parent"] = {"case_no": 0, "child": "1.k1"}
    (written,) = await store.write([first_turn(new_case("k1"), entered(), receive(), children=[child])])
    assert tried == [2, 2]
    (started,) = written.children
    assert started.state.parent == {"case_no": written.case_no, "child": "1.k1"}
    assert written.pending == 0
    assert await findings(store) == []


async def test_a_writer_that_stands_still_inside_a_statement_gives_its_locks_up(
    postgres_url: str, env: Env, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between the parts of a statement a session is neither idle nor at work: only this bound ends it."""
    monkeypatch.setattr("longcase.store.postgres.store.TRANSACTION_SECONDS", 0.5)
    stopped = await open_postgres(postgres_url, env)
    other = await open_postgres(postgres_url, env)
    try:
        (base,) = await other.start([new_case("k1")])
        async with stopped._writers.use() as connection:
            if connection.get_server_version().major < ENDS_TRANSACTIONS:
                pytest.skip("this PostgreSQL has no transaction_timeout")
            await connection.execute("BEGIN")
            await connection.fetch("SELECT 1 FROM cases WHERE case_no = $1 FOR UPDATE", base.case_no)
            await connection.prepare("SELECT 'never run'")
            async with asyncio.timeout(30):
                await other.edit(CaseRef(base.case_no), do(noted()))
                while not connection.is_closed():  # it was told that its transaction is over
                    await asyncio.sleep(0.01)
    finally:
        await stopped.close()
        await other.close()
