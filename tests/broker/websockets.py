"""Clients of MQTT over WebSocket: the raw client on aiohttp, and a socket on which a test writes its own frames."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any, cast

import aiohttp

from broker.packets import V5, Connack, Connect
from broker.server import Broker
from tests.broker.raw import PATIENCE_S, RawClient
from tests.broker.serving import serving


def web(**values: Any) -> Broker:
    """A broker with WebSocket on a free port."""
    return serving(websocket_port=0, **values)


class WebSocketStream:
    """An aiohttp WebSocket in the roles of a reader and a writer; every write is one message of its own.

    `closed_with` is the close code, None until the other end has closed the WebSocket.
    """

    def __init__(self, session: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._session = session
        self._socket = socket
        self._received = b""
        self._unsent: list[bytes] = []
        self.closed_with: int | None = None

    async def read(self, limit: int) -> bytes:
        if not self._received:
            message = await self._socket.receive()
            if message.type is not aiohttp.WSMsgType.BINARY:
                self.closed_with = self._socket.close_code
                return b""
            self._received = message.data
        taken, self._received = self._received[:limit], self._received[limit:]
        return taken

    def write(self, data: bytes) -> None:
        self._unsent.append(data)

    async def drain(self) -> None:
        for data in self._unsent:
            await self._socket.send_bytes(data)
        self._unsent.clear()

    async def vanish(self) -> None:
        """Close TCP and say nothing."""
        assert self._session.connector is not None
        await self._session.connector.close()

    def close(self) -> None:
        """Closing is for the context that made this."""

    async def wait_closed(self) -> None:
        await self._socket.close()


class WebSocketClient(RawClient):
    """A raw client whose bytes travel in WebSocket's frames."""

    def __init__(self, stream: WebSocketStream, socket: aiohttp.ClientWebSocketResponse, version: int) -> None:
        super().__init__(cast(Any, stream), cast(Any, stream), version)
        self.stream = stream
        self.socket = socket


@contextlib.asynccontextmanager
async def open_websocket(
    broker: Broker, version: int = V5, context: ssl.SSLContext | None = None
) -> AsyncIterator[WebSocketClient]:
    """A WebSocket on which nothing has been sent."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(broker.urls["websocket"], protocols=["mqtt"], max_msg_size=0, ssl=context or True) as socket,
    ):
        assert socket.protocol == "mqtt"
        client = WebSocketClient(WebSocketStream(session, socket), socket, version)
        yield client
        await client.close()


@contextlib.asynccontextmanager
async def connected_websocket(
    broker: Broker, client_id: str, version: int = V5, context: ssl.SSLContext | None = None, **fields: Any
) -> AsyncIterator[WebSocketClient]:
    """A client whose CONNECT was accepted."""
    async with open_websocket(broker, version, context) as client:
        await client.send(Connect(client_id, version, **fields))
        assert (await client.expect(Connack)).reason == 0
        yield client


HANDSHAKE = (
    "GET /mqtt HTTP/1.1\r\nHost: broker\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Protocol: mqtt\r\n\r\n"
)


def frame_head(size: int, opcode: int = 2) -> bytes:
    """What goes before `size` bytes of a client's final frame; the mask is zero, so the payload follows as it is."""
    if size < 126:
        return bytes((0x80 | opcode, 0x80 | size)) + bytes(4)
    return bytes((0x80 | opcode, 0xFF)) + size.to_bytes(8, "big") + bytes(4)


@contextlib.asynccontextmanager
async def upgraded(broker: Broker) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection after WebSocket's handshake, for frames by hand."""
    _, _, place = broker.urls["websocket"].partition("://")
    host, port = place.removesuffix("/mqtt").split(":")
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(HANDSHAKE.encode())
        head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
