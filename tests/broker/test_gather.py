"""Gathered writes: whatever a socket takes at once, its peer gets all bytes in order."""

from __future__ import annotations

import asyncio
import socket

import pytest

from broker.gather import Gatherer

PIECES = (b"head", memoryview(bytes(range(256)) * 4096), b"", b"next", bytes(300_000))


class Writer(asyncio.Protocol):
    """The end that writes; `drained` is set whenever the transport has passed everything on."""

    def __init__(self) -> None:
        self.drained = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=0)

    def pause_writing(self) -> None:
        self.drained.clear()

    def resume_writing(self) -> None:
        self.drained.set()


async def pair() -> tuple[asyncio.Transport, Writer, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    transport, writer = await asyncio.get_running_loop().create_connection(Writer, sock=ours)
    return transport, writer, theirs


async def received(end: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        data += await asyncio.get_running_loop().sock_recv(end, 1 << 16)
    return bytes(data)


@pytest.mark.parametrize("repeats", [1, 3])
def test_a_peer_gets_all_buffers_in_order_however_little_its_socket_takes(repeats: int) -> None:
    async def scenario() -> None:
        transport, _, theirs = await pair()
        gatherer = Gatherer(transport)
        whole = b"".join(PIECES) * repeats
        for _ in range(repeats):
            gatherer.write(PIECES)
        assert transport.get_write_buffer_size(), "the socket was to take only a part"
        assert await received(theirs, len(whole)) == whole
        transport.close()
        theirs.close()

    asyncio.run(scenario())


def test_buffers_are_neither_joined_nor_kept_where_the_socket_takes_them() -> None:
    async def scenario() -> None:
        transport, _, theirs = await pair()
        gatherer = Gatherer(transport)
        transport.write = None  # type: ignore[assignment, method-assign]
        gatherer.write((b"a", b"b"))
        assert await received(theirs, 2) == b"ab"
        transport.abort()
        theirs.close()

    asyncio.run(scenario())


def test_a_broken_connection_is_found_by_the_transport() -> None:
    async def scenario() -> None:
        transport, _, theirs = await pair()
        theirs.close()
        Gatherer(transport).write((b"a", b"b"))
        assert transport.is_closing()

    asyncio.run(scenario())


def test_a_transport_without_a_socket_of_its_own_gets_one_piece() -> None:
    async def scenario() -> None:
        written: list[bytes] = []

        class Framing(asyncio.Transport):
            def get_extra_info(self, name: str, default: object = None) -> object:
                return default

            def write(self, data: bytes | bytearray | memoryview) -> None:
                written.append(bytes(data))

        Gatherer(Framing()).write((b"a", memoryview(b"b")))
        assert written == [b"ab"]

    asyncio.run(scenario())
