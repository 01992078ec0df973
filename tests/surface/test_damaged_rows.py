"""One damaged row: every command that looks answers for the others, and names that one with what to do."""

from __future__ import annotations

import re
from contextlib import closing

import apsw
import pytest
from tests.support.cli import Cli, Result
from tests.support.postgres import run_sql

from longcase.errors import StoreCorrupt
from longcase.service.fleet import fleet
from longcase.store.records import QueueLimits
from longcase.testing import Simulation

pytestmark = pytest.mark.usefixtures("store_url")  # on every kind of store

FINE = {  # every command that looks, and how it ends
    "list": 0, "list --overdue": 0, "list --incidents": 0, "list --stage nowhere": 3, "list --owner nobody": 0,
    "show claims/C-1": 0, "show claims/C-2": 0, "history claims/C-1": 0, "tasks": 0, "tasks --of nobody": 0,
    "workers": 0, "map claims --conform": 0, "verify": 0, "doctor": 0,
}  # fmt: skip
UNREAD = {"show claims/C-1": 6, "history claims/C-1": 6, "verify": 6}
# Where, what names it, how the commands end that end otherwise, and those that name it.
ROWS: dict[str, tuple[str, str, dict[str, int], tuple[str, ...]]] = {
    "cases.state": ("case_no = 1", r"claims/C-1 \(case 1\)", UNREAD, tuple(UNREAD)),
    "cases.object": ("case_no = 1", r"claims/C-1 \(case 1\)", {"verify": 6}, ("verify",)),
    "history.data": ("case_no = 1 AND seq = 2", r"claims/C-1 \(case 1\), event 2", {"verify": 6}, ("verify",)),
    "inbox.data": ("case_no = 1", r"claims/C-1 \(case 1\): input 1", {"verify": 6}, ("verify",)),
    "tasks.data": ("case_no = 1", "task 2.q1", {"verify": 6}, ("verify", "tasks")),
    "tasks.whose": (
        "case_no = 1", "task 2.q1", {"verify": 6}, ("verify", "tasks", "list --owner nobody", "tasks --of nobody"),
    ),
    "tasks.decided_by": ("case_no = 1", "task 2.q1", {"verify": 6}, ("verify",)),
    "workers.codes": ("no = 1", "what worker 1 loads", {"doctor": 6}, ("doctor", "workers", "show claims/C-1")),
    "workers.queues": ("no = 1", "what worker 1 serves", {"doctor": 6}, ("doctor", "workers", "show claims/C-1")),
    "maps.graph": (
        "number = 1", "map (1 )?of claims", {"map claims --conform": 6, "verify": 6},
        ("map claims --conform", "verify", "show claims/C-1", "list --stage nowhere"),
    ),
    "settings.value": ("name = 'clock'", "the setting clock", dict.fromkeys(FINE, 6), tuple(FINE)),
}  # fmt: skip
SHAPES = {"a number": "1", "null": "null", "a list of numbers": "[1]"}
TEXTS = {"no JSON": "'{'", "no UTF-8": "CAST(x'7b22f022' AS TEXT)", "nothing": "''"}


def damage(cli: Cli, row: str, value: str) -> None:
    table, _, column = row.partition(".")
    waits = """
    INSERT INTO inbox (case_no, id, type, data, actor, on_behalf, channel, accepted_at)
    VALUES (1, 'x', 'signal_received', '{"signal": "noted"}', 'ann', '', 'cli', '2026-01-05T09:00:00.000000Z')
    """
    change = f"UPDATE {table} SET {column} = {value} WHERE {ROWS[row][0]}"
    if cli.url.startswith("postgres"):
        run_sql(cli.url, "SET session_replication_role = replica", waits, change)
        return
    with closing(apsw.Connection(str(cli.db))) as connection:
        connection.execute("DROP TRIGGER history_is_never_changed")
        connection.execute(waits)
        connection.execute(change)
        assert connection.changes() == 1


def look(cli: Cli, row: str, differing: dict[str, int]) -> dict[str, Result]:
    """Type every command that looks; each must end as it is documented, and not with a bug."""
    found = {}
    for words, status in {**FINE, **differing}.items():
        found[words] = told = cli(*words.split())
        assert told.status == status, (words, told)
        assert "bug" not in told.err, (words, told)
    if "show claims/C-2" not in differing:
        for words in ("list", "tasks"):
            assert "claims/C-2" in found[words].out, words
    for words in ROWS[row][3]:
        assert re.search(ROWS[row][1], found[words].out + found[words].err), (words, found[words])
    return found


def prepared(sim: Simulation) -> None:
    for key in ("C-1", "C-2"):
        sim.start("claims", {"id": key, "amount": 250, "iban": "NL1"})


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("row", ROWS)
def test_a_row_with_json_of_another_shape_is_named_and_the_others_are_shown(
    cli: Cli, sim: Simulation, row: str, shape: str
) -> None:
    prepared(sim)
    differing = dict(ROWS[row][2])
    damage(cli, row, f"'{SHAPES[shape]}'")
    look(cli, row, differing)


@pytest.mark.only_sqlite
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("row", ROWS)
def test_a_row_that_is_no_json_any_more_is_named_and_the_others_are_shown(
    cli: Cli, sim: Simulation, row: str, text: str
) -> None:
    """PostgreSQL takes nothing but JSON into these columns."""
    prepared(sim)
    differing = dict(ROWS[row][2])
    if row.startswith("cases."):
        differing |= {**UNREAD, "doctor": 6}
    damage(cli, row, TEXTS[text])
    look(cli, row, differing)


@pytest.mark.only_sqlite
def test_a_damaged_case_that_a_worker_holds_does_not_keep_the_workers_from_being_listed(
    cli: Cli, sim: Simulation
) -> None:
    prepared(sim)
    damage(cli, "cases.state", "'{', lease = 1")
    told = cli("workers")
    assert (told.status, told.out.splitlines()[1].split()[:2]) == (0, ["1", "alive"])
    assert "holds a row that is no JSON any more" in told.err
    assert "longcase verify" in told.err
    with pytest.raises(StoreCorrupt, match="a row that is no JSON any more"):
        sim.query("SELECT * FROM waiting")


@pytest.mark.only_sqlite
def test_a_text_of_a_case_that_is_no_utf8_is_named_and_the_list_is_whole(cli: Cli, sim: Simulation) -> None:
    prepared(sim)
    damage(cli, "cases.state", "state, owner = CAST(x'64f0' AS TEXT)")
    told = cli("list", "--status", "all", "--json")
    assert (told.status, [row["owner"] for row in told.json]) == (0, ["d\ufffd", "clerks"])
    assert (
        told.err == "claims/C-1: its owner is no UTF-8 any more (hint: longcase restore BACKUP; a case whose row it is "
        "in: longcase rebuild CASE)\n"
    )
    rebuilt = cli("rebuild", "claims/C-1")
    assert rebuilt.out == "claims/C-1: rebuilt from its history\n"
    assert cli.ok("list", "--json").json[0]["owner"] == "clerks"


def test_a_queue_whose_rate_cannot_be_read_is_listed(
    cli: Cli, sim: Simulation, caplog: pytest.LogCaptureFixture
) -> None:
    prepared(sim)
    change = "INSERT INTO queue_rates (queue, begun) VALUES ('slow', '1')"
    if cli.url.startswith("postgres"):
        run_sql(cli.url, change)
    else:
        with closing(apsw.Connection(str(cli.db))) as connection:
            connection.execute(change)
    found = sim._do(fleet(sim._app.store, {"slow": QueueLimits("slow", rate=(1, 60.0))}))
    assert [worker.worker for worker in found.workers] == [1]
    assert "the rate of queue slow is not what was written: expected a list of names" in caplog.text
