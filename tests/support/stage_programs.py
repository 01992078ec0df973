"""Random stage bodies over the whole vocabulary, made from a seed: what one seed makes, it always makes."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from random import Random

_Make = Callable[[], str]


def program(seed: int, depth: int = 3) -> tuple[str, str]:
    """Return the body of a stage and the parts it calls."""
    made = _Program(Random(seed))
    body = made.block(depth, in_loop=False, in_part=False)
    return f"{body}\nreturn last", "\n".join(made.parts)


class _Program:
    def __init__(self, random: Random) -> None:
        self.parts: list[str] = []
        self._random = random
        self._labels = 0

    def block(self, depth: int, *, in_loop: bool, in_part: bool) -> str:
        count = self._random.randint(1, 3)
        return "\n".join(self._statement(depth, in_loop, in_part) for _ in range(count))

    # -- pieces ---------------------------------------------------------------------------------------

    def _label(self) -> str:
        self._labels += 1
        return f"l{self._labels}"

    def _activity(self) -> str:
        return f'reserve.labelled("{self._label()}")("a")'

    def _decision(self) -> str:
        return f'is_big.labelled("{self._label()}")(case.object) == "{self._random.choice(["yes", "no"])}"'

    def _test(self) -> str:
        return self._one_of(
            self._decision,
            lambda: f"not ({self._decision()})",
            lambda: f'await {self._activity()} == "x"',
            lambda: f"{self._decision()} and await {self._activity()}",
        )

    def _coroutine(self, depth: int) -> str:
        nested = f'reserve.labelled("{self._label()}")(await {self._activity()})'
        return self._one_of(self._activity, self._activity, lambda: nested, lambda: self._part(depth))

    def _part(self, depth: int) -> str:
        if depth <= 0:
            return self._activity()
        name = f"part{len(self.parts)}"
        self.parts.append("")
        body = textwrap.indent(self.block(depth - 1, in_loop=False, in_part=True), "    ")
        place = int(name.removeprefix("part"))
        self.parts[place] = f"@wf.part\nasync def {name}(case: Case[Order]) -> str:\n{body}\n    return 'x'\n"
        return f"{name}(case)"

    def _one_of(self, *makers: _Make) -> str:
        return self._random.choice(makers)()

    # -- statements -----------------------------------------------------------------------------------

    def _simple(self) -> str:
        return self._one_of(
            lambda: f"await {self._activity()}",
            lambda: f"case.update(amount={self._random.randint(0, 3)})",
            lambda: f"x = {self._decision()}",
            lambda: f'await case.pause(days(1), because="x", label="{self._label()}")',
            lambda: f"z = [await {self._activity()} for i in range(2) if {self._decision()}]",
            lambda: f"z = await {self._activity()} if {self._decision()} else await {self._activity()}",
            lambda: f"with case.change() as order:\n    order.amount = {self._random.randint(0, 3)}",
        )

    def _statement(self, depth: int, in_loop: bool, in_part: bool) -> str:
        if depth <= 0:
            return self._simple()

        def body(*, loop: bool = in_loop) -> str:
            return textwrap.indent(self.block(depth - 1, in_loop=loop, in_part=in_part), "    ")

        def leave() -> str:
            exits = ["return last", 'return wf.close("c1")', 'return wf.close("c2")', "return case.again()"]
            return f"if {self._test()}:\n    {'return ' + repr('y') if in_part else self._random.choice(exits)}"

        def loop() -> str:
            over = self._one_of(
                lambda: f"while {self._test()}:", lambda: f"for i in range({self._random.randint(0, 2)}):"
            )
            return f"{over}\n{body(loop=True)}" + self._maybe(lambda: f"\nelse:\n{body()}")

        def tried() -> str:
            text = f"try:\n{body()}\nexcept ActivityFailed:\n{body()}" + self._maybe(lambda: f"\nelse:\n{body()}")
            return text + self._maybe(lambda: f"\nfinally:\n    case.update(amount={self._random.randint(0, 9)})")

        def group() -> str:
            inside = [
                self._one_of(lambda: f"group.create_task({self._coroutine(depth - 1)})", self._simple) for _ in range(3)
            ]
            tasks = textwrap.indent("\n".join([*inside, f"group.create_task({self._activity()})"]), " " * 8)
            start = "try:\n    async with asyncio.TaskGroup() as group:"
            return f"{start}\n{tasks}\nexcept* ActivityFailed:\n    case.update(amount=5)"

        def gathered() -> str:
            calls = ", ".join(self._coroutine(depth - 1) for _ in range(self._random.randint(1, 3)))
            each = f"*[{self._coroutine(depth - 1)} for i in range({self._random.randint(0, 3)})]"
            return f"await asyncio.gather({self._random.choice([calls, each])}, return_exceptions=True)"

        def task() -> str:
            name = f"task_{self._label()}"
            made = f"{name} = asyncio.create_task({self._coroutine(depth - 1)})"
            return f"{made}\n{self._simple()}\nawait asyncio.wait([{name}])"

        def matched() -> str:
            name = f"go_{self._label()}"
            ask = f'{name} = await case.approval("Go?", label="{name}", of=sales, within=days(1))'
            arms = f'case "approved":\n{body()}\ncase _:\n{body()}'
            return f"{ask}\nmatch {name}.answer:\n{textwrap.indent(arms, '    ')}"

        compound: list[_Make] = [
            self._simple,
            lambda: f"if {self._test()}:\n{body()}" + self._maybe(lambda: f"\nelse:\n{body()}"),
            loop,
            lambda: f"while True:\n{body(loop=True)}\n    if {self._test()}:\n        break",
            tried,
            group,
            gathered,
            task,
            matched,
            leave,
            lambda: f"await {self._part(depth)}",
            lambda: f"await asyncio.wait_for({self._coroutine(depth - 1)}, 1000)",
        ]
        if in_loop:
            compound.append(lambda: f"if {self._test()}:\n    {self._random.choice(['break', 'continue'])}")
        return self._one_of(*compound)

    def _maybe(self, make: _Make) -> str:
        return make() if self._random.random() < 0.4 else ""
