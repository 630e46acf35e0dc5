"""Where connections come from: a listening socket, plain or TLS; other kinds have the same two methods."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Protocol

from broker.congestion import set_congestion
from broker.errors import ConnectError, SettingsError
from broker.tls import Gate

BACKLOG = 1024
KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""When TCP finds out that a silent peer is gone; MQTT does not where a client wants no keepalive."""

MakeConnection = Callable[[], asyncio.BufferedProtocol]
"""Makes the protocol of one connection that was accepted."""


class Listener(Protocol):
    """Gives every connection that it accepts a protocol and an asyncio.Transport that carries MQTT's bytes."""

    async def open(self, make_connection: MakeConnection) -> tuple[str, int]:
        """Listen; returns (host, port) to connect to. ConnectError where that cannot be done."""

    async def close(self) -> None:
        """Accept no more, and drop what is no MQTT connection yet; the broker ends the others itself."""


class TcpListener:
    """One TCP port, 0 for a free one; with a gate its connections are TLS, else plain."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        congestion: str = "",
        gate: Gate | None = None,
    ) -> None:
        self._host, self._port = host, port
        self._congestion = congestion
        self._gate = gate
        self._server: asyncio.Server | None = None

    @property
    def secure(self) -> bool:
        """Whether its connections are TLS."""
        return self._gate is not None

    async def open(self, make_connection: MakeConnection) -> tuple[str, int]:
        loop = asyncio.get_running_loop()
        accept = self._gate.guarded(make_connection) if self._gate else make_connection
        try:
            server = await loop.create_server(accept, self._host, self._port, backlog=BACKLOG)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
            raise ConnectError(f"cannot listen on {self._host}:{self._port}: {reason}") from None
        except UnicodeError:
            raise ConnectError(f"cannot listen on {self._host!r}, which is no name of a host") from None
        try:
            for sock in server.sockets:
                set_congestion(sock, self._congestion)
                _keep_alive(sock)
        except SettingsError:
            server.close()
            raise
        self._server = server
        host, port = server.sockets[0].getsockname()[:2]
        return host, port

    async def close(self) -> None:
        # Not `wait_closed`: from Python 3.12 on it waits for the connections too, and they are ended after this.
        if self._server is not None:
            self._server.close()
        if self._gate is not None:
            self._gate.close()


def _keep_alive(sock: socket.socket) -> None:
    """For a listening socket, and all that it accepts."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # not every system has all of them
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
