"""The map as a reader sees it: text for a terminal, Mermaid for other tools."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from tests.support.definitions import compiled
from tests.typing import face

from longcase.model.map import compile_map
from longcase.model.map.render_mermaid import render_mermaid
from longcase.model.map.render_text import render_text

EVERY_SHAPE = """
try:
    async with asyncio.timeout(60):
        names = await asyncio.gather(*[reserve(item) for item in case.object.items])
except TimeoutError:
    return wf.close("late")
async with asyncio.TaskGroup() as group:
    group.create_task(both(case))
    await charge(1)
for item in case.object.items:
    await notify(item)
while True:
    if is_big(case.object) == "yes":
        break
    await case.pause(days(1), because="x | \\"y\\" <z>")
return last
"""
EXTRA = """
@wf.part
async def both(case: Case[Order]) -> None:
    await reserve("b")
    case.update(amount=1)
"""


def test_the_tutorial_reads_aloud() -> None:
    map, _ = compile_map(face.onboarding)
    assert render_text(map) == textwrap.dedent(
        """\
        client-onboarding: Client by id, owner client-desk, expected 15 business days

        stage intake (owner sales, expected 6 business days, cases start here)
          require legal_entity (expected within 2 days, reminded every 1 day)
            ! after 4 days: escalated to sales-director
          activity check_registry (by integrations, on company-registry)
            x finally lost: incident of integrations
          change
          -> review

        stage review (owner credit, expected 5 business days)
          decision needs_sign_off ("Does this client need a credit sign-off?", by chief-risk-officer)
          no: -> activate
          yes: go on
          approval sign-off ("Sign off the credit line?", 2 must approve, reminded every 8 business hours)
            ! after 24 business hours: escalated to senior-credit
            ~ after 5 business days: counts as rejected
          approved: -> activate
          returned: -> intake
          rejected: => closed declined

        stage activate (owner core-banking, expected 4 hours)
          activity open_account (by core-banking, on core-ledger, undone by close_account)
            x finally lost: incident of core-banking
          => closed active

        on customer-withdrew, from any stage: stop (owner client-desk)
          undo
          => closed withdrawn

        on cancel, from any stage: cancel (owner client-desk)
          undo
          => closed cancelled
        """
    )


def test_every_shape_of_a_stage_has_its_lines(tmp_path: Path) -> None:
    text = render_text(compiled(tmp_path, EVERY_SHAPE, EXTRA))
    assert textwrap.dedent(text.partition("stage first")[2].partition("\n\n")[0].partition("\n")[2]) == textwrap.dedent(
        """\
        with a timeout
          at once, for each
            - activity reserve (by sales, on erp)
                x finally lost: incident of sales
        on TimeoutError: => closed late
        together, until all are done
          beside what follows
            - part both
                activity reserve (by sales, on erp)
                  x finally lost: incident of sales
                change
          activity charge (by sales, on erp)
            x finally lost: incident of sales
        for item in case.object.items
          activity notify (by sales)
            x finally lost: incident of sales
        while True
          decision is_big ("Is it big?", by boss)
          yes: break
          no: go on
          pause x-y-z ("x | "y" <z>", for 1 day)
        -> last"""
    )


def test_a_choice_says_how_many_must_agree(tmp_path: Path) -> None:
    body = """
route = await case.choice("Which way?", answers=Way, of=sales, quorum=2, label="way", within=days(1))
await notify(route.answer)
return last
"""
    way = 'from enum import StrEnum\n\nclass Way(StrEnum):\n    RAIL = "rail"\n    ROAD = "road"\n'
    assert '"Which way?", by sales, 2 must agree' in render_text(compiled(tmp_path, body, way))


def test_mermaid_has_a_subgraph_per_stage_and_every_kind_of_edge() -> None:
    text = render_mermaid(compile_map(face.onboarding)[0])
    assert text.startswith("flowchart TB\n")
    assert (
        len(re.findall(r"^    subgraph ", text, re.MULTILINE)) == len(re.findall(r"^    end$", text, re.MULTILINE)) == 5
    )
    for label in (
        "failed: finally lost",
        "escalated after 24 business hours",
        "expires after 5 business days: rejected",
        "on customer-withdrew",
        "undoes by close_account",
        "approved",
    ):
        assert f'|"{label}"|' in text


def test_mermaid_edges_join_nodes_that_are_there(tmp_path: Path) -> None:
    text = render_mermaid(compiled(tmp_path, EVERY_SHAPE, EXTRA))
    drawn = set(re.findall(r"^ +(?:subgraph )?(\w+)[\[({>]", text, re.MULTILINE))
    joined = re.findall(r'^    (\w+) (?:-->|==>|-\.->)(?:\|".*"\|)? (\w+)$', text, re.MULTILINE)
    assert len(joined) == len(re.findall(r"-->|==>|-\.->", text))
    assert {end for edge in joined for end in edge} <= drawn


def test_mermaid_quotes_what_it_would_read_as_syntax(tmp_path: Path) -> None:
    text = render_mermaid(compiled(tmp_path, EVERY_SHAPE, EXTRA))
    assert "x / #quot;y#quot; #lt;z#gt;" in text


def test_equal_maps_give_equal_pictures(tmp_path: Path) -> None:
    one, two = (compiled(tmp_path, EVERY_SHAPE, EXTRA) for _ in range(2))
    assert render_text(one) == render_text(two)
    assert render_mermaid(one) == render_mermaid(two)
