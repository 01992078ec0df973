"""One seed, one life on the shuffled mover: random cases, clients and faults, then calm, then every check.

Phase one does harm: wake-ups lost, incarnations killed at any call of the store, commits whose answer
is lost, outcomes late, twice, or from the dead; vendors fail; people answer late and twice; the clock
jumps. In phase two nothing fails any more and operators do their work: every case must close.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from random import Random

from tests.simulation.life import ROUNDS, Broken, Life, Sim, memory_store
from tests.simulation.world import World, enter

from longcase.env import Env, VirtualClock
from longcase.history.event import instant_of, instant_text
from longcase.service.service import Service
from longcase.testing.shuffled import CALM, Chances, ShuffledMover


class Shuffle(Sim):
    """The life of one seed on the shuffled mover."""

    def __init__(self, seed: int) -> None:
        self.clock = VirtualClock()
        env = Env(self.clock, seed=seed)
        store = memory_store(env)
        random = Random(seed)
        # Intensity itself is drawn: in a storm the rare paths are never reached, in calm neither.
        wild = random.choice([0.0, 0.3, 1.0, 1.0])
        super().__init__(seed, env, World(Random(seed + 1), random.choice([0.0, 0.1, 0.3, 0.6])), store)
        self.random = random
        self.chances = Chances(
            lose=0.2 * wild, double=0.2 * wild, repeat=0.15 * wild, evict=self.random.choice([0.02, 0.2]),
            crash=0.03 * wild, fail=0.03 * wild, unknown=0.06 * wild,
        )  # fmt: skip
        self.mover = ShuffledMover(self.store, self.env, self.codes, seed=seed + 2, hands=2, chances=self.chances)
        self.service = Service(self.store, self.env, self.codes, on_change=self.mover.wake)
        self.latest = instant_text(self.clock.now())

    # -- time ------------------------------------------------------------------------------------------

    def set_clock(self, instant: str) -> None:
        self.clock.set(instant_of(instant))
        self.latest = max(self.latest, instant)

    async def pass_time(self, longest: timedelta) -> None:
        """Move to the next due instant if it is near, or by chance to any; sometimes the clock jumps."""
        now = self.clock.now()
        if self.faulty and self.random.random() < 0.04 and self.chances.lose:
            self.set_clock(instant_text(now + timedelta(minutes=self.random.choice([-90, -1, 1, 200]))))
            return
        wake = await self.store.next_wake(instant_text(now))
        if wake and instant_of(wake) - now <= longest:
            self.set_clock(wake)
        elif self.faulty:
            self.set_clock(instant_text(now + timedelta(seconds=self.random.randint(1, 900))))

    # -- the two phases --------------------------------------------------------------------------------

    async def run(self) -> Life:
        life = Life(self.seed)
        enter(self.world)
        try:
            await self.mover.open()
            await self.harm()
            await self.calm()
            await self.judge(life)
            life.counts |= self.mover.counts
        except (Exception, Broken) as error:
            life.problems.append(f"{type(error).__name__}: {error}")
        finally:
            for hand in self.mover.hands:
                if hand.flight is not None:
                    hand.flight.close()
                hand.turns.evict_all()
        if life.problems:
            await self.describe(life)
        await self.store.close()
        return life

    async def harm(self) -> None:
        wanted = self.random.randint(1, 3)
        for number in range(self.random.randint(15, 45)):
            if len(self.cases) < wanted and (number == 0 or self.random.random() < 0.3):
                await self.start()
            else:
                await self.act()
            for _ in range(self.random.choice([0, 3, 12, 40])):
                if not await self.mover.step():
                    break
            if self.random.random() < 0.4:
                await self.mover.sweep()
            if self.random.random() < 0.5:
                await self.pass_time(timedelta(hours=2))
            if number % 8 == 0:
                await self.note_prefixes()

    async def heal(self) -> None:
        self.mover.chances = CALM

    async def come_to_rest(self) -> None:
        """Also what a limit has made wait: calls that were lost with their worker again and again begin apart."""
        await self.mover.come_to_rest()
        for _ in range(ROUNDS):
            until = self.mover.refused_until()
            if until is None:
                return
            self.set_clock(max(instant_text(until), instant_text(self.clock.now())))
            await self.mover.come_to_rest()


def live(seed: int) -> Life:
    """Run one seed on the shuffled mover."""
    return asyncio.run(Shuffle(seed).run())
