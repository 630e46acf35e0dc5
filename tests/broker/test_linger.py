"""How long the peer of an ended connection may read what is left for it."""

from __future__ import annotations

import asyncio

import pytest

from broker import linger
from broker.packets import V5, Disconnect, Puback, Request, Subscribe
from broker.reasons import Reason
from broker.server import Broker
from tests.broker.raw import RawClient, connected, open_client, publish, until
from tests.broker.serving import serving

SIZE = 100_000


async def ended(broker: Broker, slow: RawClient) -> None:
    """The client has subscribed and reads nothing until the broker has given it up."""
    slow.writer.transport.pause_reading()
    await slow.send(Subscribe(1, (Request("t", 1),)))
    async with connected(broker.address, "p") as publisher:
        while "quota_exceeded" not in broker.snapshot()["totals"]["ended"]:
            await publisher.send(publish("t", bytes(SIZE), qos=1))
            await publisher.expect(Puback)


def test_who_reads_slowly_still_learns_why_it_was_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linger, "LINGER_S", 0.2)

    async def scenario() -> None:
        async with serving(queue_bytes=1 << 20) as broker, connected(broker.address, "slow") as slow:
            await ended(broker, slow)
            began = asyncio.get_running_loop().time()
            slow.writer.transport.resume_reading()
            while not isinstance(packet := await slow.receive(), Disconnect):
                assert packet is not None
                await asyncio.sleep(0.05)  # a link of 2 MB/s
            assert packet.reason == Reason.QUOTA_EXCEEDED
            assert asyncio.get_running_loop().time() - began > linger.LINGER_S

    asyncio.run(scenario())


@pytest.mark.parametrize("longest_s", [60.0, 0.0])
def test_who_takes_nothing_more_is_cut(monkeypatch: pytest.MonkeyPatch, longest_s: float) -> None:
    monkeypatch.setattr(linger, "LINGER_S", 0.2)
    monkeypatch.setattr(linger, "LONGEST_S", longest_s)

    async def scenario() -> None:
        async with serving(queue_bytes=1 << 20) as broker, connected(broker.address, "slow") as slow:
            await ended(broker, slow)
            await until(lambda: not broker.snapshot()["open_connections"])

    asyncio.run(scenario())


def test_a_refused_stranger_that_does_not_close_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linger, "LINGER_S", 0.2)

    async def scenario() -> None:
        async with serving() as broker, open_client(broker.address, V5) as stranger:
            await stranger.send_bytes(b"\xf0\0")
            assert await stranger.reader.read() == b""
            await until(lambda: not broker.snapshot()["open_connections"])

    asyncio.run(scenario())
