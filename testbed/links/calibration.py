"""Links measured before they are believed: all clients at once, each quantity with what would blur it switched off.

The rate is measured over TCP without delay, jitter and loss, for with them TCP would be measured and not the link; the
delay without loss; the loss with everything, over datagrams. Afterwards each link has its profile again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import sys
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from broker.engines import Address
from testbed.links import check
from testbed.links.base import DELAY, JITTER, LOSS, LinkBackend
from testbed.links.check import Check
from testbed.links.errors import LinkError
from testbed.links.profile import WAYS, Direction, LinkProfile
from testbed.links.rates import FRAME_BYTES, L2_HEADER_BYTES, PAYLOAD_BYTES, WIRE_PER_PAYLOAD, Rate
from testbed.links.traces import Way

SECONDS = 2.0  # of a transfer, at least
PACKETS_MIN = 10  # of a transfer
MESSAGES = 25  # for a delay
LOAD = 0.5  # share of the rate that datagrams take, so that no queue loses any
UDP_HEADER_BYTES = L2_HEADER_BYTES + 20 + 8
DATAGRAM_BYTES = 100  # of which losses are counted
FULL_BYTES = FRAME_BYTES - UDP_HEADER_BYTES
OVERLOAD = 1.3  # how much faster than a varying rate its datagrams come
DATAGRAM_RATE_MAX = 20_000  # per second and way, of all clients together
READY_S = 20.0
STEP_S = 0.1
WHAT = ("rate", "delay", "loss")


@dataclass
class Driver:
    """The serving end, in the server's place."""

    process: asyncio.subprocess.Process

    async def answer(self, limit_s: float) -> dict[str, Any]:
        """What it prints next; LinkError where that takes longer."""
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(limit_s):
                line = await self.process.stdout.readline()
        except TimeoutError:
            raise LinkError(f"calibration: no answer within {limit_s:.0f} s: a link passes next to nothing") from None
        if not line:
            raise LinkError("calibration: the measuring process ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def run(self, what: str, clients: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
        """A job's answer by client; LinkError for a client that failed."""
        if not clients:
            return {}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": what, "clients": clients}).encode() + b"\n")
        answer = await self.answer(limit_s + READY_S)
        for name, result in answer.items():
            if "error" in result:
                raise LinkError(f"calibration: {name}: {what}: {result['error']}")
        return answer


async def calibrate(
    backend: LinkBackend,
    profiles: Mapping[str, LinkProfile],
    log: Path,
    what: Sequence[str] = WHAT,
    seconds: float = SECONDS,
    congestion: str = "",
) -> list[Check]:
    """Measure what the links are configured to be; a check for each figure, and none for what is not emulated.

    Raises LinkError where nothing can be measured.
    """
    profiles = {name: profile for name, profile in profiles.items() if profile.needs}
    if not profiles:
        return []
    checks: list[Check] = []
    try:
        async with both_ends(backend, profiles, log, congestion) as driver:
            for way in WAYS if "rate" in what else ():
                checks += await _rates(backend, driver, way, profiles, seconds)
            if "delay" in what:
                checks += await _delays(backend, driver, profiles)
            for way in WAYS if "loss" in what else ():
                checks += await _losses(backend, driver, way, profiles, seconds)
    finally:
        for name, profile in profiles.items():
            await backend.set(name, profile)
    order = {name: number for number, name in enumerate(profiles)}
    return sorted(checks, key=lambda done: (order[done.client], WAYS.index(done.direction), WHAT.index(done.what)))


@contextlib.asynccontextmanager
async def both_ends(backend: LinkBackend, names: Collection[str], log: Path, congestion: str) -> AsyncIterator[Driver]:
    """The measuring processes, which have ended when this is left."""
    place = backend.server
    started: list[asyncio.subprocess.Process] = []

    async def start(prefix: Sequence[str], *words: str) -> asyncio.subprocess.Process:
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *prefix,
                sys.executable,
                "-m",
                "testbed.links.transfer",
                *words,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        started.append(process)
        return process

    try:
        driver = Driver(await start(place.prefix, "serve", place.host, congestion))
        ready = await driver.answer(READY_S)
        for name in names:
            host, port = await backend.address(name, Address(ready["host"], ready["port"]))
            await start(backend.client(name), "join", host, str(port), name, congestion)
        await driver.run("hello", {name: {} for name in names}, READY_S)
        yield driver
    finally:
        for process in reversed(started):
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            await process.wait()


def only(profile: LinkProfile, way: Way) -> LinkProfile:
    """The rate of one way and nothing else: a slow other way would hold acknowledgements back, a short queue TCP."""
    plain = Direction(rate=getattr(profile, way).rate)
    return LinkProfile(up=plain) if way == "up" else LinkProfile(down=plain)


def bare(profile: LinkProfile, *without: str) -> LinkProfile:
    """The profile without some of `delay`, `jitter` and `loss`."""
    plain = {DELAY: "0s", JITTER: "0s", LOSS: "0%"}
    changes = {key: plain[key] for key in without}
    return LinkProfile(replace(profile.up, **changes), replace(profile.down, **changes))


async def _rates(
    backend: LinkBackend, driver: Driver, way: Way, profiles: Mapping[str, LinkProfile], seconds: float
) -> list[Check]:
    """Of a constant rate by TCP; of one that varies by more datagrams than it passes, for TCP needs time after a fall.

    A relay has neither falls nor datagrams.
    """
    streams: dict[str, Any] = {}
    floods: dict[str, Any] = {}
    limit_s, set_s = 0.0, {}
    shaped = {name: only(profile, way) for name, profile in profiles.items()}
    for name, profile in shaped.items():
        rate = profile.rate(way)
        if math.isinf(rate.mean_bps):
            continue
        await backend.set(name, profile)
        set_s[name] = time.monotonic()
        if rate.varies and backend.name != "proxy":
            floods[name] = _flood(rate, seconds)
            limit_s = max(limit_s, 4 * seconds)
            continue
        passed = check.early_bps(rate, seconds) * seconds / 8
        count = max(int(passed / WIRE_PER_PAYLOAD), PACKETS_MIN * PAYLOAD_BYTES)
        streams[name] = {"bytes": count}
        limit_s = max(limit_s, 4 * rate.finish(0.0, count * WIRE_PER_PAYLOAD) + seconds)
    answers = await driver.run(way, streams, limit_s)
    for name in floods:
        await backend.set(name, shaped[name])
        set_s[name] = time.monotonic()
    received = await driver.run(f"datagrams_{way}", floods, limit_s)
    for name, answer in received.items():
        payload = answer["received"] * FRAME_BYTES / WIRE_PER_PAYLOAD
        answers[name] = answer | {"bytes": payload, "first_bytes": PAYLOAD_BYTES}
    bound = check.BOUND_NETNS if backend.name == "netns" else check.BOUND
    return [check.rate(name, way, shaped[name], answer, set_s[name], bound) for name, answer in answers.items()]


def _flood(rate: Rate, seconds: float) -> dict[str, Any]:
    """A job of full datagrams, faster than the rate ever is in these seconds."""
    steps = max(1, round(seconds / STEP_S))
    peak = max(rate.bytes_between(number * STEP_S, (number + 1) * STEP_S) for number in range(steps)) / STEP_S
    per_s = OVERLOAD * max(peak, rate.mean_bps / 8, FRAME_BYTES) / FRAME_BYTES
    return {"count": int(per_s * seconds) + 1, "gap": 1 / per_s, "size": FULL_BYTES}


async def _delays(backend: LinkBackend, driver: Driver, profiles: Mapping[str, LinkProfile]) -> list[Check]:
    jobs, limit_s = {}, 0.0
    for name, profile in profiles.items():
        if DELAY in profile.needs:
            await backend.set(name, bare(profile, LOSS))
            jobs[name] = {"count": MESSAGES}
            round_s = sum(getattr(profile, way).delay_s + 4 * getattr(profile, way).jitter_s for way in WAYS)
            limit_s = max(limit_s, 4 * MESSAGES * (round_s + 0.1))
    answers = await driver.run("delay", jobs, limit_s)
    return [
        check.delay(name, way, profiles[name], answer[way])
        for name, answer in answers.items()
        for way in WAYS
        if getattr(profiles[name], way).delay_s
    ]


async def _losses(
    backend: LinkBackend, driver: Driver, way: Way, profiles: Mapping[str, LinkProfile], seconds: float
) -> list[Check]:
    jobs, limit_s = {}, 0.0
    lossy = {name: profile for name, profile in profiles.items() if getattr(profile, way).losses.mean}
    for name, profile in lossy.items():
        await backend.set(name, profile)
        per_s = min(
            LOAD * check.early_bps(profile.rate(way), seconds) / 8 / (DATAGRAM_BYTES + UDP_HEADER_BYTES),
            DATAGRAM_RATE_MAX / len(lossy),
        )
        jobs[name] = {"count": max(10, int(per_s * seconds)), "gap": 1 / per_s, "size": DATAGRAM_BYTES}
        limit_s = max(limit_s, 4 * seconds + 40 / per_s)
    answers = await driver.run(f"datagrams_{way}", jobs, limit_s)
    return [
        check.loss(name, way, getattr(lossy[name], way).losses, answer["sent"], answer["received"])
        for name, answer in answers.items()
    ]
