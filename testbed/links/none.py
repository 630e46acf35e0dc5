"""The back-end `none`: the links that this machine has, not shaped."""

from __future__ import annotations

import asyncio
from typing import Any

from broker.engines import Address, Place
from testbed.links.base import Counts
from testbed.links.errors import LinkError
from testbed.links.profile import LinkProfile


class Unshaped:
    """See `LinkBackend`."""

    name = "none"

    def __init__(self, congestion: str = "") -> None:
        self.server = Place(congestion=congestion)

    async def __aenter__(self) -> Unshaped:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def client(self, name: str) -> tuple[str, ...]:
        """See `LinkBackend`."""
        return ()

    async def address(self, name: str, broker: Address) -> Address:
        """See `LinkBackend`."""
        return broker

    async def watch(self) -> None:
        """See `LinkBackend`."""
        await asyncio.Event().wait()

    def commands(self) -> list[str]:
        """See `LinkBackend`."""
        return []

    async def set(self, name: str, profile: LinkProfile) -> None:
        """See `LinkBackend`."""
        if profile.needs:
            raise LinkError(f"links.backend: none does not emulate {' and '.join(sorted(profile.needs))}")

    def changes(self, name: str, profile: LinkProfile) -> list[str]:
        """See `LinkBackend`."""
        return []

    async def counters(self) -> dict[str, dict[str, Counts]]:
        """See `LinkBackend`."""
        return {}

    async def facts(self) -> dict[str, Any]:
        """See `LinkBackend`."""
        return {}
