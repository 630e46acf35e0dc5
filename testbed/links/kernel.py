"""Netlink by namespace: operations carried out, devices looked up, counters read."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import socket
from collections.abc import AsyncIterator, Iterable
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import tcmsg
from pyroute2.netlink.rtnl.tcmsg import sched_pfifo

from testbed.links import namespaces
from testbed.links.errors import LinkError
from testbed.links.operations import Operation

# A kind that pyroute2 has no module for it silently attaches to the root; bfifo's only option is pfifo's.
tcmsg.plugins.setdefault("bfifo", sched_pfifo)


class Namespace:
    """The netlink of one namespace, open for as long as its `Kernel`."""

    def __init__(self, ipr: Any, name: str) -> None:
        self.ipr, self.name = ipr, name
        self._indices: dict[str, int] = {}

    async def index(self, device: str) -> int:
        """The number of a device; LinkError where there is none of that name."""
        if device not in self._indices:
            found = await self.ipr.link_lookup(ifname=device)
            if not found:
                raise LinkError(f"interface {device!r} does not exist; valid: {', '.join(await self.devices())}")
            self._indices[device] = found[0]
        return self._indices[device]

    async def devices(self) -> list[str]:
        """The names of all devices but loopback."""
        names = [message.get_attr("IFLA_IFNAME") async for message in await self.ipr.get_links()]
        return [name for name in names if name != "lo"]

    def forget(self, device: str) -> None:
        """Look the device up anew the next time: it has been removed."""
        self._indices.pop(device, None)


class Kernel:
    """Netlink to any number of namespaces, each opened at its first use; "" is this program's own."""

    def __init__(self) -> None:
        self._stack = contextlib.AsyncExitStack()
        self._open: dict[str, Namespace] = {}

    async def __aenter__(self) -> Kernel:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._open.clear()
        await self._stack.aclose()

    async def within(self, namespace: str) -> Namespace:
        """The netlink of a namespace; LinkError where it is not there or may not be entered."""
        if namespace not in self._open:
            # Not by pyroute2's own `netns`, which forks: the child's SIGTERM would reach our event loop as well.
            try:
                descriptor = namespaces.within(namespace, _socket) if namespace else _socket()
            except OSError as error:
                raise LinkError(f"network namespace {namespace or 'of this process'}: {error.strerror}") from None
            ipr = await self._stack.enter_async_context(AsyncIPRoute(fileno=descriptor, ext_ack=True))
            self._open[namespace] = Namespace(ipr, namespace)
        return self._open[namespace]

    async def run(self, operations: Iterable[Operation]) -> None:
        """Carry operations out in order; LinkError names the one that failed, and the kernel's reason."""
        for operation in operations:
            try:
                if operation.apply is None:
                    await command(operation.text)
                else:
                    await operation.apply(await self.within(operation.namespace))
            except NetlinkError as error:
                reason = error.args[1] if len(error.args) > 1 else error
                raise LinkError(f"{operation.text}: {reason}") from None

    async def gso_segments(self, namespace: str, device: str) -> int:
        """How many packets TCP may hand a device as one."""
        return int((await self._link(namespace, device)).get_attr("IFLA_GSO_MAX_SEGS"))

    async def traffic(self, namespace: str, device: str) -> dict[str, int]:
        """What a device has received and sent, and dropped of it, by the kernel's count."""
        counts: dict[str, int] = (await self._link(namespace, device)).get_attr("IFLA_STATS64")
        return counts

    async def _link(self, namespace: str, device: str) -> Any:
        net = await self.within(namespace)
        async for message in await net.ipr.get_links(await net.index(device)):
            return message
        raise LinkError(f"interface {device!r} is gone")

    async def classes(self, namespace: str, device: str) -> AsyncIterator[tuple[int, dict[str, int]]]:
        """(minor number, counts) of every class of a device: bytes, packets, drop, backlog, overlimits."""
        net = await self.within(namespace)
        async for message in await net.ipr.get_classes(await net.index(device)):
            yield message["handle"] & 0xFFFF, message.get_attr("TCA_STATS")


def _socket() -> int:
    """A netlink socket of the namespace that this thread is in."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE).detach()


async def command(text: str) -> str:
    """Run a command to its end; what it wrote, or LinkError with what it complained about."""
    try:
        process = await asyncio.create_subprocess_exec(
            *shlex.split(text), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except FileNotFoundError as error:
        raise LinkError(f"{text}: no program {error.filename}; it comes with iproute2") from None
    out, complaint = await process.communicate()
    if process.returncode:
        raise LinkError(f"{text}: {' '.join(complaint.decode(errors='replace').split())}")
    return out.decode(errors="replace")
