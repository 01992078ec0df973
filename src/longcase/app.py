"""The only place that knows all: opens a store, loads workflows, wires the rest."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, cast

from longcase.engine.code import WorkflowCode
from longcase.engine.tasks import Actor
from longcase.env import Env, RealClock, ScaledClock
from longcase.errors import DefinitionError, UsageError
from longcase.model.activity import Activity
from longcase.model.finding import Finding
from longcase.model.map import WorkflowMap, compile_map, forget_sources
from longcase.model.names import MAIN_TENANT, check_tenant, counted, printable
from longcase.model.queue import DEFAULT_QUEUE
from longcase.model.workflow import Workflow
from longcase.nearest import nearest
from longcase.opening import open_store, share_clock, store_url
from longcase.runtime.fingerprint import fingerprint
from longcase.runtime.limits import ATTEMPTS_AT_ONCE
from longcase.runtime.queues import declared_queues
from longcase.runtime.turns import LIVE_CASES
from longcase.runtime.worker import Worker
from longcase.service.door import checked_actor
from longcase.service.service import Service
from longcase.store.port import Store
from longcase.store.records import NewCase, Started
from longcase.store.settings import clock_setting

if TYPE_CHECKING:
    from longcase.runtime.rehearsal import Rehearsal
    from longcase.service.exporting import Exporter
    from longcase.service.retention import KeptStore, Retention

log = logging.getLogger("longcase.app")

MAX_FACTOR = 1_000_000


class Longcase:
    """Longcase in your program: a store, the workflows loaded, and the door to them.

        async with Longcase([onboarding], url="sqlite:///cases.db") as longcase:
            async with longcase.working():
                await longcase.service.start(onboarding, Client(id="C-1", name="Acme"))

    Args:
        workflows: workflow objects, or modules to take them from.
        url: `sqlite:///path`; LONGCASE_DATABASE_URL, else a file in the current folder.
        env: clock, randomness and ids; the machine's own unless given.
        inline: finish every store call without suspending, for programs without an event loop.
        live: coroutines a worker keeps in memory; parked cases beyond it are rows and nothing else.
        tenant: whose cases are started, seen and touched here; a worker moves those of every tenant.
        create: make the store if there is none; without it a missing store is StoreUnavailable.
    """

    def __init__(
        self,
        workflows: Iterable[Workflow[Any] | ModuleType] = (),
        *,
        url: str | None = None,
        env: Env | None = None,
        inline: bool = False,
        live: int = LIVE_CASES,
        actor: Actor | None = None,
        tenant: str = MAIN_TENANT,
        synchronous: str = "FULL",
        create: bool = True,
    ) -> None:
        self.url = store_url(url)
        self.env = env or Env()
        self.workflows = list(collect(workflows))
        self.inline = inline
        if isinstance(live, bool) or not isinstance(live, int) or live < 0:
            told = f"{printable(live)} is given as live, expected how many cases are kept in memory, from 0"
            raise UsageError(told, hint=f"live={LIVE_CASES}")
        self.live = live
        self.codes: dict[str, WorkflowCode] = {}
        self.worker: Worker | None = None
        self.tenant = check_tenant(tenant)
        self._actor = checked_actor(actor)
        self._synchronous = synchronous
        self._create = create
        self._store: Store | None = None
        self._service: Service | None = None

    async def open(self) -> Longcase:
        """Open the store and compile the workflows."""
        self._store = await open_store(
            self.url, self.env, inline=self.inline, create=self._create, synchronous=self._synchronous
        )
        try:
            await share_clock(self._store, self.env)
            for workflow in self.workflows:
                code = load_code(workflow)
                for name in (workflow.name, *workflow.was):
                    self.codes[name] = code
        except BaseException:  # nobody gets what could be closed
            await self.close()
            raise
        self._service = Service(
            self._store, self.env, self.codes, tenant=self.tenant, actor=self._actor, on_change=self._wake
        )
        self._service.starter = self._start
        return self

    async def close(self) -> None:
        """Close the store."""
        if self._store is not None:
            await self._store.close()
            self._store = None

    async def __aenter__(self) -> Longcase:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def store(self) -> Store:
        """The open store."""
        if self._store is None:
            raise UsageError("Longcase is not open", hint="async with Longcase(...) as longcase: ...")
        return self._store

    @property
    def service(self) -> Service:
        """The door: start, signal, decide, repair, ask."""
        if self._service is None:
            raise UsageError("Longcase is not open", hint="async with Longcase(...) as longcase: ...")
        return self._service

    @property
    def retention(self) -> Retention:
        """How long closed cases are kept, and their purge; acts in the name of this program's actor."""
        from longcase.service.retention import Retention

        return Retention(self._keeping_store, self.env, self.service.actor, self.tenant)

    @property
    def exporter(self) -> Exporter:
        """The export of closed cases; acts in the name of this program's actor."""
        from longcase.service.exporting import Exporter

        release = sys.modules["longcase"].__version__
        return Exporter(self._keeping_store, self.env, self.service.actor, release, self.tenant)

    @property
    def _keeping_store(self) -> KeptStore:
        return cast("KeptStore", self.store)  # every store of ours keeps, audits and moves

    async def record_maps(self) -> None:
        """Compile and store the map of each workflow, so that every event of this process lies on it.

        Whoever moves cases calls it first. Where the source cannot be read as a map, cases move all the
        same, their events carry no map, and the log says what `longcase check` would. A workflow that a
        stage starts as a child is loaded with it, wherever it is declared: whoever moves the parent must
        be able to move the child.
        """
        for code, drawn in self._draw_maps():
            code.fingerprint = code.fingerprint or fingerprint(code)
            if not code.nodes:
                continue
            nodes = [*drawn.nodes, *drawn.earlier, *drawn.stages]
            code.map_number = await self.store.map_number(drawn.workflow, drawn.fingerprint, drawn.to_json(), nodes)

    def _draw_maps(self) -> list[tuple[WorkflowCode, WorkflowMap]]:
        """Compile every workflow, and those that their stages start as children."""
        maps: list[tuple[WorkflowCode, WorkflowMap]] = []
        left = list({id(code): code for code in self.codes.values()}.values())
        while left:
            code = left.pop(0)
            drawn, findings = compiled(code.workflow)
            left.extend(self._load_children(drawn))
            code.activities = {**code.activities, **drawn.activities}
            errors = [finding for finding in findings if finding.severity == "error"]
            if errors:
                log.warning(
                    "%s: %s cannot be put on the map; longcase check tells where",
                    drawn.workflow,
                    counted(len(errors), "place"),
                )
            else:
                code.nodes = frozenset(drawn.nodes)
            maps.append((code, drawn))
        return maps

    async def rehearse(self, workflow: str = "") -> Rehearsal:
        """Replay the open cases of the store on the workflows that are loaded here, without writing anything.

        Before a deploy: names each case that this code would not move, and why, of every tenant. Workers may go on
        meanwhile.

        Args:
            workflow: only cases of this one.
        """
        from longcase.runtime.rehearsal import rehearse

        if workflow:
            self.service.loaded(workflow)
        self._draw_maps()
        return await rehearse(self.store, self.env, self.codes, workflow)

    def _load_children(self, drawn: WorkflowMap) -> list[WorkflowCode]:
        """Load the workflows a map names as children, if they are not loaded yet; returns the new ones."""
        new: list[WorkflowCode] = []
        for child in drawn.children.values():
            known = self.codes.get(child.name)
            if known is None:
                known = load_code(child)
                new.append(known)
                self.workflows.append(child)
                for name in (child.name, *child.was):
                    self.codes.setdefault(name, known)
            elif known.workflow is not child:
                raise DefinitionError(
                    f"two workflows named {child.name}: one is loaded, another is a child of {drawn.workflow}",
                    hint="rename one of them",
                )
        return new

    async def scale_clock(self, factor: float) -> None:
        """Let `factor` seconds pass in one real second, for every process that opens this store from now on.

        Kept in the store. Time goes on from where it is: it is never set back.
        """
        if not 0 < factor <= MAX_FACTOR:
            raise UsageError(
                f"factor {factor:g}, expected above 0 and at most {MAX_FACTOR:,}",
                hint="--factor 3600: an hour a second",
            )
        began, now = RealClock().now().timestamp(), self.env.now()
        await self.store.set_setting("clock", clock_setting(began, now, factor))
        self.env.clock = ScaledClock(began, now, factor)

    @asynccontextmanager
    async def working(
        self, queues: Sequence[str] = (DEFAULT_QUEUE,), *, attempts: int = ATTEMPTS_AT_ONCE
    ) -> AsyncIterator[Worker]:
        """Run a worker in this process for the length of the block; it drains on leaving.

        Args:
            queues: what it serves; a worker that does not serve `default` only runs what is bound to its queues.
            attempts: most attempts at once.

        Raises:
            UsageError: as `new_worker` and `unknown_queues` say.
        """
        await self.record_maps()
        worker = self.new_worker(queues, attempts=attempts)
        try:
            for told in await self.unknown_queues(queues):
                log.warning("%s", told)
            running = asyncio.get_running_loop().create_task(worker.run())
            try:
                yield worker
            finally:
                worker.stop()
                await running
        finally:
            self.worker = None

    async def unknown_queues(self, served: Sequence[str]) -> list[str]:
        """Say of each queue that no loaded activity is bound to it, and no call stands in it, with what may be meant.

        Beside queues that are known it is no error: a queue that was renamed is served under its old name until it is
        empty, and the worker must start all the same once it is.

        Raises:
            UsageError: none is known; such a worker would never do anything.
        """
        declared = self.all_queues()
        if set(served) <= set(declared):
            return []
        standing = {queue.queue for queue in (await self.service.workers()).queues if queue.waiting or queue.running}
        known = sorted({*declared, *standing})
        unknown = [name for name in served if name not in known]
        found = []
        for name in unknown:
            near = nearest(name, known)
            told = f"no activity of the loaded workflows is bound to queue {name}, and no call stands in it"
            hint = f"did you mean {near[0]}?" if near else f"queues here: {', '.join(known)}"
            if name in self.codes:
                hint = f"{name} is a workflow, and a worker moves all that are loaded; {hint}"
            if len(unknown) == len(served):
                raise UsageError(told, hint=hint)
            found.append(f"{told}; {hint}")
        return found

    def all_queues(self) -> list[str]:
        """Return the default queue and every one that a loaded activity is bound to."""
        return [DEFAULT_QUEUE, *sorted(declared_queues(self.codes.values()))]

    def new_worker(self, queues: Sequence[str] = (DEFAULT_QUEUE,), *, attempts: int = ATTEMPTS_AT_ONCE) -> Worker:
        """Return a worker over the open store; `await worker.run()` until `worker.stop()`.

        Raises:
            UsageError: an activity writes in transactions of the store, and the store holds no tables of the user's;
                or `queues` is no list of names.
        """
        self._refuse_transactions()
        if not isinstance(queues, Sequence) or isinstance(queues, str) or not queues:
            meant = queues if isinstance(queues, str) and queues else DEFAULT_QUEUE
            raise UsageError(
                f"{printable(queues)} is given as the queues, expected a list of names",
                hint=f'["{meant}"]; queues here: {", ".join(self.all_queues())}',
            )
        forget_sources()  # a worker stays, and its maps are drawn
        self.worker = Worker(self.store, self.env, self.codes, live=self.live, queues=queues, attempts=attempts)
        return self.worker

    def _refuse_transactions(self) -> None:
        """Refuse to run transactional activities on a store that is not the user's database."""
        names = sorted(
            {name for code in self.codes.values() for name, one in code.activities.items() if one.transaction}
        )
        if names and not getattr(self.store, "holds_tables", False):
            raise UsageError(
                f"{', '.join(names)}: transaction=True writes to tables in the store's database, and {self.store.url} "
                "holds none that last",
                hint="LONGCASE_DATABASE_URL=sqlite:///cases.db, or the PostgreSQL database that has the tables",
            )

    async def _start(self, new: Sequence[NewCase]) -> list[Started]:
        """Let a worker of this process begin the cases as it accepts them; else only accept them."""
        return await (self.worker or self.store).start(new)

    def _wake(self, case_no: int) -> None:
        if self.worker is not None:
            self.worker.wake(case_no)


def collect(sources: Iterable[Workflow[Any] | ModuleType]) -> Sequence[Workflow[Any]]:
    """Return the workflows among objects and modules, each once, in order."""
    found: dict[str, Workflow[Any]] = {}
    if not isinstance(sources, Iterable) or isinstance(sources, str):
        raise _no_workflows(sources)
    for source in sources:
        if not isinstance(source, Workflow | ModuleType):
            raise _no_workflows(source)
        inside = (
            [source] if isinstance(source, Workflow) else [v for v in vars(source).values() if isinstance(v, Workflow)]
        )
        if not inside:
            raise DefinitionError(
                f"{getattr(source, '__name__', source)} declares no workflow",
                hint='onboarding = Workflow("client-onboarding", ...)',
            )
        for workflow in inside:
            other = found.setdefault(workflow.name, workflow)
            if other is not workflow:
                raise DefinitionError(f"two workflows named {workflow.name}", hint="rename one of them")
    return list(found.values())


def _no_workflows(given: object) -> UsageError:
    return UsageError(
        f"{printable(given)} is given as the workflows, expected a list of workflow objects or modules",
        hint="Longcase([onboarding])",
    )


@lru_cache(maxsize=256)
def compiled(workflow: Workflow[Any]) -> tuple[WorkflowMap, list[Finding]]:
    """Return a workflow's map and what could not be put on it; read once a process."""
    return compile_map(workflow)


def load_code(workflow: Workflow[Any]) -> WorkflowCode:
    """Return a workflow's code with the activities its modules name; `record_maps` adds the map."""
    activities: dict[str, Activity[..., Any]] = {}
    for stage in workflow.written:
        for value in stage.fn.__globals__.values():
            if isinstance(value, Activity):
                for activity in (value, value.undo_activity):
                    if activity is not None:
                        for name in (activity.name, *activity.was):
                            activities[name] = activity
    return WorkflowCode(workflow, activities)
