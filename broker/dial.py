"""Opens TCP connections, and puts into words why one could not be had."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl

from broker.congestion import set_congestion
from broker.tls import failure


async def dial(host: str, port: int, congestion: str = "") -> socket.socket:
    """A connected non-blocking TCP socket without Nagle's delay; OSError of the last address that was tried.

    Raises SettingsError for a congestion control that cannot be had.
    """
    loop = asyncio.get_running_loop()
    failure = OSError("no address")
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            set_congestion(sock, congestion)
            await loop.sock_connect(sock, address)
            return sock
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
    raise failure


def why(error: BaseException) -> str:
    """One phrase for a failure to connect."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLError):
        return failure(error)
    if isinstance(error, OSError):
        return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error)
    return str(error)
