"""Rates that vary, on links that the kernel shapes: set anew every tenth of a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from testbed.links.fast_htb import FastHtb
from testbed.links.kernel import Kernel
from testbed.links.profile import LinkProfile
from testbed.links.rates import Rate
from testbed.links.shaper import FLOOR_BPS, STEP_S, Shaper, burst, kernel_rate

OnChange = Callable[[Shaper, float], None]


@dataclass
class _Track:
    """A shaper whose rate varies, since when, and what it is set to."""

    shaper: Shaper
    index: int
    rate: Rate
    start_s: float
    bytes_per_s: int = 0


class Playback:
    """Plays the varying rates of any number of shapers; `clamped` counts the steps that lay below the floor.

    Each step has the bytes that the rate would pass during it, so the sum is right whatever happens within one.
    """

    def __init__(self, kernel: Kernel, on_change: OnChange) -> None:
        self._kernel, self._on_change = kernel, on_change
        self._tracks: dict[Shaper, _Track] = {}
        self._sockets: dict[str, FastHtb] = {}
        self._task: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self.clamped = 0

    async def follow(self, shaper: Shaper, profile: LinkProfile) -> None:
        """Play the profile's rate on a shaper from now on, if it varies; what was played there ends."""
        self.drop(shaper)
        rate = profile.rate(shaper.way)
        if not rate.varies:
            return
        index = await (await self._kernel.within(shaper.namespace)).index(shaper.device)
        self._tracks[shaper] = _Track(shaper, index, rate, asyncio.get_running_loop().time())
        if shaper.namespace not in self._sockets:
            self._sockets[shaper.namespace] = FastHtb(shaper.namespace)
        if self._task is None:
            self._task = asyncio.create_task(self._play(), name="playback of link rates")
            self._task.add_done_callback(lambda _: self._ended.set())

    def drop(self, shaper: Shaper) -> None:
        """Play nothing on a shaper any more."""
        self._tracks.pop(shaper, None)

    async def close(self) -> None:
        """End everything; an error that ended it before is raised."""
        if self._task is not None:
            self._task.cancel()
            outcome = (await asyncio.gather(self._task, return_exceptions=True))[0]
            if isinstance(outcome, Exception):
                raise outcome
        for opened in self._sockets.values():
            opened.close()

    async def watch(self) -> None:
        """Wait for as long as rates are played; what ended it is raised."""
        await self._ended.wait()
        assert self._task is not None
        await self._task

    def facts(self) -> dict[str, Any]:
        """For the record."""
        return {"step_s": STEP_S, "floor_bps": FLOOR_BPS, "clamped_steps": self.clamped}

    async def _play(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        step = 0
        while True:
            for track in list(self._tracks.values()):
                self._set(track, loop.time())
            step = max(step + 1, int((loop.time() - began) / STEP_S))
            await asyncio.sleep(began + step * STEP_S - loop.time())

    def _set(self, track: _Track, now_s: float) -> None:
        at_s = now_s - track.start_s
        wanted = track.rate.bytes_between(at_s, at_s + STEP_S) * 8 / STEP_S
        bps = max(wanted, FLOOR_BPS)
        self.clamped += wanted < bps
        rate, shaper = kernel_rate(bps), track.shaper
        if rate == track.bytes_per_s:
            return
        self._sockets[shaper.namespace].change(track.index, shaper.minor, rate, burst(rate))
        track.bytes_per_s = rate
        self._on_change(shaper, 8.0 * rate)
