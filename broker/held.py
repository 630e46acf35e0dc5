"""What an end has taken from the broker and not acknowledged, because its program has not received it yet.

Without a PUBACK most brokers soon send nothing more, but MQTT 3.1.1 has no receive maximum: one that knows no limit of
its own sends on and on. The connection is read all the same, because PUBACKs and PINGRESPs come on it too. What finds
no place here is not taken; it comes again when this end makes a new connection, as all does that a connection loses.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

HELD = 1024
HELD_BYTES = 1 << 26


class Held:
    """At most `HELD` chunks and about `HELD_BYTES`, over all connections; `emptied` is called when the last chunk is
    acknowledged and some were `missed`."""

    def __init__(self, emptied: Callable[[], None]) -> None:
        self._emptied = emptied
        self._bytes = 0
        self.chunks = 0
        self.missed = False  # there was no place for a chunk of this connection

    def take(self, size: int, acknowledge: Callable[[], None]) -> Callable[[], None] | None:
        """What acknowledges a chunk of `size` bytes that has a place now; None where there is none."""
        if self.chunks >= HELD or self._bytes >= HELD_BYTES:
            self.missed = True
            return None
        self.chunks += 1
        self._bytes += size
        return functools.partial(self._release, size, acknowledge)

    def _release(self, size: int, acknowledge: Callable[[], None]) -> None:
        self.chunks -= 1
        self._bytes -= size
        acknowledge()
        if self.missed and not self.chunks:
            self._emptied()
