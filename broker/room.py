"""The memory that the partial messages of all senders of one end may have together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

Owner = tuple[object, int]
"""Whoever puts messages together, and the message's id."""


class Room:
    """At most `limit` bytes; for a new message those make room that have waited longest for a chunk."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[Owner, tuple[int, Callable[[], None]]] = OrderedDict()
        self.used = 0

    def take(self, owner: Owner, size: int, give_up: Callable[[], None]) -> None:
        """Room for a message of `size` bytes; `give_up` has to release it when others need it."""
        while self._held and self.used + size > self._limit:
            _, give_up_oldest = next(iter(self._held.values()))
            give_up_oldest()
        self._held[owner] = size, give_up
        self.used += size

    def touch(self, owner: Owner) -> None:
        """A chunk of the message has come."""
        self._held.move_to_end(owner)

    def release(self, owner: Owner) -> None:
        """The message is complete, or given up."""
        self.used -= self._held.pop(owner)[0]
