"""One MQTT connection of a client, with a broker that does what the test says."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker.errors import BrokerError
from broker.login import RefusedError
from broker.mqtt_connection import MqttConnection
from broker.mqtt_protocol import HELD
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
    Suback,
    Subscribe,
    Will,
)
from broker.properties import Property
from broker.reasons import Reason
from tests.broker.fake_broker import WILL, FakeBroker, connected, listening, login
from tests.broker.planes import until


def future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


def publish(client: MqttConnection, topic: str, size: int = 1, bulk: bool = False) -> asyncio.Future[None]:
    done = future()
    client.publish(topic, b"head", memoryview(bytes(size)), bulk=bulk, done=done)
    return done


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_client_introduces_itself(protocol: str) -> None:
    async def main() -> None:
        version = V5 if protocol == "5" else V311
        async with asyncio.timeout(20), listening(version) as (port, made):
            client = MqttConnection(login(port, 7, username="u", password="pä"), protocol, WILL, lambda *_: None)
            opening = asyncio.create_task(client.open())
            broker = await made.get()
            packet = await broker.next(Connect)
            told: dict[Property, Any] = {
                Property.SESSION_EXPIRY: 0,
                Property.RECEIVE_MAXIMUM: 64,
                Property.MAXIMUM_PACKET_SIZE: 2**24 + 2**16,
                Property.TOPIC_ALIAS_MAXIMUM: 16,
            }
            will = Will("will", b"gone", 1, True)
            assert packet == Connect("me", version, True, 7, will, "u", "pä".encode(), told if version == V5 else {})
            await broker.say(Connack())
            await opening
            leaving = asyncio.create_task(client.close())
            assert await broker.packet() == Disconnect()
            broker.writer.close()
            await leaving

    asyncio.run(main())


@pytest.mark.parametrize(
    ("version", "code", "said", "older"),
    [
        (V5, 0x84, "unsupported version (0x84): speak 3.1.1", True),
        (V5, 0x87, "not authorized (0x87): speak 3.1.1", False),
        (V311, 1, "unsupported protocol version", True),
        (V311, 5, "not authorized", False),
        (V311, 77, "return code 77", False),
    ],
)
def test_a_refusal_tells_why(version: int, code: int, said: str, older: bool) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), listening(version) as (port, made):
            protocol = "5" if version == V5 else "3.1.1"
            client = MqttConnection(login(port), protocol, WILL, lambda *_: None)
            opening = asyncio.create_task(client.open())
            broker = await made.get()
            await broker.next(Connect)
            await broker.say(Connack(False, code, {Property.REASON_STRING: "speak 3.1.1"} if version == V5 else {}))
            with pytest.raises(RefusedError) as caught:
                await opening
            assert (str(caught.value), caught.value.older) == (said, older)
            await client.closed

    asyncio.run(main())


def test_a_filter_that_is_not_allowed_is_named() -> None:
    async def main() -> None:
        async with connected() as (client, broker, _):
            subscribing = asyncio.create_task(client.subscribe(["a/#", "b"]))
            packet = await broker.next(Subscribe)
            assert [(r.topic_filter, r.qos, r.no_local) for r in packet.requests] == [("a/#", 1, True), ("b", 1, True)]
            await broker.say(Suback(packet.packet_id, (1, Reason.NOT_AUTHORIZED)))
            with pytest.raises(RefusedError, match=r"no subscription to b: not authorized"):
                await subscribing

    asyncio.run(main())


def test_a_publish_is_done_by_its_puback_and_fails_where_it_is_refused() -> None:
    async def main() -> None:
        async with connected() as (client, broker, _):
            first, second = publish(client, "a"), publish(client, "b", 100_000)
            packets = [await broker.next(Publish) for _ in range(2)]
            assert [(p.topic, bytes(p.payload), p.qos) for p in packets] == [
                ("a", b"head" + bytes(1), 1),
                ("b", b"head" + bytes(100_000), 1),
            ]
            assert not first.done()
            refusal = {Property.REASON_STRING: "full"}
            await broker.say(Puback(packets[1].packet_id, 0x97, refusal), Puback(packets[0].packet_id, 0x10))
            await first
            with pytest.raises(BrokerError, match=r"the broker refused a message: quota exceeded \(0x97\): full"):
                await second

    asyncio.run(main())


def test_control_goes_ahead_of_bulk_and_has_a_place_that_bulk_leaves_it() -> None:
    async def main() -> None:
        async with connected(told={Property.RECEIVE_MAXIMUM: 3}) as (client, broker, _):
            done = [publish(client, f"bulk{number}", 300_000, bulk=True) for number in range(4)]
            order = [await broker.next(Publish) for _ in range(2)]
            done.append(publish(client, "control"))
            order.append(await broker.next(Publish))
            await broker.say(Puback(order[2].packet_id))
            for number in range(2):
                await broker.say(Puback(order[number].packet_id))
                order.append(await broker.next(Publish))
            assert [packet.topic for packet in order] == ["bulk0", "bulk1", "control", "bulk2", "bulk3"]
            for packet in order[3:]:
                await broker.say(Puback(packet.packet_id))
            await asyncio.gather(*done)

    asyncio.run(main())


def test_what_is_urgent_overtakes_all_that_has_not_left_the_process() -> None:
    async def main() -> None:
        async with connected() as (client, broker, _):
            broker.writer.transport.pause_reading()  # type: ignore[attr-defined]
            bulk = [publish(client, "bulk", 1 << 20, bulk=True) for _ in range(40)]
            await until(lambda: client._queue.paused)
            control = publish(client, "control")
            broker.writer.transport.resume_reading()  # type: ignore[attr-defined]
            place = 0
            while (packet := await broker.next(Publish)).topic == "bulk":
                place += 1
                await broker.say(Puback(packet.packet_id))
            assert place < len(bulk) // 2
            await broker.say(Puback(packet.packet_id))
            await control

    asyncio.run(main())


def test_a_withdrawn_message_is_never_sent() -> None:
    async def main() -> None:
        async with connected(told={Property.RECEIVE_MAXIMUM: 1}) as (client, broker, _):
            first, second, third = (publish(client, topic) for topic in "abc")
            packet = await broker.next(Publish)
            second.cancel()
            await broker.say(Puback(packet.packet_id))
            assert (await broker.next(Publish)).topic == "c"
            assert first.done()
            assert not third.done()

    asyncio.run(main())


def test_payloads_are_views_of_buffers_of_their_own_size_and_acknowledged_by_hand() -> None:
    async def main() -> None:
        async with connected() as (client, broker, heard):
            alias = {Property.TOPIC_ALIAS: 3}
            await broker.say(Publish("topic", bytes(500_000), 1, packet_id=5, properties=alias))
            await broker.say(Publish("", b"again", 1, packet_id=6, properties=alias), Publish("once", b"x"))
            await until(lambda: len(heard) == 3)
            assert [(topic, len(payload)) for topic, payload, _ in heard] == [
                ("topic", 500_000),
                ("topic", 5),
                ("once", 1),
            ]
            assert len(heard[0][1].obj) < 500_050
            assert heard[2][2] is None
            for _, _, acknowledge in heard[:2]:
                acknowledge()
            assert [(await broker.next(Puback)).packet_id for _ in range(2)] == [5, 6]
            broker.writer.close()
            await client.closed
            heard[0][2]()  # too late, and harmless

    asyncio.run(main())


def test_a_broker_without_a_receive_maximum_is_held_back_all_the_same() -> None:
    async def main() -> None:
        async with connected(V311) as (client, broker, heard):
            sent = 3 * HELD

            async def flood() -> None:
                for number in range(sent):
                    await broker.say(Publish("t", bytes(100_000), 1, packet_id=number + 1))

            flooding = asyncio.create_task(flood())
            await until(lambda: len(heard) >= HELD)
            client.publish("still", b"", memoryview(b"sent"), done=future())
            assert (await broker.next(Publish)).topic == "still"
            assert HELD <= len(heard) < HELD + 5  # what one read holds
            assert not flooding.done()
            for number in range(sent):
                await until(lambda number=number: len(heard) > number)  # type: ignore[misc]
                heard[number][2]()
            await flooding
            assert [(await broker.next(Puback)).packet_id for _ in range(sent)] == list(range(1, sent + 1))

    asyncio.run(main())


@pytest.mark.parametrize(
    ("said", "reason", "final"),
    [
        ([Disconnect(0x8E)], r"the broker ended it: session taken over \(0x8E\)", True),
        ([Disconnect(0x8B, {Property.REASON_STRING: "bye"})], r"server shutting down \(0x8B\): bye", False),
        ([], "the broker closed the connection", False),
    ],
)
def test_the_end_of_a_connection_tells_why(said: list[Any], reason: str, final: bool) -> None:
    async def main() -> None:
        async with connected() as (client, broker, _):
            await broker.say(*said)
            broker.writer.close()
            loss = await client.closed
            assert loss.final == final
            with pytest.raises(RefusedError, match=reason):
                await client.subscribe(["a"])

    asyncio.run(main())


@pytest.mark.parametrize(
    "data", [b"\xf0\x00\x00", b"\x00\x00", b"\x10\x00", b"\x62\x02\x00\x01", b"\x30\xff\xff\xff\xff"]
)
def test_bytes_that_break_mqtt_end_the_connection(data: bytes) -> None:
    async def main() -> None:
        async with connected() as (client, broker, _):
            broker.writer.write(data)
            loss = await client.closed
            assert loss.reason.startswith("the broker broke MQTT: ")
            assert (await broker.next(Disconnect)).reason in (0x81, 0x82)

    asyncio.run(main())


def test_a_broker_that_falls_silent_is_asked_and_then_given_up() -> None:
    async def main() -> None:
        async with connected(keepalive_s=1) as (client, broker, _):
            await broker.next(Pingreq)
            await broker.say(Pingresp())
            await broker.next(Pingreq)
            assert (await client.closed).reason == "the broker does not answer any more"
            assert await broker.packet() == Disconnect(Reason.KEEPALIVE_TIMEOUT)

    asyncio.run(main())


def test_the_brokers_own_keepalive_takes_the_place_of_the_clients() -> None:
    async def main() -> None:
        async with connected(told={Property.SERVER_KEEPALIVE: 1}) as (_, broker, _):
            await broker.next(Pingreq)

    asyncio.run(main())


def test_an_upload_that_makes_progress_keeps_the_connection_alive() -> None:
    """The broker reads slowly and says nothing for three keepalives; only what it reads tells that it is there."""

    async def main() -> None:
        async with connected(keepalive_s=1) as (client, broker, _):
            done = publish(client, "bulk", 8 << 20, bulk=True)
            broker.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await read_slowly(broker, seconds=4.0)
            assert not client.closed.done()
            assert client._ping.asked
            await broker.say(Pingresp())
            packet = await broker.next(Publish)
            await broker.say(Puback(packet.packet_id))
            await done

    asyncio.run(main())


async def read_slowly(broker: FakeBroker, seconds: float) -> None:
    """Let the socket be read for a moment now and then."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        await asyncio.sleep(0.2)
        broker.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        broker.writer.transport.pause_reading()  # type: ignore[attr-defined]
    broker.writer.transport.resume_reading()  # type: ignore[attr-defined]
