"""One message on its way to a peer, and then for as long as the peer may want some of it again. No clock, no I/O."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from broker import wire
from broker.chunk_size import Cut, places
from broker.credit import weight
from broker.messages import Message
from broker.rate import Mark, Rate


@dataclass(eq=False, slots=True)
class Transfer:
    """Chunks are cut when they are handed over. `done` is set when each of them is acknowledged.

    With a `credit` the receiver sends a Credit after every so many chunks, and at most a window of them goes beyond
    the last one. `rate` is told of chunks that have arrived, where that can be known; with a `keepalive_s` the window
    follows it, up to `most`.
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
    keepalive_s: float = 0
    most: int = 0
    sent: int = 0  # chunks handed over at least once
    confirmed: int = 0  # chunks that the receiver is known to have
    again: deque[int] = field(default_factory=deque)  # chunks to be handed over once more
    pending: set[asyncio.Future[None]] = field(default_factory=set)
    _under_way: set[int] = field(default_factory=set)  # chunks that will reach the receiver that there is now
    _spared: set[int] = field(default_factory=set)  # those of them that the receiver did not name when it resumed
    _marks: dict[int, Mark] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind.__name__} {self.message_id} (chunk {self.sent} of {self.count})"

    @property
    def count(self) -> int:
        """Chunks of the message."""
        return wire.chunk_count(len(self.body), self.cut.chunk_bytes)

    @property
    def largest(self) -> int:
        """Bytes of its largest chunk."""
        return min(len(self.body), self.cut.chunk_bytes)

    @property
    def weight(self) -> int:
        """What of it is handed over and not confirmed."""
        if self.sent == self.confirmed:
            return 0
        # The last may be much smaller, and the receiver does not speak for that little.
        return (self.sent - self.confirmed - 1) * weight(self.largest) + weight(self.size(self.sent - 1))

    @property
    def window(self) -> int:
        """Chunks of its size that may be under way now."""
        if self.rate is None or not self.keepalive_s:
            return self.cut.window
        return places(self.cut.chunk_bytes, self.rate.lately, self.most, self.keepalive_s)

    @property
    def left(self) -> bool:
        """Whether there are chunks to hand over."""
        return self.sent < self.count or bool(self.again)

    @property
    def credited(self) -> bool:
        """Whether the next new chunk needs no further credit."""
        return not self.credit or self.sent < self.confirmed + max(self.window, self.credit)

    def next(self) -> int | None:
        """The index of the next chunk, if one may be handed over now."""
        if self.again:
            index = self.again.popleft()
        elif self.sent < self.count and self.credited:
            index = self.sent
            self.sent += 1
        else:
            return None
        self._under_way.add(index)
        return index

    def chunk(self, index: int, now: float) -> tuple[bytes, memoryview]:
        """Header and bytes of a chunk that is handed over now."""
        if self.rate is not None and index not in self._marks:
            self._marks[index] = self.rate.sent(self.size(index), now, more=self.left)
        body, size = self.body, self.cut.chunk_bytes
        return wire.cut(self.kind.code, self.boot, self.message_id, body, size, index, self.credit)

    def landed(self, index: int) -> None:
        """A chunk is under way no more: the broker has it, or it was withdrawn."""
        self._under_way.discard(index)

    def arrived(self, indices: Iterable[int], now: float) -> None:
        """These chunks have got to where the rate is measured."""
        for index in indices:
            mark = self._marks.pop(index, None)
            if mark is not None and self.rate is not None:
                self.rate.confirmed(self.size(index), mark, now)

    def confirm(self, chunks: int, now: float) -> bool:
        """The receiver has so many chunks; False for what is no news or cannot be."""
        if not self.confirmed < chunks <= self.sent:
            return False
        if self.credit:
            self.arrived(range(self.confirmed, chunks), now)
        self.confirmed = chunks
        return True

    def doubt(self) -> None:
        """The receiver has connected again: what is under way may go to the connection that it had."""
        self.again.extend(sorted(self._spared - set(self.again)))  # its word may have come before
        self._spared.clear()
        self._under_way.clear()

    def repeat(self, held: Iterable[int] = ()) -> None:
        """Hand over again what was handed over, but for `held`, first and last index of runs of chunks, and for what
        is under way."""
        bounds = list(held)
        have = {index for pair in zip(bounds[::2], bounds[1::2], strict=True) for index in _run(*pair, self.sent)}
        lacking = [index for index in range(self.sent) if index not in have]
        self.again = deque(index for index in lacking if index not in self._under_way)
        self._spared = self._under_way.intersection(lacking)

    def settle(self, error: BaseException | None = None) -> None:
        """Nothing more is to be done, because all is, or because of an error; what is not acknowledged is withdrawn."""
        if self.rate is not None:
            for index in self._marks:
                self.rate.withdrawn(self.size(index))
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
            self.done.exception()  # whoever waits gets it; of what this end says on its own nobody does

    def size(self, index: int) -> int:
        """Bytes of a chunk."""
        return min(self.cut.chunk_bytes, len(self.body) - index * self.cut.chunk_bytes)


def held_count(bounds: list[int]) -> int:
    """Chunks in runs of first and last index."""
    return sum(last - first + 1 for first, last in zip(bounds[::2], bounds[1::2], strict=True))


def _run(first: int, last: int, end: int) -> range:
    return range(first, min(last + 1, end))
