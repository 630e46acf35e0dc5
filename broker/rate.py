"""How fast one way is, from what is known to have arrived: the delivery rate of BBR, smoothed.

A sample is what was confirmed between the handing over of a chunk and its confirmation, over that time, so that
neither waiting chunks nor a long way make it smaller than what the way carries. No clock: whoever calls has one.
"""

from __future__ import annotations

from typing import NamedTuple

SMOOTHING = 1 / 8


class Mark(NamedTuple):
    """What was confirmed when a chunk was handed over, and since when."""

    confirmed: int
    at: float


class Rate:
    """Bytes per second of one way; 0 until something was confirmed."""

    __slots__ = ("_at", "_confirmed", "_under_way", "per_s")

    def __init__(self) -> None:
        self.per_s = 0.0
        self._confirmed = self._under_way = 0
        self._at = 0.0

    def sent(self, size: int, now: float) -> Mark:
        """`size` bytes are handed over; keep the mark for their confirmation."""
        if not self._under_way:
            self._at = now  # a pause is nothing that the way did
        self._under_way += size
        return Mark(self._confirmed, self._at)

    def confirmed(self, size: int, mark: Mark, now: float) -> None:
        """They have arrived."""
        self._under_way -= size
        self._confirmed += size
        self._at = now
        if now > mark.at:
            sample = (self._confirmed - mark.confirmed) / (now - mark.at)
            self.per_s += (sample - self.per_s) * (SMOOTHING if self.per_s else 1.0)

    def withdrawn(self, size: int) -> None:
        """They will not be confirmed."""
        self._under_way -= size
