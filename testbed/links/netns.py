"""The back-end `netns`: a network namespace per client, joined by a bridge, shaped by the kernel.

    client: eth0 -- port of the bridge in `hub` -- eth0 of `server`, where broker and server run

Downlinks are shaped where packets leave the hub for a client. Uplinks are shaped where they enter it, through an ifb:
a shaper at the client's own end would push back on its TCP, where a modem's queue overflows. Everybody knows the
server's and the clients' MAC addresses from the beginning, and clients reach the server and nobody else.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Mapping
from typing import Any

from broker.engines import Address, Place
from testbed.links import bridge, ingress, namespaces, offload
from testbed.links import operations as op
from testbed.links.backends import OnRate
from testbed.links.base import Counts
from testbed.links.errors import LinkError
from testbed.links.kernel import Kernel
from testbed.links.operations import Operation
from testbed.links.playback import Playback
from testbed.links.profile import LinkProfile
from testbed.links.registry import PREFIX
from testbed.links.shaper import STEP_S, Shaper

SERVER_ADDRESS, LENGTH, NETWORK = "10.77.0.1", 16, "10.77.0.0/16"
FIRST = 10  # the number of the first client's address
CLIENTS_MAX = 1022  # and the server: a bridge has 1023 ports
MINOR = 0x10
GSO_SEGMENTS = 1
BRIDGE, DEVICE = "br0", "eth0"


def client_address(number: int) -> str:
    """The IPv4 address of client `number`, counted from 0."""
    high, low = divmod(number + FIRST, 256)
    return f"10.77.{high}.{low}"


def congestion_routes(namespace: str, device: str, address: str, congestion: str) -> list[Operation]:
    """What gives a namespace's connections a congestion control; nothing where it is left to the system."""
    return [op.route_congestion(namespace, device, NETWORK, address, congestion)] if congestion else []


class Netns:
    """See `LinkBackend`."""

    name = "netns"

    def __init__(self, run: str, profiles: Mapping[str, LinkProfile], on_rate: OnRate, congestion: str = "") -> None:
        if len(profiles) > CLIENTS_MAX:
            raise LinkError(f"links.backend: netns has room for {CLIENTS_MAX} clients, not {len(profiles)}")
        self._profiles = dict(profiles)
        self._numbers = {name: number for number, name in enumerate(profiles)}
        self._hub, self._server = f"{PREFIX}{run}-hub", f"{PREFIX}{run}-server"
        self._clients = {name: f"{PREFIX}{run}-client-{name}" for name in profiles}
        self.server = Place(SERVER_ADDRESS, namespaces.prefix(self._server), congestion)
        self._kernel, self._turn = Kernel(), asyncio.Lock()
        names = {shaper: name for name in profiles for shaper in self.shapers(name)}
        self._playback = Playback(self._kernel, lambda shaper, bps: on_rate(names[shaper], shaper.way, bps))
        self._offloads: dict[str, Any] = {}
        self._past: dict[Shaper, Counts] = {}  # counts of classes that were made anew

    @property
    def namespaces(self) -> tuple[str, ...]:
        """All that it makes."""
        return (self._hub, self._server, *self._clients.values())

    def plan(self) -> list[Operation]:
        """What makes it all, in order."""
        made = [op.add_namespace(name) for name in self.namespaces]
        made += [op.without_ipv6(name) for name in self.namespaces]
        made += [op.set_up(name, "lo") for name in self.namespaces]
        made += [bridge.add_bridge(self._hub, BRIDGE), op.set_up(self._hub, BRIDGE)]
        made += self._join("server", self._server, SERVER_ADDRESS)
        for name, number in self._numbers.items():
            made += self._join(f"c{number}", self._clients[name], client_address(number))
            made += self._introduce(self._clients[name], client_address(number))
            made += self._shape(name)
        return made

    async def watch(self) -> None:
        """See `LinkBackend`."""
        await self._playback.watch()

    def commands(self) -> list[str]:
        """See `LinkBackend`."""
        return [operation.text for operation in (*self.plan(), *map(op.delete_namespace, self.namespaces))]

    def _join(self, port: str, namespace: str, address: str) -> list[Operation]:
        return [
            bridge.add_veth(self._hub, port, DEVICE, namespace, bridge.mac(address)),
            bridge.enslave(self._hub, port, BRIDGE),
            bridge.without_flooding(self._hub, port),
            bridge.add_forwarding(self._hub, port, bridge.mac(address)),
            op.set_up(self._hub, port, GSO_SEGMENTS),
            op.add_address(namespace, DEVICE, address, LENGTH),
            op.set_up(namespace, DEVICE, GSO_SEGMENTS),
            offload.join_received(namespace, DEVICE),
            *congestion_routes(namespace, DEVICE, address, self.server.congestion),
        ]

    def _introduce(self, namespace: str, address: str) -> list[Operation]:
        return [
            bridge.add_neighbour(namespace, DEVICE, SERVER_ADDRESS, bridge.mac(SERVER_ADDRESS)),
            bridge.add_neighbour(self._server, DEVICE, address, bridge.mac(address)),
        ]

    def _shape(self, name: str) -> list[Operation]:
        port, ifb = f"c{self._numbers[name]}", f"u{self._numbers[name]}"
        made = [op.add_ifb(self._hub, ifb), op.set_up(self._hub, ifb)]
        for shaper in self.shapers(name):
            made += shaper.build(self._profiles[name])
        return [*made, ingress.add_ingress(self._hub, port), ingress.redirect_ingress(self._hub, port, ifb)]

    def shapers(self, name: str) -> list[Shaper]:
        """Both ways of a client's link in the kernel."""
        number = self._numbers[name]
        return [Shaper(self._hub, f"u{number}", MINOR, "up"), Shaper(self._hub, f"c{number}", MINOR, "down")]

    async def __aenter__(self) -> Netns:
        namespaces.refuse(self.namespaces)
        try:
            async with Kernel() as making:  # of its own: it takes a descriptor for each namespace
                await making.run(self.plan())
                self._offloads = await self._check_offloads(making)
            for name, profile in self._profiles.items():
                await self._follow(name, profile)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._playback.close()
        finally:
            await self._kernel.__aexit__()
            there = set(namespaces.listed(PREFIX))
            async with Kernel() as kernel:
                await kernel.run(op.delete_namespace(name) for name in self.namespaces if name in there)

    async def _check_offloads(self, kernel: Kernel) -> dict[str, Any]:
        """What the devices say of segmentation offload; LinkError where one has it still."""
        devices = [(self._hub, "server"), *((self._hub, f"c{number}") for number in self._numbers.values())]
        devices += [(name, DEVICE) for name in (self._server, *self._clients.values())]
        for namespace, device in devices:
            segments = await kernel.gso_segments(namespace, device)
            if segments != GSO_SEGMENTS:
                raise LinkError(
                    f"{device} of {namespace} has gso_max_segs {segments} and not {GSO_SEGMENTS}, so that "
                    f"shaping is not exact; valid: links.backend tun, or another kernel than {platform.release()}"
                )
        return {"gso_max_segs": GSO_SEGMENTS, "devices": len(devices), "gro": "at the ends"}

    async def _follow(self, name: str, profile: LinkProfile) -> None:
        for shaper in self.shapers(name):
            await self._playback.follow(shaper, profile)

    def client(self, name: str) -> tuple[str, ...]:
        """See `LinkBackend`."""
        return namespaces.prefix(self._clients[name])

    async def address(self, name: str, broker: Address) -> Address:
        """See `LinkBackend`."""
        return broker

    async def set(self, name: str, profile: LinkProfile) -> None:
        """See `LinkBackend`."""
        async with self._turn:
            for shaper in self.shapers(name):
                self._playback.drop(shaper)  # before the class is changed, or its next step would undo that
                if shaper.remakes(self._profiles[name], profile):
                    self._past[shaper] = await self._counts(shaper)
                await self._kernel.run(shaper.change(self._profiles[name], profile))
            self._profiles[name] = profile
            await self._follow(name, profile)

    def changes(self, name: str, profile: LinkProfile) -> list[str]:
        """See `LinkBackend`."""
        texts = []
        for shaper in self.shapers(name):
            texts += [operation.text for operation in shaper.change(self._profiles[name], profile)]
            if profile.rate(shaper.way).varies:
                rate = getattr(profile, shaper.way).rate
                texts.append(f"(netlink, every {1000 * STEP_S:g} ms) {name} {shaper.way}: {rate}")
        return texts

    async def counters(self) -> dict[str, dict[str, Counts]]:
        """See `LinkBackend`: both ways what came out of the shaper; `dropped` are the packets that its queue dropped.

        What netem lost is in neither.
        """
        return {
            name: {shaper.way: await self._counts(shaper) for shaper in self.shapers(name)} for name in self._profiles
        }

    async def _counts(self, shaper: Shaper) -> Counts:
        counts = dict(self._past.get(shaper, {}))
        async for _, stats in self._kernel.classes(shaper.namespace, shaper.device):
            for key, kernels in (("packets", "packets"), ("l2_bytes", "bytes"), ("dropped", "drop")):
                counts[key] = counts.get(key, 0) + stats[kernels]
            counts["waiting_bytes"] = stats["backlog"]
        return counts

    async def facts(self) -> dict[str, Any]:
        """See `LinkBackend`."""
        shaped = {
            name: {shaper.way: shaper.facts(self._profiles[name]) for shaper in self.shapers(name)}
            for name in self._profiles
        }
        return {"offloads": self._offloads, "kernel_links": shaped, "playback": self._playback.facts()}
