"""The shaping relay itself: pace, order and ends of its streams, by real sockets on loopback."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from testbed.links.emulator_process import EmulatorProcess
from testbed.links.profile import parse
from testbed.links.rates import WIRE_PER_PAYLOAD

T = TypeVar("T")
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
SLACK_S = 0.03  # what a busy machine may add
TRIES = 3


@asynccontextmanager
async def relayed(directory: Path, profile: str) -> AsyncIterator[tuple[EmulatorProcess, Streams, Streams]]:
    """An emulator, and both ends of one connection through it: the client's and that of the server behind it."""
    accepted: asyncio.Queue[Streams] = asyncio.Queue()
    server = await asyncio.start_server(lambda *streams: accepted.put_nowait(streams), "127.0.0.1", 0)
    async with EmulatorProcess("proxy", directory / "log") as emulator:
        clients = {"a": {"profile": parse(profile).table(), "seed": 1}}
        opened = await emulator.ask({"do": "open", "congestion": "", "clients": clients})
        await emulator.ask({"do": "target", "host": "127.0.0.1", "port": server.sockets[0].getsockname()[1]})
        near = await asyncio.open_connection("127.0.0.1", opened["ports"]["a"])
        far = await accepted.get()
        try:
            yield emulator, near, far
        finally:
            near[1].close()
            far[1].close()
            server.close()


def run(work: Callable[[], Awaitable[T]]) -> T:
    return asyncio.run(asyncio.wait_for(work(), 60))


async def send(streams: Streams, count: int) -> None:
    streams[1].write(bytes(count))
    await streams[1].drain()


async def took(sender: Streams, receiver: Streams, count: int) -> float:
    began_s = asyncio.get_running_loop().time()
    sending = asyncio.create_task(send(sender, count))
    await receiver[0].readexactly(count)
    await sending
    return asyncio.get_running_loop().time() - began_s


@pytest.mark.parametrize("delay_ms", [0, 100, 300])
def test_a_delay_comes_on_top_of_the_transfer_and_does_not_slow_it(tmp_path: Path, delay_ms: int) -> None:
    count = 1_250_000
    ideal_s = count * WIRE_PER_PAYLOAD * 8 / 10e6 + delay_ms / 1000

    async def measure() -> list[float]:
        async with relayed(tmp_path, f"up=10mbit delay={delay_ms}ms") as (_, near, far):
            times: list[float] = []
            while len(times) < TRIES and not any(time_s < 1.05 * ideal_s for time_s in times):
                times.append(await took(near, far, count))
            return times

    times = run(measure)
    assert min(times) > 0.95 * ideal_s
    assert min(times) < 1.05 * ideal_s


def test_a_small_message_is_delayed_each_way_and_no_more(tmp_path: Path) -> None:
    async def measure() -> list[tuple[float, float]]:
        async with relayed(tmp_path, "up.delay=40ms down.delay=60ms") as (_, near, far):
            return [(await took(near, far, 1), await took(far, near, 1)) for _ in range(10)]

    ups, downs = zip(*run(measure), strict=True)
    assert 0.0399 < min(ups) < 0.04 + SLACK_S
    assert 0.0599 < min(downs) < 0.06 + SLACK_S


def test_no_more_is_read_ahead_than_the_rate_of_the_moment_asks_for(tmp_path: Path) -> None:
    """By the rate that comes later it would be everything at once."""

    async def measure() -> int:
        async with relayed(tmp_path, "up=1mbit+1gbit@3600s") as (emulator, near, far):
            await asyncio.gather(send(near, 100_000), far[0].readexactly(1448))
            counted = await emulator.ask({"do": "counters"})
            return int(counted["clients"]["a"]["up"]["waiting_bytes"])

    assert run(measure) <= 6000


def test_a_rate_that_ends_in_an_outage_is_a_full_one_before(tmp_path: Path) -> None:
    async def measure() -> float:
        async with relayed(tmp_path, "up=100mbit+0@3600s") as (_, near, far):
            return min([await took(near, far, 2_500_000) for _ in range(TRIES)])

    assert run(measure) < 1.1 * 2_500_000 * WIRE_PER_PAYLOAD * 8 / 100e6


def test_an_end_of_stream_comes_after_what_was_sent_and_leaves_the_other_way_open(tmp_path: Path) -> None:
    async def talk() -> tuple[bytes, bytes]:
        async with relayed(tmp_path, "up=20mbit down=20mbit delay=20ms") as (_, near, far):
            near[1].write(b"x" * 50_000)
            near[1].write_eof()
            got = await far[0].read()
            far[1].write(got[:10])
            far[1].write_eof()
            return got, await near[0].read()

    assert run(talk) == (b"x" * 50_000, b"x" * 10)


@pytest.mark.parametrize("breaker", ["client", "server"])
def test_a_connection_that_one_side_breaks_is_gone_on_the_other(tmp_path: Path, breaker: str) -> None:
    async def talk() -> bytes:
        async with relayed(tmp_path, "rate=20mbit delay=10ms") as (_, near, far):
            broken, left = (near, far) if breaker == "client" else (far, near)
            linger = struct.pack("ii", 1, 0)
            broken[1].get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            broken[1].transport.abort()
            return await left[0].read()

    assert run(talk) == b""


def test_both_ways_are_counted_apart(tmp_path: Path) -> None:
    async def count() -> tuple[int, int]:
        async with relayed(tmp_path, "rate=50mbit") as (emulator, near, far):
            await took(near, far, 14_480)
            await took(far, near, 1448)
            ways = (await emulator.ask({"do": "counters"}))["clients"]["a"]
            return ways["up"]["l2_bytes"], ways["down"]["l2_bytes"]

    up, down = run(count)
    assert 10 * 1514 <= up < 12 * 1514
    assert down == 1514
