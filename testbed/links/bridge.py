"""Operations that join namespaces by a bridge that is told where everybody is, and passes nothing on to others.

A link has then its own traffic on it and no other's: no ARP, no multicast, no packet whose way had to be found out.
"""

from __future__ import annotations

import socket

from testbed.links.operations import Netlink, Operation

_PERMANENT = 0x80  # NUD_PERMANENT
_STATIC, _MASTER = 0x42, 0x04  # NUD_NOARP | NUD_REACHABLE of an entry that does not age, NTF_MASTER: the bridge's


def mac(address: str) -> str:
    """The MAC address that a device of an IPv4 address is given: a locally administered one."""
    return ":".join(f"{byte:02x}" for byte in (2, 0, *socket.inet_aton(address)))


def add_bridge(namespace: str, device: str) -> Operation:
    """A bridge that forwards at once; with multicast snooping it would send multicast of its own to every port."""
    return Operation(
        namespace,
        f"ip link add {device} type bridge mcast_snooping 0",
        lambda net: net.ipr.link("add", ifname=device, kind="bridge", br_mcast_snooping=0),
    )


def add_veth(namespace: str, device: str, peer: str, peer_namespace: str, peer_mac: str) -> Operation:
    """A pair of devices, the other one in another namespace and with a MAC address that is known."""
    return Operation(
        namespace,
        f"ip link add {device} type veth peer name {peer} address {peer_mac} netns {peer_namespace}",
        lambda net: net.ipr.link(
            "add",
            ifname=device,
            kind="veth",
            peer={"ifname": peer, "address": peer_mac, "net_ns_fd": peer_namespace},
        ),
    )


def enslave(namespace: str, device: str, master: str) -> Operation:
    """Make a device a port of a bridge."""

    async def apply(net: Netlink) -> None:
        await net.ipr.link("set", index=await net.index(device), master=await net.index(master))

    return Operation(namespace, f"ip link set {device} master {master}", apply)


def without_flooding(namespace: str, device: str) -> Operation:
    """Send nothing through a port but what is known to be behind it, and learn nothing from what comes in."""
    off = {"unicast_flood": 0, "mcast_flood": 0, "bcast_flood": 0, "learning": 0}

    async def apply(net: Netlink) -> None:
        await net.ipr.brport("set", index=await net.index(device), **off)

    return Operation(
        namespace,
        f"ip link set {device} type bridge_slave flood off mcast_flood off bcast_flood off learning off",
        apply,
    )


def add_forwarding(namespace: str, device: str, address: str) -> Operation:
    """Tell a bridge that a MAC address is behind a port."""

    async def apply(net: Netlink) -> None:
        index = await net.index(device)
        await net.ipr.fdb("add", ifindex=index, lladdr=address, state=_STATIC, flags=_MASTER)

    return Operation(namespace, f"bridge fdb add {address} dev {device} master static", apply)


def add_neighbour(namespace: str, device: str, address: str, mac_address: str) -> Operation:
    """Tell a namespace the MAC address of an IPv4 address for good; of such entries there may be any number."""

    async def apply(net: Netlink) -> None:
        index = await net.index(device)
        await net.ipr.neigh("add", ifindex=index, dst=address, lladdr=mac_address, state=_PERMANENT)

    return Operation(namespace, f"ip neigh add {address} lladdr {mac_address} dev {device} nud permanent", apply)
