"""Devices whose links this process holds: it may play rates that vary on them, and gives them back when it leaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from testbed.links.errors import LinkError
from testbed.links.host import Host
from testbed.links.kernel import Kernel
from testbed.links.playback import Playback
from testbed.links.profile import WAYS, LinkProfile
from testbed.links.shaper import FLOOR_BPS, STEP_S


class Hold:
    """Held devices behind an interface. Each has the profile that it had before again when this is left.

    What of that could not be done is said, a line each.
    """

    name = "host"

    def __init__(self, host: Host, say: Callable[[str], None], force: bool = False) -> None:
        self._host, self._say, self._force = host, say, force
        self._kernel = Kernel()
        self._playback = Playback(self._kernel, lambda *_: None)
        self._held: set[str] = set()

    async def __aenter__(self) -> Hold:
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(LinkError):  # which `wait` has raised
            await self._playback.close()
        await self._kernel.__aexit__()
        if self._playback.clamped:
            self._say(f"{self._playback.clamped} steps below {FLOOR_BPS / 1000:.0f} kbit/s were at that, HTB's least")
        for address in sorted(self._held):
            try:
                told = await self._host.release(address)
            except LinkError as error:
                told = [f"{self._host.interface}/{address} is not as before: {error}"]
            for line in told:
                self._say(line)

    async def set(self, address: str, profile: LinkProfile) -> list[str]:
        """Give a device a profile whose rates may vary; their times begin now. What `Host.set` returns is returned."""
        if address in self._held:
            for shaper in self._host.shapers(address):
                self._playback.drop(shaper)  # before the class is changed, or its next step would undo that
        told = await self._host.set(address, profile, self._force, holding=True)
        self._held.add(address)
        for shaper in self._host.shapers(address):
            await self._playback.follow(shaper, profile)
        return told

    async def wait(self) -> None:
        """Stay for as long as the links are held; LinkError where one is not any more, or cannot be played on."""
        playing = asyncio.create_task(self._playback.watch(), name="watch over held links")
        try:
            while not (await asyncio.wait([playing], timeout=STEP_S))[0]:
                lost = self._held - self._host.held()
                if lost:
                    raise LinkError(f"{self._host.interface}/{min(lost)}: somebody has cleared it: not played any more")
            await playing
        finally:
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)


def played(profile: LinkProfile) -> list[str]:
    """What is played of a profile, a line each."""
    rates = {way: getattr(profile, way).rate for way in WAYS if profile.rate(way).varies}
    return [f"(netlink, every {1000 * STEP_S:g} ms) {way}: {rate}" for way, rate in rates.items()]
