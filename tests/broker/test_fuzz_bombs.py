"""Attacks by name: payloads that claim to be, or unpack to, far more than they are. The broker carries them unread;
the end that reads them refuses them in little memory, and hears other senders as before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import lz4.block
import msgpack
import numpy as np
import pytest
import zstandard

from broker import messages
from broker.channel import ChannelConfig, Malformed
from broker.client import MqttChannel
from broker.messages import ActivationUp
from broker.wire import HEADER, MAGIC, VERSION, split
from splitcom.checksum import sealed
from splitcom.config import StreamConfig
from splitcom.errors import CodecError
from splitcom.stream import StreamDecoder, StreamEncoder
from tests.broker.raw import RawClient, connected, publish
from tests.broker.serving import serving
from tests.broker.siege import MIB, memory_below
from tests.fuzz.wire import mended

RUN, TOPIC = "run", "sc/1/run/mallory/up"
CHANNELS, MAX_TOKENS, MAX_SAMPLES = 64, 1024, 64
ZEROS = bytes(64 * MIB)

BODIES = {
    "array of 2^32": b"\x97\xdd\xff\xff\xff\xff",
    "map of 2^32": b"\x97\xdf\xff\xff\xff\xff",
    "string of 2^32": b"\x97\xdb\xff\xff\xff\xff",
    "bytes of 2^32": b"\x97\xc6\xff\xff\xff\xff",
    "extension of 2^32": b"\x97\xc9\xff\xff\xff\xff\x01",
    "arrays of 65535 in each other": b"\xdc\xff\xff" * 20_000,
    "100000 arrays in each other": b"\x91" * 100_000,
    "200000 nothings": b"\x97\xdd" + (200_000).to_bytes(4, "big") + b"\xc0" * 200_000,
}


@asynccontextmanager
async def heard() -> AsyncIterator[tuple[MqttChannel, RawClient]]:
    """(the server, mallory) at one broker; afterwards the server still hears an honest agent."""
    async with serving() as broker:
        config = ChannelConfig(timeout_s=20.0)
        async with (
            MqttChannel(RUN, "server", *broker.address, config) as server,
            MqttChannel(RUN, "honest", *broker.address, config) as honest,
            connected(broker.address, "mallory") as mallory,
        ):
            yield server, mallory
            await honest.send("server", ActivationUp(1, 0, b"packet", b"", -1, []))
            assert await next_from(server, "honest") == ActivationUp(1, 0, b"packet", b"", -1, [])


async def next_from(server: MqttChannel, sender: str) -> Any:
    """The next that is no State of this sender."""
    while True:
        name, message = await server.receive()
        if name == sender and not isinstance(message, messages.State):
            return message


async def bomb(mallory: RawClient, body: bytes) -> None:
    """Send a body as if it was an ActivationUp."""
    for header, chunk in split(ActivationUp.code, 1, 1, body, 1 << 16):
        await mallory.send(publish(TOPIC, header + bytes(chunk)))


@pytest.mark.parametrize("name", BODIES)
def test_length_bombs_in_msgpack(name: str) -> None:
    async def scenario() -> None:
        async with heard() as (server, mallory):
            with memory_below(32 * MIB):
                await bomb(mallory, BODIES[name])
                assert isinstance(await next_from(server, "mallory"), Malformed)

    asyncio.run(scenario())


@pytest.mark.parametrize("total", [2**32 - 1, 2**31])
def test_an_envelope_that_claims_a_body_of_gigabytes(total: int) -> None:
    header = HEADER.pack(MAGIC, VERSION, ActivationUp.code, 0, 0, 0, 2**16 - 1, 1, 1, total, 0)

    async def scenario() -> None:
        async with heard() as (server, mallory):
            with memory_below(4 * MIB):
                await mallory.send(publish(TOPIC, mended(header + bytes(1000))))
                refused = await next_from(server, "mallory")
            assert isinstance(refused, Malformed)
            assert str(total) in refused.reason

    asyncio.run(scenario())


def packed(codec: int, stage: int, heads: list[list[int]], bodies: bytes) -> bytes:
    """A packet of an activation stream with any bodies."""
    header = [1, 0, codec, stage, CHANNELS, len(heads)]
    return sealed(b"".join(map(msgpack.packb, [header, *heads, bodies])))


ONE = [[0, 7, 1, 1]]
MOST = [[0, number, 1, MAX_TOKENS] for number in range(MAX_SAMPLES)]
ZSTD = {"lossless": "zstd", "codec": "int8"}
LZ4 = {"lossless": "lz4", "codec": "int8"}

PACKETS = {
    "zstd that states more": (ZSTD, packed(2, 2, ONE, zstandard.ZstdCompressor().compress(ZEROS))),
    "zstd that states nothing": (
        ZSTD,
        packed(2, 2, ONE, zstandard.ZstdCompressor(write_content_size=False).compress(ZEROS)),
    ),
    "zstd that states 2^60": (ZSTD, packed(2, 2, ONE, b"\x28\xb5\x2f\xfd\xe0" + (1 << 60).to_bytes(8, "little"))),
    "zstd cut off": (ZSTD, packed(2, 2, MOST, zstandard.ZstdCompressor().compress(ZEROS)[:100])),
    "lz4 that unpacks to more": (LZ4, packed(2, 1, ONE, lz4.block.compress(ZEROS, store_size=False))),
    "lz4 of few bytes for the most": (LZ4, packed(2, 1, MOST, b"\x1f\x00\x01\x00")),
    "2^32 samples": (LZ4, sealed(b"\x96\x01\x00\x02\x01\x40\xce\xff\xff\xff\xff" + b"\x94\x00" * 1000)),
    "bodies of 2^32": (LZ4, sealed(b"\x96\x01\x00\x02\x01\x40\x01\x94\x00\x07\x01\x01\xc6\xff\xff\xff\xff")),
}


@pytest.mark.parametrize("name", PACKETS)
def test_bombs_in_compressed_frames(name: str) -> None:
    settings, attack = PACKETS[name]
    config = StreamConfig(**settings)  # type: ignore[arg-type]
    tensor = np.zeros((MAX_TOKENS, CHANNELS), np.float32)
    honest = StreamEncoder("activation_up", config, CHANNELS, 0).encode(1, [7], [tensor]).data
    decoder = StreamDecoder("activation_up", config, CHANNELS, 0, MAX_TOKENS, MAX_SAMPLES)

    async def scenario() -> None:
        async with heard() as (server, mallory):
            await bomb(mallory, messages.encode(ActivationUp(1, 0, attack, b"", -1, [])))
            received = await next_from(server, "mallory")
            with memory_below(MIB), pytest.raises(CodecError):
                decoder.decode(0, received.packet)

    asyncio.run(scenario())
    assert np.array_equal(decoder.decode(1, honest).tensors[0], tensor)
