"""The outbox: what is written first, what is written together, what is bounded."""

from __future__ import annotations

import asyncio

from broker.counters import ConnectionCount
from broker.outbox import ANSWER_BYTES, SLICE_BYTES, Outbox


class FullTransport(asyncio.Transport):
    """A transport whose peer takes `room` bytes and then no more."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.written = bytearray()
        self.outbox: Outbox

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data
        self.outbox.paused = len(self.written) > self.room


def outbox(room: int) -> tuple[Outbox, FullTransport]:
    transport = FullTransport(room)
    transport.outbox = Outbox(transport, ConnectionCount())
    return transport.outbox, transport


def test_answers_wait_for_the_end_of_a_large_payload_and_then_come_first() -> None:
    box, transport = outbox(room=SLICE_BYTES - 1)
    payload = bytes(SLICE_BYTES * 2 + 5)
    messages: list[tuple[bytes, bytes | memoryview]] = [(b"head", memoryview(payload)), (b"next", b"")]
    assert not box.pump(lambda: messages.pop(0) if messages else None)
    assert box.answer(b"pong")
    transport.room, box.paused = 1 << 30, False
    assert box.pump(lambda: messages.pop(0) if messages else None)
    assert bytes(transport.written) == b"head" + payload + b"pong" + b"next"
    assert box.count.bytes_out == len(transport.written)
    assert box.count.packets_out == 3


def test_small_packets_are_written_together() -> None:
    box, transport = outbox(room=1 << 30)
    writes: list[int] = []
    transport.write = lambda data: writes.append(len(data))  # type: ignore[method-assign]
    messages: list[tuple[bytes, bytes]] = [(b"h", bytes(100))] * 10
    box.answer(b"ack")
    assert box.pump(lambda: messages.pop() if messages else None)
    assert writes == [3 + 10 * 101]


def test_no_more_than_a_slice_is_written_at_once_and_no_rest_is_left_for_later() -> None:
    box, transport = outbox(room=1 << 30)
    writes: list[int] = []
    transport.write = lambda data: writes.append(len(data))  # type: ignore[method-assign]
    messages = [(b"head", bytes(SLICE_BYTES - 4)), (b"head", bytes(SLICE_BYTES)), (b"next", bytes(10))]
    assert box.pump(lambda: messages.pop(0) if messages else None)
    assert writes == [SLICE_BYTES, SLICE_BYTES, 4 + 4 + 10]
    assert box.empty
    assert box.passed_on == sum(writes)


def test_answers_that_nobody_reads_are_bounded() -> None:
    box, _ = outbox(room=0)
    box.paused = True
    assert box.answer(bytes(ANSWER_BYTES))
    assert not box.answer(b"x")
