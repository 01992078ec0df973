"""What the tests of this folder share: a team, a plain business object, a clock that jumps, a counting worker."""

from __future__ import annotations

from datetime import datetime, timedelta

from pydantic import BaseModel

from longcase import Team
from longcase.env import RealClock
from longcase.runtime.worker import Worker

desk = Team("desk")


class Thing(BaseModel):
    id: str


class JumpingClock(RealClock):
    """The machine's clock, until somebody sets it forward."""

    ahead = timedelta(0)

    def uncorrected(self) -> datetime:
        return super().uncorrected() + self.ahead


class CountedRounds(Worker):
    """A worker that counts its rounds."""

    rounds = 0

    async def _round(self) -> bool:
        self.rounds += 1
        return await super()._round()
