"""One seed, one life with handlers: the shuffled mover's, in which clients also send what runs beside the stages."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from tests.simulation.life import Life, Sent
from tests.simulation.plans import Grammar
from tests.simulation.shuffle import Shuffle


class Beside(Shuffle):
    """A life on the shuffled mover with jots. They are drawn apart: without them it is that life."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.apart = Random(seed + 3)
        self.jots: list[tuple[str, dict[str, Any]]] = []  # case and body of each

    async def act(self) -> None:
        await super().act()
        cases = [address for address in self.cases if address in self.there]
        for _ in range(self.apart.choice([0, 0, 1, 1, 2]) if cases else 0):
            if self.jots and self.apart.random() < 0.2:
                await self.jot(*self.apart.choice(self.jots))
                continue
            grammar = Grammar(self.apart)
            grammar.labels = 300 + 10 * len(self.jots)  # below a thousand, and apart from those of the plans
            body = {"text": f"j{len(self.jots)}", "steps": grammar.steps(self.apart.randint(1, 2), 2)}
            self.jots.append((self.apart.choice(cases), body))
            await self.jot(*self.jots[-1])

    async def jot(self, case: str, body: dict[str, Any]) -> None:
        """Send steps for the handler, under the key that their text is."""
        detail = {"signal": "jot", "key": body["text"], "text": body["text"]}
        await self.ask(
            Sent("signal", case, detail),
            lambda: self.service.signal(case, "jot", body, idempotency_key=body["text"]),
        )

    async def judge(self, life: Life) -> None:
        await super().judge(life)
        rows = await self.store.query(
            "SELECT type, count(*) AS n FROM history WHERE type IN ('handler_started', 'stage_returned') GROUP BY type"
        )
        life.counts |= {row["type"]: row["n"] for row in rows}


def live(seed: int) -> Life:
    """Run one seed on the shuffled mover, with handlers."""
    return asyncio.run(Beside(seed).run())
