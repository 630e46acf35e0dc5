"""Places for chunks that the broker has not acknowledged; lanes take turns, a chunk each. No clock, no I/O."""

from __future__ import annotations

import asyncio

from broker.lane import Lane
from broker.transfer import Transfer


class Slots:
    """So many `places`, of which `free` are left."""

    def __init__(self, places: int) -> None:
        self.free = places
        self.freed = 0  # how often one was given back
        self.under_way: set[asyncio.Future[None]] = set()  # what has the others
        self.acknowledged_at = 0.0  # when the broker last acknowledged one of those
        self._asking: dict[Lane, None] = {}  # in the order of their turns

    def give_back(self, chunk: asyncio.Future[None]) -> None:
        """A chunk is under way no more."""
        self.under_way.discard(chunk)
        self.free += 1
        self.freed += 1

    def ask(self, lane: Lane) -> None:
        """A lane may have something to send."""
        self._asking.setdefault(lane)

    def take(self) -> tuple[Lane, Transfer, int] | None:
        """Give the next lane that can use it a place; the lane, a message and the index of its chunk."""
        while self.free and self._asking:
            lane = next(iter(self._asking))
            del self._asking[lane]
            if (step := lane.next()) is not None:
                self.free -= 1
                self._asking[lane] = None
                return lane, *step
        return None
