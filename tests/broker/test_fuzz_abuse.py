"""Attacks by name: well-formed MQTT that asks for too much, and clients that never come to the point."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial

import pytest

from broker.connection import Connection
from broker.fields import varint
from broker.packet_decoder import MAX_BODY_BYTES
from broker.packet_encoder import encode
from broker.packets import (
    V5,
    V311,
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Request,
    Suback,
    Subscribe,
    Will,
)
from broker.properties import MAX_BYTES
from broker.reasons import Reason
from broker.server import Broker
from tests.broker.raw import RawClient, connected, open_client, publish, until
from tests.broker.serving import VERSIONS, reasons
from tests.broker.siege import MIB, besieged, packet, string

EMPTY_PAIR = b"\x26" + bytes(4)
"""The smallest user property."""


def all_arrived(broker: Broker, client_id: str, client: RawClient) -> bool:
    """Whether the broker has received what the client sent."""
    return broker.counters[client_id].bytes_in == client.bytes_out


@VERSIONS
def test_a_remaining_length_that_lies_takes_little_memory_and_delivers_nothing(version: int) -> None:
    liars = 20

    async def scenario() -> None:
        async with besieged((liars + 4) * MIB) as broker, AsyncExitStack() as stack:
            claim = b"\x30" + varint(broker.config.max_packet_bytes - 5) + string(b"lie") + bytes(1000)
            for number in range(liars):
                liar = await stack.enter_async_context(connected(broker.address, f"liar{number}", version))
                await liar.send_bytes(claim)
                await until(partial(all_arrived, broker, f"liar{number}", liar))

    asyncio.run(scenario())


@VERSIONS
def test_a_remaining_length_above_the_limit_is_refused_before_the_body_comes(version: int) -> None:
    async def scenario() -> None:
        async with besieged() as broker, connected(broker.address, "attacker", version) as attacker:
            await attacker.send_bytes(b"\x30\xff\xff\xff\x7f")
            assert reasons(await attacker.ended()) == ([Reason.PACKET_TOO_LARGE] if version == V5 else [])
            assert broker.snapshot()["totals"]["ended"] == {"packet_too_large": 1}

    asyncio.run(scenario())


def test_a_stranger_cannot_claim_more_than_a_connect() -> None:
    async def scenario() -> None:
        async with besieged() as broker, open_client(broker.address) as stranger:
            await stranger.send_bytes(b"\x10" + varint(broker.config.connect_bytes))
            assert await stranger.ended() == []
            assert broker.snapshot()["totals"]["ended"] == {"packet_too_large": 1}

    asyncio.run(scenario())


@VERSIONS
def test_publishing_to_topics_of_the_broker(version: int) -> None:
    async def scenario() -> None:
        async with besieged() as broker, connected(broker.address, "attacker", version) as attacker:
            await attacker.subscribe("$SYS/#", 1)
            for topic in ("$SYS", "$SYS/broker/version", "$SYS/"):
                await attacker.send(publish(topic, b"lies", qos=1, retain=True))
                assert (await attacker.expect(Puback)).reason == (Reason.NOT_AUTHORIZED if version == V5 else 0)
            await attacker.send(Pingreq())
            assert await attacker.receive() == Pingresp()
            snapshot = broker.snapshot()
            assert (snapshot["totals"]["forbidden"], snapshot["retained"]["messages"]) == (3, 0)

    asyncio.run(scenario())


@pytest.mark.slow
def test_user_properties_up_to_the_limit_pass() -> None:
    block = EMPTY_PAIR * (MAX_BYTES // len(EMPTY_PAIR))

    async def scenario() -> None:
        async with besieged(32 * MIB) as broker, connected(broker.address, "attacker") as attacker:
            await attacker.subscribe("$own")
            await attacker.send_bytes(packet(0x30, string(b"$own"), varint(len(block)), block, b"payload"))
            message = await attacker.expect(Publish)
            assert message.payload == b"payload"

    asyncio.run(scenario())


def test_user_properties_above_the_limit_are_refused_before_they_are_read() -> None:
    block = EMPTY_PAIR * (MAX_BYTES // len(EMPTY_PAIR) + 1)

    async def scenario() -> None:
        async with besieged() as broker, connected(broker.address, "attacker") as attacker:
            await attacker.send_bytes(packet(0x30, string(b"$own"), varint(len(block)), block, b"payload"))
            assert reasons(await attacker.ended()) == [Reason.PACKET_TOO_LARGE]

    asyncio.run(scenario())


def test_a_stranger_with_as_many_user_properties_as_fit_a_connect_is_answered() -> None:
    async def scenario() -> None:
        async with besieged(16 * MIB) as broker, open_client(broker.address) as stranger:
            block = EMPTY_PAIR * (broker.config.connect_bytes // len(EMPTY_PAIR) - 10)
            properties = varint(len(block)) + block
            await stranger.send_bytes(packet(0x10, string(b"MQTT"), b"\5\2\0\0", properties, string(b"x")))
            assert (await stranger.expect(Connack)).reason == 0

    asyncio.run(scenario())


@pytest.mark.slow
@pytest.mark.parametrize(("version", "limit"), [(V311, 1_000), (V5, 1_000), (V5, 65_535)])
def test_65535_subscriptions_of_one_client(version: int, limit: int) -> None:
    filters = [Request(f"$s/{number}/+", 1) for number in range(65_535)]

    async def scenario() -> None:
        async with (
            besieged(128 * MIB, max_subscriptions=limit) as broker,
            connected(broker.address, "attacker", version) as attacker,
        ):
            granted: list[int] = []
            for start in range(0, len(filters), 13_107):
                await attacker.send(Subscribe(1, tuple(filters[start : start + 13_107])))
                granted += (await attacker.expect(Suback)).reasons
            refused = Reason.QUOTA_EXCEEDED if version == V5 else 0x80
            assert granted == [1] * limit + [refused] * (65_535 - limit)
            await attacker.send(publish("$s/1/x", qos=1))
            assert {type(await attacker.receive()) for _ in range(2)} == {Puback, Publish}

    asyncio.run(scenario())


@VERSIONS
def test_a_packet_of_many_topic_filters_is_refused_before_they_are_read(version: int) -> None:
    async def scenario() -> None:
        async with besieged() as broker, connected(broker.address, "attacker", version) as attacker:
            filters = string(b"a") + b"\0"
            await attacker.send_bytes(packet(0x82, b"\0\1", b"\0", filters * (MAX_BODY_BYTES // len(filters))))
            assert reasons(await attacker.ended()) == ([Reason.PACKET_TOO_LARGE] if version == V5 else [])

    asyncio.run(scenario())


@VERSIONS
def test_a_connect_that_comes_byte_by_byte_is_as_good_as_any(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def note(connection: Connection, nbytes: int) -> None:
        sizes.append(nbytes)
        updated(connection, nbytes)

    def heard(times: int) -> bool:
        return len(sizes) == times

    async def scenario() -> None:
        async with besieged() as broker, open_client(broker.address, version) as slow:
            monkeypatch.setattr(Connection, "buffer_updated", note)
            connect = encode(Connect("slow", version, will=Will("w", b"gone"), username="user"), version)
            for number, byte in enumerate(connect, 1):
                await slow.send_bytes(bytes((byte,)))
                await until(partial(heard, number))
            assert (await slow.expect(Connack)).reason == 0
            assert set(sizes) == {1}
            await slow.send(Disconnect())

    updated = Connection.buffer_updated
    asyncio.run(scenario())


@VERSIONS
def test_a_connect_that_drips_does_not_put_its_deadline_off(version: int) -> None:
    connect = encode(Connect("slow", version, will=Will("w", bytes(60_000))), version)

    async def drip(writer: asyncio.StreamWriter) -> None:
        for byte in connect:
            writer.write(bytes((byte,)))
            await asyncio.sleep(0.002)

    async def scenario() -> None:
        async with besieged(connect_timeout_s=0.2) as broker, AsyncExitStack() as stack:
            slow = [await stack.enter_async_context(open_client(broker.address, version)) for _ in range(20)]
            drips = [asyncio.create_task(drip(client.writer)) for client in slow]
            assert [await client.ended() for client in slow] == [[]] * len(slow)
            assert broker.snapshot()["totals"]["ended"] == {"connect_timeout": len(slow)}
            for task in drips:
                task.cancel()
            await asyncio.gather(*drips, return_exceptions=True)

    asyncio.run(scenario())
