"""A broker that does just what a test tells it, one connection at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from broker.login import Login
from broker.mqtt_connection import MqttConnection
from broker.packet_decoder import decode
from broker.packet_encoder import encode
from broker.packets import V5, Connack, Connect, Packet
from broker.properties import Properties

WILL = ("will", b"gone")


class FakeBroker:
    """The other end of a client's connection; `packet` reads, `say` writes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, version: int) -> None:
        self.reader, self.writer, self.version = reader, writer, version

    async def packet(self) -> Packet:
        """The next packet of the client; asyncio.IncompleteReadError at the end."""
        first = (await self.reader.readexactly(1))[0]
        length = shift = 0
        while True:
            byte = (await self.reader.readexactly(1))[0]
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        return decode(first, memoryview(await self.reader.readexactly(length)), self.version)

    async def next(self, kind: type[Any]) -> Any:
        """The next packet, which has to be of this kind."""
        packet = await self.packet()
        assert isinstance(packet, kind), packet
        return packet

    async def say(self, *packets: Packet) -> None:
        """Send packets to the client."""
        for packet in packets:
            self.writer.write(encode(packet, self.version))
        await self.writer.drain()


@asynccontextmanager
async def listening(version: int = V5) -> AsyncIterator[tuple[int, asyncio.Queue[FakeBroker]]]:
    """(port, connections that were made)."""
    made: asyncio.Queue[FakeBroker] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.put_nowait(FakeBroker(reader, writer, version))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=1 << 20)
    try:
        yield server.sockets[0].getsockname()[1], made
    finally:
        server.close()
        while not made.empty():
            made.get_nowait().writer.close()


def login(port: int, keepalive_s: int = 60, **more: Any) -> Login:
    return Login("127.0.0.1", port, "me", keepalive_s, 20.0, **more)


@asynccontextmanager
async def connected(
    version: int = V5, told: Properties | None = None, keepalive_s: int = 60
) -> AsyncIterator[tuple[MqttConnection, FakeBroker, list[Any]]]:
    """A connection, the broker behind it, and (topic, payload, acknowledge) of what it was given."""
    heard: list[Any] = []
    async with asyncio.timeout(30), listening(version) as (port, made):
        protocol = "5" if version == V5 else "3.1.1"
        client = MqttConnection(login(port, keepalive_s), protocol, WILL, lambda *message: heard.append(message))
        opening = asyncio.create_task(client.open())
        broker = await made.get()
        await broker.next(Connect)
        await broker.say(Connack(properties=told or {}))
        await opening
        try:
            yield client, broker, heard
        finally:
            broker.writer.close()
            client.abort()
            await client.closed
