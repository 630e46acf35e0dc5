"""The interface of a link back-end: what carries the links of a run out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from broker.engines import Address, Place
from testbed.links.profile import LinkProfile

Counts = dict[str, Any]

# What a profile may need; a back-end names what it can do of it.
RATE, VARYING, MAHIMAHI, DELAY, JITTER, LOSS = "rate", "varying", "mahimahi", "delay", "jitter", "loss"


class LinkBackend(Protocol):
    """The links of one run, made on entry and gone on exit: whatever happens, nothing of them is left.

    `server` is where broker and server run; agents run where `client` says, and reach the broker at `address`.
    """

    name: str
    server: Place

    async def __aenter__(self) -> LinkBackend:
        """Make all links; LinkError names what the system refuses."""
        ...

    async def __aexit__(self, *_: object) -> None:
        """Remove them."""
        ...

    def client(self, name: str) -> tuple[str, ...]:
        """What has to stand before a command to run it where the client is."""
        ...

    async def address(self, name: str, broker: Address) -> Address:
        """Where a client reaches something that listens at an address of the server's place."""
        ...

    async def set(self, name: str, profile: LinkProfile) -> None:
        """Give a client's link another profile, whose times begin now; what waits in its queues stays."""
        ...

    def changes(self, name: str, profile: LinkProfile) -> list[str]:
        """The commands that `set` would come to now, in order; what no command does is told in brackets."""
        ...

    async def counters(self) -> dict[str, dict[str, Counts]]:
        """By client and way what has passed: `packets`, `l2_bytes`, `dropped`, and what else the back-end counts.

        Without packets there is no `l2_bytes`.
        """
        ...

    async def watch(self) -> None:
        """Wait for as long as the links are what they are said to be; LinkError as soon as what carries them ended."""
        ...

    def commands(self) -> list[str]:
        """The commands that entry and exit come to, in order."""
        ...

    async def facts(self) -> Mapping[str, Any]:
        """For the record of a run: parameters, offloads, how exact it was, and how often a rate had to be clamped."""
        ...
