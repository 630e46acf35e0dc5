"""What happens to messages of QoS 0 and 1: payloads, topics, filters, options, properties, retained ones."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import AsyncExitStack
from typing import Any

import paho.mqtt.client as paho
import pytest

from broker.errors import ProtocolError
from broker.packets import (
    V311,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Request,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)
from broker.properties import Property
from broker.reasons import Reason
from tests.broker.raw import PATIENCE_S, connected, publish
from tests.broker.serving import VERSIONS, client, next_message, reasons, serving


@VERSIONS
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_payloads_of_any_size_arrive_unchanged(version: int, qos: int) -> None:
    async def scenario() -> None:
        async with serving() as broker, client(broker, "c", version) as both:
            await both.subscribe("t/#", qos=qos)
            for size in (0, 1, 1000, 20_000, 40_000, 300_000, 6 << 20):
                payload = (bytes(range(251)) * (size // 251 + 1))[:size]
                await both.publish("t/x", payload, qos=qos)
                received = await next_message(both)
                assert received.payload == payload
                assert received.qos == qos

    asyncio.run(scenario())


def test_a_threaded_paho_client_gets_its_messages_in_order() -> None:
    async def scenario() -> None:
        async with serving() as broker:
            assert await asyncio.to_thread(talk, broker.address) == [str(n).encode() for n in range(500)]

    def talk(address: tuple[str, int]) -> list[bytes]:
        received: list[bytes] = []
        ready, done = threading.Event(), threading.Event()
        mqtt = paho.Client(paho.CallbackAPIVersion.VERSION2, "paho")
        mqtt.on_connect = lambda *_: mqtt.subscribe("n", 1)
        mqtt.on_subscribe = lambda *_: ready.set()

        def on_message(_: Any, __: Any, message: paho.MQTTMessage) -> None:
            received.append(message.payload)
            if len(received) == 500:
                done.set()

        mqtt.on_message = on_message
        mqtt.connect(*address)
        mqtt.loop_start()
        assert ready.wait(PATIENCE_S)
        for number in range(500):
            mqtt.publish("n", str(number), qos=1)
        assert done.wait(PATIENCE_S)
        mqtt.disconnect()
        mqtt.loop_stop()
        return received

    asyncio.run(scenario())


def test_qos_of_a_delivery_is_the_lower_of_publisher_and_subscriber() -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "s") as subscriber:
            await subscriber.subscribe("zero", 0)
            assert (await subscriber.subscribe("one", 1)).reasons == (1,)
            assert (await subscriber.subscribe("two", 2)).reasons == (2,)
            async with connected(broker.address, "p") as publisher:
                await publisher.send(publish("zero", qos=1), publish("one", qos=2), publish("two", qos=2, packet_id=2))
            assert [(await subscriber.expect(Publish)).qos for _ in range(3)] == [0, 1, 2]

    asyncio.run(scenario())


def test_wildcards_do_not_reach_topics_of_the_system() -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "c", V311) as both:
            for topic_filter in ("#", "+/x", "sc/+/up/#"):
                await both.subscribe(topic_filter)
            await both.send(publish("$SYS/x"), publish("a/x"), publish("sc/1/up"), publish("sc/1/up/2"))
            topics = [(await both.expect(Publish)).topic for _ in range(3)]
            assert topics == ["a/x", "sc/1/up", "sc/1/up/2"]

    asyncio.run(scenario())


def test_unsubscribing_stops_the_messages() -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "c") as both:
            await both.subscribe("t")
            await both.send(Unsubscribe(2, ("t", "u")))
            reasons = (Reason.SUCCESS, Reason.NO_SUBSCRIPTION_EXISTED)
            assert (await both.expect(Unsuback)).reasons == reasons
            await both.send(publish("t", qos=1), Pingreq())
            assert (await both.expect(Puback)).reason == Reason.NO_MATCHING_SUBSCRIBERS
            assert await both.receive() == Pingresp()

    asyncio.run(scenario())


def test_invalid_filters_are_refused_one_by_one() -> None:
    async def scenario() -> None:
        filters = ("a#", "$share/+/t", "ok")
        requests = tuple(Request(topic_filter) for topic_filter in filters)
        async with (
            serving(max_subscriptions=1) as broker,
            connected(broker.address, "new") as new,
            connected(broker.address, "old", V311) as old,
        ):
            await new.send(Subscribe(1, (*requests, Request("more"))))
            assert (await new.expect(Suback)).reasons == (0x8F, 0x8F, 0, 0x97)
            await old.send(Subscribe(1, requests))
            assert (await old.expect(Suback)).reasons == (0x80, 0x80, 0)

    asyncio.run(scenario())


def test_options_of_mqtt_5_subscriptions_are_kept() -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "c") as both:
            await both.send(publish("kept", b"1", retain=True))
            await both.subscribe("own", no_local=True)
            request = Request("kept", retain_as_published=True, retain_handling=2)
            await both.send(Subscribe(2, (request,), {Property.SUBSCRIPTION_ID: (300,)}))
            await both.expect(Suback)
            await both.send(publish("own"), publish("kept", b"2", retain=True))
            received = await both.expect(Publish)
            assert (received.payload, received.retain) == (b"2", True)
            assert received.properties == {Property.SUBSCRIPTION_ID: (300,)}

    asyncio.run(scenario())


def test_properties_of_mqtt_5_reach_the_subscriber() -> None:
    properties = {
        Property.PAYLOAD_FORMAT: 1,
        Property.CONTENT_TYPE: "text/plain",
        Property.RESPONSE_TOPIC: "answers/1",
        Property.CORRELATION_DATA: b"\0\1",
        Property.USER_PROPERTY: (("a", "1"), ("a", "2")),
    }

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            broker = await stack.enter_async_context(serving())
            new = await stack.enter_async_context(connected(broker.address, "new"))
            old = await stack.enter_async_context(connected(broker.address, "old", V311))
            await new.subscribe("t")
            await old.subscribe("t")
            await new.send(publish("t", b"x", properties={**properties, Property.MESSAGE_EXPIRY: 60}))
            received = dict((await new.expect(Publish)).properties)
            assert 0 < received.pop(Property.MESSAGE_EXPIRY) <= 60
            assert received == properties
            assert await old.receive() == publish("t", b"x")

    asyncio.run(scenario())


def test_a_topic_alias_stands_for_its_topic() -> None:
    async def scenario() -> None:
        async with serving(topic_alias_maximum=2) as broker, connected(broker.address, "c") as both:
            await both.subscribe("long/topic")
            alias = {Property.TOPIC_ALIAS: 2}
            await both.send(Publish("long/topic", b"1", properties=alias), Publish("", b"2", properties=alias))
            for payload in (b"1", b"2"):
                assert await both.receive() == publish("long/topic", payload)
            await both.send(Publish("t", properties={Property.TOPIC_ALIAS: 3}))
            assert reasons(await both.ended()) == [Reason.TOPIC_ALIAS_INVALID]

    asyncio.run(scenario())


@VERSIONS
def test_the_last_retained_message_waits_for_new_subscribers(version: int) -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "c", version) as both:
            for payload in (b"old", b"new"):
                await both.send(publish("state/1", payload, retain=True))
            await both.send(publish("state/2", b"gone", retain=True), publish("state/2", b"", retain=True))
            await both.subscribe("state/+")
            assert await both.receive() == publish("state/1", b"new", retain=True)
            await both.send(publish("state/1", b"live", retain=True))
            assert await both.receive() == publish("state/1", b"live")

    asyncio.run(scenario())


def test_small_messages_are_not_held_back_by_the_kernel() -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "c"):
            (connection,) = broker._connections
            kernel = connection._transport.get_extra_info("socket")
            assert kernel.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    asyncio.run(scenario())


def test_what_a_client_publishes_reaches_those_of_its_subscriptions_that_want_it() -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "c") as both, connected(broker.address, "d") as other:
            for number, request in enumerate((Request("t", 1, no_local=True), Request("+", 0)), start=1):
                await both.send(Subscribe(number, (request,), {Property.SUBSCRIPTION_ID: (number,)}))
                await both.expect(Suback)
            await both.send(publish("t", b"own", qos=1))
            assert {type(await both.receive()) for _ in range(2)} == {Puback, Publish}
            await other.send(publish("t", b"another's", qos=1))
            from_other = await both.expect(Publish)
            assert (from_other.qos, sorted(from_other.properties[Property.SUBSCRIPTION_ID])) == (1, [1, 2])
            await both.send(Unsubscribe(3, ("+",)))
            await both.expect(Unsuback)
            await both.send(publish("t", b"own", qos=1), Pingreq())
            assert (await both.expect(Puback)).reason == 0
            assert await both.receive() == Pingresp()

    asyncio.run(scenario())


@pytest.mark.parametrize(("handling", "expected"), [(0, [True, True]), (1, [True, False]), (2, [False, False])])
def test_retained_messages_come_as_the_subscription_asks(handling: int, expected: list[bool]) -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "c") as both:
            await both.send(publish("t", b"kept", retain=True))
            came = []
            for _ in range(2):
                await both.subscribe("t", retain_handling=handling)
                await both.send(Pingreq())
                packet = await both.receive()
                came.append(packet == publish("t", b"kept", retain=True))
                if came[-1]:
                    packet = await both.receive()
                assert packet == Pingresp()
            assert came == expected

    asyncio.run(scenario())


def test_a_retained_message_tells_how_long_it_still_lives() -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "c") as both:
            loop = asyncio.get_running_loop()
            await both.send(publish("t", b"kept", retain=True, qos=1, properties={Property.MESSAGE_EXPIRY: 1000}))
            await both.expect(Puback)
            (message,), *_ = broker._registry.router.retained.page("t", loop.time(), "", 1)
            assert message.deadline is not None
            message.deadline -= 400
            await both.subscribe("t")
            assert (await both.expect(Publish)).properties == {Property.MESSAGE_EXPIRY: 600}

    asyncio.run(scenario())


def test_the_broker_publishes_messages_of_its_own() -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "c") as client:
            await client.subscribe("news/#", 2)
            broker.publish("news/1", b"live", qos=1)
            assert await client.receive() == publish("news/1", b"live", qos=1)
            with pytest.raises(ProtocolError, match="wildcard"):
                broker.publish("news/#", b"nowhere")

    asyncio.run(scenario())
