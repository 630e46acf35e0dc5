"""The time that the peer of an ended connection has to read what is left for it."""

from __future__ import annotations

import asyncio

from broker import tcpinfo

LINGER_S = 2.0
LONGEST_S = 60.0


class Linger:
    """Cuts a connection whose peer has taken nothing for LINGER_S, and any after LONGEST_S.

    So a client on a slow link, for which some megabytes wait in the kernel, still reads why it was ended. Where the
    kernel does not tell what the peer takes, LINGER_S is all.
    """

    __slots__ = ("_loop", "_taken", "_timer", "_transport", "_until")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._until = self._loop.time() + LONGEST_S
        self._taken = self._count()
        self._timer = self._loop.call_later(LINGER_S, self._look)

    def cancel(self) -> None:
        """The connection is closed."""
        self._timer.cancel()

    def _look(self) -> None:
        taken = self._count()
        if taken > self._taken and self._loop.time() < self._until:
            self._taken = taken
            self._timer = self._loop.call_later(LINGER_S, self._look)
        else:
            self._transport.abort()

    def _count(self) -> int:
        """The bytes that the peer's kernel has acknowledged."""
        socket = self._transport.get_extra_info("socket")
        info = tcpinfo.read(socket) if socket is not None else None
        return info.bytes_acked if info else 0
