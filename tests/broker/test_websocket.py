"""MQTT over WebSocket: messages, frames, refusals and ends, over real sockets."""

from __future__ import annotations

import asyncio
import os
import queue
import ssl
import threading
from collections.abc import Awaitable
from typing import Any

import aiohttp
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from broker.authority import Anyone, Grants, Peer
from broker.packet_encoder import encode
from broker.packets import V5, Connack, Connect, Disconnect, Puback, Publish, Request, Suback, Subscribe, Will
from broker.reasons import Reason
from broker.server import Broker, BrokerConfig
from broker.thread import BrokerThread
from broker.websocket import TURN_BYTES, WebSocketTransport, binary_header
from tests.broker.lab import Lab
from tests.broker.raw import PATIENCE_S, connected, publish, until
from tests.broker.serving import VERSIONS, has_all_and_no_will, reasons
from tests.broker.websockets import connected_websocket, frame_head, open_websocket, upgraded, web


@pytest.mark.parametrize(
    ("size", "header"),
    [
        (0, "82 00"),
        (125, "82 7d"),
        (126, "82 7e 007e"),
        (65_535, "82 7e ffff"),
        (65_536, "82 7f 0000000000010000"),
    ],
)
def test_frames_have_the_shortest_header_for_their_size(size: int, header: str) -> None:
    assert binary_header(size) == bytes.fromhex(header)


@pytest.mark.parametrize("protocol", [paho.MQTTv311, paho.MQTTv5])
@pytest.mark.parametrize("qos", [0, 1])
def test_a_client_library_gets_its_messages_in_order_small_and_large(protocol: Any, qos: int) -> None:
    large = os.urandom(6 << 20)
    running = BrokerThread(BrokerConfig(port=0, websocket_port=0))
    with running as (host, port):
        got: queue.Queue[bytes] = queue.Queue()
        subscribed = threading.Event()
        mqtt: Any = paho.Client(CallbackAPIVersion.VERSION2, "c", protocol=protocol, transport="websockets")
        mqtt.on_connect = lambda *_: mqtt.subscribe("#", qos)
        mqtt.on_subscribe = lambda *_: subscribed.set()
        mqtt.on_message = lambda _client, _data, message: got.put(message.payload)
        url = running.ask(lambda broker: broker.urls["websocket"])
        mqtt.connect("127.0.0.1", int(url.removesuffix("/mqtt").rpartition(":")[2]))
        mqtt.loop_start()
        assert subscribed.wait(PATIENCE_S)
        small = [b"%d" % number for number in range(200)]
        for payload in small:
            mqtt.publish("t", payload, qos)
        assert [got.get(timeout=PATIENCE_S) for _ in small] == small
        # The library loses what does not fit in one call to the kernel, so the large one comes from elsewhere.
        asyncio.run(send((host, port), large, qos))
        assert got.get(timeout=PATIENCE_S) == large
        mqtt.disconnect()
        mqtt.loop_stop()


async def send(address: tuple[str, int], payload: bytes, qos: int) -> None:
    async with connected(address, "p") as publisher:
        await publisher.send(publish("t", payload, qos=qos), Disconnect())
        await publisher.ended()


@VERSIONS
@pytest.mark.parametrize("qos", [0, 1])
def test_large_payloads_arrive_unchanged_both_ways(version: int, qos: int) -> None:
    payload = os.urandom(6 << 20)

    async def scenario() -> None:
        async with web() as broker, connected_websocket(broker, "a", version) as client:
            await client.subscribe("t", qos)
            await client.send(publish("t", payload, qos=qos))
            received = {type(packet): packet for packet in [await client.receive() for _ in range(1 + qos)]}
            assert received[Publish].payload == payload  # type: ignore[union-attr]
            assert (Puback in received) == bool(qos)

    asyncio.run(scenario())


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 10_000])
def test_packets_may_be_cut_and_joined_by_frames_anyhow(size: int) -> None:
    packets = (
        Connect("c", V5),
        Subscribe(1, (Request("t", 1),)),
        publish("t", b"first", qos=1),
        publish("t", bytes(300), qos=1, packet_id=2),
    )
    stream = b"".join(encode(packet, V5) for packet in packets)

    async def scenario() -> None:
        async with web() as broker, open_websocket(broker) as client:
            for start in range(0, len(stream), size):
                await client.send_bytes(stream[start : start + size])
            received = [type(await client.receive()).__name__ for _ in range(6)]
            assert sorted(received) == ["Connack", "Puback", "Puback", "Publish", "Publish", "Suback"]
            assert broker.counters["c"].bytes_in == len(stream)

    asyncio.run(scenario())


def test_packets_in_the_frame_of_connect_wait_for_a_slow_authority() -> None:
    class Slow(Anyone):
        async def _later(self, grants: Grants) -> Grants:
            await allowed.wait()
            return grants

        def admit(self, connect: Connect, peer: Peer) -> Awaitable[Grants]:  # type: ignore[override]
            return self._later(super().admit(connect, peer))

    allowed = asyncio.Event()

    async def scenario() -> None:
        async with web(authority=Slow()) as broker, open_websocket(broker) as client:
            connect = encode(Connect("c", V5), V5)
            subscribe = encode(Subscribe(1, (Request("t", 1),)), V5)
            await client.send_bytes(connect + subscribe[:5])
            await client.send_bytes(subscribe[5:])
            await until(lambda: broker.snapshot()["traffic"]["packets_in"] == 0 and len(broker._connections) == 1)
            allowed.set()
            await client.expect(Connack)
            await client.expect(Suback)

    asyncio.run(scenario())


@pytest.mark.parametrize("offered", [None, "chat", "mqttv3.1, chat"])
def test_a_handshake_without_the_subprotocol_is_refused(offered: str | None) -> None:
    async def scenario() -> None:
        async with web() as broker, aiohttp.ClientSession() as session:
            protocols = offered.split(", ") if offered else []
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(broker.urls["websocket"], protocols=protocols)
            assert refused.value.status == 400
            assert broker.snapshot()["totals"]["connections"] == 0

    asyncio.run(scenario())


def test_other_paths_and_plain_requests_are_refused() -> None:
    async def scenario() -> None:
        async with web() as broker, aiohttp.ClientSession() as session:
            url = broker.urls["websocket"].replace("ws:", "http:")
            for path, status in ((url, 400), (url + "/x", 404), (url.replace("/mqtt", "/metrics"), 404)):
                async with session.get(path) as response:
                    assert response.status == status

    asyncio.run(scenario())


def test_a_text_frame_ends_the_connection_as_no_normal_end() -> None:
    async def scenario() -> None:
        async with web() as broker, connected(broker.address, "watch") as watch:
            await watch.subscribe("will")
            async with connected_websocket(broker, "c", will=Will("will")) as client:
                await client.socket.send_str("PING")
                assert await client.ended() == []
                assert client.stream.closed_with == aiohttp.WSCloseCode.UNSUPPORTED_DATA
                await watch.expect(Publish)

    asyncio.run(scenario())


def test_a_message_above_the_largest_packet_ends_the_connection() -> None:
    async def scenario() -> None:
        async with web(max_packet_bytes=100_000) as broker, connected_websocket(broker, "c") as client:
            await client.send_bytes(bytes(200_000))
            assert await client.ended() == []
            assert client.stream.closed_with == aiohttp.WSCloseCode.MESSAGE_TOO_BIG

    asyncio.run(scenario())


def test_bytes_that_break_mqtt_are_answered_before_the_close() -> None:
    async def scenario() -> None:
        async with web() as broker, connected_websocket(broker, "c") as client:
            await client.send_bytes(b"\x00\x00")
            assert reasons(await client.ended()) == [Reason.MALFORMED_PACKET]
            assert client.stream.closed_with == aiohttp.WSCloseCode.OK

    asyncio.run(scenario())


@pytest.mark.parametrize("manner", ["vanishes", "closes the socket", "disconnects"])
def test_the_will_is_sent_unless_the_client_says_goodbye(manner: str) -> None:
    async def scenario() -> None:
        async with web() as broker, connected(broker.address, "watch") as watch:
            await watch.subscribe("#")
            async with connected_websocket(broker, "c", will=Will("will")) as client:
                if manner == "vanishes":
                    await client.stream.vanish()
                elif manner == "closes the socket":
                    await client.socket.close()
                else:
                    await client.send(publish("last"), Disconnect())
                    await client.stream.vanish()
                await until(lambda: "c" not in broker._registry.sessions)
                await asyncio.sleep(0)  # a will is sent in the turn after that
            broker.publish("after", b"")
            topics = [(await watch.expect(Publish)).topic for _ in range(2)]
            assert topics == (["last", "after"] if manner == "disconnects" else ["will", "after"])

    asyncio.run(scenario())


@pytest.mark.parametrize("goodbye", [b"", frame_head(2, opcode=8) + b"\x03\xe8"], ids=["vanishes", "closes"])
def test_all_that_came_before_the_end_of_a_connection_is_handled(goodbye: bytes) -> None:
    count = 5_000
    stream = b"".join(encode(publish("t", b"%d" % number), V5) for number in range(count)) + encode(Disconnect(), V5)
    connect = encode(Connect("c", V5, will=Will("will")), V5)

    async def scenario() -> None:
        async with web() as broker, connected(broker.address, "watch") as watch, upgraded(broker) as (reader, writer):
            await watch.subscribe("#")
            writer.write(frame_head(len(connect)) + connect)
            assert await reader.read(100)
            writer.write(frame_head(len(stream)) + stream + goodbye)
            writer.close()
            await has_all_and_no_will(broker, watch, count)

    asyncio.run(scenario())


def test_nothing_is_handed_to_a_connection_that_goes_on_and_stops_again_in_one_turn() -> None:
    class Stopping(asyncio.BufferedProtocol):
        """Takes one piece in three turns, and stops for each of them."""

        handled = turns = 0

        def get_buffer(self, sizehint: int) -> memoryview:
            assert transport.is_reading()
            return memoryview(bytearray(10))

        def buffer_updated(self, nbytes: int) -> None:
            self.handled += nbytes
            self.turns = 0
            self.stop()

        def stop(self) -> None:
            transport.pause_reading()
            asyncio.get_running_loop().call_soon(self.go_on)

        def go_on(self) -> None:
            transport.resume_reading()
            self.turns += 1
            if self.turns < 3:
                self.stop()

    connection = Stopping()
    transport = WebSocketTransport(asyncio.Transport(), connection, lambda: None, 0)

    async def scenario() -> None:
        await transport.feed(bytes(35))
        assert (connection.handled, connection.turns) == (35, 3)

    asyncio.run(scenario())


@pytest.mark.parametrize("message", [b"", b"\xc0\0", 255 * b"\xc0\0"], ids=["empty", "one packet", "many packets"])
def test_messages_that_are_there_at_once_leave_others_their_turn(message: bytes) -> None:
    class Reading(asyncio.BufferedProtocol):
        def get_buffer(self, sizehint: int) -> memoryview:
            return memoryview(bytearray(sizehint))

    transport = WebSocketTransport(asyncio.Transport(), Reading(), lambda: None, 0)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def scenario() -> None:
        other = asyncio.create_task(others())
        count = 10 * TURN_BYTES // (len(message) + len(frame_head(0)))
        for _ in range(count):
            await transport.feed(message)
        other.cancel()
        assert 8 <= turns <= 10

    asyncio.run(scenario())


def test_tls_carries_websocket_and_shows_the_clients_certificate(lab: Lab) -> None:
    async def scenario() -> None:
        async with Broker(lab.tls(websocket_port=0, policy="devices")) as broker:
            assert broker.urls["websocket"].startswith("wss://127.0.0.1:")
            async with connected_websocket(broker, "agent0", context=lab.context("agent0")) as client:
                await client.send(
                    Subscribe(1, (Request("sc/1/run/agent0/down", 1), Request("sc/1/run/agent1/down", 1)))
                )
                assert (await client.expect(Suback)).reasons == (1, Reason.NOT_AUTHORIZED)
            async with open_websocket(broker, context=lab.context("agent0")) as client:
                await client.send(Connect("agent1", V5))
                assert reasons(await client.ended()) == [Reason.CLIENT_ID_NOT_VALID]
            with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                async with open_websocket(broker, context=lab.context()):
                    pass

    asyncio.run(scenario())
