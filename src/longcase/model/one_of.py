"""A choice between activities or parts that can be read from the code: `one_of({...})[key](...)`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

K = TypeVar("K")
V_co = TypeVar("V_co", covariant=True)


class OneOf(Mapping[K, V_co]):
    """A fixed table of things to call; made by `one_of`."""

    def __init__(self, table: Mapping[K, V_co]) -> None:
        self._table = dict(table)

    def __getitem__(self, key: K) -> V_co:
        return self._table[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def __repr__(self) -> str:
        return f"one_of({self._table!r})"


def one_of(table: Mapping[K, V_co]) -> OneOf[K, V_co]:
    """Return the table, for a call chosen by a key: `await one_of({"nl": check_nl, "be": check_be})[country](x)`.

    A plain variable or dict would hide from the map which activity is called; a literal table of
    them, here or at module level, is drawn as a branch with one arm per key.
    """
    return OneOf(table)
