"""A double click: who repeats the answer he gave gets the receipt he had, however far the case has moved."""

from __future__ import annotations

import pytest
from tests.invariants.program import Paper, signing
from tests.rules.support import every

from longcase import hours
from longcase.errors import AlreadyDecided
from longcase.testing import Simulation


@pytest.mark.parametrize("quorum", [1, 2])
@pytest.mark.parametrize("later", [False, True], ids=["at once", "after the close"])
def test_the_same_answer_of_the_same_person_is_answered_with_the_same_receipt(quorum: int, later: bool) -> None:
    with Simulation([signing]) as sim:
        case = sim.start(signing, Paper(id="1", quorum=quorum))
        people = ("ann", "ben")[:quorum]
        for person in people:
            first = sim.decide(case, "approved", by=person)
        assert (first.did, first.duplicate) == ("decided", False)
        if later:
            sim.advance(hours(1))
        before = len(sim.history(case))
        for person in people:
            again = sim.decide(case, "approved", by=person)
            assert (again.did, again.duplicate, again.remaining) == ("decided", True, 0)
        assert len(sim.history(case)) == before, "a repeat is no event"


def test_another_answer_or_another_person_is_refused_and_recorded() -> None:
    with Simulation([signing]) as sim:
        case = sim.start(signing, Paper(id="1"))
        sim.decide(case, "approved", by="ann")
        for person, answer in (("ann", "rejected"), ("ben", "approved")):
            with pytest.raises(AlreadyDecided, match="already decided by ann"):
                sim.decide(case, answer, by=person)
        refused = [(event.actor, event.data["answer"]) for event in every(sim, case, "vote_refused")]
        assert refused == [("person:ann", "rejected"), ("person:ben", "approved")]
