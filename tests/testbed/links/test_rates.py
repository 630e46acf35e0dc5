"""The arithmetic of rates: when a packet has left, and how much passes meanwhile."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.links.rates import FRAME_BYTES, L2_HEADER_BYTES, MTU_BYTES, Constant, Mahimahi, Rate, Steps

BPS = st.integers(1, 10**6)
SIZES = st.integers(1, 10**5)
MOMENTS = st.integers(0, 100_000).map(lambda ms: ms / 1000)


@st.composite
def steps(draw: st.DrawFn) -> Steps:
    """Up to six steps within 100 s, outages among them; the last rate is above 0."""
    times = draw(st.lists(st.integers(1, 100_000), max_size=5, unique=True))
    rates = draw(st.lists(st.just(0) | BPS, min_size=len(times), max_size=len(times)))
    return Steps([0, *(ms / 1000 for ms in sorted(times))], [*rates, draw(BPS)])


RATES: st.SearchStrategy[Rate] = BPS.map(Constant) | steps()
TRACES = st.lists(st.integers(0, 40), min_size=1, max_size=12).map(sorted).filter(lambda times: times[-1] > 0)


def finishes(trace: Mahimahi, packets: Sequence[tuple[float, int]]) -> list[float]:
    """When packets that come at some seconds with some bytes of IP have left, one after the other."""
    left, ends = 0.0, []
    for at_s, size in packets:
        left = trace.finish(max(at_s, left), size + L2_HEADER_BYTES)
        ends.append(left)
    return ends


def test_a_constant_rate_sends_a_full_packet_in_its_bits_over_the_rate() -> None:
    rate = Constant(1514 * 8)
    assert rate.finish(10.0, FRAME_BYTES) == 11.0
    assert rate.bytes_between(10.0, 10.5) == 757
    assert (rate.mean_bps, rate.varies) == (12112, False)


def test_nothing_passes_backwards() -> None:
    assert Constant(1000).bytes_between(2.0, 1.0) == 0
    assert Constant(math.inf).bytes_between(1.0, 1.0) == 0
    assert Mahimahi([5]).bytes_between(2.0, 1.0) == 0


def test_a_rate_without_limit_holds_nothing_back() -> None:
    assert Constant(math.inf).finish(3.0, 10**9) == 3.0
    assert Constant(math.inf).bytes_between(1.0, 1.5) == math.inf


def test_a_packet_over_steps_is_sent_at_each_of_their_rates() -> None:
    rate = Steps([0, 1, 2], [8000, 4000, 16000])
    assert rate.finish(0.0, 500) == 0.5
    assert rate.finish(0.5, 500 + 250) == 1.5
    assert rate.finish(0.5, 500 + 500 + 1000) == 2.5
    assert rate.bytes_between(0.5, 2.5) == 500 + 500 + 1000
    assert (rate.mean_bps, rate.varies) == (16000, True)


def test_a_step_begins_at_its_time() -> None:
    assert Steps([0, 1], [8000, 80]).finish(1.0, 10) == 2.0
    assert Steps([0, 1], [8000, 80]).finish(0.0, 1000) == 1.0


def test_nothing_passes_in_an_outage_and_a_packet_in_it_goes_on_after() -> None:
    rate = Steps([0, 1, 3], [8000, 0, 8000])
    assert rate.finish(0.5, 1000) == 3.5
    assert rate.finish(2.0, 1000) == 4.0
    assert rate.bytes_between(1.0, 3.0) == 0
    assert rate.bytes_between(0.5, 3.5) == 1000


def test_an_outage_from_the_beginning_ends() -> None:
    assert Steps([0, 2], [0, 8000]).finish(0.0, 1000) == 3.0


def test_what_the_last_rate_of_0_finds_never_leaves() -> None:
    rate = Steps([0, 1], [8000, 0])
    assert rate.finish(0.0, 1000) == 1.0
    assert rate.finish(0.0, 1001) == math.inf
    assert rate.finish(5.0, 1) == math.inf
    assert rate.bytes_between(0.0, 1e9) == 1000
    assert rate.mean_bps == 0


@settings(deadline=None, max_examples=40)
@given(RATES, MOMENTS, SIZES)
def test_what_passes_until_a_packet_has_left_is_its_size(rate: Rate, start_s: float, size: int) -> None:
    assert rate.bytes_between(start_s, rate.finish(start_s, size)) == pytest.approx(size, rel=1e-6)


@settings(deadline=None, max_examples=40)
@given(RATES, MOMENTS, SIZES, SIZES)
def test_two_packets_in_a_row_leave_when_one_of_both_sizes_does(
    rate: Rate, start_s: float, first: int, second: int
) -> None:
    both = rate.finish(start_s, first + second)
    assert rate.finish(rate.finish(start_s, first), second) == pytest.approx(both, rel=1e-9)


@settings(deadline=None, max_examples=40)
@given(RATES, st.lists(MOMENTS, min_size=3, max_size=3).map(sorted))
def test_what_passes_adds_up(rate: Rate, moments: list[float]) -> None:
    start, middle, end = moments
    parts = rate.bytes_between(start, middle) + rate.bytes_between(middle, end)
    assert rate.bytes_between(start, end) == pytest.approx(parts, rel=1e-9, abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(BPS, MOMENTS, SIZES)
def test_a_single_step_is_a_constant_rate(bps: int, start_s: float, size: int) -> None:
    assert Steps([0], [bps]).finish(start_s, size) == pytest.approx(Constant(bps).finish(start_s, size), rel=1e-12)


@pytest.mark.parametrize(
    ("times", "rates", "said"),
    [
        ([], [], "the first step has to be at 0 s"),
        ([1], [5], "the first step has to be at 0 s"),
        ([0, 1], [5], "the first step has to be at 0 s"),
        ([0, 2, 2], [5, 6, 7], "times have to increase, and 2 s comes after 2 s"),
        ([0, 2, 1], [5, 6, 7], "times have to increase, and 1 s comes after 2 s"),
        ([0, 1], [5, -6], "-6 bit/s is negative"),
        ([0, 1], [0, 0], "all rates are 0"),
    ],
)
def test_steps_that_cannot_be_are_refused(times: list[float], rates: list[float], said: str) -> None:
    with pytest.raises(ValueError, match="^" + said + "$"):
        Steps(times, rates)


def test_a_packet_a_millisecond_is_12_megabits_of_ip_a_second() -> None:
    trace = Mahimahi(range(1, 1001))
    assert finishes(trace, [(0.0, MTU_BYTES)] * 2500) == [ms / 1000 for ms in range(1, 2501)]
    assert trace.mean_bps * MTU_BYTES / FRAME_BYTES == pytest.approx(12e6)
    assert trace.varies


def test_small_packets_share_an_opportunity_and_go_on_in_the_next() -> None:
    assert finishes(Mahimahi([10, 20]), [(0.0, 500)] * 4) == [0.01, 0.01, 0.01, 0.02]
    assert finishes(Mahimahi([10, 20]), [(0.0, 1000)] * 3) == [0.01, 0.02, 0.02]


def test_a_packet_larger_than_an_opportunity_takes_several() -> None:
    assert finishes(Mahimahi([10, 20, 30]), [(0.0, 3001), (0.0, 1499), (0.0, 1)]) == [0.03, 0.03, 0.04]


def test_an_opportunity_that_finds_nothing_to_send_is_lost() -> None:
    assert finishes(Mahimahi([10, 20]), [(0.015, 1500), (0.015, 1500)]) == [0.02, 0.03]


def test_what_is_left_of_an_opportunity_is_lost_when_its_time_has_passed() -> None:
    trace = Mahimahi([10, 20])
    assert finishes(trace, [(0.0, 100), (0.011, 1400)]) == [0.01, 0.02]


def test_an_opportunity_is_there_for_a_packet_that_comes_right_on_time() -> None:
    assert finishes(Mahimahi([10, 20]), [(0.01, 1500), (0.02, 1500), (0.02, 1500)]) == [0.01, 0.02, 0.03]


def test_opportunities_of_the_same_millisecond_are_one_each() -> None:
    assert finishes(Mahimahi([5, 5, 7]), [(0.0, 1500)] * 5) == [0.005, 0.005, 0.007, 0.012, 0.012]


def test_a_trace_begins_again_at_its_last_time() -> None:
    assert finishes(Mahimahi([3, 10]), [(0.0, 1500)] * 5) == [0.003, 0.01, 0.013, 0.02, 0.023]
    assert finishes(Mahimahi([3, 10]), [(1234.501, 1500)] * 2) == [1234.503, 1234.51]


def test_an_opportunity_at_the_very_end_of_a_period_counts_once() -> None:
    trace = Mahimahi([10])
    assert finishes(trace, [(0.01, 1500), (0.01, 1500)]) == [0.01, 0.02]
    assert trace.bytes_between(0.0, 0.015) == FRAME_BYTES
    assert trace.bytes_between(0.01, 0.02) == FRAME_BYTES
    assert trace.bytes_between(0.005, 0.025) == 2 * FRAME_BYTES


def test_an_opportunity_exactly_at_the_end_is_not_between() -> None:
    trace = Mahimahi([3, 10])
    assert trace.bytes_between(0.0, 0.003) == 0
    assert trace.bytes_between(0.003, 0.01) == FRAME_BYTES
    assert trace.bytes_between(0.003, 0.0101) == 2 * FRAME_BYTES


def test_the_first_and_the_last_millisecond_of_a_period_are_two_opportunities() -> None:
    assert finishes(Mahimahi([0, 10]), [(0.0, 1500)] * 5) == [0.0, 0.01, 0.01, 0.02, 0.02]


def opportunities(times_ms: Sequence[int], period_ms: int) -> itertools.chain[int]:
    return itertools.chain.from_iterable([turn * period_ms + ms for ms in times_ms] for turn in itertools.count())


@settings(deadline=None, max_examples=40)
@given(TRACES, st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4000)), max_size=25))
def test_packets_leave_a_trace_as_when_its_opportunities_are_gone_through_one_by_one(
    times: list[int], packets: list[tuple[int, int]]
) -> None:
    moments, expected = opportunities(times, times[-1]), []
    now, room, left_ms, at_ms = next(moments), MTU_BYTES, 0, 0
    arrivals = []
    for gap_ms, size in packets:
        at_ms += gap_ms
        arrivals.append((at_ms / 1000, size))
        while now < max(at_ms, left_ms):
            now, room = next(moments), MTU_BYTES
        while size > room:
            size -= room
            now, room = next(moments), MTU_BYTES
        room -= size
        left_ms = max(now, at_ms)
        expected.append(left_ms / 1000)
    assert finishes(Mahimahi(times), arrivals) == pytest.approx(expected)


@settings(deadline=None, max_examples=40)
@given(TRACES, st.integers(0, 500), st.integers(1, 40))
def test_full_packets_leave_a_trace_as_often_as_what_passes_says(times: list[int], start_ms: int, count: int) -> None:
    trace = Mahimahi(times)
    for number, end_s in enumerate(finishes(trace, [(start_ms / 1000, MTU_BYTES)] * count), start=1):
        assert trace.bytes_between(start_ms / 1000, end_s) <= (number - 1) * FRAME_BYTES
        assert trace.bytes_between(start_ms / 1000, end_s + 0.0005) >= number * FRAME_BYTES


@settings(deadline=None, max_examples=40)
@given(TRACES, st.integers(0, 500), st.integers(1, 20))
def test_every_period_passes_as_much_as_the_mean_says(times: list[int], start_ms: int, turns: int) -> None:
    trace, start_s = Mahimahi(times), (start_ms + 0.5) / 1000
    span_s = turns * times[-1] / 1000
    assert trace.bytes_between(start_s, start_s + span_s) == pytest.approx(trace.mean_bps / 8 * span_s)


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ([], "its last time is its period"),
        ([0], "its last time is its period"),
        ([0, 0], "its last time is its period"),
        ([-1, 5], "its last time is its period"),
        ([1, 5, 3], "times must not decrease, and 3 ms comes after 5 ms"),
    ],
)
def test_a_trace_that_cannot_be_is_refused(times: list[int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Mahimahi(times)
