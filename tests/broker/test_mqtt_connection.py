"""One MQTT connection of a client, with a broker that does what the test says."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import pytest

from broker.buffer_pool import GRAIN_BYTES
from broker.errors import BrokerError
from broker.login import RefusedError
from broker.mqtt_connection import MqttConnection
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
from tests.broker.raw import until


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
            await until(lambda: client._outbox.paused)
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


def test_payloads_are_views_of_buffers_that_hardly_exceed_them_and_acknowledged_by_hand() -> None:
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
            assert len(heard[0][1].obj) <= 500_050 + GRAIN_BYTES
            assert heard[2][2] is None
            for _, _, acknowledge in heard[:2]:
                acknowledge()
            assert [(await broker.next(Puback)).packet_id for _ in range(2)] == [5, 6]
            broker.writer.close()
            await client.closed
            heard[0][2]()  # too late, and harmless

    asyncio.run(main())


@pytest.mark.parametrize("version", [V5, V311])
def test_a_connection_is_read_however_many_messages_wait_for_their_acknowledgement(version: int) -> None:
    async def main() -> None:
        async with connected(version, keepalive_s=1) as (client, broker, heard):
            count = 2000
            await broker.say(*(Publish("t", bytes(1000), 1, packet_id=number + 1) for number in range(count)))
            await until(lambda: len(heard) == count)
            done = publish(client, "still sent")
            await broker.say(Puback((await broker.next(Publish)).packet_id))
            await done
            for _ in range(2):
                await broker.next(Pingreq)
                await broker.say(Pingresp())
            for _, _, acknowledge in heard:
                acknowledge()
            assert [(await broker.next(Puback)).packet_id for _ in range(count)] == list(range(1, count + 1))
            broker.writer.close()
            assert (await client.closed).reason == "the broker closed the connection"

    asyncio.run(main())


def test_leave_can_be_taken_without_waiting_for_its_end() -> None:
    async def main() -> None:
        async with connected() as (client, broker, heard):
            await broker.say(Publish("t", b"", 1, packet_id=7))
            await until(lambda: bool(heard))
            client.leave("enough")
            client.leave("twice")
            publish(client, "too late")
            heard[0][2]()
            assert await broker.packet() == Disconnect()
            broker.writer.write_eof()
            assert (await client.closed) == ("enough", False, False)
            assert await broker.reader.read() == b""

    asyncio.run(main())


def test_a_subscription_and_a_message_never_have_the_same_packet_identifier() -> None:
    async def main() -> None:
        async with connected() as (client, broker, _):
            subscribing = asyncio.create_task(client.subscribe(["a"]))
            packet = await broker.next(Subscribe)
            client._publisher._last_id = packet.packet_id - 1
            publish(client, "t")
            assert (await broker.next(Publish)).packet_id != packet.packet_id
            await broker.say(Suback(packet.packet_id, (1,)))
            await subscribing

    asyncio.run(main())


@pytest.mark.parametrize(("hang_up", "older"), [(True, True), (False, False)])
def test_only_a_broker_that_hangs_up_on_our_introduction_may_be_older(hang_up: bool, older: bool) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), listening() as (port, made):
            client = MqttConnection(login(port), "5", WILL, lambda *_: None)
            opening = asyncio.create_task(client.open())
            broker = await made.get()
            await broker.next(Connect)
            if hang_up:
                broker.writer.close()
            else:
                broker.writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                broker.writer.transport.abort()
            with pytest.raises(RefusedError, match=r"^it closed the connection$") as caught:
                await opening
            assert (caught.value.older, caught.value.closed) == (older, True)
            await client.closed

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


@pytest.mark.slow
def test_a_broker_that_falls_silent_is_asked_and_then_given_up() -> None:
    async def main() -> None:
        async with connected(keepalive_s=1) as (client, broker, _):
            await broker.next(Pingreq)
            await broker.say(Pingresp())
            await broker.next(Pingreq)
            assert (await client.closed).reason == "the broker does not answer any more"
            assert await broker.packet() == Disconnect(Reason.KEEPALIVE_TIMEOUT)

    asyncio.run(main())


def test_a_silent_broker_is_given_up_though_its_kernel_takes_what_is_sent() -> None:
    async def main() -> None:
        async with connected(keepalive_s=1) as (client, broker, _):
            reading = asyncio.create_task(broker.reader.read(-1))
            while not client.closed.done():
                client.publish("metrics", b"", memoryview(b"x"))
                await asyncio.wait([client.closed], timeout=0.1)
            assert (await client.closed).reason == "the broker does not answer any more"
            await reading

    asyncio.run(main())


def test_the_brokers_own_keepalive_takes_the_place_of_the_clients() -> None:
    async def main() -> None:
        async with connected(told={Property.SERVER_KEEPALIVE: 1}) as (_, broker, _):
            await broker.next(Pingreq)

    asyncio.run(main())


@pytest.mark.slow
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
