"""The deterministic loop by itself: asyncio's vocabulary, without clock, threads or sockets."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from longcase.engine.loop import StepLimit, VisitLoop, VisitTask
from longcase.errors import Nondeterministic


class Timers:
    """Collects what the loop arms and lets a test fire it."""

    def __init__(self) -> None:
        self.armed: dict[int, tuple[float, Callable[[], None]]] = {}
        self.disarmed: list[int] = []
        self.violations: list[str] = []
        self._count = 0

    def arm_timeout(self, after: float, fire: Callable[[], None]) -> Callable[[], None]:
        self._count += 1
        number = self._count
        self.armed[number] = (after, fire)

        def disarm() -> None:
            self.armed.pop(number, None)
            self.disarmed.append(number)

        return disarm

    def violation(self, error: Nondeterministic) -> None:
        self.violations.append(error.message)


class Driver:
    """A loop, its root task, and futures a test resolves one at a time."""

    def __init__(self, main: Callable[[Driver], Coroutine[Any, Any, Any]]) -> None:
        self.timers = Timers()
        self.loop = VisitLoop(self.timers)
        self.log: list[Any] = []
        self.futures: dict[str, asyncio.Future[Any]] = {}
        self.now = 0.0
        coroutine = main(self)
        self.root: VisitTask = self.loop.context.run(lambda: self.loop.create_task(coroutine))
        self.run()

    async def wait(self, name: str) -> Any:
        """Wait for something outside, as durable waits do."""
        future = self.futures[name] = self.loop.create_future()
        return await future

    def resolve(self, name: str, value: Any = None) -> None:
        future = self.futures[name]
        if not future.done():
            future.set_result(value)
        self.run()

    def fire(self, number: int, at: float) -> None:
        self.now = at
        self.timers.armed.pop(number)[1]()
        self.run()

    def run(self) -> None:
        self.loop.run(self.now)

    @property
    def result(self) -> Any:
        assert self.root.done(), [str(task) for task in self.loop.live_tasks()]
        return self.root.result()


def test_gather_keeps_the_order_of_its_arguments() -> None:
    async def main(d: Driver) -> list[int]:
        return list(await asyncio.gather(d.wait("a"), d.wait("b"), d.wait("c")))

    d = Driver(main)
    for name, value in (("c", 3), ("a", 1), ("b", 2)):
        d.resolve(name, value)
    assert d.result == [1, 2, 3]


def test_a_taskgroup_cancels_siblings_in_creation_order() -> None:
    async def sibling(d: Driver, name: str) -> None:
        try:
            await d.wait(name)
        except asyncio.CancelledError:
            d.log.append(name)
            raise

    async def fails(d: Driver) -> None:
        await d.wait("boom")
        raise ValueError("boom")

    async def main(d: Driver) -> str:
        try:
            async with asyncio.TaskGroup() as group:
                for name in "abcde":
                    group.create_task(sibling(d, name))
                group.create_task(fails(d))
        except* ValueError as group_of:
            d.log.append(len(group_of.exceptions))
        return "failed"

    d = Driver(main)
    d.resolve("boom")
    assert (d.log, d.result) == (["a", "b", "c", "d", "e", 1], "failed")


def test_a_timeout_is_armed_fired_and_disarmed() -> None:
    async def main(d: Driver) -> str:
        async with asyncio.timeout(10):
            await d.wait("in time")
        try:
            async with asyncio.timeout(5):
                await d.wait("never")
        except TimeoutError:
            return "timeout"
        return "none"

    d = Driver(main)
    assert [after for after, _ in d.timers.armed.values()] == [10]
    d.now = 3.0
    d.resolve("in time")
    assert d.timers.disarmed == [1]
    assert [after for after, _ in d.timers.armed.values()] == [5]
    d.fire(2, at=8.0)
    assert d.result == "timeout"
    assert d.timers.disarmed == [1], "a fired timer is not disarmed"


def test_wait_for_returns_or_times_out() -> None:
    async def main(d: Driver) -> list[Any]:
        first = await asyncio.wait_for(d.wait("a"), 10)
        try:
            await asyncio.wait_for(d.wait("b"), 10)
        except TimeoutError:
            return [first, "timeout"]
        return [first]

    d = Driver(main)
    d.resolve("a", 1)
    d.fire(2, at=10.0)
    assert d.result == [1, "timeout"]


def test_wait_first_completed_sees_one_and_iterates_in_creation_order() -> None:
    async def main(d: Driver) -> list[Any]:
        tasks = {asyncio.create_task(d.wait(name), name=name) for name in "abcdef"}
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        names = [task.get_name() for task in pending]
        rest, _ = await asyncio.wait(pending)
        return [len(done), names, [task.get_name() for task in rest]]

    d = Driver(main)
    for name in "cfabed":
        d.resolve(name)
    assert d.result == [1, ["a", "b", "d", "e", "f"], ["a", "b", "d", "e", "f"]]


def test_event_lock_semaphore_condition_and_queue_work_between_tasks() -> None:
    async def main(d: Driver) -> list[Any]:
        event, lock, queue = asyncio.Event(), asyncio.Lock(), asyncio.Queue[int](maxsize=1)
        condition, semaphore = asyncio.Condition(), asyncio.Semaphore(2)
        seen: list[Any] = []

        async def producer() -> None:
            for n in range(3):
                await queue.put(n)
            event.set()

        async def consumer() -> None:
            for _ in range(3):
                seen.append(await queue.get())
            await event.wait()
            async with condition:
                condition.notify_all()

        async def holder(n: int) -> None:
            async with semaphore, lock:
                await d.wait(f"hold {n}")
                seen.append(f"held {n}")

        async def waiter() -> None:
            async with condition:
                await condition.wait()
                seen.append("notified")

        await asyncio.gather(waiter(), producer(), consumer(), *[holder(n) for n in range(3)])
        return seen

    d = Driver(main)
    for n in range(3):
        d.resolve(f"hold {n}")
    assert d.result == [0, 1, 2, "notified", "held 0", "held 1", "held 2"]


def test_nested_coroutines_generators_and_finally_run_in_order() -> None:
    @asynccontextmanager
    async def scope(d: Driver) -> AsyncIterator[None]:
        d.log.append("enter")
        try:
            yield
        finally:
            d.log.append("leave")

    async def numbers(d: Driver) -> AsyncIterator[int]:
        for n in range(2):
            yield await d.wait(f"n{n}")

    async def inner(d: Driver) -> int:
        try:
            return sum([n async for n in numbers(d)])
        finally:
            d.log.append("finally")

    async def main(d: Driver) -> int:
        async with scope(d):
            return await inner(d)

    d = Driver(main)
    d.resolve("n0", 3)
    d.resolve("n1", 4)
    assert d.result == 7
    assert d.log == ["enter", "finally", "leave"]


def test_create_task_strands_are_paths_in_creation_order() -> None:
    async def leaf() -> str:
        task = asyncio.current_task()
        assert isinstance(task, VisitTask)
        return task.strand

    async def branch() -> list[str]:
        return [(await leaf()), *await asyncio.gather(leaf(), leaf())]

    async def main(d: Driver) -> list[Any]:
        return list(await asyncio.gather(branch(), branch()))

    assert Driver(main).result == [["0.0", "0.0.0", "0.0.1"], ["0.1", "0.1.0", "0.1.1"]]


def test_shield_and_cancel() -> None:
    async def main(d: Driver) -> list[str]:
        inner = asyncio.create_task(d.wait("inner"))
        outer = asyncio.create_task(_shielding(inner))
        await d.wait("go")
        outer.cancel()
        await asyncio.gather(outer, return_exceptions=True)
        return [str(outer.cancelled()), str(inner.cancelled()), await inner]

    async def _shielding(inner: asyncio.Task[str]) -> None:
        await asyncio.shield(inner)

    d = Driver(main)
    d.resolve("go")
    d.resolve("inner", "kept")
    assert d.result == ["True", "False", "kept"]


def test_time_stands_still_and_never_goes_back() -> None:
    async def main(d: Driver) -> list[float]:
        seen = [asyncio.get_running_loop().time()]
        for name in ("a", "b"):
            await d.wait(name)
            seen.append(asyncio.get_running_loop().time())
        return seen

    d = Driver(main)
    d.now = 5.0
    d.resolve("a")
    d.now = 2.0
    d.resolve("b")
    assert d.result == [0.0, 5.0, 5.0]


def test_an_endless_turn_hits_the_step_limit() -> None:
    async def main(d: Driver) -> None:
        await d.wait("go")
        while True:
            await asyncio.sleep(0)

    d = Driver(main)
    d.futures["go"].set_result(None)
    with pytest.raises(StepLimit):
        d.loop.run(0.0, 1000)
    d.loop.destroy()


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("sleep", "asyncio.sleep"),
        ("executor", "run_in_executor"),
        ("as_completed", "as_completed"),
        ("forever", "run_forever"),
    ],
)
@pytest.mark.filterwarnings("ignore:coroutine")
def test_what_cannot_be_deterministic_is_refused(name: str, named: str) -> None:
    async def main(d: Driver) -> str:
        loop = asyncio.get_running_loop()
        try:
            match name:
                case "sleep":
                    await asyncio.sleep(1)
                case "executor":
                    await loop.run_in_executor(None, print)
                case "as_completed":
                    for next_one in asyncio.as_completed([d.wait("a")]):
                        await next_one
                case "forever":
                    loop.run_forever()
        except Nondeterministic as error:
            return f"{error.message} {error.hint}"
        return "allowed"

    d = Driver(main)
    assert named in d.result
    assert d.timers.violations, "noted even though the code swallowed it"


def test_destroy_ends_every_coroutine_at_once_even_one_that_resists() -> None:
    async def resists(d: Driver) -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except BaseException as error:
                d.log.append(type(error).__name__)

    async def polite(d: Driver) -> None:
        try:
            await d.wait("polite")
        finally:
            d.log.append("cleanup")

    async def main(d: Driver) -> None:
        stubborn = asyncio.create_task(resists(d))
        await asyncio.gather(stubborn, polite(d))

    d = Driver(main)
    coroutines = [task.get_coro() for task in d.loop.tasks]
    d.loop.destroy()
    assert all(getattr(coroutine, "cr_frame", None) is None for coroutine in coroutines)
    assert "cleanup" in d.log
    d.root = None  # type: ignore[assignment]
    del coroutines
    gc.collect()
