"""What befalls whole processes, the store and the clocks, now and then."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

from longcase.history.event import instant_text

if TYPE_CHECKING:
    from tests.simulation.fleet import Fleet

CHAOS = {
    "kill": 0.10, "pause": 0.06, "pause past the lease": 0.05, "drain": 0.04, "server killed": 0.03,
    "store restarts": 0.03, "disk full": 0.03, "clock jumps": 0.05, "machine clock off": 0.05, "evict": 0.05,
}  # fmt: skip


class Chaos:
    """Strikes a fleet until it is cancelled."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def run(self) -> None:
        fleet = self._fleet
        while True:
            await asyncio.sleep(fleet.faults.amount("chaos", 0.1, 2.0))
            what = fleet.faults.draw("chaos", CHAOS)
            workers = [process for process in fleet.living("worker") if not process.paused]
            one = workers[int(fleet.faults.amount("chaos", 0, len(workers)))] if workers else None
            match what:
                case "kill" if one:
                    fleet.kill(one)
                case "pause" if one:
                    fleet.pause(one, fleet.faults.amount("chaos", 0.5, 8.0))
                case "pause past the lease" if one:
                    fleet.pause(one, fleet.faults.amount("chaos", 13.0, 25.0))
                case "drain" if one and one.name in fleet.workers:
                    fleet.loop.call_soon(fleet.workers[one.name].stop, context=one.context)
                case "evict" if one and one.name in fleet.workers and fleet.workers[one.name]._turns is not None:
                    fleet.loop.call_soon(fleet.workers[one.name].turns.evict_all, context=one.context)
                case "server killed":
                    servers = fleet.living("server")
                    if servers:
                        fleet.kill(servers[0])
                case "store restarts":
                    fleet.down = True
                    fleet.loop.call_later(fleet.faults.amount("chaos", 0.2, 4.0), self._up, context=fleet.outside)
                case "disk full":
                    fleet.full = True
                    fleet.loop.call_later(fleet.faults.amount("chaos", 0.5, 6.0), self._room, context=fleet.outside)
                case "clock jumps":
                    fleet.latest = max(fleet.latest, instant_text(fleet.clock.now()))
                    jump = fleet.faults.amount("chaos", -5400, 12000)
                    fleet.clock.offset += timedelta(seconds=jump)
                    if jump > 0 and fleet.faults.amount("chaos", 0, 1) < 0.3:
                        fleet.lease_jump += jump
                case "machine clock off" if one and fleet.lapse:
                    one.clock.skew += timedelta(seconds=fleet.faults.amount("chaos", -300, 300))
                    one.clock.measure()

    def _up(self) -> None:
        self._fleet.down = False

    def _room(self) -> None:
        self._fleet.full = False
