"""The measurements of one broker: each takes a fresh broker and gives figures by key.

A key is a path such as ("throughput", "64KB", "qos1"). Sizes count in KB of 1,024 bytes, rates in MB of 10^6.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

from broker.errors import BrokerError
from testbed.bench.broker_job import Job
from testbed.bench.broker_processes import both, load
from testbed.bench.broker_subjects import Subject

Key = tuple[str, ...]
Figures = dict[Key, float]

MB = 10**6
SLOW_BYTES_PER_S = 125_000  # 1 Mbit/s
SETTLE_S = 0.5


@dataclass(frozen=True)
class Size:
    """A message size in bytes, how many are outstanding, and how many are sent for throughput and for latency."""

    bytes: int
    window: int
    messages: int
    latencies: int


SIZES = {
    "1KB": Size(1 << 10, 64, 8000, 500),
    "64KB": Size(1 << 16, 16, 3200, 400),
    "256KB": Size(1 << 18, 8, 800, 300),
    "1MB": Size(1 << 20, 8, 200, 150),
    "6MB": Size(6 << 20, 4, 36, 40),
}


@dataclass(frozen=True)
class Scale:
    """How much is measured: messages are divided by `part`, the rest are numbers of connections, rounds, messages."""

    part: int = 1
    idle: tuple[int, ...] = (50, 200, 1000)
    crowd: int = 200
    rounds: int = 5
    flood: int = 400


FULL = Scale()
QUICK = Scale(part=20, idle=(50,), crowd=20, rounds=2, flood=40)


class Row(NamedTuple):
    """A measurement by name."""

    name: str
    measure: Callable[[Subject], Awaitable[Figures]]


def _job(subject: Subject, qos: int, size: int, messages: int, warm: int = 0, window: int = 1) -> Job:
    host, port = subject.address
    return Job(host, port, subject.usage.pid, qos=qos, size=size, messages=messages, warm=warm, window=window)


def pair(name: str, qos: int, scale: Scale) -> Row:
    """Throughput, CPU time and latency of one publisher and one subscriber."""
    size = SIZES[name]
    key = (name, f"qos{qos}")

    async def measure(subject: Subject) -> Figures:
        many, few = max(4, size.messages // scale.part), max(4, size.latencies // scale.part)
        _, flow = await both(
            "publisher", "subscriber", _job(subject, qos, size.bytes, many, warm=2 * size.window, window=size.window)
        )
        _, alone = await both("publisher", "subscriber", _job(subject, qos, size.bytes, few, warm=4))
        return {
            ("throughput", *key): flow["mb_per_s"],
            ("cpu_per_gb", *key): flow["cpu_s_per_gb"],
            ("latency_p50", *key): alone["p50_ms"],
            ("latency_p99", *key): alone["p99_ms"],
        }

    return Row(" ".join(key), measure)


def idle(scale: Scale) -> Row:
    """Resident memory with connections that have one subscription each and do nothing."""

    async def measure(subject: Subject) -> Figures:
        figures: Figures = {}
        host, port = subject.address
        async with load("idle", Job(host, port, clients=scale.idle)) as process:
            for _ in scale.idle:
                connections = (await process.line())["connections"]
                await asyncio.sleep(SETTLE_S)  # what the broker does after its last SUBACK is nobody's event
                figures["idle_mb", str(connections)] = subject.usage.resident_bytes() / MB
                await process.go_on()
            await process.line()
        return figures

    return Row("idle connections", measure)


def round_trip(scale: Scale) -> Row:
    """Many clients at once send 100 KB each with QoS 1 to one that sends them back."""
    key = (f"{scale.crowd}x100KB", "qos1")

    async def measure(subject: Subject) -> Figures:
        host, port = subject.address
        job = Job(host, port, qos=1, size=100 << 10, messages=scale.rounds, warm=1, clients=(scale.crowd,))
        crowd, _ = await both("crowd", "echo", job)
        return {("round_trip", *key): crowd["p50_ms"], ("round_trip_p99", *key): crowd["p99_ms"]}

    return Row(" ".join(("round trips", *key)), measure)


def flood(qos: int, scale: Scale) -> Row:
    """1 MB messages to a fast subscriber, and to one that reads 1 Mbit/s: the broker's peak, the fast one's rate."""
    key = (f"{scale.flood}x1MB", f"qos{qos}")
    size = SIZES["1MB"]

    async def measure(subject: Subject) -> Figures:
        job = _job(subject, qos, size.bytes, scale.flood - size.window, warm=size.window, window=size.window)
        host, port = subject.address
        async with load("slow", Job(host, port, qos=qos, bytes_per_s=SLOW_BYTES_PER_S)) as slow:
            await slow.line()
            _, fast = await both("publisher", "subscriber", job)
            peak = subject.usage.peak_bytes()
        return {("flood_peak_mb", *key): peak / MB, ("flood_fast_mb_per_s", *key): fast["mb_per_s"]}

    return Row(" ".join(("flood", *key)), measure)


def client(scale: Scale) -> Row:
    """Throughput of the channels' own client on both sides."""
    size = SIZES["256KB"]

    async def measure(subject: Subject) -> Figures:
        messages = max(4, size.messages // scale.part)
        job = _job(subject, 1, size.bytes, messages, warm=2 * size.window, window=size.window)
        _, flow = await both("own publisher", "own subscriber", job)
        return {("client_throughput", "256KB", "qos1"): flow["mb_per_s"]}

    return Row("own client 256KB qos1", measure)


KINDS: dict[str, Callable[[list[str], Scale], list[Row]]] = {
    "pair": lambda sizes, scale: [pair(size, qos, scale) for size in sizes for qos in (0, 1)],
    "idle": lambda _, scale: [idle(scale)],
    "round-trip": lambda _, scale: [round_trip(scale)],
    "flood": lambda _, scale: [flood(0, scale), flood(1, scale)],
    "client": lambda _, scale: [client(scale)],
}


async def measured(row: Row, subject: Subject) -> Figures:
    """The row's figures; a BrokerError names broker and row."""
    try:
        return await row.measure(subject)
    except BrokerError as error:
        raise BrokerError(f"{subject.name}, {row.name}: {error}") from None
