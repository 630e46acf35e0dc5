"""Links measured before they are believed: all clients at once, each quantity with what would blur it switched off.

The rate is measured over TCP without delay, jitter and loss, for with them TCP would be measured and not the link; the
delay and its jitter without loss; the loss with everything, over datagrams. Afterwards each link has its profile again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from testbed.links import check
from testbed.links.base import DELAY, JITTER, LOSS, LinkBackend
from testbed.links.check import Check
from testbed.links.driver import Driver, both_ends
from testbed.links.profile import WAYS, Direction, LinkProfile
from testbed.links.rates import FRAME_BYTES, L2_HEADER_BYTES, PAYLOAD_BYTES, WIRE_PER_PAYLOAD, Rate
from testbed.links.traces import Way

SECONDS = 2.0  # of a transfer, at least
PACKETS_MIN = 10  # of a transfer
MESSAGES, MESSAGES_JITTER = 25, 100  # for a delay, and for how much it varies
LOAD = 0.5  # share of the rate that datagrams take, so that no queue loses any
UDP_HEADER_BYTES = L2_HEADER_BYTES + 20 + 8
DATAGRAM_BYTES = 100  # of which losses are counted
FULL_BYTES = FRAME_BYTES - UDP_HEADER_BYTES
OVERLOAD = 1.3  # how much faster than a varying rate its datagrams come
DATAGRAM_RATE_MAX = 20_000  # per second and way, of all clients together
STEP_S = 0.1
WHAT = ("rate", "delay", "jitter", "loss")


class Links(Protocol):
    """Links that can be given another profile by their clients' names."""

    @property
    def name(self) -> str:
        """The back-end."""
        ...

    async def set(self, name: str, profile: LinkProfile) -> Any:
        """See `LinkBackend`."""
        ...


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
    async with both_ends(backend, profiles, log, congestion) as driver:
        return await measure(backend, driver, profiles, what, seconds)


async def measure(
    links: Links, driver: Driver, profiles: Mapping[str, LinkProfile], what: Sequence[str], seconds: float
) -> list[Check]:
    """See `calibrate`, with a driver whose clients have all joined."""
    checks: list[Check] = []
    try:
        for way in WAYS if "rate" in what else ():
            checks += await _rates(links, driver, way, profiles, seconds)
        if "delay" in what or "jitter" in what:
            checks += await _delays(links, driver, profiles, what)
        for way in WAYS if "loss" in what else ():
            checks += await _losses(links, driver, way, profiles, seconds)
    finally:
        for name, profile in profiles.items():
            await links.set(name, profile)
    order = {name: number for number, name in enumerate(profiles)}
    return sorted(checks, key=lambda done: (order[done.client], WAYS.index(done.direction), WHAT.index(done.what)))


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
    links: Links, driver: Driver, way: Way, profiles: Mapping[str, LinkProfile], seconds: float
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
        await links.set(name, profile)
        set_s[name] = time.monotonic()
        if rate.varies and links.name != "proxy":
            floods[name] = _flood(rate, seconds)
            limit_s = max(limit_s, 4 * seconds)
            continue
        passed = check.early_bps(rate, seconds) * seconds / 8
        count = max(int(passed / WIRE_PER_PAYLOAD), PACKETS_MIN * PAYLOAD_BYTES)
        streams[name] = {"bytes": count}
        limit_s = max(limit_s, 4 * rate.finish(0.0, count * WIRE_PER_PAYLOAD) + seconds)
    answers = await driver.run(way, streams, limit_s)
    for name in floods:
        await links.set(name, shaped[name])
        set_s[name] = time.monotonic()
    received = await driver.run(f"datagrams_{way}", floods, limit_s)
    for name, answer in received.items():
        payload = answer["received"] * FRAME_BYTES / WIRE_PER_PAYLOAD
        answers[name] = answer | {"bytes": payload, "first_bytes": PAYLOAD_BYTES}
    bound = check.BOUND_NETNS if links.name == "netns" else check.BOUND
    return [check.rate(name, way, shaped[name], answer, set_s[name], bound) for name, answer in answers.items()]


def _flood(rate: Rate, seconds: float) -> dict[str, Any]:
    """A job of full datagrams, faster than the rate ever is in these seconds."""
    steps = max(1, round(seconds / STEP_S))
    peak = max(rate.bytes_between(number * STEP_S, (number + 1) * STEP_S) for number in range(steps)) / STEP_S
    per_s = OVERLOAD * max(peak, rate.mean_bps / 8, FRAME_BYTES) / FRAME_BYTES
    return {"count": int(per_s * seconds) + 1, "gap": 1 / per_s, "size": FULL_BYTES}


async def _delays(
    links: Links, driver: Driver, profiles: Mapping[str, LinkProfile], what: Sequence[str]
) -> list[Check]:
    """Of messages that go one at a time: packets keep their order, so of several a late one would delay the others."""
    jobs, limit_s = {}, 0.0
    for name, profile in profiles.items():
        jitter = "jitter" in what and JITTER in profile.needs
        if not jitter and DELAY not in profile.needs:
            continue
        await links.set(name, bare(profile, LOSS))
        jobs[name] = {"count": MESSAGES_JITTER if jitter else MESSAGES}
        round_s = sum(getattr(profile, way).delay_s + 4 * getattr(profile, way).jitter_s for way in WAYS)
        limit_s = max(limit_s, 4 * jobs[name]["count"] * (round_s + 0.1))
    checks = []
    for name, times in (await driver.delays(jobs, limit_s)).items():
        for way in WAYS:
            direction = getattr(profiles[name], way)
            if direction.delay_s and "delay" in what:
                checks.append(check.delay(name, way, profiles[name], times[way]))
            if direction.jitter_s and "jitter" in what:
                checks.append(check.jitter(name, way, direction, times[way]))
    return checks


async def _losses(
    links: Links, driver: Driver, way: Way, profiles: Mapping[str, LinkProfile], seconds: float
) -> list[Check]:
    jobs, limit_s = {}, 0.0
    lossy = {name: profile for name, profile in profiles.items() if getattr(profile, way).losses.mean}
    for name, profile in lossy.items():
        await links.set(name, profile)
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
