"""The demo: some 200 clients come on board while everything goes wrong, in half a minute.

    python examples/client_onboarding/demo.py            # or: make demo

One second is one day. This process plays the people: sales, credit, customers and an operator, all
through the service. A second process is the worker; it is killed with SIGKILL three times in the
middle of its work and started again. At the end the books are checked against the bank's own
ledger. Exit status: 0 if every promise held, 1 if one was broken, 2 for a wrong call.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import heapq
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from onboarding import onboarding, withdrawn  # noqa: E402 - the folder is put on the path just above
from report import Told, print_report  # noqa: E402
from trouble import Plan, Vote, plans, right_entity  # noqa: E402

from longcase import Longcase, LongcaseError  # noqa: E402
from longcase.engine.tasks import Actor  # noqa: E402
from longcase.env import Env, ScaledClock  # noqa: E402
from longcase.errors import CaseClosed, ConflictError, NotFoundError  # noqa: E402

FOLDER = Path("onboarding-demo")
MONDAY = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
DAY = 86_400.0  # one second is one day
KILLS = (3.0, 6.5, 10.0)  # days
LOOK = 0.05  # seconds between looks at what the people have to do
LIMIT = 55.0  # seconds; whatever is open then counts as lost


class Demo:
    """The people around the cases, and the hand that kills the worker."""

    def __init__(self, app: Longcase, todo: list[Plan], worker: Worker, told: Told) -> None:
        self.app = app
        self.todo = todo
        self.worker = worker
        self.told = told
        self._agenda: list[tuple[float, int, Callable[[], Awaitable[None]]]] = []
        self._by_key = {plan.client["id"]: (number, plan) for number, plan in enumerate(todo, start=1)}
        self._asked: dict[str, set[int]] = {}
        self._incidents: set[tuple[str, str]] = set()

    @property
    def day(self) -> float:
        """Return how many days have passed on the demo's clock."""
        return (self.app.env.now() - MONDAY) / timedelta(days=1)

    async def run(self) -> None:
        """Play until every case is closed, or time is up."""
        for plan in self.todo:
            self._enter(plan)
        kills = list(KILLS)
        said = -1
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            await self._due()
            await self._look()
            if kills and self.day >= kills[0]:
                kills.pop(0)
                await self._kill()
            counts = await self._counts()
            if int(self.day) // 2 > said:
                said = int(self.day) // 2
                self._say(counts)
            if counts["open"] == 0 and counts["all"] == len(self.todo) and not self._agenda:
                break
            self.worker.check()
            await asyncio.sleep(LOOK)
        self.told.days = self.day

    def _say(self, counts: dict[str, int]) -> None:
        waiting = f"{counts['person']} on people, {counts['data']} on data, {counts['incident']} on an operator"
        print(
            f"  day {int(self.day):2d}   {counts['all']:3d} cases in, {counts['closed']:3d} done; waiting {waiting}",
            flush=True,
        )

    async def _counts(self) -> dict[str, int]:
        rows = await self.app.service.query(
            "SELECT status, waiting_for, count(*) AS n FROM case_overview GROUP BY 1, 2"
        )
        counts: Counter[str] = Counter()
        for row in rows:
            counts["all"] += row["n"]
            counts[row["status"]] += row["n"]
            counts[row["waiting_for"] or ""] += row["n"]
        return counts

    # -- the agenda --------------------------------------------------------------------------------

    def _at(self, day: float, act: Callable[[], Awaitable[None]]) -> None:
        heapq.heappush(self._agenda, (day, len(self._agenda) + self.told.acts, act))
        self.told.acts += 1

    async def _due(self) -> None:
        while self._agenda and self._agenda[0][0] <= self.day:
            await heapq.heappop(self._agenda)[2]()

    def _enter(self, plan: Plan) -> None:
        address = f"{onboarding.name}/{plan.client['id']}"
        self._at(plan.start, lambda: self._start(plan))
        if plan.start_again is not None:
            self._at(plan.start_again, lambda: self._start(plan))
        if plan.entity_after is not None:
            self._at(plan.start + plan.entity_after, lambda: self._provide(address, plan.entity))
        if plan.withdraws is not None:
            for n in range(plan.sends):
                self._at(plan.withdraws + 0.02 * n, lambda: self._withdraw(address))

    # -- the people ----------------------------------------------------------------------------------

    async def _start(self, plan: Plan) -> None:
        receipt = await self.app.service.start(onboarding, plan.client, actor=Actor("service:crm"))
        self.told.repeats["starts"] += receipt.existing

    async def _provide(self, address: str, entity: str) -> None:
        with suppress(CaseClosed):  # the customer withdrew before sales had the paper
            await self.app.service.set_fields(address, {"legal_entity": entity}, actor=Actor("person:sanne"))

    async def _withdraw(self, address: str) -> None:
        try:
            accepted = await self.app.service.signal(
                address,
                withdrawn,
                {"reason": "found another bank"},
                idempotency_key="letter-1",
                actor=Actor("service:post"),
            )
            self.told.repeats["signals"] += accepted.duplicate
        except CaseClosed:
            self.told.too_late["withdrawals"] += 1

    async def _vote(self, address: str, task: str, vote: Vote) -> None:
        actor = Actor(f"person:{vote.person}")
        try:
            accepted = await self.app.service.decide(address, vote.answer, task=task, reason=vote.reason, actor=actor)
            self.told.repeats["answers"] += accepted.duplicate
        except (ConflictError, NotFoundError):
            self.told.too_late["answers"] += 1

    async def _repair(self, number: int, address: str, incident: str, kind: str, message: str) -> None:
        """What an operator does at 11 pm; the service judges, the history keeps it."""
        service, operator = self.app.service, Actor("person:olga")
        with suppress(ConflictError):  # closed meanwhile: the customer withdrew
            if "UnknownEntity" in message:
                await service.correct(
                    address, {"legal_entity": right_entity(number)}, reason="typing error", actor=operator
                )
                await service.restart(address, reason="look up the corrected entity", actor=operator)
            else:
                await service.retry(address, incident=incident, reason="the vendor is well again", actor=operator)

    # -- looking -----------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """See the questions and the incidents that came up, and put the answers on the agenda."""
        for row in await self.app.service.query("SELECT key, event FROM waiting WHERE kind = 'person'"):
            asked = self._asked.setdefault(row["key"], set())
            if row["event"] in asked:
                continue
            asked.add(row["event"])
            address = f"{onboarding.name}/{row['key']}"
            rounds = self._by_key[row["key"]][1].rounds
            for task in (await self.app.service.open_tasks(address))[:1]:
                for vote in rounds[min(len(asked), len(rounds)) - 1]:
                    self._at(self.day + vote.after, lambda a=address, t=task.ref, v=vote: self._vote(a, t, v))  # type: ignore[misc]
        opened = "SELECT key, incident, kind, message FROM incidents WHERE closed_at IS NULL"
        for row in await self.app.service.query(opened):
            if (row["key"], row["incident"]) in self._incidents:
                continue
            self._incidents.add((row["key"], row["incident"]))
            number = self._by_key[row["key"]][0]
            address = f"{onboarding.name}/{row['key']}"
            self._at(
                self.day + 0.6,
                lambda n=number, a=address, r=row: self._repair(n, a, r["incident"], r["kind"], r["message"]),  # type: ignore[misc]
            )

    async def _kill(self) -> None:
        """Kill the worker while it has calls out, if it has any within a second."""
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            if await self.app.service.query(
                "SELECT 1 FROM waiting WHERE kind = 'activity' AND what NOT LIKE '% at %' LIMIT 1"
            ):
                break
            await asyncio.sleep(0.01)
        self.worker.kill()
        self.told.kills += 1
        print(
            f"  day {int(self.day):2d}   worker killed with SIGKILL (process {self.worker.pid}), starting it again",
            flush=True,
        )
        self.worker.start()


class Worker:
    """The worker: another process on the same store."""

    def __init__(self, url: str, log: IO[bytes]) -> None:
        self._command = [sys.executable, str(Path(__file__).resolve()), "--work", url]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Return the number of the process."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Start it."""
        self._process = subprocess.Popen(self._command, stdout=self._log, stderr=self._log)

    def kill(self) -> None:
        """Kill it as the machine would: no warning, no farewell."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def check(self) -> None:
        """Raise if it has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError(
                f"the worker ended by itself with status {self._process.returncode}; see {self._log.name}"
            )

    def stop(self) -> None:
        """Let it drain and end."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


async def work(url: str) -> None:
    """Be the worker until told to stop. The clock is the store's: compressed time."""
    async with Longcase([onboarding], url=url) as app:
        worker = app.new_worker()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
        await worker.run()


async def play(cases: int, seed: int, folder: Path) -> int:
    """Run the demo in a folder; returns the exit status."""
    url = f"sqlite:///{folder / 'cases.db'}"
    os.environ["ONBOARDING_LEDGER"] = str(folder / "ledger.db")
    os.environ["ONBOARDING_SEED"] = str(seed)
    os.environ.setdefault("ONBOARDING_FAILING", "0.3")
    began = time.time()
    told = Told(cases)
    share = f"{float(os.environ['ONBOARDING_FAILING']):.0%}"
    print(f"{cases} clients come on board; vendors fail {share} of calls; one second is one day", flush=True)
    with (folder / "worker.log").open("ab") as log:
        async with Longcase([onboarding], url=url, env=Env(ScaledClock(began, MONDAY, DAY), seed=seed)) as app:
            await app.scale_clock(DAY)  # kept in the store: the worker and the command line go by it too
            worker = Worker(url, log)
            worker.start()
            try:
                await Demo(app, plans(cases, seed), worker, told).run()
            finally:
                worker.stop()
            told.seconds = time.time() - began
            return await print_report(app, told, folder)


def empty(folder: Path) -> IO[str]:
    """Make the folder, or clear what an earlier run left there; nobody else may be using it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "demo.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise SystemExit(
            f"demo: another one is running in {folder}\n\nhint: wait for it, or name another folder: --folder other"
        ) from None
    for pattern in ("cases.db*", "ledger.db*", "worker.log"):
        for found in folder.glob(pattern):
            shutil.rmtree(found) if found.is_dir() else found.unlink()
    return lock


def count_of_cases(text: str) -> int:
    """Read --cases."""
    number = int(text)
    if not 1 <= number <= 2_000:
        raise argparse.ArgumentTypeError(f"{number} cases, expected 1 to 2000")
    return number


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description="Client onboarding, with everything going wrong.")
    parser.add_argument("--cases", type=count_of_cases, default=200, help="how many clients come (default 200)")
    parser.add_argument("--seed", type=int, default=7, help="the same seed brings the same trouble (default 7)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where the store is kept (default {FOLDER})")
    parser.add_argument("--work", metavar="URL", help=argparse.SUPPRESS)  # be the worker: the demo starts itself so
    options = parser.parse_args()
    if options.work:
        asyncio.run(work(options.work))
        return 0
    with empty(options.folder):
        try:
            return asyncio.run(play(options.cases, options.seed, options.folder))
        except (LongcaseError, RuntimeError) as error:
            print(f"demo: {error}", file=sys.stderr)
            return 1


if __name__ == "__main__":
    raise SystemExit(main())
