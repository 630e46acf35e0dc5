"""Writes a client's packets to its transport: small packets first, and large payloads in slices that are never joined.

The transport gets no more than it can pass on at once, so that whatever becomes urgent overtakes all that still waits
here: what asyncio's own buffer holds could not be overtaken any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from broker.fields import Buffer

HEAD_BYTES = 1 << 14
"""So much of a payload is joined to its head: a packet of some bytes in a segment of its own would cost more."""
SLICE_BYTES = 1 << 16
UNSENT_BYTES = 1 << 14
"""What the kernel may hold beyond what the network has taken (Linux, TCP_NOTSENT_LOWAT)."""

Pull = Callable[[], tuple[bytes, Buffer] | None]
"""Gives the next message as (head, payload), or None."""


class SendQueue:
    """The sending end of one connection."""

    __slots__ = ("_first", "_rest", "_transport", "handed", "packets", "paused")

    def __init__(self, transport: asyncio.Transport) -> None:
        self.handed = 0  # bytes given to the transport
        self.packets = 0
        self.paused = False
        self._transport = transport
        self._first = bytearray()  # whole packets that go ahead of all messages
        self._rest: memoryview | None = None  # of a large payload; no other packet may come in between

    def add(self, packet: bytes) -> None:
        """Queue a small packet ahead of all messages."""
        self._first += packet
        self.packets += 1

    def pump(self, pull: Pull) -> None:
        """Write until the transport is full or nothing is left."""
        batch: list[Buffer] = []
        size = 0
        while not self.paused:
            if self._rest is not None:
                self._write_slice(self._rest)
                continue
            if self._first:
                batch.append(bytes(self._first))
                size += len(self._first)
                self._first.clear()
            message = pull()
            if message is None:
                self._write(batch)
                return
            head, payload = message
            self.packets += 1
            batch += (head, payload[:HEAD_BYTES])
            size += len(head) + min(len(payload), HEAD_BYTES)
            if len(payload) > HEAD_BYTES:
                self._rest = memoryview(payload)[HEAD_BYTES:]
            if size >= SLICE_BYTES or self._rest is not None:
                self._write(batch)
                batch = []
                size = 0

    @property
    def empty(self) -> bool:
        """Whether all that was queued has left the process."""
        return not self._first and self._rest is None and not self._transport.get_write_buffer_size()

    @property
    def passed_on(self) -> int:
        """Bytes that the transport has passed on."""
        return self.handed - self._transport.get_write_buffer_size()

    def _write_slice(self, rest: memoryview) -> None:
        self._rest = rest[SLICE_BYTES:] if len(rest) > SLICE_BYTES else None
        self._write([rest[:SLICE_BYTES]])

    def _write(self, batch: list[Buffer]) -> None:
        if batch:
            data = batch[0] if len(batch) == 1 else b"".join(batch)
            self.handed += len(data)
            self._transport.write(data)
