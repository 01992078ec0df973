"""A CSV of thousands: each row started, existing, or refused with its reason; run again, it goes on."""

from __future__ import annotations

import csv
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.support.cli import Cli

pytestmark = pytest.mark.usefixtures("store_url")  # on every kind of store

IMPORT = ("start", "claims", "--csv")


def write(path: Path, rows: int, bad: dict[int, str] | None = None) -> None:
    lines = ["id,name,amount,iban"]
    lines += [(bad or {}).get(n, f"C-{n},Name {n},{n},") for n in range(1, rows + 1)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


BAD = {
    7: "C-7,Seven,many,",
    8: "C-8,Eight",
    9: ",Nine,9,",
    10: "C 10,Ten,10,",
    11: "C-1,first again,1,",
    2_500: "C-2500,x,9223372036854775808,",
    3_000: "C-3000,=cmd(),1.5,",
}


def test_3000_rows_with_bad_ones_among_them(cli: Cli) -> None:
    write(cli.folder / "rows.csv", 3_000, BAD)
    result = cli(*IMPORT, "rows.csv", "--results", "out.csv", "--json")
    assert result.status == 5
    assert result.error["code"] == "rows_refused"
    *rows, end = result.lines
    assert end == {"summary": {"started": 2_993, "existing": 1, "refused": 6}, "interrupted": False}
    assert [row["row"] for row in rows] == list(range(2, 3_002))
    refused = {row["row"] - 1: row for row in rows if row["did"] == "refused"}
    assert set(refused) == set(BAD) - {11}
    assert "amount" in refused[7]["reason"]
    assert refused[8]["reason"] == "2 cells, expected 4"
    assert "/id: missing" in refused[9]["reason"]
    assert "business key" in refused[10]["reason"]
    assert "beyond 64 bits" in refused[2_500]["reason"]
    assert rows[10] == {
        "row": 12,
        "key": "C-1",
        "did": "existing",
        "case": "claims/C-1",
        "differs": "name",
        "reason": "row 2 has the same key",
    }
    with (cli.folder / "out.csv").open(newline="", encoding="utf-8") as file:
        assert Counter(row["did"] for row in csv.DictReader(file)) == {"started": 2_993, "existing": 1, "refused": 6}

    again = cli(*IMPORT, "rows.csv", "--json")
    assert again.lines[-1]["summary"] == {"started": 0, "existing": 2_994, "refused": 6}
    assert cli.ok("verify").out == "2993 cases, 0 findings\n"


def test_a_good_file_ends_with_status_0_and_one_line(cli: Cli) -> None:
    write(cli.folder / "rows.csv", 3)
    assert cli.ok(*IMPORT, "rows.csv").out == "3 started, 0 existing, 0 refused\n"


def test_a_row_that_changes_nothing_is_told(cli: Cli) -> None:
    (cli.folder / "twice.csv").write_text("id,name\nC-1,Acme\nC-1,Best\nC-1,Acme\n")
    told = cli.ok(*IMPORT, "twice.csv").out
    assert told == (
        "row 3 C-1: existing, differs in name: row 2 has the same key\n"
        "1 started, 2 existing (1 differs from the case, and changed nothing), 0 refused\n"
    )
    (cli.folder / "late.csv").write_text("id,name\nC-1,Zenith\n")
    told = cli.ok(*IMPORT, "late.csv").out
    assert told == "0 started, 1 existing (1 differs from the case, and changed nothing), 0 refused\n"


def test_refused_rows_are_told_one_by_one(cli: Cli) -> None:
    write(cli.folder / "rows.csv", 3, {2: "C-2,\x1b[31m,two,"})
    result = cli(*IMPORT, "rows.csv")
    assert result.out.splitlines()[0].startswith("row 3 C-2: refused, invalid_input: row 3: /amount: ")
    assert result.err.startswith("error: refused: 1 of 3 rows")
    assert "\x1b" not in result.out


def test_row_84_results_hold_no_formula(cli: Cli) -> None:
    write(cli.folder / "rows.csv", 1, {1: "=cmd(),x,1,"})
    cli(*IMPORT, "rows.csv", "--results", "out.csv")
    with (cli.folder / "out.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["key"] == "'=cmd()"


def test_row_92_crlf_a_byte_order_mark_quotes_and_blank_lines(cli: Cli) -> None:
    data = b'\xef\xbb\xbfid,name,tags\r\nC-1,"a, ""b""\r\nc","[""x""]"\r\n\r\nC-2,,\r\n'
    assert cli.ok(*IMPORT, "-", stdin=data).out == "2 started, 0 existing, 0 refused\n"
    shown = cli.ok("show", "claims/C-1", "--json").json["object"]
    assert (shown["name"], shown["tags"]) == ('a, "b"\r\nc', ["x"])


def test_a_file_that_breaks_off_in_a_quote_is_refused_at_that_row(cli: Cli) -> None:
    (cli.folder / "rows.csv").write_text('id\nC-1\n"C-2\n')
    result = cli(*IMPORT, "rows.csv", "--json")
    assert result.status == 5
    assert [(row["row"], row["did"]) for row in result.lines[:-1]] == [(2, "started"), (3, "refused")]


def test_row_91_ctrl_c_in_the_middle_leaves_whole_cases_and_the_same_command_goes_on(cli: Cli) -> None:
    write(cli.folder / "rows.csv", 6_000)
    process = cli.process(*IMPORT, "rows.csv", "--json")
    assert process.stdout is not None
    head = [process.stdout.readline() for _ in range(10)]
    process.send_signal(signal.SIGINT)
    ended = cli.end(process)
    assert ended.status == 130, ended.err
    assert "Traceback" not in ended.err
    lines = "".join([*head, ended.out]).splitlines()
    assert '"interrupted": true' in lines[-1]
    told = len(lines) - 1
    assert 0 < told < 6_000
    assert told % 200 == 0
    assert cli.ok("verify", "--json").json == {"cases": told, "findings": [], "count": 0}
    write(cli.folder / "rows.csv", told + 300)
    again = cli.ok(*IMPORT, "rows.csv", "--json").lines[-1]
    assert again["summary"] == {"started": 300, "existing": told, "refused": 0}


def test_row_92_head_ends_the_command_in_silence(cli: Cli) -> None:
    write(cli.folder / "rows.csv", 3_000)
    cli.ok(*IMPORT, "rows.csv")
    for words in (("list", "--limit", "1000"), ("list", "--json", "--limit", "1000"), (*IMPORT, "rows.csv", "--json")):
        process = cli.process(*words)
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(20)
        process.stdout.close()
        err = process.stderr.read()
        process.stderr.close()
        assert "Traceback" not in err
        assert "Exception ignored" not in err
        status = process.wait(60)
        if words[0] == "list":
            assert (status, err) == (0, "")
        else:
            assert status != 0  # an import whose reader is gone has not said what became of each row
            assert "run it again" in err


def test_the_progress_bar_is_drawn_where_somebody_looks(cli: Cli) -> None:
    import os
    import pty

    write(cli.folder / "rows.csv", 1_000)
    screen, terminal = pty.openpty()
    process = cli.process(*IMPORT, "rows.csv", stderr=terminal, env={"TERM": "xterm", "COLUMNS": "100"})
    os.close(terminal)
    seen = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            part = os.read(screen, 4096)
        except OSError:  # the other side has closed
            break
        if not part:
            break
        seen += part
    os.close(screen)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "1000 started, 0 existing, 0 refused\n")
    assert b"1000/1000" in seen
