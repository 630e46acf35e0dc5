"""A client of a few lines on the broker's own codec: it does exactly what a test says, and nothing by itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from broker.framer import Framer
from broker.packet_decoder import decode
from broker.packet_encoder import encode
from broker.packets import V5, Connack, Connect, Packet, Publish, Request, Suback, Subscribe
from broker.properties import Properties

PATIENCE_S = 10.0

P = TypeVar("P")


class RawClient:
    """One TCP connection; `receive` waits at most PATIENCE_S and returns None at the end of the stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, version: int) -> None:
        self.reader, self.writer, self.version = reader, writer, version
        self.bytes_in = self.bytes_out = 0
        self._scratch = memoryview(bytearray(1 << 16))
        self._framer = Framer(self._scratch, 1 << 28)
        self._packets: deque[Packet] = deque()

    async def send(self, *packets: Packet) -> None:
        await self.send_bytes(b"".join(encode(packet, self.version) for packet in packets))

    async def send_bytes(self, data: bytes) -> None:
        self.bytes_out += len(data)
        self.writer.write(data)
        async with asyncio.timeout(PATIENCE_S):
            await self.writer.drain()

    async def receive(self) -> Packet | None:
        async with asyncio.timeout(PATIENCE_S):
            while not self._packets:
                room = self._framer.buffer()
                data = await self.reader.read(len(room))
                if not data:
                    return None
                self.bytes_in += len(data)
                room[: len(data)] = data
                for first, body in self._framer.received(len(data)):
                    self._packets.append(decode(first, body, self.version))
        return self._packets.popleft()

    async def expect(self, kind: type[P]) -> P:
        packet = await self.receive()
        assert isinstance(packet, kind), f"{packet} instead of {kind.__name__}"
        return packet

    async def subscribe(self, topic_filter: str, qos: int = 0, **options: Any) -> Suback:
        await self.send(Subscribe(1, (Request(topic_filter, qos, **options),)))
        return await self.expect(Suback)

    async def ended(self) -> list[Packet]:
        """The packets that came until the broker closed the connection."""
        packets: list[Packet] = []
        while True:
            try:
                packet = await self.receive()
            except ConnectionResetError:
                return packets
            if packet is None:
                return packets
            packets.append(packet)

    def abort(self) -> None:
        """Vanish without a DISCONNECT."""
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def open_client(address: tuple[str, int], version: int = V5, limit: int = 1 << 16) -> AsyncIterator[RawClient]:
    """A connection that has not sent anything yet; `limit` bytes are read ahead."""
    reader, writer = await asyncio.open_connection(*address, limit=limit)
    client = RawClient(reader, writer, version)
    try:
        yield client
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def connected(
    address: tuple[str, int],
    client_id: str,
    version: int = V5,
    properties: Properties | None = None,
    **fields: Any,
) -> AsyncIterator[RawClient]:
    """A connection whose CONNECT was accepted."""
    async with open_client(address, version) as client:
        await client.send(Connect(client_id, version, properties=properties or {}, **fields))
        connack = await client.expect(Connack)
        assert connack.reason == 0
        client.connack = connack  # type: ignore[attr-defined]
        yield client


def publish(topic: str, payload: bytes = b"", **fields: Any) -> Publish:
    """A PUBLISH with packet id 1 where the QoS asks for one."""
    if fields.get("qos"):
        fields.setdefault("packet_id", 1)
    return Publish(topic, payload, **fields)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until the condition holds; there is no event for it."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)
