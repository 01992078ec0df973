"""What goes wrong in a life, drawn at each occasion by itself.

Every place that can fail has a stream of chance of its own, and every fault a name (place and number
of the occasion). So one fault can be left out while the others stay: that is how a failure is minimised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from random import Random


class Faults:
    """The faults of one life."""

    def __init__(self, seed: int, intensity: float, without: frozenset[str] = frozenset()) -> None:
        self.on = intensity > 0
        self.counts: Counter[str] = Counter()
        self.injected: list[tuple[str, str]] = []  # name and kind, in order
        self.tell: Callable[[str], None] = lambda text: None
        self._seed = seed
        self._intensity = intensity
        self._without = without
        self._streams: dict[str, Random] = {}
        self._occasions: Counter[str] = Counter()

    def draw(self, place: str, chances: Mapping[str, float]) -> str:
        """Return the kind of fault that strikes here, "" for none; `chances` are per occasion, at full intensity."""
        if not self.on:
            return ""
        number = self._occasions[place]
        self._occasions[place] = number + 1
        value = self._stream(place).random() / self._intensity
        for kind, chance in chances.items():
            value -= chance
            if value < 0:
                name = f"{place}/{number}"
                if name in self._without:
                    return ""
                self.counts[kind] += 1
                self.injected.append((name, kind))
                self.tell(f"{kind} ({name})")
                return kind
        return ""

    def amount(self, place: str, low: float, high: float) -> float:
        """Draw how long or how much."""
        return low + (high - low) * self._stream(f"{place} amount").random()

    def _stream(self, place: str) -> Random:
        stream = self._streams.get(place)
        if stream is None:
            stream = self._streams[place] = Random(f"{self._seed} {place}")
        return stream
