"""Physical devices shaped from this machine, by their IPv4 addresses: the back-end `host`.

The shaping has no process: it lasts until it is removed, and the record says what was there before. Traffic between two
devices does not pass here and is not shaped; nor is IPv6.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import ipaddress
import itertools
import os
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from testbed.links import namespaces, registry, snapshot
from testbed.links import operations as op
from testbed.links.capabilities import capabilities, why_not
from testbed.links.errors import LinkError
from testbed.links.kernel import Kernel
from testbed.links.operations import Operation
from testbed.links.profile import WAYS, LinkProfile
from testbed.links.registry import Owner
from testbed.links.trees import GSO_SEGMENTS, NAME_MAX, Link, Trees, profile_of

MINOR, MINOR_MAX = 0x10, op.NETEM - 1
WAIT_S = 10.0  # for another command that changes links
TRY_S = 0.05
_LOOPBACK = 0x8
_SIOCETHTOOL, _ETHTOOL_GGRO = 0x8946, 0x2B


def check_standing(profile: LinkProfile) -> None:
    """LinkError for a profile that needs a process which stays and plays it."""
    for way in WAYS:
        if profile.rate(way).varies:
            rate = getattr(profile, way).rate
            raise LinkError(f"{way}: the rate {rate} varies, and no process stays to set it; valid: a constant rate")


class Host:
    """The devices behind one interface; all that it knows is in the record, so any process may go on with it.

    `namespace` is where the interface is; empty is this program's own. All methods raise LinkError.
    """

    def __init__(self, interface: str, namespace: str = "") -> None:
        if not 0 < len(interface) <= NAME_MAX or "/" in interface or len(interface.split()) != 1:
            raise LinkError(f"{interface!r} is no name of an interface; valid: such as eth0")
        self._interface, self._namespace = interface, namespace
        self._trees = Trees(namespace, interface)

    async def set(self, address: str, profile: LinkProfile, force: bool = False) -> list[str]:
        """Shape a device, or change its profile while what waits in its queues stays.

        With `force` queueing that somebody else set up is put aside until `remove`; what is known already not to come
        back then is returned, a line each.
        """
        check_standing(profile)
        refusal = why_not("host", profile.needs, await asyncio.to_thread(capabilities))
        if refusal is not None:
            raise LinkError(refusal)
        async with _alone(), Kernel() as kernel:
            old = self._record()
            new, operations = await self._plan(kernel, old, address, profile, force)
            new.write()
            try:
                await kernel.run(operations)
            except BaseException:
                await self._undo(kernel, old, new, address)
                raise
        return [] if old else [f"{text} cannot be restored" for text in new.before["queueing"]["lost"]]

    async def plan(self, address: str, profile: LinkProfile, force: bool = False) -> list[Operation]:
        """What `set` would do now."""
        check_standing(profile)
        async with Kernel() as kernel:
            return (await self._plan(kernel, self._record(), address, profile, force))[1]

    async def clear(self, address: str) -> list[str]:
        """Shape a device no longer; after the last one everything is removed. What `remove` returns is returned."""
        async with _alone(), Kernel() as kernel:
            record = self._record()
            links = dict(record.links) if record else {}
            if record is None or address not in links:
                raise LinkError(f"{self._interface}/{address} is not shaped; valid: {', '.join(links) or 'none is'}")
            link = links.pop(address)
            if not links or self._interface not in await self._devices(kernel):
                return await self._remove(kernel, record)
            await kernel.run(self._trees.drop(await self._trees.state(kernel), link))
            replace(record, links=links).write()
            return []

    async def remove(self) -> list[str]:
        """Shape no device any longer and restore what was there before; what could not be, a line each.

        Nothing is done where nothing is recorded; what is missing already is passed over.
        """
        async with _alone(), Kernel() as kernel:
            record = self._record()
            return await self._remove(kernel, record) if record else []

    async def show(self) -> dict[str, dict[str, Any]]:
        """By address `profile`, in words, and `counters` by way: packets, bytes, dropped and waiting_bytes.

        A way whose class somebody else removed has no counters.
        """
        shown: dict[str, dict[str, Any]] = {}
        counted: dict[tuple[str, int], dict[str, int]] = {}
        async with Kernel() as kernel:
            for device in {self._interface, self._trees.ifb} & set(await self._devices(kernel)):
                async for minor, stats in kernel.classes(self._namespace, device):
                    counted[device, minor] = {
                        "packets": stats["packets"],
                        "bytes": stats["bytes"],
                        "dropped": stats["drop"],
                        "waiting_bytes": stats["backlog"],
                    }
        for address, link in self._links().items():
            shapers = self._trees.shapers(link)
            counters = {shaper.way: counted.get((shaper.device, shaper.minor), {}) for shaper in shapers}
            shown[address] = {"profile": profile_of(link).text(), "counters": counters}
        return shown

    def facts(self) -> dict[str, Any]:
        """For the record of a run: offloads, and by address and way what is set.

        `rx_gro` is whether the interface joins packets that it receives, so that uploads are shaped by more than one
        packet at a time; None where it does not tell.
        """
        record = self._record()
        return {
            "gso_max_segs": GSO_SEGMENTS,
            "gso_max_segs_before": record.before["gso_max_segs"] if record else None,
            "rx_gro": _gro(self._interface, self._namespace),
            "kernel_links": {
                address: {shaper.way: shaper.facts(profile_of(link)) for shaper in self._trees.shapers(link)}
                for address, link in self._links().items()
            },
        }

    def _record(self) -> Owner | None:
        return registry.find(f"@{self._interface}")

    def _links(self) -> dict[str, Link]:
        record = self._record()
        return record.links if record else {}

    async def _devices(self, kernel: Kernel) -> list[str]:
        return await (await kernel.within(self._namespace)).devices()

    async def _plan(
        self, kernel: Kernel, old: Owner | None, address: str, profile: LinkProfile, force: bool
    ) -> tuple[Owner, list[Operation]]:
        """The record with the device at the profile, and what makes it true, whatever is there now."""
        message = await self._check(kernel, address)
        state, trees = await self._trees.state(kernel), self._trees
        if old is None:
            foreign = trees.foreign(state)
            if foreign and not force:
                raise LinkError(foreign)
            before = {"queueing": state.interface, "gso_max_segs": message.get_attr("IFLA_GSO_MAX_SEGS")}
            record = Owner(f"@{self._interface}", "host", interface=self._interface, before=before)
        else:
            record = old
        minor = record.links[address]["minor"] if address in record.links else self._free(record)
        link = {"address": address, "minor": minor, "profile": profile.table()}
        new = replace(record, links=record.links | {address: link})
        if old is None or not state.whole:
            gone, others = trees.remove(state, record.before["queueing"])
            if others:
                raise LinkError(f"{others[0]}; valid: `splitcom link clear {self._interface}` before")
            return new, gone + trees.make() + [each for made in new.links.values() for each in trees.add(made)]
        if address in record.links and state.shapes(minor):
            return new, trees.change(record.links[address], link)
        return new, trees.drop(state, link) + trees.add(link)

    async def _check(self, kernel: Kernel, address: str) -> Any:
        """The kernel's message about the interface; LinkError unless it and the address can be shaped."""
        try:
            parsed = ipaddress.IPv4Address(address)
        except ValueError:
            parsed = ipaddress.IPv4Address(0)
        if parsed.is_unspecified or parsed.is_loopback or parsed.is_multicast:
            raise LinkError(f"{address!r} is no IPv4 address of a device; valid: such as 192.168.1.13")
        net = await kernel.within(self._namespace)
        index = await net.index(self._interface)
        messages = [each async for each in await net.ipr.get_links(index)]
        message = messages[0]
        if message["flags"] & _LOOPBACK:
            raise LinkError(f"{self._interface} is loopback; valid: {', '.join(await net.devices()) or 'none here'}")
        own = [each.get_attr("IFA_LOCAL") async for each in await net.ipr.get_addr(family=socket.AF_INET)]
        if address in own:
            raise LinkError(f"{address} is this machine's own address; valid: a device's behind {self._interface}")
        return message

    def _free(self, record: Owner) -> int:
        """A number that no device has."""
        used = {link["minor"] for link in record.links.values()}
        minor = next(number for number in itertools.count(MINOR) if number not in used)
        if minor > MINOR_MAX:
            raise LinkError(f"{self._interface} has room for {MINOR_MAX - MINOR + 1} devices, and all of it is taken")
        return minor

    async def _undo(self, kernel: Kernel, old: Owner | None, new: Owner, address: str) -> None:
        """Back to the old record after a failure on the way to the new one."""
        if old is None:
            await self._remove(kernel, new)
            return
        old.write()
        with contextlib.suppress(LinkError):  # what is told is why the change failed
            if address in old.links:
                link = old.links[address]
                await kernel.run(self._trees.change(link, link))
            else:
                await kernel.run(self._trees.drop(await self._trees.state(kernel), new.links[address]))

    async def _remove(self, kernel: Kernel, record: Owner) -> list[str]:
        """What `remove` does; the record goes last."""
        net = await kernel.within(self._namespace)
        devices, ifb, before = await net.devices(), self._trees.ifb, record.before["queueing"]
        if self._interface not in devices:
            told = [f"{self._interface} is gone, and its queueing with it"]
            await kernel.run([op.delete_device(self._namespace, ifb)] if ifb in devices else [])
        else:
            state = await self._trees.state(kernel)
            touched = state.interface != before  # a crash may have come before the first change
            if not touched:
                state = replace(state, interface=snapshot.DEFAULT)
            operations, told = self._trees.remove(state, before)
            restored = op.set_gso(self._namespace, self._interface, record.before["gso_max_segs"])
            await kernel.run([*operations, restored])
            if touched:
                told += snapshot.restore(self._namespace, await net.index(self._interface), before)
        record.forget()
        return told


@contextlib.asynccontextmanager
async def _alone() -> AsyncIterator[None]:
    """No other command changes what is recorded meanwhile; LinkError where one does for too long."""
    descriptor = os.open(registry.folder(), os.O_RDONLY | os.O_CLOEXEC)
    try:
        for _ in range(int(WAIT_S / TRY_S)):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            await asyncio.sleep(TRY_S)
        else:
            raise LinkError(f"another command has been changing links for {WAIT_S:g} s; valid: when it has ended")
        yield
    finally:
        os.close(descriptor)


def _gro(interface: str, namespace: str) -> bool | None:
    """Whether an interface joins the packets that it receives; None where it does not tell."""

    def read() -> bool:
        value = array.array("B", struct.pack("II", _ETHTOOL_GGRO, 0))
        request = struct.pack("16sP16x", interface.encode(), value.buffer_info()[0])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
            fcntl.ioctl(opened, _SIOCETHTOOL, request)
        return bool(struct.unpack("II", value.tobytes())[1])

    try:
        return namespaces.within(namespace, read) if namespace else read()
    except OSError:
        return None
