"""A broker with several listeners, and connections over a transport that cannot close one direction alone."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack

import pytest

from broker.broker_config import BrokerConfig
from broker.errors import ConnectError
from broker.listener import MakeConnection, TcpListener
from broker.packets import Disconnect, Publish
from broker.reasons import Reason
from broker.server import Broker
from tests.broker.raw import connected, publish
from tests.broker.serving import reasons


class NoHalfClose(TcpListener):
    """A listener of TCP whose transports close as those of TLS and WebSocket do, both directions at once."""

    async def open(self, make_connection: MakeConnection) -> tuple[str, int]:
        def make() -> asyncio.BufferedProtocol:
            connection = make_connection()
            made = connection.connection_made

            def connection_made(transport: asyncio.BaseTransport) -> None:
                transport.can_write_eof = lambda: False  # type: ignore[attr-defined]
                made(transport)

            connection.connection_made = connection_made  # type: ignore[method-assign]
            return connection

        return await super().open(make)


def tcp(port: int = 0) -> TcpListener:
    return TcpListener("127.0.0.1", port)


def test_tcp_finds_out_that_a_silent_peer_is_gone() -> None:
    """A client that wants no keepalive is missed by nobody else."""

    async def scenario() -> None:
        async with Broker(BrokerConfig(port=0)) as broker, connected(broker.address, "c", keepalive=0):
            [connection] = broker._connections
            accepted = connection._transport.get_extra_info("socket")
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
            options = [getattr(socket, name) for name in names if hasattr(socket, name)]
            found = [accepted.getsockopt(socket.IPPROTO_TCP, option) for option in options]
            assert found == [60, 15, 4][: len(options)]

    asyncio.run(scenario())


def test_clients_of_all_listeners_meet_in_one_broker() -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            async with Broker(BrokerConfig(), listeners=[tcp(), tcp()]) as broker:
                one, two = broker.addresses
                assert broker.address == one != two
                first = await stack.enter_async_context(connected(one, "a"))
                second = await stack.enter_async_context(connected(two, "b"))
                await first.subscribe("t")
                await second.send(publish("t", b"across"))
                assert (await first.expect(Publish)).payload == b"across"
                endings = asyncio.gather(first.ended(), second.ended())
                # The clients answer the end of the stream only after they have been told, so read on meanwhile.
                await asyncio.sleep(0)
            assert [reasons(packets) for packets in await endings] == [[Reason.SERVER_SHUTTING_DOWN]] * 2
        for address in (one, two):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*address)

    asyncio.run(scenario())


def test_a_listener_that_cannot_be_opened_closes_those_before_it() -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            broker = Broker(BrokerConfig(), listeners=[tcp(), tcp(taken.getsockname()[1])])
            with pytest.raises(ConnectError, match="Address already in use"):
                await broker.__aenter__()
            (first,) = broker.addresses
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*first)

    asyncio.run(scenario())


def test_the_last_packet_arrives_over_a_transport_that_cannot_close_one_direction() -> None:
    async def scenario() -> None:
        async with Broker(BrokerConfig(), listeners=[NoHalfClose("127.0.0.1", 0)]) as broker:
            async with connected(broker.address, "c") as client:
                await client.send_bytes(b"\x00\x00")
                assert reasons(await client.ended()) == [Reason.MALFORMED_PACKET]
            async with connected(broker.address, "c") as client:
                await client.subscribe("t")
                await client.send(publish("t", bytes(300_000)))
                assert len((await client.expect(Publish)).payload) == 300_000
                await client.send(Disconnect())
                assert await client.ended() == []
                assert broker.snapshot()["sessions"] == 0

    asyncio.run(scenario())
