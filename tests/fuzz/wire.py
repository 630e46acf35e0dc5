"""The transport: payloads through envelope, reassembly and messages, as an end of a channel takes them."""

from __future__ import annotations

import zlib

from broker.errors import WireError
from broker.messages import MESSAGES, decode, encode
from broker.reassembler import Reassembler
from broker.wire import HEADER, parse
from tests.fuzz.pieces import MENDED, cut

MAX_MESSAGE_BYTES, MAX_BYTES = 4096, 8192
_CRC = slice(HEADER.size - 4, HEADER.size)

Chunks = dict[tuple[int, int], dict[int, bytes]]


def run(data: bytes) -> set[str]:
    """Each piece is one payload of the same sender; a mended one gets the checksum that it should have."""
    reassembler = Reassembler(MAX_MESSAGE_BYTES, MAX_BYTES, max_messages=4, remembered=4)
    chunks: Chunks = {}
    outcomes = set()
    for mode, piece in cut(data):
        try:
            outcomes.add(_take(reassembler, chunks, mended(piece) if mode == MENDED else piece))
        except WireError as error:
            assert str(error).isprintable(), f"{str(error)!r} is no line"
            outcomes.add(f"{type(error).__name__}: {error}")
        assert 0 <= reassembler.bytes_in_progress <= MAX_BYTES
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


def mended(payload: bytes) -> bytes:
    """The payload with the right checksum in its header, if it is long enough to have one."""
    if len(payload) < HEADER.size:
        return payload
    blank = bytearray(payload)
    blank[_CRC] = bytes(4)
    blank[_CRC] = zlib.crc32(blank).to_bytes(4, "big")
    return bytes(blank)
