"""Cuts a stream of bytes into packets, without input or output.

The caller receives straight into `buffer()` and then says how many bytes came. Small packets are cut from a scratch
buffer that all connections of an event loop share, so that an idle connection holds none. After a large packet another
one of its size is expected, as chunks of one message are, and received into a buffer of its own: that becomes the
packet's body without a copy, and so does the rest of any other packet that does not end within the scratch buffer. A
remaining length is only a claim, and so is the size that is expected: a buffer above BELIEVED_BYTES is made when the
bytes before it have come.
"""

from __future__ import annotations

from collections.abc import Iterator

from broker.buffer_pool import BufferPool
from broker.errors import ProtocolError
from broker.reasons import Reason

SCRATCH_BYTES = 1 << 18
FAST_BYTES = 1 << 16
"""Where so much comes at once, what follows a packet of half a scratch buffer is read along with its end."""
BELIEVED_BYTES = (1 << 20) + (1 << 16)
GROWTH = 8


class Framer:
    """The receiving end of one connection; `scratch` is writable and may be overwritten between two calls.

    `pool` is where larger buffers come from.

    While `hold` is True no packet is given after the one that was given last. What has arrived already is kept, no
    bytes may be received meanwhile, and afterwards `buffer()` and `received(0)` go on with it.
    """

    __slots__ = (
        "_body",
        "_expected",
        "_filled",
        "_first",
        "_head",
        "_length",
        "_pool",
        "_region",
        "_scratch",
        "hold",
        "max_bytes",
    )

    def __init__(self, scratch: memoryview, max_bytes: int, pool: BufferPool | None = None) -> None:
        self.max_bytes = max_bytes
        self.hold = False
        self._scratch = self._region = scratch
        self._pool = pool or BufferPool()
        self._head = b""  # a fixed header that has not arrived completely, or all that is held
        self._expected = 0  # how many bytes the next packet may have, if it is large
        self._first = 0
        self._body: memoryview | None = None
        self._filled = 0
        self._length = 0

    def buffer(self) -> memoryview:
        """Where the next bytes have to be put; never empty."""
        if self._body is not None:
            if self._filled == len(self._body):
                self._body = self._grown(self._body)
            return self._body[self._filled :]
        held = len(self._head)
        if held == 0:
            self._region = self._pool.take(self._expected) if self._expected else self._scratch
            return self._region
        self._region = self._scratch if held < len(self._scratch) else memoryview(bytearray(2 * held))
        self._region[:held] = self._head
        return self._region[held:]

    def received(self, size: int) -> Iterator[tuple[int, memoryview]]:
        """(first byte, body) of each packet that is complete now that `size` bytes lie in `buffer()`.

        Exhaust it before the next `buffer()`. Raises ProtocolError for a remaining length that is malformed or above
        `max_bytes`; nothing can be received after that.
        """
        if self._body is not None:
            self._filled += size
            if self._filled == self._length:
                body, self._body = self._body, None
                yield self._first, body
            return
        region, self._region = self._region, self._scratch
        start, end = 0, len(self._head) + size
        self._head = b""
        while start < end:
            length, at = _remaining_length(region, start + 1, end)
            if at == 0:
                self._head = bytes(region[start:end])
                return
            stop = at + length
            whole = stop - start
            if whole > self.max_bytes:
                raise ProtocolError(
                    f"a packet of {whole} bytes; valid: at most {self.max_bytes}", Reason.PACKET_TOO_LARGE
                )
            large = whole > len(self._scratch) // 2
            self._expected = whole if large and whole <= min(BELIEVED_BYTES, self._pool.largest) else 0
            # A body may keep a buffer alive that is at most twice as large.
            fits = region is not self._scratch and stop <= len(region) <= 2 * length
            if stop > end:
                if size >= FAST_BYTES and not large:
                    self._head = bytes(region[start:end])
                    return
                self._first, self._length, self._filled = region[start], length, end - at
                self._body = region[at:stop] if fits else self._pool.take(min(length, BELIEVED_BYTES))
                if not fits:
                    self._body[: self._filled] = region[at:end]
                return
            yield region[start], region[at:stop] if fits else memoryview(bytes(region[at:stop]))
            start = stop
            if self.hold:
                self._head = bytes(region[start:end])
                return

    def _grown(self, body: memoryview) -> memoryview:
        """A larger buffer for a packet whose buffer is full."""
        grown = self._pool.take(min(self._length, GROWTH * len(body)))
        grown[: self._filled] = body
        return grown


def _remaining_length(region: memoryview, at: int, end: int) -> tuple[int, int]:
    """(length, where the body begins), or (0, 0) where the header is incomplete."""
    length = 0
    for shift in (0, 7, 14, 21):
        if at >= end:
            return 0, 0
        byte = region[at]
        at += 1
        length |= (byte & 127) << shift
        if byte < 128:
            if byte == 0 and shift:
                raise ProtocolError("a remaining length is longer than it needs to be")
            return length, at
    raise ProtocolError("a remaining length of more than four bytes")
