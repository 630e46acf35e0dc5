"""Generic receive offload (GRO): a device joins packets that wait for it before TCP sees them, as network cards do.

At the ends of a link, behind its shapers, it changes nothing that is emulated, and saves what is scarce where many
links meet in one kernel: with ten links of 100 Mbit/s a third of two cores.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct

from testbed.links import namespaces
from testbed.links.errors import LinkError
from testbed.links.operations import Netlink, Operation

# linux/sockios.h, linux/ethtool.h
_SIOCETHTOOL, _GET_GRO, _SET_GRO = 0x8946, 0x2B, 0x2C


def join_received(namespace: str, device: str) -> Operation:
    """Switch GRO on; without the program `ethtool`, which few machines have."""

    async def apply(_: Netlink) -> None:
        try:
            namespaces.within(namespace, lambda: _ask(device, _SET_GRO, 1))
        except OSError as error:
            raise LinkError(f"{device} of {namespace}: generic receive offload: {error.strerror}") from None
        if not joins_received(namespace, device):
            raise LinkError(f"{device} of {namespace}: generic receive offload stays off")

    return Operation("", f"ip netns exec {namespace} ethtool -K {device} gro on", apply)


def joins_received(namespace: str, device: str) -> bool | None:
    """Whether a device has GRO; None where it does not tell. The namespace "" is this program's own."""
    try:
        if namespace:
            return bool(namespaces.within(namespace, lambda: _ask(device, _GET_GRO, 0)))
        return bool(_ask(device, _GET_GRO, 0))
    except OSError:
        return None


def _ask(device: str, command: int, value: int) -> int:
    question = array.array("I", [command, value])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCETHTOOL, struct.pack("16sP16x", device.encode(), question.buffer_info()[0]))
    return question[1]
