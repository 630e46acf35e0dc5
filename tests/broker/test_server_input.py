"""Bytes that break MQTT, and connections that never introduce themselves."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from broker.connection import TURN_PACKETS
from broker.packet_encoder import encode
from broker.packets import (
    V5,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Publish,
    Will,
)
from broker.properties import Property
from broker.reasons import Reason
from tests.broker.raw import PATIENCE_S, RawClient, connected, open_client, publish
from tests.broker.serving import reasons, serving


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x00\x00", Reason.MALFORMED_PACKET),
        (b"\x30\xff\xff\xff\xff\x01", Reason.MALFORMED_PACKET),
        (b"\x30\x05\x00\x09abc", Reason.MALFORMED_PACKET),
        (b"\x30\x04\x00\x01\xff\x00", Reason.MALFORMED_PACKET),
        (b"\x30\x04\x00\x01+\x00", Reason.TOPIC_NAME_INVALID),
        (b"\x82\x03\x00\x01\x00", Reason.PROTOCOL_ERROR),
        (encode(Connect("c"), V5), Reason.PROTOCOL_ERROR),
        (encode(Connack(), V5), Reason.PROTOCOL_ERROR),
        (encode(Auth(), V5), Reason.PROTOCOL_ERROR),
        (encode(Disconnect(Reason.SESSION_TAKEN_OVER), V5), Reason.PROTOCOL_ERROR),
        (encode(Publish("t", properties={Property.SUBSCRIPTION_ID: (1,)}), V5), Reason.PROTOCOL_ERROR),
    ],
)
def test_bytes_that_break_mqtt_end_their_own_connection_only(data: bytes, reason: Reason) -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "good") as good:
            async with connected(broker.address, "bad") as bad:
                # What follows the broken packet must be neither handled nor allowed to reset the connection.
                await bad.send_bytes(data + encode(publish("t"), V5) * 100)
                assert reasons(await bad.ended()) == [reason]
            await good.send(Pingreq())
            assert await good.receive() == Pingresp()
            assert broker.snapshot()["totals"]["ended"] == {reason.label: 1}

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"GET / HTTP/1.1\r\nHost: broker.example\r\nUser-Agent: a browser that took a wrong turn\r\n\r\n", b""),
        (encode(Pingreq(), V5), b""),
        (b"\x10\x0e\x00\x06MQIsdp\x03\x02\x00\x00\x00\x00", b"\x20\x02\x00\x01"),
        (b"\x10\x0d\x00\x04MQTT\x07\x02\x00\x00\x00\x00\x01c", b"\x20\x02\x00\x01"),
        (b"\x10\x0c\x00\x04MQTT\x04\x00\x00\x00\x00\x00", b"\x20\x02\x00\x02"),
        (b"\x10\x0c\x00\x04MQTT\x04\x03\x00\x00\x00\x00", b""),
        (b"\x10\x0d\x00\x04MQTT\x05\x03\x00\x00\x00\x00\x00", b"\x20\x03\x00\x81\x00"),
        (b"\x10\xff\xff\x7f", b""),
    ],
)
def test_a_bad_introduction_is_answered_in_the_clients_own_protocol(data: bytes, answer: bytes) -> None:
    async def scenario() -> None:
        async with serving() as broker:
            reader, writer = await asyncio.open_connection(*broker.address)
            writer.write(data)
            async with asyncio.timeout(PATIENCE_S):
                assert await reader.read() == answer
            writer.close()
            assert broker.snapshot()["totals"]["refused"] == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("data", [b"", b"\x10", encode(Connect("c", V5), V5)[:-1]])
def test_a_connection_that_never_introduces_itself_is_closed(data: bytes) -> None:
    async def scenario() -> None:
        async with serving(connect_timeout_s=0.05) as broker, open_client(broker.address) as half:
            await half.send_bytes(data)
            assert await half.ended() == []
            assert broker.snapshot()["totals"]["ended"] == {"connect_timeout": 1}

    asyncio.run(scenario())


def test_a_reset_half_way_through_a_packet_delivers_nothing() -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "watch") as watch:
            await watch.subscribe("#")
            async with connected(broker.address, "c", will=Will("will", b"gone")) as broken:
                await broken.send_bytes(encode(publish("t", bytes(500_000)), V5)[:300_000])
                linger = struct.pack("ii", 1, 0)
                broken.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                broken.abort()
            assert (await watch.expect(Publish)).topic == "will"

    asyncio.run(scenario())


def test_a_stream_of_tiny_packets_does_not_keep_others_waiting() -> None:
    async def scenario() -> None:
        async with (
            serving() as broker,
            connected(broker.address, "f") as flood,
            connected(broker.address, "o") as other,
        ):
            order: list[str] = []

            async def answered(client: RawClient, name: str) -> None:
                await client.expect(Pingresp)
                order.append(name)

            ping = encode(Pingreq(), V5)
            flood.writer.write(encode(publish("t"), V5) * 8 * TURN_PACKETS + ping)
            other.writer.write(ping)
            await asyncio.gather(answered(flood, "flood"), answered(other, "other"))
            assert order == ["other", "flood"]
            assert broker.snapshot()["clients"]["f"]["packets_in"] == 2 + 8 * TURN_PACKETS

    asyncio.run(scenario())
