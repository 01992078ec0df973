"""Put the figures of a run into a page of the documentation, between `<!-- NAME -->` and `<!-- /NAME -->`."""

from __future__ import annotations

from pathlib import Path

PAGES = Path(__file__).parents[1] / "docs" / "explanation"


def quote(page: str, name: str, text: str) -> None:
    """Replace what a page quotes under a name.

    Raises:
        ValueError: the page has no such place.
    """
    path, begin, end = PAGES / page, f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, found, rest = path.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{path} has no place {begin.strip()} ... {end}")
    path.write_text(f"{before}{begin}{text.strip()}\n{end}{after}")
