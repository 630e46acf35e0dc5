"""Laws of everything that reads bytes from a network: whatever comes, only its own errors, and bounded memory."""

from __future__ import annotations

import time
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker import framer
from broker.errors import ProtocolError
from broker.fields import varint
from broker.framer import BELIEVED_BYTES, SCRATCH_BYTES, Framer
from broker.packet_decoder import MAX_BODY_BYTES, decode
from broker.packet_encoder import encode
from broker.packets import V5, V311, VERSIONS, Publish
from broker.properties import MAX_BYTES, Property
from broker.reasons import Reason
from broker.reassembler import Reassembler
from broker.wire import parse, split
from tests.broker.siege import MIB, memory_below
from tests.broker.test_packets import PACKETS
from tests.fuzz import frame, packet, wire
from tests.fuzz.pieces import AS_IT_IS, MENDED, joined
from tests.fuzz.seeds import SEEDS

STEP = 1 << 18
MODES = st.sampled_from([AS_IT_IS, MENDED])
WIRE, FRAME = list(SEEDS["wire"]()), list(SEEDS["frame"]())


@st.composite
def damage(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with up to three of them changed, left out or put in."""
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=2)) + data[at + draw(st.integers(0, 2)) :]
    return data


@pytest.mark.parametrize("version", VERSIONS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_stream_comes_to_the_same_however_it_is_cut_held_and_damaged(version: int, data: st.DataObject) -> None:
    sent = data.draw(st.lists(PACKETS[version], min_size=1, max_size=4))
    stream = data.draw(damage(b"".join(encode(one, version) for one in sent)))
    sizes = data.draw(st.lists(st.integers(1, 30), max_size=20))
    scratch = memoryview(bytearray(data.draw(st.integers(16, 80))))
    believed, fast = data.draw(st.integers(80, 120)), data.draw(st.integers(1, 40))
    with mock.patch.multiple(framer, BELIEVED_BYTES=believed, FAST_BYTES=fast):
        cut = packet.received(stream, [*sizes, len(stream)], version, data.draw(st.booleans()), scratch)
    assert cut == packet.received(stream, [len(stream)], version)


@pytest.mark.parametrize("claimed", [BELIEVED_BYTES, 8 * BELIEVED_BYTES + 1, 80 * MIB])
def test_a_packet_takes_memory_as_it_comes_and_not_as_it_claims(claimed: int) -> None:
    payload = bytes(range(256)) * (claimed // 256 + 1)
    payload = payload[:claimed]
    head = b"\x30" + varint(claimed + 3) + b"\0\1a"
    with memory_below(BELIEVED_BYTES + MIB):
        target = Framer(memoryview(bytearray(SCRATCH_BYTES)), 1 << 28)
        assert feed(target, head + payload[:STEP]) == []
    with memory_below(2 * claimed + MIB):
        for start in range(STEP, claimed, STEP):
            bodies = feed(target, payload[start : start + STEP])
    message = decode(0x30, bodies[0], V311)
    assert isinstance(message, Publish)
    assert message.payload == payload


def feed(target: Framer, data: bytes) -> list[memoryview]:
    """Put the bytes through the framer; the bodies that this completes."""
    bodies = []
    while data:
        room = target.buffer()
        size = min(len(room), len(data))
        room[:size] = data[:size]
        bodies += [body for _, body in target.received(size)]
        data = data[size:]
    return bodies


def test_many_properties_take_time_in_proportion() -> None:
    def seconds(pairs: int) -> float:
        block = (b"\x26" + bytes(4)) * pairs
        body = memoryview(b"\0\1a" + varint(len(block)) + block)
        times = []
        for _ in range(3):
            before = time.process_time()
            message = decode(0x30, body, V5)
            times.append(time.process_time() - before)
            assert len(message.properties[Property.USER_PROPERTY]) == pairs  # type: ignore[union-attr]
        return min(times)

    assert seconds(80_000) < 50 * seconds(8_000)


@pytest.mark.parametrize(
    ("first", "body"),
    [
        (0x30, b"\0\1a" + varint(MAX_BYTES + 1) + b"\x26" * (MAX_BYTES + 1)),
        (0x82, b"\0\1\0" + b"\0\1a\0" * (MAX_BODY_BYTES // 4)),
        (0xA2, b"\0\1\0" + b"\0\1a" * (MAX_BODY_BYTES // 3)),
        (0x90, b"\0\1\0" + bytes(MAX_BODY_BYTES)),
    ],
)
def test_packets_that_would_take_many_times_their_bytes_are_refused(first: int, body: bytes) -> None:
    with memory_below(MIB // 16), pytest.raises(ProtocolError) as caught:
        decode(first, memoryview(body), V5)
    assert caught.value.reason_code == Reason.PACKET_TOO_LARGE


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(MODES, st.binary(max_size=60)), max_size=5), st.binary(max_size=40))
def test_any_payloads_of_a_peer_raise_nothing_but_wire_errors(pieces: list[tuple[int, bytes]], junk: bytes) -> None:
    wire.run(joined(pieces) + junk)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_payloads_of_a_peer_raise_nothing_but_wire_errors(data: st.DataObject) -> None:
    wire.run(data.draw(damage(data.draw(st.sampled_from(WIRE)))))


def test_a_peer_takes_no_more_memory_than_its_messages_may_have() -> None:
    target = Reassembler(max_message_bytes=MIB, max_bytes=2 * MIB)
    headers = [header for header, _ in split(5, 1, 1, bytes(MIB), MIB // 3 + 1)]
    with memory_below(MIB):
        for number in range(1, 2000):
            header = headers[1][:14] + number.to_bytes(4, "big") + headers[1][18:]
            target.add(parse(wire.mended(header + bytes(16_384))))
            assert target.bytes_in_progress <= 2 * MIB
    assert target.abandoned == 1997


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_packets_of_the_method_raise_nothing_but_codec_errors(data: st.DataObject) -> None:
    frame.run(data.draw(damage(data.draw(st.sampled_from(FRAME)))))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=1), st.lists(st.tuples(MODES, st.binary(max_size=60)), max_size=3))
def test_any_packets_of_the_method_raise_nothing_but_codec_errors(
    choice: bytes, pieces: list[tuple[int, bytes]]
) -> None:
    frame.run(choice + joined(pieces))
