"""The back-end `proxy`: a shaping TCP relay per client on this machine, without privileges.

It has rates and delays, but no packets: no loss, no slow start over the link, no queue that overflows. Small transfers
over a long round trip are too fast by a multiple; docs/links.md has the figures.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from broker.engines import Address, Place
from testbed.links.base import Counts
from testbed.links.emulator_process import EmulatorProcess
from testbed.links.profile import LinkProfile

NOT_EMULATED = ["loss", "slow start", "queue drops", "retransmission"]


class Proxy:
    """See `LinkBackend`."""

    name = "proxy"

    def __init__(self, profiles: Mapping[str, LinkProfile], log: Path, congestion: str = "", seed: int = 0) -> None:
        self._profiles, self._seed, self._congestion = dict(profiles), seed, congestion
        self.server = Place(congestion=congestion)
        self._emulator = EmulatorProcess("proxy", log)
        self._opened: dict[str, Any] = {}
        self._target: Address | None = None

    async def __aenter__(self) -> Proxy:
        await self._emulator.__aenter__()
        clients = {
            name: {"profile": profile.table(), "seed": self._seed + number}
            for number, (name, profile) in enumerate(self._profiles.items())
        }
        try:
            self._opened = await self._emulator.ask({"do": "open", "congestion": self._congestion, "clients": clients})
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._emulator.__aexit__(None, None, None)

    def client(self, name: str) -> tuple[str, ...]:
        """See `LinkBackend`."""
        return ()

    async def address(self, name: str, broker: Address) -> Address:
        """See `LinkBackend`; all clients are led to the address that was given last."""
        if broker != self._target:
            await self._emulator.ask({"do": "target", "host": broker.host, "port": broker.port})
            self._target = broker
        return Address("127.0.0.1", self._opened["ports"][name])

    async def watch(self) -> None:
        """See `LinkBackend`."""
        await self._emulator.watch()

    def commands(self) -> list[str]:
        """See `LinkBackend`."""
        return [f"{sys.executable} -m testbed.links.emulator proxy"]

    async def set(self, name: str, profile: LinkProfile) -> None:
        """See `LinkBackend`."""
        await self._emulator.ask({"do": "set", "client": name, "profile": profile.table()})

    def changes(self, name: str, profile: LinkProfile) -> list[str]:
        """See `LinkBackend`."""
        return [f"(emulator) set {name}: {profile.text()}"]

    async def counters(self) -> dict[str, dict[str, Counts]]:
        """See `LinkBackend`; there are no packets, so only `bytes` (as many as packets of them would have)."""
        clients = (await self._emulator.counted())["clients"]
        return {
            name: {
                way: {"bytes": counts["l2_bytes"], "waiting_bytes": counts["waiting_bytes"]}
                for way, counts in ways.items()
            }
            for name, ways in clients.items()
        }

    async def facts(self) -> dict[str, Any]:
        """See `LinkBackend`: `lateness_ms` as `tun` has it, and the congestion control of the relays' sockets."""
        counted = await self._emulator.counted()
        counted.pop("clients")
        return {"emulator_priority": self._opened["priority"], "not_emulated": NOT_EMULATED, **counted}
