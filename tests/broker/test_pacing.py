"""How messages are cut and paced, and what goes out again: the parts without sockets and clocks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import wire
from broker.arrivals import Arrivals
from broker.chunk_size import Cut, choose
from broker.lane import CONFIRM_BYTES, UNCONFIRMED_BYTES, Lane
from broker.messages import ActivationUp
from broker.ping import PATIENCE, Ping
from broker.rate import Rate
from broker.slots import Slots
from broker.transfer import LEAST_BYTES, Transfer

KB = 1 << 10
MBIT = 1e6 / 8
LARGEST = 1 << 24


@pytest.mark.parametrize(
    ("rate", "keepalive_s", "cut"),
    [
        (0, 60, Cut(64 * KB, 4)),  # nothing is known yet
        (9 * MBIT, 60, Cut(64 * KB, 4)),
        (12 * MBIT, 60, Cut(128 * KB, 4)),
        (25 * MBIT, 60, Cut(256 * KB, 4)),
        (1000 * MBIT, 60, Cut(256 * KB, 4)),
        (1 * MBIT, 60, Cut(64 * KB, 4)),
        (1 * MBIT, 6, Cut(64 * KB, 2)),  # 187 kB in a quarter of the keepalive
        (1 * MBIT, 3, Cut(64 * KB, 1)),
        (0.1 * MBIT, 10, Cut(28 * KB, 1)),
        (0.001 * MBIT, 10, Cut(4 * KB, 1)),
    ],
)
def test_a_window_takes_no_longer_than_control_or_the_keepalive_can_wait(
    rate: float, keepalive_s: int, cut: Cut
) -> None:
    assert choose(10**6, rate, 4, keepalive_s, LARGEST) == cut


@given(
    st.integers(0, 2**32 - 1),
    st.floats(0, 1e10),
    st.integers(1, 255),
    st.integers(1, 65535),
    st.integers(1 << 16, LARGEST),
)
def test_every_body_can_be_cut(length: int, rate: float, window: int, keepalive_s: int, largest: int) -> None:
    cut = choose(length, rate, window, keepalive_s, largest)
    assert wire.chunk_count(length, cut.chunk_bytes) <= wire.MAX_CHUNKS
    assert 4 * KB <= cut.chunk_bytes <= max(256 * KB, -(-length // wire.MAX_CHUNKS))
    assert 1 <= cut.window <= window
    slow = rate and cut.chunk_bytes * cut.window > rate * keepalive_s / 4
    assert not slow or cut.window == 1


def test_the_broker_may_want_smaller_packets() -> None:
    assert choose(10**6, 0, 4, 60, 10_000).chunk_bytes == 10_000


def test_a_rate_is_what_arrives_and_pauses_do_not_count() -> None:
    rate, now = Rate(), 100.0
    for _ in range(60):  # 4 chunks of 1000 bytes are under way at any time, and one arrives every 10 ms
        marks = [rate.sent(1000, now) for _ in range(4)]
        for mark in marks:
            now += 0.01
            rate.confirmed(1000, mark, now)
        now += 5.0
    assert rate.per_s == pytest.approx(100_000, rel=0.01)


def test_a_rate_follows_the_way_and_forgets_what_was_withdrawn() -> None:
    rate, now = Rate(), 0.0
    for seconds in (0.1, 0.01):
        for _ in range(60):
            mark = rate.sent(1000, now)
            rate.withdrawn(1000 * (rate.sent(1000, now) == mark))
            now += seconds
            rate.confirmed(1000, mark, now)
        assert rate.per_s == pytest.approx(1000 / seconds, rel=0.01)


def test_a_broker_is_lost_only_when_nothing_moves_in_either_direction() -> None:
    ping = Ping()
    assert [ping.look(1, 100, 50) for _ in range(3)] == [False, False, True]
    ping.asked = True
    for sent in range(200, 200 + 3 * PATIENCE):  # an upload goes on
        assert not ping.look(1, sent, 50)
        assert not ping.lost
    for _ in range(PATIENCE - 1):
        ping.look(1, sent, 50)
    assert not ping.lost
    ping.look(1, sent, 50)
    assert ping.lost
    ping.look(1, sent, 51)
    assert not ping.lost


def in_loop(script: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(script())


def transfer(message_id: int, size: int, chunk_bytes: int = 1000, window: int = 4, credit: int = 0) -> Transfer:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    cut = Cut(chunk_bytes, window)
    return Transfer("server", "topic", ActivationUp, 7, message_id, bytes(size), cut, credit, done)


def drain(lane: Lane) -> list[tuple[int, int]]:
    """(message id, chunk) of all that goes out at once, each acknowledged by the broker."""
    gone = []
    while (step := lane.next()) is not None:
        sent, index = step
        gone.append((sent.message_id, index))
        lane.acknowledged(sent, 0.0)
    return gone


def test_messages_go_in_order_and_are_done_with_their_last_acknowledgement() -> None:
    async def script() -> None:
        lane, messages = Lane(True, True), [transfer(1, 2500), transfer(2, 100)]
        for message in messages:
            lane.add(message, 0.0)
        assert drain(lane) == [(1, 0), (1, 1), (1, 2), (2, 0)]
        assert all(message.done.done() for message in messages)

    in_loop(script)


def test_a_paced_message_stops_a_window_beyond_its_last_credit() -> None:
    async def script() -> None:
        lane, message = Lane(True, True), transfer(1, 8000, window=3, credit=1)
        lane.add(message, 0.0)
        lane.add(transfer(2, 10), 0.0)
        assert drain(lane) == [(1, 0), (1, 1), (1, 2)]
        assert lane.awaited(message) == "a credit"
        lane.credit(1, 9, 0.0)  # more than was sent: not to be believed
        assert drain(lane) == []
        lane.credit(1, 2, 1.0)
        assert lane.moved_at == 1.0
        assert drain(lane) == [(1, 3), (1, 4)]
        lane.credit(1, 5, 2.0)
        assert drain(lane) == [(1, 5), (1, 6), (1, 7), (2, 0)]

    in_loop(script)


def test_only_what_the_receiver_lacks_goes_out_again_oldest_first() -> None:
    async def script() -> None:
        lane = Lane(True, True)
        for message_id in (1, 2, 3, 4):
            lane.add(transfer(message_id, 5000), 0.0)
        assert len(drain(lane)) == 20
        # 2 is complete, of 3 two chunks came, of 1 and 4 nothing is known.
        lane.held(True, [2], [[3, 0, 0, 3, 3]], 0.0)
        assert drain(lane) == [(1, n) for n in range(5)] + [(3, 1), (3, 2), (3, 4)] + [(4, n) for n in range(5)]
        lane.held(False, [1, 3], [], 0.0)
        assert drain(lane) == []
        lane.held(True, [], [[4, 0, 3]], 0.0)
        assert drain(lane) == [(4, 4)]

    in_loop(script)


def test_no_more_than_the_limit_goes_out_without_word_of_what_has_arrived() -> None:
    async def script() -> None:
        lane, message = Lane(True, True), transfer(1, 8 * UNCONFIRMED_BYTES, chunk_bytes=64 * KB)
        lane.add(message, 0.0)
        assert len(drain(lane)) == UNCONFIRMED_BYTES // (64 * KB)
        assert lane.awaited(message) == "word of what has arrived"
        lane.held(False, [], [[1, 0, 15]], 0.0)
        assert len(drain(lane)) == 16

    in_loop(script)


def test_a_message_that_is_given_up_leaves_nothing() -> None:
    async def script() -> None:
        lane, first, second = Lane(True, True), transfer(1, 5000), transfer(2, 5000)
        lane.add(first, 0.0)
        lane.add(second, 0.0)
        step = lane.next()
        assert step is not None
        pending: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        first.pending.add(pending)
        lane.remove(first, 0.0, ValueError("no"))
        assert pending.cancelled()
        assert isinstance(first.done.exception(), ValueError)
        assert [message_id for message_id, _ in drain(lane)] == [2] * 5
        lane.held(True, [], [], 0.0)
        assert [message_id for message_id, _ in drain(lane)] == [2] * 5

    in_loop(script)


def test_lanes_take_turns_for_the_places_there_are() -> None:
    async def script() -> None:
        slots, lanes = Slots(3), [Lane(True, True) for _ in range(2)]
        for number, lane in enumerate(lanes):
            lane.add(transfer(number, 4000), 0.0)
            slots.ask(lane)
        taken = [slots.take() for _ in range(4)]
        assert [lanes.index(step[0]) for step in taken if step] == [0, 1, 0]
        slots.free += 1
        step = slots.take()
        assert step is not None
        assert lanes.index(step[0]) == 1

    in_loop(script)


def chunks_of(message_id: int, size: int, boot: int = 7, kind: int = 4) -> list[wire.Envelope]:
    pieces = wire.split(kind, boot, message_id, bytes(size), 64 * KB)
    return [wire.parse(header + bytes(chunk)) for header, chunk in pieces]


def test_a_peer_is_told_after_so_many_bytes_and_of_everything_when_it_resumes() -> None:
    arrivals = Arrivals(1 << 30, {4})
    for envelope in chunks_of(1, CONFIRM_BYTES - 64 * KB):
        arrivals.add(envelope)
    assert not arrivals.due
    for envelope in chunks_of(2, 10_000_000)[:3]:
        arrivals.add(envelope)
    assert arrivals.due
    assert arrivals.word(resume=False) == ([1], [[2, 0, 2]])
    assert not arrivals.due
    for envelope in chunks_of(3, 10):
        arrivals.add(envelope)
    assert arrivals.word(resume=False) == ([3], [[2, 0, 2]])
    assert arrivals.word(resume=True) == ([1, 3], [[2, 0, 2]])


def test_small_messages_count_for_more_than_they_weigh_and_others_types_for_nothing() -> None:
    arrivals = Arrivals(1 << 30, {4})
    for number in range(CONFIRM_BYTES // LEAST_BYTES):
        assert not arrivals.due
        for kind in (4, 10):
            arrivals.add(*chunks_of(number + 1, 1, kind=kind))
    assert arrivals.due
    assert len(arrivals.word(resume=False)[0]) == CONFIRM_BYTES // LEAST_BYTES


def test_a_new_process_is_told_nothing_of_the_old_ones_messages() -> None:
    arrivals = Arrivals(1 << 30, {4})
    arrivals.add(*chunks_of(1, 10))
    arrivals.add(*chunks_of(5, 10, boot=8))
    arrivals.add(*chunks_of(2, 10))  # late, of the old process
    assert arrivals.boot == 8
    assert arrivals.word(resume=False) == ([5], [])
    assert arrivals.word(resume=True) == ([5], [])
