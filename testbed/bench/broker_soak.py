"""`splitcom bench soak`: whether a broker's memory and descriptors stay flat while clients come and go for long."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from broker.errors import BrokerError, SettingsError
from testbed.bench.broker_job import Job
from testbed.bench.broker_processes import Load, load
from testbed.bench.broker_statistics import trend
from testbed.bench.broker_subjects import Subject, started
from testbed.bench.broker_usage import Usage

MB = 10**6
WARM_SHARE = 0.25
"""Of the samples, those at the beginning that are left out: sessions, retained messages and caches fill up."""

GROWTH_MB = 2.0
"""Memory that is shown to have grown by more than this, from the first to the last sample that counts, is not flat.

Less than this comes and goes with the garbage collector and with what allocators keep.
"""

LEAST_SAMPLES = 4
REST_S = 30.0
POLL_S = 0.1


@dataclass(frozen=True)
class Sample:
    """What the broker's process used, `minute` after the load began."""

    minute: float
    memory_mb: float
    descriptors: int


async def bench_soak(
    broker: str, clients: int, minutes: float, every_s: float, seed: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Let clients churn at a fresh broker; its samples, what the clients did, and the verdict (`ok`, `problems`).

    Raises BrokerError where the broker ends or cannot be connected to, SettingsError for too few samples.
    """
    if not math.isfinite(60 * minutes / every_s):
        raise SettingsError(f"{minutes:g} minutes with samples of {every_s:g} s: no time that ends; valid: numbers")
    if round(60 * minutes / every_s) < LEAST_SAMPLES:
        raise SettingsError(f"{minutes:g} minutes: too short; valid: {LEAST_SAMPLES} samples of {every_s:g} s or more")
    async with started(broker) as subject:
        before = subject.usage.descriptors()
        host, port = subject.address
        async with load("churn", Job(host, port, clients=(clients,), seed=seed)) as process:
            samples = await _sampled(subject, process, minutes, every_s, say)
            process.end()
            counts = await process.line()
        after = await _at_rest(subject.usage, before)
        rest_mb = subject.usage.resident_bytes() / MB
    return {
        "broker": broker,
        "clients": clients,
        "minutes": minutes,
        "seed": seed,
        "counts": dict(sorted(counts.items())),
        "memory_at_rest_mb": rest_mb,
        "samples": [sample.__dict__ for sample in samples],
        **verdict(samples, before, after, counts),
    }


def verdict(samples: Sequence[Sample], before: int, after: int, counts: Mapping[str, int]) -> dict[str, Any]:
    """The trend of memory with its interval in MB a minute, descriptors at rest, and all that is wrong.

    Memory is judged by the lower end of that interval. Its upper end says how much the soak could have missed.
    """
    warm = samples[int(WARM_SHARE * len(samples)) :]
    slope = trend([sample.minute for sample in warm], [sample.memory_mb for sample in warm])
    assert slope.half_width is not None
    low, high = slope.mean - slope.half_width, slope.mean + slope.half_width
    problems = []
    grown = low * (warm[-1].minute - warm[0].minute)
    if grown > GROWTH_MB:
        problems.append(f"memory has grown by {grown:.1f} MB or more; valid: at most {GROWTH_MB:g}")
    if after != before:
        problems.append(f"{after} descriptors are open at rest, {before} before the load")
    if counts.get("refused"):
        problems.append(f"{counts['refused']} connections were refused")
    if not counts.get("connected"):
        problems.append("no client was connected")
    return {
        "slope_mb_per_minute": {"mean": slope.mean, "low": low, "high": high},
        "descriptors": {"before": before, "at_rest": after},
        "problems": problems,
        "ok": not problems,
    }


def render(result: Mapping[str, Any]) -> str:
    """A few lines: what was done, what the broker used, and the verdict."""
    slope, descriptors = result["slope_mb_per_minute"], result["descriptors"]
    memory = [sample["memory_mb"] for sample in result["samples"]]
    return "\n".join(
        (
            ", ".join(f"{what} {count}" for what, count in result["counts"].items()),
            f"memory {min(memory):.1f} to {max(memory):.1f} MB, {result['memory_at_rest_mb']:.1f} MB at rest, slope "
            f"{slope['mean']:+.3f} MB a minute ({slope['low']:+.3f} to {slope['high']:+.3f})",
            f"descriptors {descriptors['before']} before, {descriptors['at_rest']} at rest",
            *(result["problems"] or ["flat"]),
        )
    )


async def _sampled(
    subject: Subject, process: Load, minutes: float, every_s: float, say: Callable[[str], None]
) -> list[Sample]:
    """A sample every `every_s`; ends early with the error of a load that ended."""
    samples: list[Sample] = []
    ended = asyncio.create_task(process.ended())
    began = time.monotonic()
    try:
        for number in range(1, 1 + round(60 * minutes / every_s)):
            await asyncio.wait([ended], timeout=began + number * every_s - time.monotonic())
            if ended.done():
                raise BrokerError(f"the clients ended before their time: {await process.line()}")
            usage = subject.usage
            minute = (time.monotonic() - began) / 60
            samples.append(Sample(minute, usage.resident_bytes() / MB, usage.descriptors()))
            say(f"{minute:.1f} min: {samples[-1].memory_mb:.1f} MB, {samples[-1].descriptors} descriptors")
    finally:
        ended.cancel()
        await asyncio.wait([ended])
    return samples


async def _at_rest(usage: Usage, before: int) -> int:
    """Descriptors once they are as many as before, or after REST_S."""
    deadline = time.monotonic() + REST_S
    while True:
        now = usage.descriptors()
        if now == before or time.monotonic() > deadline:
            return now
        await asyncio.sleep(POLL_S)
