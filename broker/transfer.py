"""One message on its way to a peer, and then for as long as the peer may want some of it again. No clock, no I/O."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from broker import wire
from broker.chunk_size import Cut
from broker.messages import Message
from broker.rate import Mark, Rate

LEAST_BYTES = 1 << 12
"""What a chunk weighs at least, in the count of what is not confirmed."""


def weight(size: int) -> int:
    """What a chunk of `size` bytes counts for, at either end."""
    return max(size, LEAST_BYTES)


@dataclass(eq=False, slots=True)
class Transfer:
    """Chunks are cut when they are handed over. `done` is set when each of them is acknowledged.

    With a `credit` the receiver sends a Credit after every so many chunks, and at most a window of them goes beyond
    the last one. `rate` is told of chunks that have arrived, where that can be known.
    """

    peer: str
    topic: str
    kind: type[Message]
    boot: int
    message_id: int
    body: bytes
    cut: Cut
    credit: int
    done: asyncio.Future[None]
    rate: Rate | None = None
    sent: int = 0  # chunks handed over at least once
    confirmed: int = 0  # chunks that the receiver is known to have
    again: deque[int] = field(default_factory=deque)  # chunks to be handed over once more
    pending: set[asyncio.Future[None]] = field(default_factory=set)
    _marks: dict[int, Mark] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind.__name__} {self.message_id} (chunk {self.sent} of {self.count})"

    @property
    def count(self) -> int:
        """Chunks of the message."""
        return wire.chunk_count(len(self.body), self.cut.chunk_bytes)

    @property
    def weight(self) -> int:
        """What of it is handed over and not confirmed."""
        return (self.sent - self.confirmed) * weight(min(len(self.body), self.cut.chunk_bytes))

    @property
    def left(self) -> bool:
        """Whether there are chunks to hand over."""
        return self.sent < self.count or bool(self.again)

    @property
    def credited(self) -> bool:
        """Whether the next new chunk needs no further credit."""
        return not self.credit or self.sent < self.confirmed + self.cut.window

    def next(self) -> int | None:
        """The index of the next chunk, if one may be handed over now."""
        if len(self.pending) >= self.cut.window:
            return None
        if self.again:
            return self.again.popleft()
        if self.sent == self.count or not self.credited:
            return None
        self.sent += 1
        return self.sent - 1

    def chunk(self, index: int, now: float) -> tuple[bytes, memoryview]:
        """Header and bytes of a chunk that is handed over now."""
        if self.rate is not None and index not in self._marks:
            self._marks[index] = self.rate.sent(self._size(index), now)
        body, size = self.body, self.cut.chunk_bytes
        return wire.cut(self.kind.code, self.boot, self.message_id, body, size, index, self.credit)

    def arrived(self, indices: Iterable[int], now: float) -> None:
        """These chunks have got to where the rate is measured."""
        for index in indices:
            mark = self._marks.pop(index, None)
            if mark is not None and self.rate is not None:
                self.rate.confirmed(self._size(index), mark, now)

    def confirm(self, chunks: int, now: float) -> bool:
        """The receiver has so many chunks; False for what is no news or cannot be."""
        if not self.confirmed < chunks <= self.sent:
            return False
        if self.credit:
            self.arrived(range(self.confirmed, chunks), now)
        self.confirmed = chunks
        return True

    def repeat(self, held: Iterable[int] = ()) -> None:
        """Hand over again what was handed over, but for `held`: first and last index of runs of chunks."""
        bounds = list(held)
        have = {index for pair in zip(bounds[::2], bounds[1::2], strict=False) for index in _run(*pair, self.sent)}
        self.again = deque(index for index in range(self.sent) if index not in have)

    def settle(self, error: BaseException | None = None) -> None:
        """Nothing more is to be done, because all is, or because of an error; what is not acknowledged is withdrawn."""
        if self.rate is not None:
            for index in self._marks:
                self.rate.withdrawn(self._size(index))
            self._marks.clear()
        self.again.clear()
        for future in self.pending:
            future.cancel()
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)

    def _size(self, index: int) -> int:
        return min(self.cut.chunk_bytes, len(self.body) - index * self.cut.chunk_bytes)


def held_count(bounds: list[int]) -> int:
    """Chunks in runs of first and last index."""
    return sum(last - first + 1 for first, last in zip(bounds[::2], bounds[1::2], strict=False))


def _run(first: int, last: int, end: int) -> range:
    return range(first, min(last + 1, end))
