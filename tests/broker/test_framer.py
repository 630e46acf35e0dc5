"""The framer's hold: packets that have arrived are kept while nobody may handle them yet."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.framer import Framer
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
