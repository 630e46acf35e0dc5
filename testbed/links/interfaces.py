"""What an interface is: whether it, and an address behind it, can be shaped; its own address."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from testbed.links.errors import LinkError
from testbed.links.kernel import Namespace
from testbed.links.trees import NAME_MAX

_LOOPBACK = 0x8


def check_name(interface: str) -> None:
    """LinkError for what cannot be the name of an interface."""
    if not 0 < len(interface) <= NAME_MAX or "/" in interface or len(interface.split()) != 1:
        raise LinkError(f"{interface!r} is no name of an interface; valid: such as eth0")


async def shapeable(net: Namespace, interface: str, address: str) -> Any:
    """The kernel's message about an interface; LinkError unless it, and a device of that address, can be shaped."""
    try:
        parsed = ipaddress.IPv4Address(address)
    except ValueError:
        parsed = ipaddress.IPv4Address(0)
    if parsed.is_unspecified or parsed.is_loopback or parsed.is_multicast:
        raise LinkError(f"{address!r} is no IPv4 address of a device; valid: such as 192.168.1.13")
    messages = [each async for each in await net.ipr.get_links(await net.index(interface))]
    message = messages[0]
    if message["flags"] & _LOOPBACK:
        raise LinkError(f"{interface} is loopback; valid: {', '.join(await net.devices()) or 'none here'}")
    if address in await _addresses(net):
        raise LinkError(f"{address} is this machine's own address; valid: a device's behind {interface}")
    return message


async def own_address(net: Namespace, interface: str) -> str:
    """The first IPv4 address of an interface; LinkError where it has none."""
    addresses = await _addresses(net, index=await net.index(interface))
    if not addresses:
        raise LinkError(f"{interface} has no IPv4 address; valid: an interface at which devices can reach this machine")
    return addresses[0]


async def _addresses(net: Namespace, **of: int) -> list[str]:
    return [each.get_attr("IFA_LOCAL") async for each in await net.ipr.get_addr(family=socket.AF_INET, **of)]
