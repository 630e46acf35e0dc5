"""Receive buffers that are used again.

New memory costs time: it is cleared, and each of its pages is mapped at its first use. For payloads of some hundred KB
that is as much as receiving them.
"""

from __future__ import annotations

import sys

POOL_BYTES = 1 << 22
LEAST_BYTES = 1 << 15
"""Smaller buffers are not worth a search."""

GRAIN_BYTES = 1 << 14


def _idle_references() -> int:
    """How many references to a buffer are counted in a search through all, where nobody else has one.

    Which of the search's own are counted depends on the version of Python.
    """
    for buffer in [bytearray()]:
        return sys.getrefcount(buffer)
    raise AssertionError


_IDLE_REFERENCES = _idle_references()


class BufferPool:
    """Buffers for one thread; at most `limit` bytes of them are remembered, and none that is above `largest`."""

    __slots__ = ("_buffers", "_limit", "largest", "remembered_bytes")

    def __init__(self, limit: int = POOL_BYTES) -> None:
        self._buffers: list[bytearray] = []
        self._limit = limit
        self.largest = limit // 2
        self.remembered_bytes = 0

    def take(self, size: int) -> memoryview:
        """A buffer of `size` bytes with anything in it, which is the caller's as long as any view of it lives."""
        if not LEAST_BYTES <= size <= self.largest:
            return memoryview(bytearray(size))
        capacity = -(-size // GRAIN_BYTES) * GRAIN_BYTES
        for buffer in self._buffers:
            if sys.getrefcount(buffer) == _IDLE_REFERENCES and len(buffer) == capacity:
                return memoryview(buffer)[:size]
        fresh = bytearray(capacity)
        self._buffers.append(fresh)
        self.remembered_bytes += capacity
        while self.remembered_bytes > self._limit:
            self.remembered_bytes -= len(self._buffers.pop(0))
        return memoryview(fresh)[:size]
