"""The devices behind an interface of this machine as the record and the kernel tell of them: what `Host` changes."""

from __future__ import annotations

from typing import Any

from testbed.links import holders, interfaces, namespaces, registry
from testbed.links.errors import LinkError
from testbed.links.holders import holder
from testbed.links.kernel import Kernel
from testbed.links.offload import joins_received
from testbed.links.profile import LinkProfile
from testbed.links.registry import INTERFACE, Owner
from testbed.links.shaper import Shaper
from testbed.links.trees import GSO_SEGMENTS, Link, Trees, profile_of


class HostView:
    """The devices behind one interface.

    `namespace` is where the interface is; empty is this program's own. All methods raise LinkError.
    """

    def __init__(self, interface: str, namespace: str = "") -> None:
        interfaces.check_name(interface)
        self.interface, self.namespace = interface, namespace
        self._trees = Trees(namespace, interface)

    async def show(self) -> dict[str, dict[str, Any]]:
        """By address `profile`, in words, `counters` by way (packets, bytes, dropped, waiting_bytes), and a `note`.

        A way whose class somebody else removed has no counters; a link that nobody holds has an empty note.
        """
        shown: dict[str, dict[str, Any]] = {}
        counted: dict[tuple[str, int], dict[str, int]] = {}
        async with Kernel() as kernel:
            for device in {self.interface, self._trees.ifb} & set(await self._devices(kernel)):
                async for minor, stats in kernel.classes(self.namespace, device):
                    counted[device, minor] = {
                        "packets": stats["packets"],
                        "bytes": stats["bytes"],
                        "dropped": stats["drop"],
                        "waiting_bytes": stats["backlog"],
                    }
        for address, link in self._links().items():
            held = holder(link)
            counters = {each.way: counted.get((each.device, each.minor), {}) for each in self._trees.shapers(link)}
            note = held.note if held is not None else ""
            shown[address] = {"profile": holders.words(link), "counters": counters, "note": note}
        return shown

    def profiles(self) -> dict[str, LinkProfile]:
        """By address the profile of every device when nobody holds it."""
        found = {address: holders.configured(link) for address, link in self._links().items()}
        return {address: profile for address, profile in found.items() if profile is not None}

    def held(self) -> frozenset[str]:
        """The addresses of the devices that this process holds."""
        return frozenset(address for address, link in self._links().items() if (held := holder(link)) and held.mine)

    def shapers(self, address: str) -> tuple[Shaper, Shaper]:
        """A shaped device's way up and its way down in the kernel."""
        return self._trees.shapers(self._record_with(address).links[address])

    def prefix(self) -> tuple[str, ...]:
        """What has to stand before a command to run it where the interface is."""
        return namespaces.prefix(self.namespace) if self.namespace else ()

    async def address(self) -> str:
        """This machine's address at the interface."""
        async with Kernel() as kernel:
            return await interfaces.own_address(await kernel.within(self.namespace), self.interface)

    def facts(self) -> dict[str, Any]:
        """For the record of a measurement: offloads, and by address and way what is set.

        `rx_gro` is whether the interface joins packets that it receives, so that uploads are shaped by more than one
        packet at a time; None where it does not tell.
        """
        record = self._record()
        return {
            "gso_max_segs": GSO_SEGMENTS,
            "gso_max_segs_before": record.before["gso_max_segs"] if record else None,
            "rx_gro": joins_received(self.namespace, self.interface),
            "kernel_links": {
                address: {shaper.way: shaper.facts(profile_of(link)) for shaper in self._trees.shapers(link)}
                for address, link in self._links().items()
            },
        }

    def _record(self) -> Owner | None:
        return registry.find(INTERFACE + self.interface)

    def _record_with(self, address: str) -> Owner:
        """The record, which has to have the device."""
        record = self._record()
        if record is None or address not in record.links:
            shaped = ", ".join(record.links) if record else "none is"
            raise LinkError(f"{self.interface}/{address} is not shaped; valid: {shaped}")
        return record

    def _links(self) -> dict[str, Link]:
        record = self._record()
        return record.links if record else {}

    async def _devices(self, kernel: Kernel) -> list[str]:
        return await (await kernel.within(self.namespace)).devices()
