"""Gathered writes: many buffers leave in one system call, neither joined first nor one by one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from broker.fields import Buffer

MOST_BUFFERS = 512
"""Half of what Linux takes at once (IOV_MAX)."""


class Gatherer:
    """Writes to one transport.

    asyncio joins what it is given together, or sends it piece by piece (before Python 3.12 it knows nothing else). So
    where the transport is nothing but a socket that takes bytes now, they go to the socket itself, and only what that
    does not take goes to the transport, in order.
    """

    __slots__ = ("_socket", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        bare = hasattr(os, "writev") and transport.get_extra_info("sslcontext") is None
        self._socket = transport.get_extra_info("socket") if bare else None
        self._transport = transport

    def write(self, buffers: Sequence[Buffer]) -> None:
        """Write at most MOST_BUFFERS buffers; a failure is the transport's to find."""
        if len(buffers) == 1:
            self._transport.write(buffers[0])
        elif self._socket is None:
            self._transport.write(b"".join(buffers))
        elif self._transport.get_write_buffer_size():
            self._rest(buffers, 0)
        else:
            try:
                taken = os.writev(self._socket.fileno(), buffers)
            except OSError:
                taken = 0
            self._rest(buffers, taken)

    def _rest(self, buffers: Sequence[Buffer], taken: int) -> None:
        for buffer in buffers:
            if taken >= len(buffer):
                taken -= len(buffer)
            else:
                self._transport.write(memoryview(buffer)[taken:] if taken else buffer)
                taken = 0
