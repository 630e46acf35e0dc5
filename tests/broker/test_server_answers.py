"""What MQTT 5 clients are told beyond codes: reason strings, and topic aliases in place of topics."""

from __future__ import annotations

import asyncio

import pytest

from broker.packet_encoder import encode
from broker.packets import V5, Connack, Connect, Disconnect, Puback, Publish, Request, Suback, Subscribe
from broker.properties import Property
from broker.reasons import Reason
from tests.broker.raw import connected, open_client, publish
from tests.broker.serving import reasons, serving

TEXT = Property.REASON_STRING


def test_a_refusal_and_an_end_carry_one_line_for_people() -> None:
    async def scenario() -> None:
        async with serving() as broker:
            async with open_client(broker.address) as stranger:
                await stranger.send(Connect("c", properties={Property.AUTHENTICATION_METHOD: "x"}))
                (connack,) = await stranger.ended()
                assert isinstance(connack, Connack)
                assert connack.properties == {TEXT: "extended authentication is not offered"}
            async with connected(broker.address, "c") as client:
                await client.send(Publish("t", properties={Property.TOPIC_ALIAS: 99}))
                (last,) = await client.ended()
                assert last == Disconnect(Reason.TOPIC_ALIAS_INVALID, {TEXT: "topic alias 99; valid: 1 to 16"})

    asyncio.run(scenario())


@pytest.mark.parametrize("room", [True, False])
def test_a_reason_string_is_left_out_where_the_packet_would_be_too_large(room: bool) -> None:
    size = 100 if room else 40

    async def scenario() -> None:
        async with serving() as broker:
            properties = {Property.MAXIMUM_PACKET_SIZE: size}
            async with open_client(broker.address) as stranger:
                await stranger.send(Connect("c", properties={**properties, Property.AUTHENTICATION_METHOD: "x"}))
                (connack,) = await stranger.ended()
                assert isinstance(connack, Connack)
                assert (TEXT in connack.properties, len(encode(connack, V5)) <= size) == (room, True)
            async with connected(broker.address, "c", properties=properties) as client:
                await client.send(Subscribe(1, (Request("a topic filter that is wrong#"),)))
                suback = await client.expect(Suback)
                assert (TEXT in suback.properties, suback.reasons) == (room, (Reason.TOPIC_FILTER_INVALID,))

    asyncio.run(scenario())


@pytest.mark.parametrize("wanted", [0, 1])
def test_acknowledgements_explain_themselves_only_to_clients_that_want_it(wanted: int) -> None:
    async def scenario() -> None:
        async with serving(retained_bytes=0) as broker:
            properties = {Property.REQUEST_PROBLEM_INFORMATION: wanted}
            async with connected(broker.address, "c", properties=properties) as client:
                await client.send(publish("t", b"x", qos=1, retain=True))
                assert (TEXT in (await client.expect(Puback)).properties) == bool(wanted)
                suback = await client.subscribe("#/#")
                assert suback.properties == ({TEXT: "'#/#': topic_filter_invalid"} if wanted else {})
                await client.send(Publish("t", properties={Property.TOPIC_ALIAS: 99}))
                (last,) = await client.ended()
                assert isinstance(last, Disconnect)
                assert TEXT in last.properties

    asyncio.run(scenario())


def test_the_first_topics_get_an_alias_and_are_then_left_out() -> None:
    async def scenario() -> None:
        async with serving(topic_alias_maximum=8) as broker, connected(broker.address, "p") as publisher:
            limits = {Property.TOPIC_ALIAS_MAXIMUM: 2}
            async with connected(broker.address, "c", properties=limits) as client:
                await client.subscribe("#", 1)
                for number, topic in enumerate(("a", "b", "c", "a", "b", "c")):
                    await publisher.send(publish(topic, bytes([number]), qos=1))
                    await publisher.expect(Puback)
                got = [await client.expect(Publish) for _ in range(6)]
                assert [packet.payload for packet in got] == [bytes([number]) for number in range(6)]
                assert [(packet.topic, packet.properties.get(Property.TOPIC_ALIAS)) for packet in got] == [
                    ("a", 1),
                    ("b", 2),
                    ("c", None),
                    ("", 1),
                    ("", 2),
                    ("c", None),
                ]
                client.abort()
            async with connected(broker.address, "c", properties=limits) as again:
                await again.subscribe("#", 0)
                await publisher.send(publish("a"))
                first = await again.expect(Publish)
                assert (first.topic, first.properties) == ("a", {Property.TOPIC_ALIAS: 1})

    asyncio.run(scenario())


@pytest.mark.parametrize(("asked", "offered"), [(0, 8), (8, 0)])
def test_no_alias_is_used_where_one_end_does_not_want_any(asked: int, offered: int) -> None:
    async def scenario() -> None:
        properties = {Property.TOPIC_ALIAS_MAXIMUM: asked}
        async with (
            serving(topic_alias_maximum=offered) as broker,
            connected(broker.address, "c", properties=properties) as both,
        ):
            await both.subscribe("t")
            await both.send(publish("t"), publish("t"))
            assert [await both.receive() for _ in range(2)] == [publish("t"), publish("t")]
            await both.send(Publish("t", properties={Property.TOPIC_ALIAS: 1 + offered}))
            assert reasons(await both.ended()) == [Reason.TOPIC_ALIAS_INVALID]

    asyncio.run(scenario())


def test_an_alias_never_makes_a_packet_too_large_and_is_not_wasted_on_one() -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "p") as publisher:
            limits = {Property.MAXIMUM_PACKET_SIZE: 100, Property.TOPIC_ALIAS_MAXIMUM: 5}
            async with connected(broker.address, "c", properties=limits) as client:
                await client.subscribe("#", 1)
                exact = 100 - len(encode(publish("long/topic", qos=1), V5))
                for payload in (bytes(exact + 1), bytes(exact), b"", bytes(exact + 5)):
                    await publisher.send(publish("long/topic", payload, qos=1))
                    await publisher.expect(Puback)
                got = [await client.expect(Publish) for _ in range(3)]
                assert [len(packet.payload) for packet in got] == [exact, 0, exact + 5]
                assert [packet.topic for packet in got] == ["long/topic", "long/topic", ""]
                assert [packet.properties.get(Property.TOPIC_ALIAS) for packet in got] == [None, 1, 1]
                assert broker.snapshot()["totals"]["dropped"] == 1

    asyncio.run(scenario())
