"""A token bucket: a long-term rate, with bursts of at most one second's worth. The time is an argument."""

from __future__ import annotations


class TokenBucket:
    """`rate` tokens per second, at least one at a time; a rate of 0 never runs out."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._size = max(rate, 1.0)
        self._level = self._size
        self._at: float | None = None

    def take(self, now: float) -> bool:
        """Take a token at this time in seconds; False where there is none."""
        if not self._rate:
            return True
        elapsed = 0.0 if self._at is None else now - self._at
        self._level = min(self._size, self._level + elapsed * self._rate)
        self._at = now
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True
