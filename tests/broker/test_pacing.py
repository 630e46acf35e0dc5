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
from broker.credit import CONFIRM_BYTES, LEAST_BYTES, SHARED_BYTES, UNCONFIRMED_BYTES, share, word_after
from broker.lane import Lane
from broker.messages import ActivationUp
from broker.rate import Rate
from broker.slots import Slots
from broker.transfer import Transfer

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
    assert choose(10**6, rate, rate, 4, keepalive_s, LARGEST) == cut


@given(
    st.integers(0, 2**32 - 1),
    st.floats(0, 1e10),
    st.integers(1, 255),
    st.integers(1, 65535),
    st.integers(1 << 16, LARGEST),
)
def test_every_body_can_be_cut(length: int, rate: float, window: int, keepalive_s: int, largest: int) -> None:
    cut = choose(length, rate, rate, window, keepalive_s, largest)
    assert wire.chunk_count(length, cut.chunk_bytes) <= wire.MAX_CHUNKS
    assert 4 * KB <= cut.chunk_bytes <= max(256 * KB, -(-length // wire.MAX_CHUNKS))
    assert 1 <= cut.window <= window
    slow = rate and cut.chunk_bytes * cut.window > rate * keepalive_s / 4
    assert not slow or cut.window == 1


def test_the_broker_may_want_smaller_packets() -> None:
    assert choose(10**6, 0, 0, 4, 60, 10_000).chunk_bytes == 10_000


def test_a_rate_is_what_arrives_and_pauses_do_not_count() -> None:
    rate, now = Rate(), 100.0
    for _ in range(60):  # 4 chunks of 100 kB are under way at any time, and one arrives every 10 ms
        marks = [rate.sent(100_000, now) for _ in range(4)]
        for mark in marks:
            now += 0.01
            rate.confirmed(100_000, mark, now)
        now += 5.0
    assert rate.per_s == pytest.approx(10_000_000, rel=0.01)


def test_a_rate_follows_the_way_and_forgets_what_was_withdrawn() -> None:
    rate, now = Rate(), 0.0
    for seconds in (0.1, 0.01, 1.0):
        last = rate.sent(100_000, now)
        for _ in range(90):
            mark, last = last, rate.sent(100_000, now)
            rate.withdrawn(100_000)
            last = rate.sent(100_000, now)
            now += seconds
            rate.confirmed(100_000, mark, now)
        rate.withdrawn(100_000)
        assert rate.per_s == pytest.approx(100_000 / seconds, rel=0.03)


def test_a_chunk_alone_on_the_way_tells_that_the_way_is_at_least_so_fast() -> None:
    rate, now = Rate(), 0.0

    def alone(size: int, seconds: float) -> None:
        nonlocal now
        mark, now = rate.sent(size, now), now + seconds
        rate.confirmed(size, mark, now)

    alone(100, 0.1)
    assert (rate.per_s, rate.lately) == (0, 0)
    alone(60_000, 0.1)
    assert rate.per_s == rate.lately == pytest.approx(600_000)
    alone(60_000, 1.0)
    assert rate.per_s == pytest.approx(600_000)
    assert rate.lately == pytest.approx(60_000)
    mark = rate.sent(60_000, now, more=True)
    rate.confirmed(60_000, mark, now + 1.0)
    now += 1.0
    assert rate.per_s == pytest.approx(465_000)
    for _ in range(60):
        alone(60_000, 0.01)
    assert rate.per_s == pytest.approx(6_000_000, rel=0.01)
    alone(100, 0.1)
    assert rate.lately == pytest.approx(6_000_000)


def test_all_agents_together_have_no_more_under_way_than_the_broker_holds() -> None:
    assert [share(agents) for agents in (0, 1, 6, 7, 12, 13, 24)] == [
        UNCONFIRMED_BYTES >> n for n in (0, 0, 0, 1, 1, 2, 2)
    ]
    for agents in range(1, 384):
        assert agents * share(agents) <= SHARED_BYTES
    for agents in (1, 7, 100, 4096):
        assert 2 * word_after(share(agents)) <= share(agents)


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
        acknowledge(lane, sent, index)
    return gone


def acknowledge(lane: Lane, sent: Transfer, index: int) -> None:
    lane.landed(sent, index)
    lane.acknowledged(sent, 0.0)


def fill(lane: Lane) -> list[tuple[int, int]]:
    """(message id, chunk) of all that goes out before the broker acknowledges anything."""
    return [(sent.message_id, index) for sent, index in iter(lane.next, None)]


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


def test_a_share_of_the_broker_is_not_exceeded_whatever_the_window() -> None:
    async def script() -> None:
        lane, message = Lane(True, True), transfer(1, 8 * UNCONFIRMED_BYTES, chunk_bytes=256 * KB, window=64)
        lane.limit = 512 * KB
        lane.add(message, 0.0)
        assert len(drain(lane)) == 2
        lane.held(False, [], [[1, 0, 0]], 0.0)
        assert len(drain(lane)) == 1

    in_loop(script)


def test_a_small_last_chunk_counts_for_no_more_than_the_receiver_counts_it() -> None:
    async def script() -> None:
        lane = Lane(True, True, 64 * KB)
        lane.add(transfer(1, 70_000, chunk_bytes=64 * KB), 0.0)
        lane.add(transfer(2, 10), 0.0)
        assert drain(lane) == [(1, 0)]
        lane.held(False, [], [[1, 0, 0]], 0.0)
        assert drain(lane) == [(1, 1), (2, 0)]

    in_loop(script)


def test_the_window_is_of_the_lane_and_not_of_each_message() -> None:
    async def script() -> None:
        lane = Lane(True, True)
        for message_id in range(1, 7):
            lane.add(transfer(message_id, 900, window=1), 0.0)
        assert fill(lane) == [(1, 0)]
        lane.add(transfer(7, 100, window=1), 0.0)
        step = lane._kept[1]
        acknowledge(lane, step, 0)
        assert fill(lane) == [(2, 0)]

    in_loop(script)


def test_the_window_follows_the_rate_within_a_message() -> None:
    async def script() -> None:
        lane, message, rate = Lane(True, True), transfer(1, 100 * 64 * KB, 64 * KB), Rate()
        message.rate, message.keepalive_s, message.most = rate, 4, 4
        lane.add(message, 0.0)
        assert len(fill(lane)) == 4  # nothing is known
        now, going, most = 0.0, [0, 1, 2, 3], []
        for index in going:
            message.chunk(index, now)
        for bytes_per_s in [1e6] * 20 + [1e5] * 20 + [1e6] * 20:
            now += 64 * KB / bytes_per_s
            index = going.pop(0)
            message.arrived([index], now)
            acknowledge(lane, message, index)
            for _, following in fill(lane):
                message.chunk(following, now)
                going.append(following)
                assert len(going) == 1 or len(going) * 64 * KB <= rate.lately * message.keepalive_s / 4
            most.append(len(going))
        assert most[:20] == [4] * 20
        assert most[23:40] == [1] * 17  # a chunk a second is what fits; those of the larger window are through
        assert most[-10:] == [4] * 10

    in_loop(script)


def test_what_is_under_way_is_not_repeated_unless_the_receiver_connected_again() -> None:
    async def script() -> None:
        lane = Lane(True, True)
        lane.add(message := transfer(1, 5000), 0.0)
        assert fill(lane) == [(1, n) for n in range(4)]
        acknowledge(lane, message, 0)
        acknowledge(lane, message, 1)
        lane.held(True, [], [[1, 1, 1]], 0.0)
        assert fill(lane) == [(1, 0), (1, 4)]
        acknowledge(lane, message, 2)
        acknowledge(lane, message, 3)
        acknowledge(lane, message, 0)
        lane.doubt()
        lane.held(True, [], [[1, 0, 3]], 0.0)
        assert fill(lane) == [(1, 4)]

    in_loop(script)


def test_word_that_overtakes_the_news_of_a_new_connection_costs_nothing() -> None:
    async def script() -> None:
        lane = Lane(True, True)
        lane.add(message := transfer(1, 5000), 0.0)
        fill(lane)
        lane.held(True, [], [[1, 1, 2]], 0.0)
        lane.doubt()
        for index in range(4):
            acknowledge(lane, message, index)
        assert fill(lane) == [(1, 0), (1, 3), (1, 4)]

    in_loop(script)


def test_a_paced_message_goes_on_though_its_window_has_become_less_than_its_stride() -> None:
    async def script() -> None:
        lane, message = Lane(True, True), transfer(1, 8 * 64 * KB, 64 * KB, credit=2)
        message.rate, message.keepalive_s, message.most = Rate(), 4, 4
        message.rate.lately = 1000.0
        lane.add(message, 0.0)
        assert drain(lane) == [(1, 0), (1, 1)]
        lane.credit(1, 2, 0.0)
        assert drain(lane) == [(1, 2), (1, 3)]

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
        lane.remove(first, ValueError("no"))
        assert pending.cancelled()
        lane.landed(*step)
        assert isinstance(first.done.exception(), ValueError)
        assert [message_id for message_id, _ in drain(lane)] == [2] * 5
        lane.held(True, [], [], 0.0)
        assert [message_id for message_id, _ in drain(lane)] == [2] * 5

    in_loop(script)


def test_neither_a_message_that_is_given_up_nor_a_word_without_news_is_progress_of_the_others() -> None:
    async def script() -> None:
        lane, first, second = Lane(True, True), transfer(1, 5000), transfer(2, 5000)
        lane.add(first, 1.0)
        lane.add(second, 2.0)
        lane.held(False, [7], [], 3.0)
        lane.remove(first)
        assert lane.moved_at == 1.0
        lane.held(False, [2], [], 4.0)
        assert lane.moved_at == 4.0

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
    assert not arrivals.due()
    for envelope in chunks_of(2, 10_000_000)[:3]:
        arrivals.add(envelope)
    assert arrivals.due()
    assert arrivals.word(resume=False) == ([1], [[2, 0, 2]])
    assert not arrivals.due()
    for envelope in chunks_of(3, 10):
        arrivals.add(envelope)
    assert arrivals.word(resume=False) == ([3], [[2, 0, 2]])
    assert arrivals.word(resume=True) == ([1, 3], [[2, 0, 2]])


def test_a_peer_with_a_small_share_is_told_sooner() -> None:
    arrivals = Arrivals(1 << 30, {4})
    arrivals.add(*chunks_of(1, 64 * KB))
    assert not arrivals.due()
    assert arrivals.due(word_after(256 * KB))


def test_small_messages_count_for_more_than_they_weigh_and_others_types_for_nothing() -> None:
    arrivals = Arrivals(1 << 30, {4})
    for number in range(CONFIRM_BYTES // LEAST_BYTES):
        assert not arrivals.due()
        for kind in (4, 10):
            arrivals.add(*chunks_of(number + 1, 1, kind=kind))
    assert arrivals.due()
    assert len(arrivals.word(resume=False)[0]) == CONFIRM_BYTES // LEAST_BYTES


def test_a_new_process_is_told_nothing_of_the_old_ones_messages() -> None:
    arrivals = Arrivals(1 << 30, {4})
    arrivals.add(*chunks_of(1, 10))
    arrivals.add(*chunks_of(5, 10, boot=8))
    arrivals.add(*chunks_of(2, 10))  # late, of the old process
    assert arrivals.boot == 8
    assert arrivals.word(resume=False) == ([5], [])
    assert arrivals.word(resume=True) == ([5], [])
