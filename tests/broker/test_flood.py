"""A subscriber on a link of 1 Mbit/s under a flood of 400 MB, next to one that is fast."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from broker.packets import V5, Connack, Connect, Puback, Publish
from broker.reasons import Reason
from tests.broker.counted import CountedBroker, counted_broker
from tests.broker.raw import RawClient, connected
from tests.broker.traffic import descriptors

MESSAGES, MESSAGE_BYTES = 400, 1_000_000
AHEAD = 8  # messages that the publisher is ahead of the fast subscriber
SLICE_S = 0.1
SLICE_BYTES = round(1_000_000 / 8 * SLICE_S)
QUEUE_BYTES = 48 << 20
MOST_BYTES = 100_000_000
SETTLE_S = 60.0


class Slow:
    """A subscriber whose reading is all of its link; it acknowledges nothing."""

    def __init__(self) -> None:
        self.client: RawClient
        self.read = 0

    async def subscribe(self, address: tuple[str, int], qos: int) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
        reader, writer = await asyncio.open_connection(sock=sock, limit=SLICE_BYTES // 4)
        self.client = RawClient(reader, writer, V5)
        await self.client.send(Connect("slow", V5))
        await self.client.expect(Connack)
        await self.client.subscribe("flood", qos)

    async def crawl(self) -> None:
        """Read at the link's rate, which is a time, until the connection ends."""
        with suppress(ConnectionResetError):
            while data := await self.client.reader.read(SLICE_BYTES):
                self.read += len(data)
                await asyncio.sleep(SLICE_S * len(data) / SLICE_BYTES)


async def flood(address: tuple[str, int], qos: int) -> float:
    """Publish everything to a fast subscriber, which has to get it all and in order; the seconds that it took."""
    async with connected(address, "fast") as fast, connected(address, "publisher") as publisher:
        await fast.subscribe("flood", qos)
        room, began = asyncio.Semaphore(AHEAD), time.monotonic()

        async def hear() -> None:
            for number in range(MESSAGES):
                message = await fast.expect(Publish)
                assert (message.payload[:4], len(message.payload)) == (struct.pack(">I", number), MESSAGE_BYTES)
                if qos:
                    await fast.send(Puback(message.packet_id))
                room.release()

        async def acknowledged() -> None:
            for number in range(MESSAGES * qos):
                assert (await publisher.expect(Puback)).packet_id == number + 1

        async with asyncio.TaskGroup() as group:
            group.create_task(hear())
            group.create_task(acknowledged())
            for number in range(MESSAGES):
                await room.acquire()
                payload = struct.pack(">I", number) + bytes(MESSAGE_BYTES - 4)
                await publisher.send(Publish("flood", payload, qos, packet_id=(number + 1) * qos))
        return time.monotonic() - began


async def until_gone(broker: CountedBroker) -> dict[str, Any]:
    """The broker's counts when its last client has left."""
    async with asyncio.timeout(SETTLE_S):
        while (counts := await broker.counts())["open_connections"]:
            pass
    return counts


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell the memory of a process")
@pytest.mark.parametrize("qos", [0, 1])
def test_a_slow_subscriber_costs_others_nothing_and_the_broker_no_more_than_its_bound(qos: int) -> None:
    async def main() -> None:
        async with counted_broker(queue_bytes=QUEUE_BYTES) as broker:
            await until_gone(broker)
            files = descriptors(broker.process.pid)
            alone_s = await flood(broker.address, qos)
            slow = Slow()
            await slow.subscribe(broker.address, qos)
            crawling = asyncio.create_task(slow.crawl())
            beside_s = await flood(broker.address, qos)
            counts = await broker.counts()
            assert beside_s < 2 * alone_s + 5  # at the pace of the slow one it would be an hour
            if qos:
                assert counts["totals"]["ended"] == {Reason.QUOTA_EXCEEDED.label: 1}
                await crawling
            else:
                # All but what waits, what the kernel has taken and what the link has carried.
                assert MESSAGES - 75 < counts["totals"]["dropped"] < MESSAGES - QUEUE_BYTES // MESSAGE_BYTES
                assert counts["totals"]["ended"] == {}
                crawling.cancel()
                slow.client.abort()
            counts = await until_gone(broker)
            assert counts["queued_bytes"] == counts["sessions"] == 0
            assert counts["peak_bytes"] <= MOST_BYTES
            assert descriptors(broker.process.pid) == files

    asyncio.run(main())
