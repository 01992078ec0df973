"""`longcase workers` and `worker --queue`: who lives, what each serves and holds, and what waits for nobody."""

from __future__ import annotations

import json
import re
import signal
from typing import Any

from tests.support.cli import Cli
from tests.support.waiting import wait_for

SCANS = """
from __future__ import annotations
import asyncio
from pathlib import Path
from pydantic import BaseModel
from longcase import Case, Next, Team, Workflow, activity, days

desk = Team("desk")

class Scan(BaseModel):
    id: str

@activity(owner=desk, queue="gpu")
async def render(id: str) -> str:
    Path("began").touch()
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    return "picture"

scans = Workflow("scans", object=Scan, key="id", owner=desk, expect=days(1))

@scans.stage(owner=desk, expect=days(1))
async def rendering(case: Case[Scan]) -> Next:
    return scans.close("done", result=await render(case.object.id))
"""


def begin(cli: Cli, *options: str, app: str = "scans.py") -> Any:
    """Start a worker; returns the process and what it said."""
    process = cli.process("worker", app, "--json", *options)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


def test_a_queue_that_nobody_serves_is_named_until_somebody_does(cli: Cli) -> None:
    (cli.folder / "scans.py").write_text(SCANS)
    first, hello = begin(cli)
    try:
        _watch(cli, first, hello)
    finally:
        first.kill()
        first.communicate()


def _watch(cli: Cli, first: Any, hello: Any) -> None:
    assert (hello["worker"], hello["queues"]) == (1, ["default"])
    cli.ok("start", "scans", '{"id": "S-1"}', "--app", "scans.py")
    shown = cli.until("scans/S-1", lambda case: case["waiting_on"] == "render, for a worker of queue gpu")
    assert shown["headline"].startswith("Waiting for a worker of queue gpu: render, since ")
    assert shown["untaken"] == {"gpu": "no living worker serves it"}
    said = cli.ok("show", "scans/S-1").out
    assert "Nobody takes its calls from queue gpu: no living worker serves it: longcase worker APP -q gpu" in said
    told = cli("workers")
    assert told.err == ""
    assert told.out.endswith(
        "\n\n1 call of scans waits in queue gpu: no living worker serves it: longcase worker APP --queue gpu\n"
    )
    found = cli.ok("workers", "--json").json
    (queue,) = found["queues"]
    assert (queue["queue"], queue["waiting"], queue["running"], queue["workers"]) == ("gpu", 1, 0, [])
    symptoms = cli.ok("doctor", "--json").json
    (unserved,) = [symptom for symptom in symptoms if symptom["name"] == "queue"]
    assert unserved["hint"] == "longcase worker APP --queue gpu"

    second, hello = begin(cli, "--queue", "gpu", "--attempts", "3")
    try:
        _serve(cli, first, second, hello)
    finally:
        second.kill()
        second.communicate()


def _serve(cli: Cli, first: Any, second: Any, hello: Any) -> None:
    assert (hello["worker"], hello["queues"]) == (2, ["gpu"])
    wait_for(cli.folder / "began")
    found = cli.ok("workers", "--json").json
    assert [(row["worker"], row["alive"], row["queues"]) for row in found["workers"]] == [
        (1, True, ["default"]),
        (2, True, ["gpu"]),
    ]
    assert [row["attempts"] for row in found["workers"]] == [0, 1]
    assert len({row["code"] for row in found["workers"]}) == 1, "one release shows one code"
    assert [queue["workers"] for queue in found["queues"]] == [[2]]
    assert "queue" not in {symptom["name"] for symptom in cli.ok("doctor", "--json").json}
    (cli.folder / "go").touch()
    assert cli.until("scans/S-1", lambda case: case["status"] == "closed")["untaken"] == {}
    for process in (first, second):
        process.send_signal(signal.SIGTERM)
        assert cli.end(process).status == 0
    assert cli("workers").out == "no worker\n"


def test_that_a_queue_is_full_is_told_with_the_code_that_says_so(cli: Cli) -> None:
    limited = SCANS.replace('queue="gpu"', 'queue=Queue("gpu", concurrency=1)').replace("Next,", "Next, Queue,")
    (cli.folder / "narrow.py").write_text(limited)
    worker, _ = begin(cli, "-q", "default", "-q", "gpu", app="narrow.py")
    try:
        for name in ("S-1", "S-2"):
            cli.ok("start", "scans", f'{{"id": "{name}"}}', "--app", "narrow.py")
        wait_for(cli.folder / "began")
        cli.until("scans/S-1", lambda case: case["waiting_on"] == "render")
        cli.until("scans/S-2", lambda case: case["waiting_on"] == "render, for a worker of queue gpu")
        told = cli("workers", "--app", "narrow.py")
        why = "1 call of scans waits in queue gpu: as many run as may at once: 1"
        assert told.out.splitlines()[-1] == why
        (queue,) = cli.ok("workers", "--app", "narrow.py", "--json").json["queues"]
        assert queue["held"] == [
            {"workflow": "scans", "calls": 1, "why": "as many run as may at once: 1", "unserved": False}
        ]
        assert why not in cli.ok("workers").out, "other code does not know the limit"
        (cli.folder / "broken.py").write_text("raise RuntimeError")
        alike = [re.sub(r"\d+ s ago +", "", cli.ok("workers", *app).out) for app in (("--app", "broken.py"), ())]
        assert alike[0] == alike[1]
        (cli.folder / "go").touch()
        for name in ("S-1", "S-2"):
            cli.until(f"scans/{name}", lambda case: case["status"] == "closed")
    finally:
        worker.kill()
        worker.communicate()


def test_a_worker_of_queues_that_nothing_is_bound_to_is_refused(cli: Cli) -> None:
    (cli.folder / "scans.py").write_text(SCANS)
    error = cli.refused(2, "worker", "scans.py", "--queue", "gpuu").error
    assert error["message"] == ("no activity of the loaded workflows is bound to queue gpuu, and no call stands in it")
    assert error["hint"] == "did you mean gpu?"
    assert cli.refused(2, "worker", "scans.py", "-q", "x", "-q", "").error["hint"] == "queues here: default, gpu"


def test_a_queue_of_an_earlier_name_is_served_and_named_once_it_is_empty(cli: Cli) -> None:
    (cli.folder / "scans.py").write_text(SCANS)
    first, _ = begin(cli)
    try:
        cli.ok("start", "scans", '{"id": "S-1"}', "--app", "scans.py")
        cli.until("scans/S-1", lambda case: case["waiting_on"] == "render, for a worker of queue gpu")
    finally:
        first.kill()
        first.communicate()
    (cli.folder / "scans.py").write_text(SCANS.replace('queue="gpu"', 'queue="cards"'))
    (cli.folder / "go").touch()
    for words, told in (
        (("-q", "gpu"), ""),  # a call stands in it
        (("-q", "cards", "-q", "gpu"), "warning: no activity of the loaded workflows is bound to queue gpu"),
    ):
        worker, hello = begin(cli, *words)
        try:
            assert hello["queues"][-1] == "gpu"
            if not told:
                wait_for(cli.folder / "began")
            worker.send_signal(signal.SIGTERM)
            ended = cli.end(worker)
        finally:
            worker.kill()
            worker.communicate()
        assert told in ended.err
        assert bool(told) == ("warning" in ended.err), ended.err


def test_workers_of_an_empty_store_say_how_to_begin(cli: Cli) -> None:
    (cli.folder / "scans.py").write_text(SCANS)
    cli.ok("start", "scans", '{"id": "S-1"}', "--app", "scans.py")
    told = cli("workers")
    assert (told.status, told.out, told.err) == (
        0, "no worker\n\n1 case of scans waits for a worker: no worker is alive: longcase worker APP\n", "",
    )  # fmt: skip
    assert cli.ok("workers", "--json").json == {
        "workers": [], "queues": [],
        "unmoved": [{"workflow": "scans", "cases": 1, "why": "no worker is alive"}],
    }  # fmt: skip


def test_that_nobody_serves_the_default_queue_is_told_by_workers_and_by_the_case(cli: Cli) -> None:
    (cli.folder / "scans.py").write_text(SCANS)
    cli.ok("start", "scans", '{"id": "S-1"}', "--app", "scans.py")
    worker, _ = begin(cli, "--queue", "gpu")
    try:
        why = "no living worker serves the queue default"
        told = cli.ok("workers")
        assert told.out.splitlines()[-1] == f"1 case of scans waits for a worker: {why}: longcase worker APP"
        assert f"Nobody moves it: {why}: longcase worker APP" in cli.ok("show", "scans/S-1").out
        assert cli.ok("show", "scans/S-1", "--json").json["unmoved"] == why
    finally:
        worker.kill()
        worker.communicate()


def test_a_worker_says_which_queues_of_its_workflows_nobody_serves(cli: Cli) -> None:
    (cli.folder / "scans.py").write_text(SCANS)
    first = cli.process("worker", "scans.py")
    second, hello = None, None
    try:
        assert first.stdout is not None
        assert first.stderr is not None
        first.stdout.readline()
        assert first.stderr.readline() == (
            "nobody serves queue gpu, to which the loaded workflows bind work: longcase worker scans.py --queue gpu\n"
        )
        second, hello = begin(cli, "--queue", "gpu")
        assert hello["unserved_queues"] == [], "the first serves the default queue"
    finally:
        for process in (first, second):
            if process is not None:
                process.kill()
                process.communicate()
