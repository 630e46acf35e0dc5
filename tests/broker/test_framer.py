"""The framer: packets that are held back, and large ones that are received where they stay.

That any bytes cut anyhow come to the same is in `test_fuzz_laws.py`.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.buffer_pool import BufferPool
from broker.framer import BELIEVED_BYTES, SCRATCH_BYTES, Framer
from broker.packet_encoder import encode
from broker.packets import V5, Publish

SIZES = st.lists(st.integers(0, 300), min_size=1, max_size=8)


@given(SIZES, st.integers(0, 7), st.data())
def test_packets_held_back_come_afterwards_and_none_is_lost(sizes: list[int], pause: int, data: st.DataObject) -> None:
    scratch = memoryview(bytearray(256))
    framer = Framer(scratch, 1 << 20)
    sent = [encode(Publish("t", bytes([number]) * size), V5) for number, size in enumerate(sizes)]
    stream, at = b"".join(sent), 0
    got: list[bytes] = []
    held = False

    def take(size: int) -> None:
        nonlocal held
        for _, body in framer.received(size):
            assert not held, "a packet was given while the framer was held"
            got.append(bytes(body))
            if len(got) - 1 == pause:
                framer.hold = held = True

    while at < len(stream):
        room = framer.buffer()
        size = min(len(room), len(stream) - at, data.draw(st.integers(1, 256)))
        room[:size] = stream[at : at + size]
        at += size
        take(size)
        if held:
            scratch[:] = bytes(256)  # other connections use it meanwhile
            framer.hold = held = False
            framer.buffer()
            take(0)
    assert got == [packet[-len(body) :] for packet, body in zip(sent, got, strict=True)]


def large(size: int) -> bytes:
    return encode(Publish("t", bytes(size)), V5)


def feed(framer: Framer, data: bytes) -> list[memoryview]:
    """As much of the bytes as there is room for at once; the bodies that this completes."""
    room = framer.buffer()
    assert len(room) >= len(data)
    room[: len(data)] = data
    return [body for _, body in framer.received(len(data))]


def framer_after(packet: bytes) -> tuple[Framer, BufferPool]:
    """A framer that has received this large packet."""
    pool = BufferPool()
    framer = Framer(memoryview(bytearray(SCRATCH_BYTES)), 1 << 28, pool)
    assert [len(body) for body in feed(framer, packet[:1000]) + feed(framer, packet[1000:])] == [len(packet) - 4]
    return framer, pool


def test_after_a_large_packet_one_of_its_size_becomes_a_body_without_a_copy() -> None:
    packet = large(SCRATCH_BYTES)
    framer, pool = framer_after(packet)
    assert len(framer.buffer()) == len(packet)
    (body,) = feed(framer, packet)
    assert isinstance(body.obj, bytearray)
    assert body.obj[: len(packet)] == packet  # with its head, as it was received
    assert bytes(body) == packet[4:]
    assert feed(framer, packet[:2000]) == []
    (second,) = feed(framer, packet[2000:])
    assert second.obj is not body.obj
    assert bytes(second) == packet[4:]
    assert pool.remembered_bytes < 3 * len(packet)


def test_a_framer_at_rest_holds_no_buffer() -> None:
    packet = large(SCRATCH_BYTES)
    framer, pool = framer_after(packet)
    assert len(feed(framer, packet)) == 1
    before = pool.remembered_bytes
    other = Framer(memoryview(bytearray(SCRATCH_BYTES)), 1 << 28, pool)
    feed(other, packet[:1000])
    feed(other, packet[1000:])
    assert pool.remembered_bytes == before


def test_small_packets_that_come_instead_keep_no_large_buffer_alive() -> None:
    framer, _ = framer_after(large(SCRATCH_BYTES))
    bodies = feed(framer, 3 * large(100) + large(SCRATCH_BYTES)[:50_000])
    assert [len(body) for body in bodies] == [104] * 3
    assert all(isinstance(body.obj, bytes) for body in bodies)
    (body,) = feed(framer, large(SCRATCH_BYTES)[50_000:])
    assert bytes(body) == large(SCRATCH_BYTES)[4:]


def test_more_than_a_scratch_buffer_may_be_held_back() -> None:
    packet = large(4 * SCRATCH_BYTES)
    framer, _ = framer_after(packet)
    small, got = large(1000), 0
    count = 3 * SCRATCH_BYTES // len(small)
    stream = count * small
    framer.buffer()[: len(stream)] = stream
    framer.hold = True
    for _ in framer.received(len(stream)):
        got += 1
    assert got == 1
    framer.hold = False
    rest = len(stream) - len(small) * got
    assert len(framer.buffer()) > 0
    assert sum(1 for _ in framer.received(0)) == rest // len(small)


def test_the_next_packet_may_be_longer_than_expected() -> None:
    framer, _ = framer_after(large(SCRATCH_BYTES))
    longer = large(2 * SCRATCH_BYTES)
    at = len(framer.buffer())
    assert feed(framer, longer[:at]) == []
    (body,) = feed(framer, longer[at:])
    assert bytes(body) == longer[4:]


@given(st.lists(st.integers(SCRATCH_BYTES // 2, 3 * BELIEVED_BYTES), min_size=2, max_size=4))
def test_what_has_come_reserves_no_more_than_a_claim_for_what_follows(sizes: list[int]) -> None:
    framer = Framer(memoryview(bytearray(SCRATCH_BYTES)), 1 << 28, BufferPool(1 << 25))
    for size in sizes:
        packet, at = large(size), 0
        got: list[memoryview] = []
        while at < len(packet):
            room = framer.buffer()
            assert at or len(room) <= BELIEVED_BYTES
            taken = min(len(room), len(packet) - at)
            room[:taken] = packet[at : at + taken]
            at += taken
            got += [body for _, body in framer.received(taken)]
        (body,) = got
        assert len(body) > size
        assert packet.endswith(body)
