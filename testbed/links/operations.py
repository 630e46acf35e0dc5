"""Changes to the network, each in two forms: the command that a person would type, and the same over netlink.

One list of operations serves the dry run, which prints it, and the back-end, which carries it out.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

ROOT = 0x10000  # 1:
INGRESS = 0xFFFF0000
REST = 0xFFFF  # the class of what is not shaped
IPV4 = 0x0800
SOURCE_OFFSET, DESTINATION_OFFSET = 12, 16  # of an address in an IPv4 header
LINE_RATE = 4_000_000_000  # bytes/s: no limit, in what fits the kernel's 32 bits
QUANTUM = 1514  # one full packet
# The kernel does not replace a queue by one of another kind under the same handle, so netem's are counted from here.
NETEM = 0x4000


class Netlink(Protocol):
    """The netlink of one namespace."""

    ipr: Any

    async def index(self, device: str) -> int:
        """The number of a device; LinkError where there is none of that name."""
        ...

    def forget(self, device: str) -> None:
        """Look the device up anew the next time: it has been removed."""
        ...


@dataclass(frozen=True)
class Operation:
    """One change in a namespace (empty: this program's own). Without `apply` only the command can make it."""

    namespace: str
    command: str
    apply: Callable[[Netlink], Awaitable[Any]] | None = None

    @property
    def text(self) -> str:
        """The whole command, with its namespace."""
        program, rest = self.command.split(" ", 1)
        return f"{program} -n {self.namespace} {rest}" if self.namespace else self.command


def add_namespace(name: str) -> Operation:
    """A named namespace; the name is a mount, which only `ip` does well."""
    return Operation("", f"ip netns add {name}")


def without_ipv6(name: str) -> Operation:
    """No IPv6 on devices that come later: its multicast would cross every link and be counted there."""
    switch = "/proc/sys/net/ipv6/conf/default/disable_ipv6"
    return Operation("", f"ip netns exec {name} sh -c '[ ! -e {switch} ] || echo 1 > {switch}'")


def delete_namespace(name: str) -> Operation:
    """Remove a name, and with it the namespace once no process is in it."""
    return Operation("", f"ip netns del {name}")


def add_ifb(namespace: str, device: str, queue_packets: int = 0) -> Operation:
    """A device that only exists to shape what another one received; its own queue is 32 packets if none is given."""
    extra = {"txqlen": queue_packets} if queue_packets else {}
    words = f" txqueuelen {queue_packets}" if queue_packets else ""
    return Operation(
        namespace,
        f"ip link add {device}{words} type ifb",
        lambda net: net.ipr.link("add", ifname=device, kind="ifb", **extra),
    )


def delete_device(namespace: str, device: str) -> Operation:
    """Remove a device."""

    async def apply(net: Netlink) -> None:
        await net.ipr.link("del", index=await net.index(device))
        net.forget(device)

    return Operation(namespace, f"ip link del {device}", apply)


def set_up(namespace: str, device: str, gso_segments: int = 0) -> Operation:
    """Bring a device up; with `gso_segments` 1 TCP hands it single packets, which shaping by the packet needs."""
    extra = {"gso_max_segs": gso_segments} if gso_segments else {}

    async def apply(net: Netlink) -> None:
        await net.ipr.link("set", index=await net.index(device), state="up", **extra)

    words = f" gso_max_segs {gso_segments}" if gso_segments else ""
    return Operation(namespace, f"ip link set {device}{words} up", apply)


def set_gso(namespace: str, device: str, segments: int) -> Operation:
    """How many packets TCP may hand a device as one, of connections that begin from now on."""

    async def apply(net: Netlink) -> None:
        await net.ipr.link("set", index=await net.index(device), gso_max_segs=segments)

    return Operation(namespace, f"ip link set {device} gso_max_segs {segments}", apply)


def add_address(namespace: str, device: str, address: str, length: int) -> Operation:
    """Give a device an IPv4 address."""

    async def apply(net: Netlink) -> None:
        await net.ipr.addr("add", index=await net.index(device), address=address, prefixlen=length)

    return Operation(namespace, f"ip addr add {address}/{length} dev {device}", apply)


def route_congestion(namespace: str, device: str, network: str, address: str, congestion: str) -> Operation:
    """TCP's congestion control of all connections over a route, also of programs that do not choose one themselves."""
    return Operation(namespace, f"ip route replace {network} dev {device} src {address} congctl {congestion}")


def add_htb(namespace: str, device: str, default: int, below: int = 0) -> Operation:
    """An HTB, whose class `default` takes what no filter sends elsewhere: the root, or below netem of that handle."""
    options = {"parent": below << 16 | 1} if below else {}

    async def apply(net: Netlink) -> None:
        await net.ipr.tc("add", "htb", await net.index(device), ROOT, default=default, **options)

    where = f"parent {below:x}:1" if below else "root"
    return Operation(namespace, f"tc qdisc add dev {device} {where} handle 1: htb default 0x{default:x}", apply)


def htb_class(verb: str, namespace: str, device: str, minor: int, rate: int, burst: int) -> Operation:
    """Add or change a class of `rate` bytes/s (also its ceiling) that may send `burst` bytes at once."""

    async def apply(net: Netlink) -> None:
        await net.ipr.tc(
            f"{verb}-class",
            "htb",
            await net.index(device),
            ROOT | minor,
            parent=ROOT,
            rate=rate,
            ceil=rate,
            burst=burst,
            cburst=burst,
            quantum=QUANTUM,
        )

    return Operation(
        namespace,
        f"tc class {verb} dev {device} parent 1: classid 1:{minor:x} htb rate {8 * rate}bit ceil {8 * rate}bit "
        f"burst {burst}b cburst {burst}b quantum {QUANTUM}",
        apply,
    )


def bfifo(verb: str, namespace: str, device: str, minor: int, limit: int) -> Operation:
    """Add or change the queue of a class, in bytes."""

    async def apply(net: Netlink) -> None:
        await net.ipr.tc(verb, "bfifo", await net.index(device), minor << 16, parent=ROOT | minor, limit=limit)

    return Operation(
        namespace,
        f"tc qdisc {verb} dev {device} parent 1:{minor:x} handle {minor:x}: bfifo limit {limit}b",
        apply,
    )


def netem(verb: str, namespace: str, device: str, minor: int, options: str, root: bool = False) -> Operation:
    """Add or change netem, as the queue of a class or at the root; pyroute2 has neither its loss nor its distributions.

    Its handle is NETEM | minor.
    """
    where = "root" if root else f"parent 1:{minor:x}"
    handle = f"{NETEM | minor:x}:"
    return Operation(namespace, f"tc qdisc {verb} dev {device} {where} handle {handle} netem {options}")


def delete_qdisc(namespace: str, device: str, where: str) -> Operation:
    """Remove the qdisc at `root`, `ingress` or `clsact`, with all that hangs below."""

    async def apply(net: Netlink) -> None:
        parent = 0xFFFFFFFF if where == "root" else 0xFFFFFFF1
        await net.ipr.tc("del", index=await net.index(device), parent=parent)

    return Operation(namespace, f"tc qdisc del dev {device} {where}", apply)


def match_address(namespace: str, device: str, address: str, offset: int, minor: int, priority: int) -> Operation:
    """Send packets from (SOURCE_OFFSET) or to (DESTINATION_OFFSET) an address into a class."""
    value = "0x" + bytes(int(part) for part in address.split(".")).hex()

    async def apply(net: Netlink) -> None:
        await net.ipr.tc(
            "add-filter",
            "u32",
            await net.index(device),
            parent=ROOT,
            protocol=IPV4,
            prio=priority,
            target=ROOT | minor,
            keys=[f"{value}/0xffffffff+{offset}"],
        )

    way = "src" if offset == SOURCE_OFFSET else "dst"
    return Operation(
        namespace,
        f"tc filter add dev {device} parent 1: protocol ip prio {priority} u32 match ip {way} {address}/32 "
        f"flowid 1:{minor:x}",
        apply,
    )


def delete_filter(namespace: str, device: str, priority: int) -> Operation:
    """Remove the filters of one priority."""

    async def apply(net: Netlink) -> None:
        # Without the kind: with it pyroute2 asks for what the filter did.
        info = priority << 16 | socket.htons(IPV4)
        await net.ipr.tc("del-filter", index=await net.index(device), parent=ROOT, info=info)

    return Operation(namespace, f"tc filter del dev {device} parent 1: protocol ip prio {priority} u32", apply)


def delete_class(namespace: str, device: str, minor: int) -> Operation:
    """Remove a class with its queue."""

    async def apply(net: Netlink) -> None:
        await net.ipr.tc("del-class", index=await net.index(device), handle=ROOT | minor, parent=ROOT)

    return Operation(namespace, f"tc class del dev {device} classid 1:{minor:x}", apply)
