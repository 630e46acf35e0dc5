"""How fast one way is, from what is known to have arrived: the delivery rate of BBR, smoothed.

A sample is what was confirmed between the handing over of a chunk and its confirmation, over that time, so that
neither waiting chunks nor a long way make it smaller than what the way carries. A chunk that had the way
for itself, with none behind it, only tells that the way is at least so fast. No clock: whoever calls has one.
"""

from __future__ import annotations

from typing import NamedTuple

RISE, FALL = 1 / 8, 1 / 4  # smoothing; a way that has become slower has to be noticed within few chunks
TELLING_BYTES = 1 << 14  # a smaller chunk tells how long the way is rather than how fast


class Mark(NamedTuple):
    """What was confirmed when a chunk was handed over, and since when."""

    confirmed: int
    at: float
    alone: bool


class Rate:
    """Bytes per second of one way; 0 until something was confirmed."""

    __slots__ = ("_at", "_confirmed", "_under_way", "lately", "per_s")

    def __init__(self) -> None:
        self.per_s = 0.0  # smoothed
        self.lately = 0.0  # by the last chunk alone, which notices at once that the way has become slower
        self._confirmed = self._under_way = 0
        self._at = 0.0

    def sent(self, size: int, now: float, more: bool = False) -> Mark:
        """`size` bytes are handed over, and whether more wait; keep the mark for their confirmation."""
        alone = not self._under_way and not more
        if not self._under_way:
            self._at = now  # a pause is nothing that the way did
        self._under_way += size
        return Mark(self._confirmed, self._at, alone)

    def confirmed(self, size: int, mark: Mark, now: float) -> None:
        """They have arrived."""
        self._under_way -= size
        self._confirmed += size
        self._at = now
        if now > mark.at:
            self._learn(size, (self._confirmed - mark.confirmed) / (now - mark.at), mark.alone)

    def withdrawn(self, size: int) -> None:
        """They will not be confirmed."""
        self._under_way -= size

    def _learn(self, size: int, sample: float, alone: bool) -> None:
        if size < TELLING_BYTES and not 0 < self.per_s < sample:
            return
        self.lately = sample
        if not self.per_s:
            self.per_s = sample
        elif not alone or sample > self.per_s:
            self.per_s += (sample - self.per_s) * (RISE if sample > self.per_s else FALL)
