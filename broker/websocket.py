"""MQTT over WebSocket (MQTT 5.0, 6): a transport that carries a connection's bytes in binary frames.

Messages come from whoever speaks HTTP; what is sent is framed here and written straight to the connection below, whose
buffer, limits and pauses are therefore the ones that the MQTT connection sees. No task and no queue is in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from broker.fields import Buffer

HEADROOM_BYTES = 1 << 16
"""What may come beside the packets that are bounded: HTTP's headers, headers of frames, a packet or two more."""

TURN_BYTES = 1 << 12
"""After how many bytes of a client's frames others have their turn: many small messages may be there at once."""

_HEAD_BYTES = 6  # of the shortest frame from a client
_FINAL_BINARY = 0x82


def binary_header(size: int) -> bytes:
    """What goes before a payload of `size` bytes that is one binary message from a server (RFC 6455, 5.2)."""
    if size < 126:
        return bytes((_FINAL_BINARY, size))
    if size < 1 << 16:
        return bytes((_FINAL_BINARY, 126)) + size.to_bytes(2, "big")
    return bytes((_FINAL_BINARY, 127)) + size.to_bytes(8, "big")


class WebSocketTransport(asyncio.Transport):
    """The transport of one `connection`; `carrier` is the one below, and `hang_up` begins WebSocket's closing.

    Until the connection has answered for the first time, no more than `unanswered_bytes` are read from its client.
    """

    def __init__(
        self,
        carrier: asyncio.Transport,
        connection: asyncio.BufferedProtocol,
        hang_up: Callable[[], None],
        unanswered_bytes: int,
    ) -> None:
        super().__init__()
        self._carrier = carrier
        self._connection = connection
        self._hang_up = hang_up
        self._unanswered_bytes = unanswered_bytes
        self._received_bytes = self._turn_bytes = 0
        self._answered = False
        self._closing = False
        self._aborted = False
        self._reading = asyncio.Event()
        self._reading.set()

    # What the MQTT connection calls

    def write(self, data: Buffer) -> None:  # type: ignore[override]
        """Send a message, which holds any part of any number of packets."""
        if not self._answered:
            self._answered = True
            self._carrier.resume_reading()
        self._carrier.writelines((binary_header(len(data)), data))

    def close(self) -> None:
        """Say goodbye in WebSocket's way; the peer has to answer that before the connection is closed."""
        if not self._closing:
            self._closing = True
            self._hang_up()

    def abort(self) -> None:
        self._closing = self._aborted = True
        self._reading.set()
        self._carrier.abort()

    def is_closing(self) -> bool:
        return self._closing or self._carrier.is_closing()

    def pause_reading(self) -> None:
        self._reading.clear()

    def resume_reading(self) -> None:
        self._reading.set()

    def is_reading(self) -> bool:
        return self._reading.is_set()

    def can_write_eof(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._carrier.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._carrier.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        # The socket is not for MQTT's bytes: they have to be framed.
        return default if name == "socket" else self._carrier.get_extra_info(name, default)

    # What happens below

    def progress(self, size: int) -> None:
        """Some bytes of a message have come: a sign of life, since the message may take long to be complete."""
        self._received_bytes += size
        if not self._answered and self._received_bytes > self._unanswered_bytes:
            self._carrier.pause_reading()
        if self._reading.is_set():
            self._connection.get_buffer(0)
            self._connection.buffer_updated(0)

    async def feed(self, message: bytes) -> None:
        """Hand a binary message to the connection, waiting wherever it does not want to read.

        On return it has handled all of it, whatever has become of the connection below: the last packet may be a
        DISCONNECT.
        """
        rest = memoryview(message)
        while len(rest) and not self._aborted:
            room = memoryview(self._connection.get_buffer(len(rest)))
            size = min(len(room), len(rest))
            room[:size] = rest[:size]
            self._connection.buffer_updated(size)
            rest = rest[size:]
            # It may have stopped again before this task goes on.
            while not self._reading.is_set() and not self._aborted:
                await self._reading.wait()
        self._turn_bytes += _HEAD_BYTES + len(message)
        if self._turn_bytes >= TURN_BYTES:
            self._turn_bytes = 0
            await asyncio.sleep(0)
