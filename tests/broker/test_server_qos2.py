"""QoS 2 over real sockets: exactly once in both directions, across reconnects, with both versions."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import paho.mqtt.client as paho

from broker.packets import (
    V5,
    V311,
    Disconnect,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Will,
)
from broker.properties import Property
from broker.reasons import Reason
from tests.broker.raw import PATIENCE_S, RawClient, connected, publish
from tests.broker.serving import FOREVER, VERSIONS, kept, reasons, serving

MESSAGES = 300


async def silent(client: RawClient) -> None:
    """Nothing else has come for this client."""
    await client.send(Pingreq())
    assert await client.receive() == Pingresp()


# From the client


@VERSIONS
def test_a_message_is_routed_at_its_first_publish_and_only_then(version: int) -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "watch") as watch:
            await watch.subscribe("t", 0)
            async with connected(broker.address, "c", version) as sender:
                for dup in (False, True):
                    await sender.send(publish("t", b"once", qos=2, packet_id=7, dup=dup))
                    assert (await sender.expect(Pubrec)).packet_id == 7
                await sender.send(Pubrel(7))
                assert await sender.receive() == Pubcomp(7)
                await sender.send(publish("t", b"again", qos=2, packet_id=7))
                await sender.expect(Pubrec)
            assert [(await watch.expect(Publish)).payload for _ in range(2)] == [b"once", b"again"]
            await silent(watch)

    asyncio.run(scenario())


@VERSIONS
def test_a_message_resent_on_a_new_connection_is_not_routed_again(version: int) -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "watch") as watch:
            await watch.subscribe("t", 0)
            async with connected(broker.address, "c", version, **kept(version)) as first:
                await first.send(publish("t", b"once", qos=2))
                await first.expect(Pubrec)
                first.abort()
            async with connected(broker.address, "c", version, **kept(version)) as second:
                await second.send(publish("t", b"once", qos=2, dup=True))
                await second.expect(Pubrec)
                await second.send(Pubrel(1))
                assert await second.receive() == Pubcomp(1)
                await second.send(publish("t", b"new", qos=2))
                await second.expect(Pubrec)
            assert [(await watch.expect(Publish)).payload for _ in range(2)] == [b"once", b"new"]
            await silent(watch)

    asyncio.run(scenario())


def test_a_release_of_an_unknown_id_is_completed_and_named_in_mqtt_5() -> None:
    async def scenario() -> None:
        async with serving() as broker:
            for version, reason in ((V5, Reason.PACKET_ID_NOT_FOUND), (V311, 0)):
                async with connected(broker.address, "c", version) as sender:
                    await sender.send(Pubrel(9))
                    assert (await sender.expect(Pubcomp)).reason == reason

    asyncio.run(scenario())


def test_a_refused_message_frees_its_id() -> None:
    async def scenario() -> None:
        async with serving(retained_bytes=2_000) as broker, connected(broker.address, "c") as both:
            await both.subscribe("t", 0)
            await both.send(publish("t", bytes(3_000), qos=2, retain=True))
            refused = await both.expect(Pubrec)
            assert refused.reason == Reason.QUOTA_EXCEEDED
            assert "retained" in refused.properties[Property.REASON_STRING]
            await both.send(Pubrel(1))
            assert (await both.expect(Pubcomp)).reason == Reason.PACKET_ID_NOT_FOUND
            await both.send(publish("t", b"fits", qos=2))
            assert {type(await both.receive()) for _ in range(2)} == {Pubrec, Publish}

    asyncio.run(scenario())


def test_more_unreleased_messages_than_the_broker_announced_end_the_connection() -> None:
    async def scenario() -> None:
        async with serving(receive_maximum=2) as broker:
            async with connected(broker.address, "c") as sender:
                for packet_id in (1, 2, 2):
                    await sender.send(publish("t", qos=2, packet_id=packet_id))
                    await sender.expect(Pubrec)
                await sender.send(Pubrel(1))
                await sender.expect(Pubcomp)
                await sender.send(publish("t", qos=2, packet_id=3))
                await sender.expect(Pubrec)
                await sender.send(publish("t", qos=2, packet_id=4))
                assert reasons(await sender.ended()) == [Reason.RECEIVE_MAXIMUM_EXCEEDED]
            async with connected(broker.address, "d", V311) as old:
                for packet_id in (1, 2, 3):
                    await old.send(publish("t", qos=2, packet_id=packet_id))
                    await old.expect(Pubrec)

    asyncio.run(scenario())


# To the client


@VERSIONS
def test_a_delivery_takes_four_packets_and_frees_the_broker_at_the_second(version: int) -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "c", version) as both:
            assert (await both.subscribe("t", 2)).reasons == (2,)
            await both.send(publish("t", bytes(50_000), qos=2, packet_id=5))
            got = [await both.receive() for _ in range(2)]
            (delivery,) = [packet for packet in got if isinstance(packet, Publish)]
            assert (delivery.qos, delivery.dup) == (2, False)
            assert broker.snapshot()["queued_bytes"] > 50_000
            await both.send(Pubrec(delivery.packet_id))
            assert await both.receive() == Pubrel(delivery.packet_id)
            assert broker.snapshot()["queued_bytes"] == 0
            await both.send(Pubcomp(delivery.packet_id))
            await silent(both)

    asyncio.run(scenario())


@VERSIONS
def test_a_resumed_session_hears_releases_before_messages_with_their_ids(version: int) -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "p") as publisher:
            async with connected(broker.address, "c", version, **kept(version)) as first:
                await first.subscribe("t", 2)
                for number in range(1, 5):
                    await publisher.send(publish("t", bytes([number]), qos=1 + number % 2, packet_id=number))
                ids = [(await first.expect(Publish)).packet_id for _ in range(4)]
                # QoS 2, 1, 2, 1: the first is released, the others stay in flight.
                await first.send(Pubrec(ids[0]))
                assert await first.receive() == Pubrel(ids[0])
                first.abort()
            for _ in range(2):  # and the same for those who lose their connection again
                async with connected(broker.address, "c", version, **kept(version)) as second:
                    assert await second.receive() == Pubrel(ids[0])
                    again = [await second.expect(Publish) for _ in range(3)]
                    assert [(p.packet_id, p.dup, p.qos) for p in again] == [
                        (ids[1], True, 1),
                        (ids[2], True, 2),
                        (ids[3], True, 1),
                    ]
                    await silent(second)
                    second.abort()

    asyncio.run(scenario())


@asynccontextmanager
async def one_at_a_time() -> AsyncIterator[tuple[RawClient, Publish]]:
    """A client that takes one message at a time and has the first of two."""
    async with (
        serving() as broker,
        connected(broker.address, "p") as publisher,
        connected(broker.address, "c", properties={Property.RECEIVE_MAXIMUM: 1}) as both,
    ):
        await both.subscribe("t", 2)
        for number in (1, 2):
            await publisher.send(publish("t", bytes([number]), qos=2, packet_id=number))
            await publisher.expect(Pubrec)
        yield both, await both.expect(Publish)


def test_released_ids_count_against_the_receive_maximum() -> None:
    async def scenario() -> None:
        async with one_at_a_time() as (both, first):
            await both.send(Pubrec(first.packet_id))
            assert await both.receive() == Pubrel(first.packet_id)
            await silent(both)
            await both.send(Pubcomp(first.packet_id))
            assert (await both.expect(Publish)).payload == b"\2"

    asyncio.run(scenario())


def test_a_client_may_decline_a_message_and_gets_the_next() -> None:
    async def scenario() -> None:
        async with one_at_a_time() as (both, first):
            await both.send(Pubrec(first.packet_id, Reason.UNSPECIFIED))
            assert (await both.expect(Publish)).payload == b"\2"

    asyncio.run(scenario())


@VERSIONS
def test_acknowledgements_of_unknown_ids_and_of_the_other_qos_change_nothing(version: int) -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "p") as publisher:
            async with connected(broker.address, "c", version, **kept(version)) as both:
                await both.subscribe("t", 2)
                await publisher.send(publish("t", b"1", qos=1), publish("t", b"2", qos=2, packet_id=2))
                one, two = await both.expect(Publish), await both.expect(Publish)
                await both.send(Puback(two.packet_id), Pubcomp(two.packet_id), Pubcomp(99), Puback(99))
                for packet_id in (one.packet_id, 99):
                    await both.send(Pubrec(packet_id))
                    if version == V5:
                        assert await both.receive() == Pubrel(packet_id, Reason.PACKET_ID_NOT_FOUND)
                await silent(both)
                both.abort()
            async with connected(broker.address, "c", version, **kept(version)) as back:
                assert [(await back.expect(Publish)).payload for _ in range(2)] == [b"1", b"2"]

    asyncio.run(scenario())


@VERSIONS
def test_a_will_of_qos_2_is_delivered_with_it(version: int) -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "watch") as watch:
            await watch.subscribe("wills", 2)
            async with connected(broker.address, "c", version, will=Will("wills", b"gone", 2)) as leaving:
                leaving.abort()
            assert (await watch.expect(Publish)).qos == 2

    asyncio.run(scenario())


def test_a_message_too_large_for_its_subscriber_does_not_block_the_others() -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "p") as publisher:
            limits = {Property.MAXIMUM_PACKET_SIZE: 200, Property.RECEIVE_MAXIMUM: 1}
            async with connected(broker.address, "c", properties=limits) as both:
                await both.subscribe("t", 2)
                for number, size in ((1, 500), (2, 10)):
                    await publisher.send(publish("t", bytes(size), qos=2, packet_id=number))
                    await publisher.expect(Pubrec)
                assert len((await both.expect(Publish)).payload) == 10
                assert broker.snapshot()["totals"]["dropped"] == 1

    asyncio.run(scenario())


def test_a_threaded_paho_client_gets_everything_once_over_reconnects() -> None:
    async def scenario() -> None:
        async with serving(max_inflight=7) as broker:
            assert await asyncio.to_thread(talk, broker.address) == [str(n).encode() for n in range(MESSAGES)]
            assert broker.counters["paho"].connections == 3

    def talk(address: tuple[str, int]) -> list[bytes]:
        received: list[bytes] = []
        ready, done = threading.Event(), threading.Event()
        mqtt = paho.Client(paho.CallbackAPIVersion.VERSION2, "paho", clean_session=False)
        mqtt.on_connect = lambda *_: mqtt.subscribe("n", 2)
        mqtt.on_subscribe = lambda *_: ready.set()

        def on_message(_: Any, __: Any, message: paho.MQTTMessage) -> None:
            received.append(message.payload)
            if len(received) in (MESSAGES // 3, MESSAGES // 2):
                mqtt.socket().shutdown(socket.SHUT_RDWR)  # the library connects again and goes on with its session
            if len(received) == MESSAGES:
                done.set()

        mqtt.on_message = on_message
        mqtt.connect(*address)
        mqtt.loop_start()
        assert ready.wait(PATIENCE_S)
        for sent in [mqtt.publish("n", str(number), qos=2) for number in range(MESSAGES)]:
            sent.wait_for_publish(PATIENCE_S)
        assert done.wait(PATIENCE_S)
        mqtt.disconnect()
        mqtt.loop_stop()
        return sorted(received, key=int)

    asyncio.run(scenario())


def test_messages_wait_for_a_client_that_is_away_and_come_with_qos_2() -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "p") as publisher:
            async with connected(broker.address, "c", **kept(V5)) as away:
                await away.subscribe("t", 2)
                await away.send(Disconnect())
                assert await away.ended() == []
            await publisher.send(publish("t", b"x", qos=2))
            await publisher.expect(Pubrec)
            async with connected(broker.address, "c", clean_start=False, properties=FOREVER) as back:
                delivery = await back.expect(Publish)
                assert (delivery.qos, delivery.dup) == (2, False)

    asyncio.run(scenario())
