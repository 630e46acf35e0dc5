"""The transport: payloads through envelope, reassembly and messages, alone and as the ends of a channel take them."""

from __future__ import annotations

import asyncio
import zlib

from broker.channel import ChannelConfig, Malformed
from broker.endpoint import Endpoint
from broker.errors import WireError
from broker.inbox import Item
from broker.messages import MESSAGES, ActivationUp, GradientDown, Message, decode, encode
from broker.outgoing import Chunk
from broker.reassembler import Reassembler
from broker.room import Room
from broker.topics import SERVER, Topic
from broker.wire import HEADER, Buffer, parse
from tests.fuzz.pieces import MENDED, cut

MAX_MESSAGE_BYTES, MAX_BYTES, ROOM_BYTES = 4096, 8192, 6000
BOOT = 7  # of the ends, by which the seeds name them
_CRC = slice(HEADER.size - 4, HEADER.size)
_LOOP = asyncio.new_event_loop()
_CONFIG = ChannelConfig(chunk_bytes=256, window=2, inbox=1 << 16, max_message_bytes=1 << 16)

Chunks = dict[tuple[int, int], dict[int, bytes]]


class End(Endpoint):
    """Hands what it sends to nobody, who acknowledges it at once."""

    failure: Exception | None = None  # what `_feed` hides, because one payload must not end a connection
    acknowledged = 0

    def _publish(self, chunk: Chunk) -> asyncio.Future[None]:
        done = _LOOP.create_future()
        done.set_result(None)
        return done

    async def _open(self) -> None:
        self.boot = BOOT

    async def _close(self, clean: bool) -> None:
        pass

    def _handle(self, sender: str, topic: Topic, payload: Buffer) -> Item | None:
        try:
            return super()._handle(sender, topic, payload)
        except WireError:
            raise
        except Exception as error:
            self.failure = error
            raise

    def acknowledge(self) -> None:
        """Counts what it was asked to acknowledge."""
        self.acknowledged += 1


def run(data: bytes) -> set[str]:
    """Each piece is one payload of the same sender; a mended one gets the checksum that it should have."""
    payloads = [mended(piece) if mode == MENDED else piece for mode, piece in cut(data)]
    return _alone(payloads) | _LOOP.run_until_complete(_between_ends(payloads))


def _alone(payloads: list[bytes]) -> set[str]:
    reassembler = Reassembler(MAX_MESSAGE_BYTES, MAX_BYTES, max_messages=4, remembered=4, room=Room(ROOM_BYTES))
    chunks: Chunks = {}
    outcomes = set()
    for payload in payloads:
        try:
            outcomes.add(_take(reassembler, chunks, payload))
        except WireError as error:
            assert str(error).isprintable(), f"{str(error)!r} is no line"
            outcomes.add(f"{type(error).__name__}: {error}")
        assert 0 <= reassembler.bytes_in_progress <= ROOM_BYTES
        for message_id, *ends in reassembler.partial(MESSAGES):
            assert ends == sorted(ends), f"message {message_id} has chunks {ends}"
    return outcomes


def _take(reassembler: Reassembler, chunks: Chunks, payload: bytes) -> str:
    """Hand one payload over; a body that becomes complete has to be what its chunks are, in their order."""
    envelope = parse(payload)
    placed = reassembler.add(envelope)
    if placed.received == 0:
        return "dropped"
    came = chunks.setdefault((envelope.boot, envelope.message_id), {})
    if placed.received == 1:
        came.clear()
    came[envelope.index] = bytes(envelope.chunk)
    if placed.body is None:
        return f"placed {envelope.count}"
    body = bytes(placed.body)
    assert body == b"".join(came[index] for index in sorted(came)), f"{body!r} of the chunks {came}"
    assert len(body) == envelope.total <= MAX_MESSAGE_BYTES
    message = decode(envelope.message_type, body)
    again = encode(message)
    assert encode(decode(message.code, again)) == again, f"{message} does not survive encoding"
    return type(message).__name__


async def _between_ends(payloads: list[bytes]) -> set[str]:
    """Both ends of a channel take each payload, on the topic of its message, while they send messages of their own."""
    outcomes: set[str] = set()
    up, down = ActivationUp(1, 0, bytes(2000), b"", -1, []), GradientDown(1, bytes(2000), 0.0)
    for name, own in (("a", up), (SERVER, down)):
        peer = SERVER if name == "a" else "a"
        sends = []
        try:
            async with End("run", name, _CONFIG) as end:
                sends = [asyncio.ensure_future(end.send(peer, own)) for _ in range(3)]
                await asyncio.sleep(0)
                for count, payload in enumerate(payloads, 1):
                    end._feed(_topic(name, payload), payload, end.acknowledge)
                    if end.failure is not None:
                        raise end.failure
                    assert end.acknowledged == count
                await asyncio.sleep(0)
                outcomes |= {f"{name}: {_said(item)}" for _, item in end._inbox._items}
        finally:
            await asyncio.gather(*sends, return_exceptions=True)
    return outcomes


def _topic(name: str, payload: bytes) -> str:
    kind = MESSAGES.get(payload[3]) if len(payload) > 3 else None
    channel = kind.channel if kind is not None else "state"
    return str(Topic("run", SERVER if name == "a" and channel == "state" else "a", channel))


def _said(item: Message | Malformed) -> str:
    if isinstance(item, Malformed):
        assert item.reason.isprintable(), f"{item.reason!r} is no line"
        return item.reason
    return type(item).__name__


def mended(payload: bytes) -> bytes:
    """The payload with the right checksum in its header, if it is long enough to have one."""
    if len(payload) < HEADER.size:
        return payload
    blank = bytearray(payload)
    blank[_CRC] = bytes(4)
    blank[_CRC] = zlib.crc32(blank).to_bytes(4, "big")
    return bytes(blank)
