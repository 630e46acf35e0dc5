"""The links of one run from its beginning to its end: made, measured, changed, counted, recorded, and gone."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from broker.congestion import set_congestion
from broker.engines import Address, Place
from testbed.links import registry
from testbed.links.backends import LINKS, LinksOfRun
from testbed.links.base import Counts, LinkBackend
from testbed.links.calibration import calibrate
from testbed.links.capabilities import capabilities, choose
from testbed.links.check import Check
from testbed.links.commands import CommandSocket
from testbed.links.errors import LinkError
from testbed.links.links_config import EVERY, LinksConfig
from testbed.links.none import Unshaped
from testbed.links.profile import LinkProfile, from_table
from testbed.links.registry import Owner
from testbed.links.traces import Way

RECORD = "links.jsonl"
TRIES = 3  # of a calibration: a moment in which the machine was busy is no bad link


class Lab:
    """The links of a run as an asynchronous context manager; entering raises LinkError for what cannot be emulated.

    Everything that happens to a link is a line of `links.jsonl` in the run directory.
    """

    def __init__(self, run: str, config: LinksConfig, names: list[str], directory: Path) -> None:
        self._run, self._config, self._directory = run, config, directory
        self.profiles = config.profiles(names)
        self.backend: LinkBackend = Unshaped(config.congestion)
        self.why = "no link is shaped"
        self.checks: list[Check] = []
        self._owner: Owner | None = None
        self._socket: CommandSocket | None = None
        self._record: TextIO | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._before: dict[str, dict[str, Counts]] = {}
        self._began_s = 0.0

    def commands(self) -> list[str]:
        """What would be run to make the links and to remove them again; LinkError for what cannot be emulated."""
        if self._config.any:
            self._choose()
        return self.backend.commands()

    def _choose(self) -> None:
        name, self.why = choose(self._config.backend, self._config.needs(list(self.profiles)), capabilities())
        run = LinksOfRun(
            self._run,
            self.profiles,
            self._config.congestion,
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
        if not self._config.any:
            return self
        with socket.socket() as trial:
            set_congestion(trial, self._config.congestion)
        self._choose()
        name, found = self.backend.name, capabilities()
        if name != "none":
            await self._claim(name)
        self._record = (self._directory / RECORD).open("a", encoding="utf-8")
        try:
            await self.backend.__aenter__()
            self._tell("made", backend=name, why=self.why, profiles=self._texts(), capabilities=found, **self._facts())
            if self._owner is not None:
                self._socket = await CommandSocket(self._owner.socket, self._answer).__aenter__()
        except BaseException:
            await self._leave()
            raise
        return self

    async def _claim(self, name: str) -> None:
        """Note whose the links are; what a run of this name left when it was killed is removed first."""
        there = registry.find(self._run)
        if there is not None and not there.alive:
            from testbed.links.reset import reset

            await reset([there])
        self._owner = registry.claim(self._run, name, tuple(getattr(self.backend, "namespaces", ())))

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        failures = await self._leave()
        if failures and kind is None:
            raise failures[0]  # the timeline was not followed to its end: the run was not what it says

    async def _leave(self) -> list[Exception]:
        """Take everything away; what the timeline failed with, if it did."""
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            if self._socket is not None:
                await self._socket.__aexit__(None, None, None)
            await self.backend.__aexit__(None, None, None)
        finally:
            if self._owner is not None:
                self._owner.forget()
            if self._record is not None:
                self._record.close()
                self._record = None
        return [error for error in ended if isinstance(error, Exception)]

    async def calibrate(self) -> list[Check]:
        """A short measurement of every link; the counters of the run begin after it.

        Raises LinkError that names what is not as it is configured to be.
        """
        if self._config.calibrate_s:
            await self._calibrate()
        self._before = await self.backend.counters()
        return self.checks

    async def measure(self, what: Sequence[str], seconds: float) -> list[Check]:
        """Measure `rate`, `delay` and `loss` as asked for, with transfers of so many seconds."""
        log = self._directory / "links.log"
        self.checks = await calibrate(self.backend, self.profiles, log, what, seconds, self._config.congestion)
        self._tell("measured", checks=[check.table() for check in self.checks])
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
        self._began_s = time.monotonic()
        for name, profile in self.profiles.items():
            if "varying" in profile.needs:
                await self.backend.set(name, profile)
        changes = self._config.changes()
        if changes:
            self._tasks.append(asyncio.create_task(self._follow_timeline(), name="timeline of the links"))
        self._tell("begin")

    async def _follow_timeline(self) -> None:
        for change in self._config.changes():
            await asyncio.sleep(self._began_s + change.at_s - time.monotonic())
            names = list(self.profiles) if change.client == EVERY else [change.client]
            for name in names:
                await self.set(name, change.profile, "timeline")

    async def set(self, name: str, profile: LinkProfile, by: str) -> None:
        """Give a link another profile, and note who wanted it."""
        await self.backend.set(name, profile)
        self.profiles[name] = profile
        self._tell("set", client=name, profile=profile.text(), by=by)

    async def records(self) -> dict[str, Any]:
        """What the summary of a run says about its links."""
        if self._record is None:
            return {"backend": "none"}
        self._tell("end", **self._facts())
        return {
            "backend": self.backend.name,
            "why": self.why,
            "congestion": self._config.congestion or "system default",
            "profiles": self._texts(),
            "checks": [check.table() for check in self.checks],
            "counters": subtract(await self.backend.counters(), self._before),
            **self._facts(),
        }

    def _facts(self) -> dict[str, Any]:
        return {"facts": dict(self.backend.facts())}

    def _texts(self) -> dict[str, str]:
        return {name: profile.text() for name, profile in self.profiles.items()}

    def _on_rate(self, client: str, way: Way, bps: float) -> None:
        self._tell("rate", client=client, way=way, bps=round(bps))

    def _tell(self, event: str, **values: Any) -> None:
        if self._record is None:
            return
        since = time.monotonic() - self._began_s if self._began_s else None
        line = {"event": event, "time": round(time.time(), 3), "t_s": since and round(since, 3), **values}
        self._record.write(json.dumps(line, separators=(",", ":")) + "\n")
        self._record.flush()

    async def _answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What a command from outside gets: `show`, or `set` of a client (or all) to a profile."""
        if asked["do"] == "set":
            names = list(self.profiles) if asked["client"] == EVERY else [asked["client"]]
            profile = from_table(asked["profile"], Path())
            for name in names:
                if name not in self.profiles:
                    raise LinkError(f"{name!r} is no client of run {self._run}; valid: {', '.join(self.profiles)}, all")
                choose(self.backend.name, profile.needs, capabilities())
            for name in names:
                await self.set(name, profile, "command")
        return {"run": self._run, "backend": self.backend.name, "links": self._texts()} | {
            "counters": await self.backend.counters()
        }


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
