"""What somebody may have meant: errors offer the known names that are nearest to an unknown one."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], count: int = 1, likeness: float = 0.6) -> list[str]:
    """Return at most `count` of the known names that are like a word, the likest first.

    Args:
        likeness: from 0 (any name) to 1 (the same).
    """
    from difflib import get_close_matches  # here, because only errors need it, and every start would pay for it

    return get_close_matches(word, list(known), count, likeness)
