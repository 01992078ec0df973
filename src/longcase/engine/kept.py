"""What has ended of a case whose stage code must not run here, or cannot: judged and recorded all the same."""

from __future__ import annotations

from longcase.engine.outcomes import Outcomes
from longcase.engine.turn import Resident
from longcase.engine.work import Accepted, Advance, Ended, Verified, Work
from longcase.history.event import Event


def keep_ended(resident: Resident, work: Work) -> Advance:
    """Apply outcomes of attempts as far as that needs no turn of the stage.

    A failure is judged by its activity's policy as ever: it is tried again, asked about, or becomes an incident. What
    only stage code can take, a result or a final failure, stands in `Advance.kept`. Nothing is begun.
    """
    kept = _Kept(resident, work)
    kept.all()
    return kept.result


class _Kept(Outcomes):
    def all(self) -> None:
        for item in self.work.items:
            self.current = item
            match item:
                case Ended():
                    self._ended(item)
                case Verified():
                    self._verified(item)
                case Accepted():
                    pass  # it waits in the inbox

    def _turn(self, event: Event, at: str) -> None:
        assert self.current is not None
        self.result.kept.append(self.current)

    def _undo(self) -> None:
        """Leave a running undo where it is: the next turn moves it on."""
