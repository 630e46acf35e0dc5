"""The links of one run from its beginning to its end: made, measured, changed, counted, recorded, and gone."""

from __future__ import annotations

import asyncio
import contextlib
import platform
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from broker.congestion import set_congestion, system_default
from broker.engines import Address, Place
from testbed.links import descriptors, registry
from testbed.links.backends import LINKS, LinksOfRun
from testbed.links.base import VARYING, Counts, LinkBackend
from testbed.links.calibration import calibrate
from testbed.links.capabilities import capabilities, choose
from testbed.links.check import Check
from testbed.links.commands import CommandSocket
from testbed.links.errors import LinkError
from testbed.links.links_config import EVERY, LinksConfig
from testbed.links.none import Unshaped
from testbed.links.profile import LinkProfile, from_table
from testbed.links.record import Record
from testbed.links.registry import Owner
from testbed.links.sockets import congestion_in_use
from testbed.links.traces import Way

TRIES = 3  # of a calibration: a moment in which the machine was busy is no bad link


class Lab:
    """The links of a run as an asynchronous context manager; entering raises LinkError for what cannot be emulated.

    Everything that happens to a link is a line of `links.jsonl` in the run directory.
    """

    def __init__(self, run: str, config: LinksConfig, names: list[str], directory: Path) -> None:
        self._run, self._config, self._directory = run, config, directory
        self.profiles = config.profiles(names)
        self.congestion = config.congestion_control if config.any else ""
        self.backend: LinkBackend = Unshaped(self.congestion)
        self.why = "no link is shaped"
        self.checks: list[Check] = []
        self._made = contextlib.AsyncExitStack()
        self._record = Record(directory)
        self._begun = asyncio.Event()
        self._before: dict[str, dict[str, Counts]] = {}

    def _choose(self) -> None:
        name, self.why = choose(self._config.backend, self._config.needs(list(self.profiles)), capabilities())
        run = LinksOfRun(
            self._run,
            self.profiles,
            self.congestion,
            self._directory / "links.log",
            self._on_rate,
            self._config.seed,
        )
        self.backend = LINKS[name](run)

    @property
    def server(self) -> Place:
        """Where broker and server run."""
        return self.backend.server

    async def __aenter__(self) -> Lab:
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(self._record)
            if self._config.any:
                await self._make(stack)
            else:
                self._record.tell("made", backend="none", why=self.why, **_host(system_default()))
            self._made = stack.pop_all()
        return self

    async def _make(self, stack: contextlib.AsyncExitStack) -> None:
        with socket.socket() as trial:
            set_congestion(trial, self.congestion)
        self._choose()
        name = self.backend.name
        if name != "none":
            descriptors.reserve(len(self.profiles))
            owner = stack.enter_context(await self._owned(name))
            await stack.enter_async_context(self.backend)
            await stack.enter_async_context(CommandSocket(owner.socket, self._answer))
        self._record.tell(
            "made",
            backend=name,
            why=self.why,
            profiles=self._texts(),
            traces=self._record.keep_traces(self.profiles),
            capabilities=capabilities(),
            facts=await self.backend.facts(),
            **_host(self.congestion),
        )

    async def _owned(self, name: str) -> contextlib.AbstractContextManager[Owner]:
        """The record of whose the links are; what a run of this name left when it was killed is removed first."""
        there = registry.find(self._run)
        if there is not None and not there.alive:
            from testbed.links.reset import reset

            await reset(there)
        return registry.owned(self._run, name, tuple(getattr(self.backend, "namespaces", ())))

    async def __aexit__(self, *_: object) -> None:
        await self._made.aclose()

    async def calibrate(self) -> list[Check]:
        """A short measurement of every link; the counters of the run begin after it.

        Raises LinkError that names what is not as it is configured to be.
        """
        if self._config.any and self._config.calibrate_s:
            await self._calibrate()
        self._before = await self.backend.counters()
        return self.checks

    async def measure(self, what: Sequence[str], seconds: float) -> list[Check]:
        """Measure `rate`, `delay` and `loss` as asked for, with transfers of so many seconds."""
        log = self._directory / "links.log"
        self.checks = await calibrate(self.backend, self.profiles, log, what, seconds, self.congestion)
        self._record.tell("measured", checks=[check.table() for check in self.checks])
        return self.checks

    async def _calibrate(self) -> None:
        for _ in range(TRIES):
            await self.measure(("rate", "delay"), self._config.calibrate_s)
            bad = [check for check in self.checks if not check.ok]
            if not bad:
                return
        first = bad[0]
        raise LinkError(
            f"calibration: {first.client} {first.direction}: {first.what} is {first.error_percent:+.1f} % off "
            f"({len(bad)} of {len(self.checks)} figures); `splitcom link check` measures at length, "
            "links.calibrate_s = 0 runs without"
        )

    def client(self, name: str) -> tuple[str, ...]:
        """What has to stand before an agent's command."""
        return self.backend.client(name)

    async def address(self, name: str, broker: Address) -> Address:
        """Where an agent reaches the broker."""
        return await self.backend.address(name, broker)

    async def begin(self) -> None:
        """Training begins: the times of varying rates and of the timeline count from now."""
        for name, profile in self.profiles.items():
            if VARYING in profile.needs:
                await self.backend.set(name, profile)
        self._record.begin()
        self._begun.set()
        places = {self.server.prefix, *(self.client(name) for name in self.profiles)} - {()}
        if places:
            found = [await congestion_in_use(place) for place in sorted(places)]
            self._record.tell("sockets", congestion=dict(sum(found, Counter())))

    async def watch(self) -> None:
        """Wait for as long as the links are what they are said to be; LinkError as soon as they are not."""
        await self.backend.watch()

    async def follow_timeline(self) -> None:
        """Change links when the timeline says, from the beginning of training on; LinkError where one cannot be."""
        await self._begun.wait()
        began_s = time.monotonic()
        for change in self._config.changes():
            await asyncio.sleep(began_s + change.at_s - time.monotonic())
            names = list(self.profiles) if change.client == EVERY else [change.client]
            for name in names:
                await self.set(name, change.profile, "timeline")

    async def set(self, name: str, profile: LinkProfile, by: str) -> None:
        """Give a link another profile, and note who wanted it."""
        await self.backend.set(name, profile)
        self.profiles[name] = profile
        kept = self._record.keep_traces({name: profile})
        self._record.tell("set", client=name, profile=profile.text(), by=by, traces=kept)

    async def records(self) -> dict[str, Any]:
        """What the summary of a run says about its links."""
        if not self._config.any:
            return {"backend": "none", **_host(system_default())}
        facts, counters = await self.backend.facts(), subtract(await self.backend.counters(), self._before)
        self._record.tell("end", facts=facts, counters=counters)
        return {
            "backend": self.backend.name,
            "why": self.why,
            "profiles": self._texts(),
            "checks": [check.table() for check in self.checks],
            "counters": counters,
            "facts": facts,
            **_host(self.congestion),
        }

    def _texts(self) -> dict[str, str]:
        return {name: profile.text() for name, profile in self.profiles.items()}

    def _on_rate(self, client: str, way: Way, bps: float) -> None:
        self._record.tell("rate", client=client, way=way, bps=round(bps))

    async def _answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What a command from outside gets: `show`, or `set` of a client (or all) to a profile.

        `dry` asks only for the commands that `set` would come to.
        """
        if asked["do"] == "set":
            names = list(self.profiles) if asked["client"] == EVERY else [asked["client"]]
            profile = from_table(asked["profile"], Path())
            for name in names:
                if name not in self.profiles:
                    raise LinkError(f"{name!r} is no client of run {self._run}; valid: {', '.join(self.profiles)}, all")
                choose(self.backend.name, profile.needs, capabilities())
            if asked.get("dry"):
                return {"commands": [text for name in names for text in self.backend.changes(name, profile)]}
            for name in names:
                await self.set(name, profile, "command")
        return {"run": self._run, "backend": self.backend.name, "links": self._texts()} | {
            "counters": await self.backend.counters()
        }


def _host(congestion: str) -> dict[str, str | None]:
    return {"congestion": congestion or None, "kernel": platform.release()}


def subtract(now: Mapping[str, Mapping[str, Counts]], before: Mapping[str, Mapping[str, Counts]]) -> dict[str, Any]:
    """Counts since `before`; what is a level and not a count stays as it is."""
    return {
        name: {
            way: {
                key: value if key == "waiting_bytes" else value - before.get(name, {}).get(way, {}).get(key, 0)
                for key, value in counts.items()
            }
            for way, counts in ways.items()
        }
        for name, ways in now.items()
    }
