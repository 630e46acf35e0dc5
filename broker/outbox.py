"""Writes packets to one transport: small ones together, large payloads in slices that are never copied.

Nothing is written ahead of what the peer takes. While the transport is full, messages stay in their session, where
the byte cap counts them, and only answers such as PUBACK wait here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from broker.counters import ConnectionCount
from broker.fields import Buffer

BATCH_BYTES = 1 << 16
LARGE_BYTES = 1 << 17
SLICE_BYTES = 1 << 18
ANSWER_BYTES = 1 << 20
"""How many bytes of answers may wait for a client that sends requests and does not read."""

Pull = Callable[[], tuple[bytes, Buffer] | None]
"""Gives the next message as (head, payload), or None."""


class Outbox:
    """The sending end of one connection."""

    __slots__ = ("_answers", "_rest", "_transport", "count", "paused")

    def __init__(self, transport: asyncio.Transport, count: ConnectionCount) -> None:
        transport.set_write_buffer_limits(high=BATCH_BYTES, low=BATCH_BYTES // 4)
        self.count = count
        self.paused = False
        self._transport = transport
        self._answers = bytearray()
        self._rest: memoryview | None = None  # of a large payload; no other packet may come in between

    def answer(self, packet: bytes) -> bool:
        """Queue a small packet ahead of all messages; False where too many of them wait already."""
        self._answers += packet
        self.count.packets_out += 1
        return len(self._answers) <= ANSWER_BYTES

    def pump(self, pull: Pull) -> bool:
        """Write until the transport is full (False) or nothing is left (True)."""
        batch: list[Buffer] = []
        size = 0
        while not self.paused:
            if self._rest is not None:
                self._write_slice(self._rest)
                continue
            if self._answers:
                batch.append(bytes(self._answers))
                size += len(self._answers)
                self._answers.clear()
            message = pull()
            if message is None:
                self._write(batch)
                return True
            head, payload = message
            self.count.packets_out += 1
            self.count.publishes_out += 1
            batch.append(head)
            size += len(head)
            if len(payload) > LARGE_BYTES:
                self._rest = memoryview(payload)
            else:
                batch.append(payload)
                size += len(payload)
            if size >= BATCH_BYTES or self._rest is not None:
                self._write(batch)
                batch = []
                size = 0
        return False

    def close(self) -> None:
        """Close our direction once all is flushed, and leave the rest to the peer; `pump` has returned True.

        Closing at once while the client still sends would reset the connection, and our last packet would be lost.
        """
        transport = self._transport
        if transport.get_write_buffer_size():
            # With this limit, `resume_writing` comes when the buffer is empty, and with it the next call.
            transport.set_write_buffer_limits(high=0)
        elif transport.can_write_eof():
            try:
                transport.write_eof()
            except OSError:
                transport.abort()
        else:
            transport.close()

    def _write_slice(self, rest: memoryview) -> None:
        self._rest = rest[SLICE_BYTES:] if len(rest) > SLICE_BYTES else None
        self._write([rest[:SLICE_BYTES]])

    def _write(self, batch: list[Buffer]) -> None:
        if batch:
            data = batch[0] if len(batch) == 1 else b"".join(batch)
            self.count.bytes_out += len(data)
            self._transport.write(data)
