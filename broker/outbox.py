"""Writes packets to one transport: small ones together, large payloads in slices that are never copied.

Nothing is written ahead of what the peer takes. While the transport is full, messages stay with whoever holds them,
and only answers such as PUBACK wait here; so whatever becomes urgent overtakes all that has not left the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from broker.counters import ConnectionCount
from broker.fields import Buffer
from broker.gather import MOST_BUFFERS, Gatherer

SLICE_BYTES = (1 << 18) + (1 << 14)
"""One chunk of the largest kind with its head: a rest of some bytes would cost a system call of its own."""
ANSWER_BYTES = 1 << 20
"""How many bytes of answers may wait for a client that sends requests and does not read."""

Pull = Callable[[], tuple[bytes, Buffer] | None]
"""Gives the next message as (head, payload), or None."""


class Outbox:
    """The sending end of one connection; about `slice_bytes` are written at once."""

    __slots__ = ("_answers", "_gatherer", "_rest", "_slice_bytes", "_transport", "count", "paused")

    def __init__(self, transport: asyncio.Transport, count: ConnectionCount, slice_bytes: int = SLICE_BYTES) -> None:
        self.count = count
        self.paused = False
        self._transport = transport
        self._gatherer = Gatherer(transport)
        self._slice_bytes = slice_bytes
        self._answers = bytearray()
        self._rest: memoryview | None = None  # of a payload; no other packet may come in between

    def answer(self, packet: bytes) -> bool:
        """Queue a small packet ahead of all messages; False where too many of them wait already."""
        self._answers += packet
        self.count.packets_out += 1
        return len(self._answers) <= ANSWER_BYTES

    def pump(self, pull: Pull) -> bool:
        """Write until the transport is full (False) or nothing is left (True)."""
        while not self.paused:
            batch: list[Buffer] = []
            size = 0
            while size < self._slice_bytes and len(batch) < MOST_BUFFERS:
                part = self._next(pull, self._slice_bytes - size)
                if part is None:
                    self._write(batch, size)
                    return True
                batch.append(part)
                size += len(part)
            self._write(batch, size)
        return False

    @property
    def empty(self) -> bool:
        """Whether all that was queued has left the process."""
        return not self._answers and self._rest is None and not self._transport.get_write_buffer_size()

    @property
    def passed_on(self) -> int:
        """Bytes that have left the process."""
        return self.count.bytes_out - self._transport.get_write_buffer_size()

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

    def _next(self, pull: Pull, room: int) -> Buffer | None:
        """The next bytes to write, of a payload at most `room`."""
        rest = self._rest
        if rest is not None:
            self._rest = rest[room:] if len(rest) > room else None
            return rest[:room]
        if self._answers:
            answers, self._answers = self._answers, bytearray()
            return memoryview(answers)
        message = pull()
        if message is None:
            return None
        head, payload = message
        self.count.packets_out += 1
        self.count.publishes_out += 1
        if len(payload):
            self._rest = memoryview(payload)
        return head

    def _write(self, batch: list[Buffer], size: int) -> None:
        if batch:
            self.count.bytes_out += size
            self._gatherer.write(batch)
