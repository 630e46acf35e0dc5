"""The back-end `tun`: a network namespace per client, and every packet through an emulator in user space.

client: link0 (TUN) -- emulator, a process of its own -- link0 of `server`, where broker and server run
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from broker.engines import Address, Place
from testbed.links import namespaces
from testbed.links import operations as op
from testbed.links.base import Counts
from testbed.links.emulator_process import EmulatorProcess
from testbed.links.kernel import Kernel
from testbed.links.netns import LENGTH, SERVER_ADDRESS, client_address, congestion_routes
from testbed.links.operations import Operation
from testbed.links.profile import LinkProfile
from testbed.links.registry import PREFIX

DEVICE = "link0"


class Tun:
    """See `LinkBackend`."""

    name = "tun"

    def __init__(
        self, run: str, profiles: Mapping[str, LinkProfile], log: Path, congestion: str = "", seed: int = 0
    ) -> None:
        self._profiles, self._seed = dict(profiles), seed
        self._numbers = {name: number for number, name in enumerate(profiles)}
        self._server = f"{PREFIX}{run}-server"
        self._clients = {name: f"{PREFIX}{run}-client-{name}" for name in profiles}
        self.server = Place(SERVER_ADDRESS, namespaces.prefix(self._server), congestion)
        self._emulator = EmulatorProcess("tun", log)
        self._opened: dict[str, Any] = {}

    @property
    def namespaces(self) -> tuple[str, ...]:
        """All that it makes."""
        return (self._server, *self._clients.values())

    def plan(self) -> list[Operation]:
        """What makes the namespaces; the emulator makes the devices in them."""
        made = [op.add_namespace(name) for name in self.namespaces]
        made += [op.without_ipv6(name) for name in self.namespaces]
        return made + [op.set_up(name, "lo") for name in self.namespaces]

    def addresses(self) -> list[Operation]:
        """What makes the devices usable."""
        ends = [(self._server, SERVER_ADDRESS)]
        ends += [(self._clients[name], client_address(number)) for name, number in self._numbers.items()]
        made: list[Operation] = []
        for namespace, address in ends:
            made += [op.add_address(namespace, DEVICE, address, LENGTH), op.set_up(namespace, DEVICE)]
            made += congestion_routes(namespace, DEVICE, address, self.server.congestion)
        return made

    async def watch(self) -> None:
        """See `LinkBackend`."""
        await self._emulator.watch()

    def commands(self) -> list[str]:
        """See `LinkBackend`."""
        emulator = f"{sys.executable} -m testbed.links.emulator tun"
        texts = [[operation.text for operation in made] for made in (self.plan(), self.addresses())]
        return [*texts[0], emulator, *texts[1], *(op.delete_namespace(name).text for name in self.namespaces)]

    async def __aenter__(self) -> Tun:
        namespaces.refuse(self.namespaces)
        try:
            async with Kernel() as kernel:
                await kernel.run(self.plan())
                await self._emulator.__aenter__()
                self._opened = await self._emulator.ask(self._open())
                await kernel.run(self.addresses())
        except BaseException:
            await self.__aexit__()
            raise
        return self

    def _open(self) -> dict[str, Any]:
        def end(namespace: str, address: str) -> dict[str, Any]:
            return {"namespace": namespace, "device": DEVICE, "address": address}

        clients = {
            name: end(self._clients[name], client_address(number))
            | {"profile": self._profiles[name].table(), "seed": self._seed + number}
            for name, number in self._numbers.items()
        }
        return {"do": "open", "server": end(self._server, SERVER_ADDRESS), "clients": clients}

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._emulator.__aexit__(None, None, None)
        finally:
            there = set(namespaces.listed(PREFIX))
            async with Kernel() as kernel:
                await kernel.run(op.delete_namespace(name) for name in self.namespaces if name in there)

    def client(self, name: str) -> tuple[str, ...]:
        """See `LinkBackend`."""
        return namespaces.prefix(self._clients[name])

    async def address(self, name: str, broker: Address) -> Address:
        """See `LinkBackend`."""
        return broker

    async def set(self, name: str, profile: LinkProfile) -> None:
        """See `LinkBackend`."""
        await self._emulator.ask({"do": "set", "client": name, "profile": profile.table()})

    def changes(self, name: str, profile: LinkProfile) -> list[str]:
        """See `LinkBackend`."""
        return [f"(emulator) set {name}: {profile.text()}"]

    async def counters(self) -> dict[str, dict[str, Counts]]:
        """See `LinkBackend`; also `lost`, by the loss that the link was given."""
        clients: dict[str, dict[str, Counts]] = (await self._emulator.counted())["clients"]
        return clients

    async def facts(self) -> dict[str, Any]:
        """See `LinkBackend`: packets were handed on `lateness_ms` after they were due, `strays` were for nobody.

        `device_drops` are packets that found the queue of a TUN device full, for the emulator was behind.
        """
        counted = await self._emulator.counted()
        counted.pop("clients")
        async with Kernel() as kernel:
            drops = [(await kernel.traffic(name, DEVICE))["tx_dropped"] for name in self.namespaces]
        return {
            "offloads": "none",
            "emulator_priority": self._opened["priority"],
            "device_drops": sum(drops),
            **counted,
        }
