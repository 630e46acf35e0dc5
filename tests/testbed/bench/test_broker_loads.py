"""Load processes against real brokers: they measure what was moved, say what is wrong, and end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from broker.errors import BrokerError
from testbed.bench.broker_job import Job, decode
from testbed.bench.broker_pair import STAMP, Receipts
from testbed.bench.broker_processes import both, load
from testbed.bench.broker_subjects import Subject, installed, started

SIZE = 5000


@asynccontextmanager
async def embedded() -> AsyncIterator[tuple[Subject, Job]]:
    async with started("embedded") as subject:
        host, port = subject.address
        yield subject, Job(host, port, subject.usage.pid, qos=1, size=SIZE, messages=300, warm=20, window=8)


@pytest.mark.parametrize("name", installed())
@pytest.mark.parametrize("qos", [0, 1])
def test_every_message_arrives_and_is_measured(name: str, qos: int) -> None:
    async def scenario() -> None:
        async with started(name) as subject:
            host, port = subject.address
            job = Job(host, port, subject.usage.pid, qos=qos, size=SIZE, messages=300, warm=20, window=8)
            before = subject.usage.cpu_s()
            published, received = await both("publisher", "subscriber", job)
            spent = subject.usage.cpu_s() - before
        assert published == {"published": 320}
        assert received["mb_per_s"] > 0
        assert 0 < received["p50_ms"] <= received["p99_ms"]
        assert 0 < received["cpu_s_per_gb"] * 300 * SIZE / 1e9 <= spent

    asyncio.run(scenario())


def test_the_channels_own_client_moves_the_same_messages() -> None:
    async def scenario() -> None:
        async with embedded() as (_, job):
            published, received = await both("own publisher", "own subscriber", job)
        assert published == {"published": 320}
        assert received["mb_per_s"] > 0

    asyncio.run(scenario())


def test_a_crowd_gets_all_its_echoes() -> None:
    async def scenario() -> None:
        async with embedded() as (_, job):
            crowd, echo = await both("crowd", "echo", replace(job, size=50_000, messages=3, warm=1, clients=(30,)))
        assert echo == {"echoed": 4 * 30}
        assert 0 < crowd["p50_ms"] <= crowd["p99_ms"]

    asyncio.run(scenario())


def test_idle_connections_are_there_while_they_are_measured() -> None:
    async def scenario() -> list[int]:
        async with embedded() as (subject, job):
            found = [subject.usage.descriptors()]
            async with load("idle", replace(job, clients=(3, 10))) as process:
                for number in (3, 10):
                    assert await process.line() == {"connections": number}
                    found.append(subject.usage.descriptors())
                    await process.go_on()
                await process.line()
        return found

    none, three, ten = asyncio.run(scenario())
    assert (three - none, ten - none) == (3, 10)


def test_a_broker_that_dies_is_what_the_loads_say() -> None:
    async def scenario() -> None:
        async with embedded() as (subject, job), load("idle", replace(job, clients=(1, 2))) as process:
            await process.line()
            os.kill(subject.usage.pid, signal.SIGKILL)
            await process.go_on()
            with pytest.raises(BrokerError, match=r"^idle: .*(closed|reset|refused)"):
                await process.line()

    asyncio.run(scenario())


def test_no_connection_of_a_load_outlives_its_context() -> None:
    async def scenario() -> int:
        async with embedded() as (subject, job):
            before = subject.usage.descriptors()
            async with load("idle", replace(job, clients=(5,))) as process:
                await process.line()
            async with load("idle", replace(job, clients=(1,))) as process:
                await process.line()
                # The broker has read the ends of the others before it answered this one.
                return subject.usage.descriptors() - before

    assert asyncio.run(scenario()) == 1


def test_a_lost_receiver_ends_the_publisher_with_a_word() -> None:
    async def scenario() -> None:
        async with embedded() as (_, job):
            with pytest.raises(BrokerError, match=r"^subscriber: "):
                await both("publisher", "subscriber", replace(job, topic="no/#/topic"))

    asyncio.run(scenario())


def receipts(messages: int = 3) -> Receipts:
    return Receipts(Job("", 0, os.getpid(), size=SIZE, messages=messages, warm=1))


def stamped(number: int, size: int = SIZE) -> bytes:
    return STAMP.pack(number, 0.0) + bytes(size - STAMP.size)


@pytest.mark.parametrize(
    ("payloads", "said"),
    [
        ([stamped(0), stamped(2)], "message 2 .* instead of message 1"),
        ([stamped(0), stamped(0)], "message 0 .* instead of message 1"),
        ([stamped(0, SIZE - 1)], f"of {SIZE - 1} bytes"),
    ],
    ids=["lost", "doubled", "cut"],
)
def test_a_message_that_is_lost_doubled_or_cut_is_noticed(payloads: list[bytes], said: str) -> None:
    seen = receipts()
    *good, bad = payloads
    for payload in good:
        seen.take(payload)
    with pytest.raises(BrokerError, match=said):
        seen.take(bad)


def test_what_warms_up_is_not_measured() -> None:
    seen = receipts(messages=2)
    for number in range(3):
        seen.take(stamped(number))
    assert seen.left == 0
    # 0.0 is long ago, so that a latency is the time since then: two of the three were taken.
    assert seen.figures()["p50_ms"] <= seen.figures()["p99_ms"]


def test_a_job_arrives_as_it_was_sent() -> None:
    job = Job("127.0.0.1", 1883, 7, qos=1, clients=(50, 200), seed=3)
    assert decode(job.encode()) == job
