"""Listening, counting, and closing."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from contextlib import AsyncExitStack

import pytest

from broker.errors import ConnectError
from broker.packet_encoder import encode
from broker.packets import (
    V5,
    V311,
    Disconnect,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Will,
)
from broker.reasons import Reason
from broker.server import Broker, BrokerConfig
from tests.broker.raw import connected, open_client, publish
from tests.broker.serving import serving


def test_a_port_in_use_is_named_with_the_reason() -> None:
    async def scenario() -> None:
        async with serving() as broker:
            host, port = broker.address
            with pytest.raises(ConnectError, match=f"{host}:{port}: Address already in use"):
                async with Broker(BrokerConfig(port=port)):
                    pass

    asyncio.run(scenario())


def test_an_address_of_another_machine_is_named_with_the_reason() -> None:
    async def scenario() -> None:
        with pytest.raises(ConnectError, match=r"192\.0\.2\.1:0: Cannot assign"):
            async with Broker(BrokerConfig(host="192.0.2.1", port=0, insecure=True)):
                pass

    asyncio.run(scenario())


def test_what_is_no_name_of_a_host_is_named() -> None:
    async def scenario() -> None:
        with pytest.raises(ConnectError, match=r"cannot listen on '\.\.', which is no name of a host"):
            async with Broker(BrokerConfig(host="..", port=0, insecure=True)):
                pass

    asyncio.run(scenario())


def test_counters_are_the_bytes_of_the_tcp_connections_and_survive_them() -> None:
    async def scenario() -> None:
        async with serving() as broker:
            sent = received = 0
            for number in range(2):
                async with connected(broker.address, "c") as both:
                    await both.subscribe("t", 1)
                    await both.send(publish("t", bytes(200_000), qos=1))
                    packets = [await both.receive() for _ in range(2)]
                    (message,) = [packet for packet in packets if isinstance(packet, Publish)]
                    await both.send(Puback(message.packet_id), Disconnect())
                    assert await both.ended() == []
                    sent += both.bytes_out
                    received += both.bytes_in
                count = broker.counters["c"]
                assert (count.bytes_in, count.bytes_out, count.connections) == (sent, received, number + 1)
                assert (count.packets_in, count.packets_out) == (5 * (number + 1), 4 * (number + 1))
            snapshot = broker.snapshot()
            assert json.loads(json.dumps(snapshot)) == snapshot
            assert snapshot["traffic"]["bytes_in"] == snapshot["clients"]["c"]["bytes_in"] == sent

    asyncio.run(scenario())


def test_bytes_of_a_client_without_a_name_are_counted_too() -> None:
    async def scenario() -> None:
        async with serving() as broker, open_client(broker.address) as nameless:
            await nameless.send_bytes(b"\x00" * 10)
            await nameless.ended()
        assert broker.snapshot()["open_connections"] == 0
        assert broker.snapshot()["traffic"]["bytes_in"] == 10
        assert broker.counters == {}

    asyncio.run(scenario())


def test_clients_are_told_when_the_broker_closes_and_hear_no_wills() -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            async with serving() as broker:
                new = await stack.enter_async_context(connected(broker.address, "new", will=Will("w")))
                old = await stack.enter_async_context(connected(broker.address, "old", V311))
                await old.subscribe("w")
                endings = asyncio.gather(new.ended(), old.ended())
                # The clients answer the end of the stream only after they have been told, so read on meanwhile.
                await asyncio.sleep(0)
            assert await endings == [[Disconnect(Reason.SERVER_SHUTTING_DOWN)], []]

    asyncio.run(scenario())


def test_half_a_packet_is_let_go_with_its_connection_and_not_when_garbage_is_collected() -> None:
    async def scenario() -> None:
        async with serving() as broker, connected(broker.address, "c") as broken:
            (connection,) = broker._connections
            await broken.send_bytes(encode(Pingreq(), V5) + encode(publish("t", bytes(500_000)), V5)[:300_000])
            await broken.expect(Pingresp)
            assert connection._framer._body is not None
            body = weakref.ref(connection._framer._body)
            gc.disable()
            try:
                broken.abort()
                await broker._connections.all_closed()
                assert body() is None
            finally:
                gc.enable()

    asyncio.run(scenario())
