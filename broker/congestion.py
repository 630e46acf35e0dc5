"""TCP's congestion control, set by the socket: the system's default differs from host to host."""

from __future__ import annotations

import functools
import os
import socket
from pathlib import Path

from broker.errors import SettingsError

AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
ALLOWED = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")  # to those who are not root
AUTO, PREFERRED = "auto", "cubic"  # what most hosts have as their own


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


@functools.cache
def resolve(name: str) -> str:
    """`auto` as a name: cubic where this user may set it, else the system's own. Another name is left as it is.

    Empty on a system that has no choice.
    """
    if name != AUTO:
        return name
    with socket.socket() as trial:
        try:
            set_congestion(trial, PREFERRED)
        except SettingsError:
            return system_default()
    return PREFERRED


def system_default() -> str:
    """What a connection of this host has unless told otherwise; empty where that cannot be found out."""
    if not hasattr(socket, "TCP_CONGESTION"):
        return ""
    with socket.socket() as fresh:
        return in_use(fresh)


def in_use(sock: socket.socket) -> str:
    """What a socket has."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).partition(b"\0")[0].decode()


def available() -> list[str]:
    """What the kernel has loaded, and allows to this user; it may load more on demand."""
    try:
        return (AVAILABLE if os.geteuid() == 0 else ALLOWED).read_text().split()
    except OSError:
        return []
