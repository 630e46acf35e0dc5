"""The limits of clients and of the broker."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack

import pytest

from broker.packet_encoder import encode
from broker.packets import (
    V5,
    V311,
    Connect,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Request,
    Subscribe,
    Will,
)
from broker.properties import Property
from broker.reasons import Reason
from tests.broker.raw import PATIENCE_S, connected, open_client, publish
from tests.broker.serving import VERSIONS, reasons, serving


def test_receive_maximum_of_the_client_is_honoured() -> None:
    async def scenario() -> None:
        async with serving() as broker:
            limits = {Property.RECEIVE_MAXIMUM: 2}
            async with connected(broker.address, "s", properties=limits) as subscriber:
                await subscriber.subscribe("t", 1)
                async with connected(broker.address, "p") as publisher:
                    for number in range(4):
                        await publisher.send(publish("t", bytes([number]), qos=1))
                        await publisher.expect(Puback)
                first, second = await subscriber.expect(Publish), await subscriber.expect(Publish)
                await subscriber.send(Pingreq())
                assert await subscriber.receive() == Pingresp()
                await subscriber.send(Puback(second.packet_id), Puback(first.packet_id))
                assert [(await subscriber.expect(Publish)).payload for _ in range(2)] == [b"\2", b"\3"]

    asyncio.run(scenario())


def test_maximum_packet_size_of_the_client_is_honoured() -> None:
    async def scenario() -> None:
        async with serving() as broker:
            limits = {Property.MAXIMUM_PACKET_SIZE: 100}
            async with connected(broker.address, "c", properties=limits) as both:
                await both.subscribe("t", 1)
                exact = 100 - len(encode(publish("t", qos=1), V5))
                for size in (exact + 1, exact):
                    await both.send(publish("t", bytes(size), qos=1))
                    await both.expect(Puback)
                assert len((await both.expect(Publish)).payload) == exact
                assert broker.snapshot()["totals"]["dropped"] == 1

    asyncio.run(scenario())


def test_a_packet_above_the_brokers_limit_ends_the_connection() -> None:
    async def scenario() -> None:
        async with serving(max_packet_bytes=2_000) as broker, connected(broker.address, "c") as sender:
            assert sender.connack.properties[Property.MAXIMUM_PACKET_SIZE] == 2_000
            await sender.send(publish("t", bytes(1_900), qos=1))
            await sender.expect(Puback)
            await sender.send(publish("t", bytes(2_000), qos=1))
            assert reasons(await sender.ended()) == [Reason.PACKET_TOO_LARGE]

    asyncio.run(scenario())


def shrunk(address: tuple[str, int], client_id: str, topic: str, qos: int) -> socket.socket:
    """A subscriber with small kernel buffers that reads its CONNACK and SUBACK and then nothing."""
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.settimeout(PATIENCE_S)
    slow.connect(address)
    slow.sendall(encode(Connect(client_id, V311), V311) + encode(Subscribe(1, (Request(topic, qos),)), V311))
    received = b""
    while len(received) < 9:
        received += slow.recv(9 - len(received))
    return slow


@pytest.mark.parametrize("qos", [0, 1])
def test_a_slow_consumer_is_capped_and_harms_nobody_else(qos: int) -> None:
    cap, size, messages = 1 << 20, 100_000, 120

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            broker = await stack.enter_async_context(serving(queue_bytes=cap))
            slow = await asyncio.to_thread(shrunk, broker.address, "slow", "t", qos)
            stack.callback(slow.close)
            fast = await stack.enter_async_context(connected(broker.address, "fast"))
            await fast.subscribe("t", qos)
            publisher = await stack.enter_async_context(connected(broker.address, "p"))
            for number in range(messages):
                await publisher.send(publish("t", bytes([number]) * size, qos=1))
                assert (await publisher.expect(Puback)).reason == 0
                received = await fast.expect(Publish)
                assert received.payload[:1] == bytes([number])
                if qos:
                    await fast.send(Puback(received.packet_id))
                assert broker.snapshot()["queued_bytes"] <= 2 * cap
            totals = broker.snapshot()["totals"]
            assert totals["dropped"] > 0
            assert totals["ended"] == ({"quota_exceeded": 1} if qos else {})
            assert broker.snapshot()["sessions"] == (2 if qos else 3)

    asyncio.run(scenario())


def test_a_slow_consumer_of_qos_1_is_told_why() -> None:
    async def scenario() -> None:
        async with serving(queue_bytes=1 << 20) as broker, connected(broker.address, "slow") as slow:
            slow.writer.transport.pause_reading()
            await slow.send(Subscribe(1, (Request("t", 1),)))
            async with connected(broker.address, "p") as publisher:
                while "quota_exceeded" not in broker.snapshot()["totals"]["ended"]:
                    await publisher.send(publish("t", bytes(100_000), qos=1))
                    await publisher.expect(Puback)
            slow.writer.transport.resume_reading()
            assert reasons((await slow.ended())[-1:]) == [Reason.QUOTA_EXCEEDED]

    asyncio.run(scenario())


def test_retained_messages_beyond_their_cap_are_refused() -> None:
    async def scenario() -> None:
        async with serving(retained_bytes=10_000) as broker, connected(broker.address, "c") as sender:
            await sender.send(publish("a", bytes(6_000), retain=True, qos=1))
            assert (await sender.expect(Puback)).reason == Reason.NO_MATCHING_SUBSCRIBERS
            await sender.send(publish("b", bytes(6_000), retain=True, qos=1))
            assert (await sender.expect(Puback)).reason == Reason.QUOTA_EXCEEDED
            assert broker.snapshot()["retained"]["messages"] == 1

    asyncio.run(scenario())


def test_connections_and_sessions_beyond_the_limits_are_told_so() -> None:
    async def scenario() -> None:
        async with serving(max_connections=2, max_sessions=1) as broker, connected(broker.address, "a"):
            async with open_client(broker.address) as second:
                await second.send(Connect("b"))
                assert reasons(await second.ended()) == [Reason.QUOTA_EXCEEDED]
                for version, code in ((V5, Reason.SERVER_BUSY), (V311, 3)):
                    async with open_client(broker.address, version) as third:
                        await third.send(Connect("c", version))
                        assert reasons(await third.ended()) == [code]
            totals = broker.snapshot()["totals"]
            assert (totals["refused"], totals["ended"]) == (3, {"quota_exceeded": 1, "server_busy": 2})

    asyncio.run(scenario())


def test_connections_that_nobody_can_answer_any_more_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.connections.SURPLUS", 1)

    async def scenario() -> None:
        async with serving(max_connections=1) as broker, connected(broker.address, "a") as first:
            async with open_client(broker.address) as waits, open_client(broker.address) as cut:
                assert await cut.ended() == []
                await waits.send(Connect("b"))
                assert reasons(await waits.ended()) == [Reason.SERVER_BUSY]
            await first.send(Pingreq())
            assert await first.receive() == Pingresp()

    asyncio.run(scenario())


def test_connections_that_come_too_fast_are_refused_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def scenario() -> None:
        async with serving(connections_per_s=0.001) as broker, connected(broker.address, "a"):
            async with open_client(broker.address) as second:
                await second.send(Connect("b"))
                assert reasons(await second.ended()) == [Reason.CONNECTION_RATE_EXCEEDED]
            assert broker.snapshot()["totals"]["ended"] == {"connection_rate_exceeded": 1}

    asyncio.run(scenario())
    lines = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert len(lines) == 1
    assert "127.0.0.1:" in lines[0]
    assert "client=b" in lines[0]
    assert "connection_rate_exceeded" in lines[0]


def test_a_connect_above_its_own_limit_is_refused() -> None:
    async def scenario() -> None:
        async with serving(connect_bytes=500) as broker, open_client(broker.address) as stranger:
            await stranger.send(Connect("c", will=Will("t", bytes(600))))
            assert await stranger.ended() == []
            assert broker.snapshot()["totals"]["ended"] == {"packet_too_large": 1}

    asyncio.run(scenario())


@VERSIONS
def test_what_is_sent_without_an_acknowledgement_is_bounded_for_every_client(version: int) -> None:
    async def scenario() -> None:
        async with serving(max_inflight=2) as broker, connected(broker.address, "s", version) as subscriber:
            await subscriber.subscribe("t", 2)
            async with connected(broker.address, "p") as publisher:
                for number in range(3):
                    await publisher.send(publish("t", bytes([number]), qos=1))
                    await publisher.expect(Puback)
            first, second = await subscriber.expect(Publish), await subscriber.expect(Publish)
            await subscriber.send(Pingreq())
            assert await subscriber.receive() == Pingresp()
            await subscriber.send(Puback(first.packet_id))
            assert (await subscriber.expect(Publish)).payload == b"\2"
            assert first.packet_id != second.packet_id

    asyncio.run(scenario())


def test_an_answer_above_the_clients_maximum_ends_the_connection_instead() -> None:
    async def scenario() -> None:
        async with serving() as broker:
            limits = {Property.MAXIMUM_PACKET_SIZE: 60}
            async with connected(broker.address, "c", properties=limits) as small:
                await small.send(Subscribe(1, tuple(Request(f"t/{number}") for number in range(70))))
                (last,) = await small.ended()
                assert reasons([last]) == [Reason.PACKET_TOO_LARGE]
                assert len(encode(last, V5)) <= 60
            async with open_client(broker.address) as tiny:
                await tiny.send(Connect("d", properties={Property.MAXIMUM_PACKET_SIZE: 10}))
                (last,) = await tiny.ended()
                assert reasons([last]) == [Reason.PACKET_TOO_LARGE]
                assert len(encode(last, V5)) <= 10

    asyncio.run(scenario())
