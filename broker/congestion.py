"""TCP's congestion control, set by the socket: the system's default differs from host to host."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from broker.errors import SettingsError

AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
ALLOWED = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")  # to those who are not root


def set_congestion(sock: socket.socket, name: str) -> None:
    """Give a socket, or a listening one and all that it accepts, a congestion control; "" leaves it the system's.

    Raises SettingsError for one that the kernel does not have or does not allow to this user.
    """
    if not name:
        return
    if not hasattr(socket, "TCP_CONGESTION"):
        raise SettingsError(f"congestion: {name!r} cannot be set on this system; valid: empty, the system's own")
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise SettingsError(f"congestion: {name!r}: {reason}; valid: {', '.join(available())}, or empty") from None


def available() -> list[str]:
    """What the kernel has loaded, and allows to this user; it may load more on demand."""
    try:
        return (AVAILABLE if os.geteuid() == 0 else ALLOWED).read_text().split()
    except OSError:
        return []
