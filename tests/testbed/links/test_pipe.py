"""The pipe keeps its laws whatever is put into it, whenever it is asked, and however its profile changes.

Packets are numbered in the order in which they are put in, so that order and conservation can be seen from outside.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from testbed.links.pipe import Pipe
from testbed.links.profile import LinkProfile, parse
from testbed.links.rates import FRAME_BYTES, L2_HEADER_BYTES, MTU_BYTES
from testbed.links.units import rate_text

FAR_S = 1e7  # by then everything that ever leaves has left


@dataclass(frozen=True)
class Put:
    size: int


@dataclass(frozen=True)
class Take:
    pass


Event = tuple[float, Put | Take | LinkProfile]  # at a time; a profile is changed to


@dataclass
class Seen:
    """What went into a pipe and came out of it, by the numbers of the packets."""

    sizes: list[int] = field(default_factory=list)  # of layer 2
    accepted: list[int] = field(default_factory=list)
    delivered: list[tuple[float, int]] = field(default_factory=list)

    @property
    def order(self) -> list[int]:
        return [number for _, number in self.delivered]

    def bytes(self, numbers: Iterable[int]) -> int:
        return sum(self.sizes[number] for number in numbers)


def take(pipe: Pipe[int], now_s: float, seen: Seen) -> None:
    seen.delivered += [(now_s, number) for number in pipe.take(now_s)]


def drain(pipe: Pipe[int], until_s: float, seen: Seen) -> None:
    """Take what comes out until a time, each packet right when the pipe says that there is something."""
    while (now_s := pipe.next_s) <= until_s:
        take(pipe, now_s, seen)
        assert pipe.next_s > now_s


def play(pipe: Pipe[int], events: Iterable[Event], prompt: bool = True) -> Seen:
    """Do what happens to a pipe in turn; a prompt caller also takes each packet as soon as it comes out."""
    seen = Seen()
    for at_s, event in events:
        if prompt:
            drain(pipe, at_s, seen)
        if isinstance(event, Put):
            number = len(seen.sizes)
            seen.sizes.append(event.size + L2_HEADER_BYTES)
            if pipe.put(at_s, event.size, number):
                seen.accepted.append(number)
        elif isinstance(event, Take):
            take(pipe, at_s, seen)
        else:
            pipe.change(event, at_s)
    return seen


def run(link: LinkProfile, events: Iterable[Event], start_s: float = 0.0) -> Seen:
    """Play events to a pipe with a prompt caller, who waits for the last packet."""
    pipe: Pipe[int] = Pipe(link, "up", start_s)
    seen = play(pipe, events)
    drain(pipe, FAR_S, seen)
    return seen


def burst(count: int, size: int = MTU_BYTES, at_s: float = 0.0) -> list[Event]:
    return [(at_s, Put(size))] * count


GAPS = st.just(0) | st.integers(0, 400)
PUTS = st.integers(0, 3000).map(Put)
BPS = st.integers(1000, 10**6)
RATES = BPS.map(rate_text)
ROOMY = "queue=1000000b"


def in_time(what: st.SearchStrategy[Put | Take | LinkProfile], start_ms: int = 0) -> st.SearchStrategy[list[Event]]:
    """Up to 16 events of a kind, of which several may be at the same time."""

    def timed(drawn: list[tuple[int, Put | Take | LinkProfile]]) -> list[Event]:
        moments = itertools.accumulate((gap_ms for gap_ms, _ in drawn), initial=start_ms)
        next(moments)
        return [(ms / 1000, event) for ms, (_, event) in zip(moments, drawn, strict=True)]

    return st.lists(st.tuples(GAPS, what), max_size=16).map(timed)


@st.composite
def steps(draw: st.DrawFn) -> str:
    """A rate in steps within 5 s, outages among them, the last perhaps one."""
    times = sorted(draw(st.sets(st.integers(1, 5000), min_size=1, max_size=3)))
    return "+".join([draw(RATES), *(f"{draw(st.just('0') | RATES)}@{ms}ms" for ms in times)])


@st.composite
def links(draw: st.DrawFn, traces: Sequence[str]) -> LinkProfile:
    """Any link: rates of each kind, a short queue, and perhaps delay, jitter and loss."""
    rate = draw(st.sampled_from(["unlimited", *traces]) | RATES | steps())
    delay, jitter = draw(st.integers(0, 300)), draw(st.just(0) | st.integers(1, 200))
    loss = draw(st.sampled_from(["0%", "10%", "60%", "gemodel:10%:30%:90%:1%"]))
    queue = draw(st.integers(1, 30_000))
    return parse(f"rate={rate} delay={delay}ms jitter={jitter}ms loss={loss} queue={queue}b")


def happenings(traces: Sequence[str], start_ms: int = 0) -> st.SearchStrategy[list[Event]]:
    return in_time(st.one_of(PUTS, PUTS, PUTS, st.just(Take()), links(traces)), start_ms)


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Rates by the opportunities of a trace: a few of them, and several in one millisecond."""
    folder = tmp_path_factory.mktemp("traces")
    for name, times_ms in {"sparse": [7, 30, 31, 100], "bursts": [0, 5, 5, 5, 40]}.items():
        (folder / name).write_text("".join(f"{ms}\n" for ms in times_ms))
    return [f"mahimahi:{file}" for file in sorted(folder.iterdir())]


@settings(deadline=None, max_examples=40)
@given(data=st.data(), start_ms=st.sampled_from([0, 1_234_500]), seed=st.integers(0, 9), prompt=st.booleans())
def test_every_byte_is_delivered_lost_dropped_or_still_inside_and_order_is_kept(
    traces: list[str], data: st.DataObject, start_ms: int, seed: int, prompt: bool
) -> None:
    pipe: Pipe[int] = Pipe(data.draw(links(traces)), "up", start_ms / 1000, seed)
    seen = play(pipe, data.draw(happenings(traces, start_ms)), prompt)
    assert len(seen.sizes) == len(seen.accepted) + pipe.lost + pipe.dropped
    assert seen.order == seen.accepted[: len(seen.order)]
    assert seen.bytes(seen.accepted) == pipe.bytes + pipe.waiting_bytes
    take(pipe, FAR_S * 2, seen)
    assert seen.order == seen.accepted[: pipe.packets]
    assert seen.bytes(seen.order) == pipe.bytes
    assert seen.bytes(seen.accepted[pipe.packets :]) == pipe.waiting_bytes
    assert pipe.next_s == math.inf


@settings(deadline=None, max_examples=40)
@given(data=st.data(), seed=st.integers(0, 9))
def test_a_caller_who_takes_rarely_has_got_as_much_by_then_as_one_who_takes_at_once(
    traces: list[str], data: st.DataObject, seed: int
) -> None:
    link, events = data.draw(links(traces)), data.draw(happenings(traces))
    late: Pipe[int] = Pipe(link, "up", 0.0, seed)
    early: Pipe[int] = Pipe(link, "up", 0.0, seed)
    by_late = play(late, [event for event in events if not isinstance(event[1], Take)], prompt=False)
    by_early = play(early, events)
    for later_s in (0.0, 0.25, FAR_S):
        now_s = later_s + (events[-1][0] if events else 0.0)
        drain(early, now_s, by_early)
        take(late, now_s, by_late)
        assert by_late.order == by_early.order
    for name in ("packets", "bytes", "lost", "dropped", "waiting_bytes"):
        assert getattr(late, name) == getattr(early, name)


def test_a_caller_who_puts_in_and_takes_out_late_loses_no_capacity() -> None:
    link = parse(f"up={FRAME_BYTES * 8}bit {ROOMY}")
    pipe: Pipe[int] = Pipe(link, "up", 0.0)
    seen = play(pipe, burst(100), prompt=False)
    take(pipe, 99.5, seen)
    assert len(seen.order) == 99
    assert pipe.next_s == 100


@settings(deadline=None, max_examples=40)
@given(RATES | steps(), in_time(PUTS), st.sampled_from([0.0, 64.0]))
def test_no_window_of_deliveries_is_faster_than_the_rate(rate: str, events: list[Event], start_s: float) -> None:
    link = parse(f"up={rate} {ROOMY}")
    passed, seen = link.rate("up"), run(link, [(start_s + at_s, event) for at_s, event in events], start_s)
    for (first_s, first), (last_s, last) in itertools.combinations(seen.delivered, 2):
        most = passed.bytes_between(first_s - start_s, last_s - start_s)
        assert seen.bytes(range(first + 1, last + 1)) <= most + 1e-3


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_no_window_of_deliveries_is_faster_than_the_opportunities_of_a_trace(
    traces: list[str], data: st.DataObject
) -> None:
    link = parse(f"up={data.draw(st.sampled_from(traces))} {ROOMY}")
    passed, seen = link.rate("up"), run(link, data.draw(in_time(PUTS)))
    for (first_s, first), (last_s, last) in itertools.combinations(seen.delivered, 2):
        most = passed.bytes_between(first_s, last_s + 0.0005) * MTU_BYTES / FRAME_BYTES
        assert seen.bytes(range(first + 1, last + 1)) - (last - first) * L2_HEADER_BYTES <= most


def within_the_rates(link: LinkProfile, events: list[Event]) -> bool:
    """Whether no window of deliveries is faster than the rates of the link and those that it is changed to."""
    starts = [(0.0, link.rate("up"))]
    starts += [(at_s, event.rate("up")) for at_s, event in events if isinstance(event, LinkProfile)]
    ends = [at_s for at_s, _ in starts[1:]] + [math.inf]

    def passed(time_s: float) -> float:
        spans = [(rate, min(time_s, end_s) - at_s) for (at_s, rate), end_s in zip(starts, ends, strict=True)]
        return sum(rate.bytes_between(0.0, span_s) for rate, span_s in spans if span_s > 0)

    seen = run(link, events)
    return all(
        seen.bytes(range(first + 1, last + 1)) <= passed(last_s) - passed(first_s) + 1e-3
        for (first_s, first), (last_s, last) in itertools.combinations(seen.delivered, 2)
    )


@settings(deadline=None, max_examples=40)
@given(RATES, in_time(PUTS | RATES.map(lambda rate: parse(f"up={rate} {ROOMY}"))))
def test_no_window_of_deliveries_is_faster_than_the_rates_that_it_was_changed_to(
    rate: str, events: list[Event]
) -> None:
    assert within_the_rates(parse(f"up={rate} {ROOMY}"), events)


@example("8kbit+0@1s+8kbit@10s", [*burst(2, 1000 - L2_HEADER_BYTES), (5.5, parse(f"up=8kbit {ROOMY}"))])
@settings(deadline=None, max_examples=40)
@given(steps(), in_time(PUTS | (RATES | steps()).map(lambda rate: parse(f"up={rate} {ROOMY}"))))
def test_no_window_of_deliveries_is_faster_than_the_steps_that_it_was_changed_to(
    rate: str, events: list[Event]
) -> None:
    assert within_the_rates(parse(f"up={rate} {ROOMY}"), events)


@settings(deadline=None, max_examples=40)
@given(BPS, st.integers(1, 20_000), in_time(PUTS))
def test_a_packet_is_dropped_when_its_bytes_find_no_room_and_else_sent_in_its_turn(
    bps: int, queue: int, events: list[Event]
) -> None:
    sent: list[tuple[float, int]] = []
    expected = []
    for number, (at_s, event) in enumerate(events):
        assert isinstance(event, Put)
        size = event.size + L2_HEADER_BYTES
        waiting = sum(other for left_s, other in sent if left_s > at_s)
        if not waiting or waiting + size <= queue:
            sent.append((max(at_s, sent[-1][0] if sent else 0.0) + size * 8 / bps, size))
            expected.append((sent[-1][0], number))
    seen = run(parse(f"up={bps}bit queue={queue}b"), events)
    assert seen.delivered == expected


def test_a_queue_is_full_to_the_byte_and_the_packet_being_sent_is_in_it() -> None:
    pipe: Pipe[int] = Pipe(parse("up=8kbit queue=3000b"), "up", 0.0)
    sizes = [1000, 1000, 1001, 1000, 1, 0]
    assert [pipe.put(0.0, size - L2_HEADER_BYTES, 0) for size in sizes[:5]] == [True, True, False, True, False]
    assert (pipe.dropped, pipe.waiting_bytes) == (2, 3000)
    assert not pipe.put(0.999, 1000 - L2_HEADER_BYTES, 0)
    assert pipe.put(1.0, 1000 - L2_HEADER_BYTES, 0)


def test_a_packet_larger_than_the_queue_passes_a_link_that_is_idle() -> None:
    pipe: Pipe[int] = Pipe(parse("up=8kbit queue=10b"), "up", 0.0)
    assert pipe.put(0.0, MTU_BYTES, 0)
    assert not pipe.put(0.0, 0, 1)
    assert pipe.take(2.0) == [0]


@settings(deadline=None, max_examples=40)
@given(data=st.data(), delay_ms=st.integers(0, 3000))
def test_a_delay_is_added_to_each_packet_to_the_last_bit(traces: list[str], data: st.DataObject, delay_ms: int) -> None:
    rate = data.draw(st.sampled_from(["unlimited", *traces]) | RATES | steps())
    events = data.draw(in_time(PUTS))
    plain = run(parse(f"up={rate} {ROOMY}"), events)
    delayed = run(parse(f"up={rate} {ROOMY} delay={delay_ms}ms"), events)
    assert delayed.order == plain.order
    assert [at_s for at_s, _ in delayed.delivered] == pytest.approx(
        [at_s + delay_ms / 1000 for at_s, _ in plain.delivered], rel=1e-12
    )


def test_a_packet_comes_out_when_it_was_sent_and_delayed_and_not_before() -> None:
    pipe: Pipe[str] = Pipe(parse("up=8kbit delay=250ms"), "up", 100.0)
    assert pipe.next_s == math.inf
    pipe.put(100.0, 500 - L2_HEADER_BYTES, "a")
    assert pipe.next_s == 100.5
    assert pipe.take(100.5) == []
    assert pipe.next_s == 100.75
    assert pipe.take(100.7499) == []
    assert pipe.take(100.75) == ["a"]
    assert pipe.next_s == math.inf


def test_a_link_that_is_not_shaped_delivers_at_once() -> None:
    pipe: Pipe[int] = Pipe(parse("unlimited"), "up", 5.0)
    for number in range(100):
        pipe.put(5.0, MTU_BYTES, number)
    assert pipe.take(5.0) == list(range(100))


def test_each_way_has_its_own_rate() -> None:
    link = parse("up=8kbit down=16kbit")
    for way, left_s in (("up", 1.0), ("down", 0.5)):
        pipe: Pipe[int] = Pipe(link, way, 0.0)  # type: ignore[arg-type]
        pipe.put(0.0, 1000 - L2_HEADER_BYTES, 0)
        assert pipe.next_s == left_s


@settings(deadline=None, max_examples=40)
@given(data=st.data(), jitter_ms=st.integers(1, 500), seed=st.integers(0, 99))
def test_jitter_moves_packets_but_never_before_another_nor_before_they_were_sent(
    traces: list[str], data: st.DataObject, jitter_ms: int, seed: int
) -> None:
    rate = data.draw(st.sampled_from(["unlimited", *traces]) | RATES | steps())
    events = data.draw(in_time(PUTS))
    pipe: Pipe[int] = Pipe(parse(f"up={rate} {ROOMY} delay=100ms jitter={jitter_ms}ms"), "up", 0.0, seed)
    seen, plain = play(pipe, events), run(parse(f"up={rate} {ROOMY}"), events)
    drain(pipe, FAR_S, seen)
    assert seen.order == plain.order
    for (jittered_s, _), (sent_s, _) in zip(seen.delivered, plain.delivered, strict=True):
        assert jittered_s >= sent_s


def test_jitter_is_the_standard_deviation_of_the_delay() -> None:
    """2000 packets a second apart, so that none waits for another: four deviations of their mean and of theirs."""
    pipe: Pipe[int] = Pipe(parse("up.delay=100ms up.jitter=10ms"), "up", 0.0, seed=1)
    seen = play(pipe, [(float(number), Put(MTU_BYTES)) for number in range(2000)])
    drain(pipe, FAR_S, seen)
    delays = [at_s - number for at_s, number in seen.delivered]
    assert statistics.fmean(delays) == pytest.approx(0.1, abs=4 * 0.01 / math.sqrt(2000))
    assert statistics.pstdev(delays) == pytest.approx(0.01, abs=4 * 0.01 / math.sqrt(2 * 2000))


def test_the_share_of_packets_lost_is_that_of_the_profile() -> None:
    """20000 packets, each lost on its own: four standard deviations."""
    pipe: Pipe[int] = Pipe(parse("up.loss=10%"), "up", 0.0, seed=1)
    accepted = [pipe.put(0.0, MTU_BYTES, number) for number in range(20_000)]
    assert pipe.lost == accepted.count(False)
    assert pipe.lost / 20_000 == pytest.approx(0.1, abs=4 * math.sqrt(0.1 * 0.9 / 20_000))
    assert len(pipe.take(0.0)) == accepted.count(True)


def test_a_lost_packet_takes_no_room_and_no_time() -> None:
    pipe: Pipe[int] = Pipe(parse("up=8kbit up.loss=100% up.queue=1500b"), "up", 0.0)
    assert not any(pipe.put(0.0, MTU_BYTES, number) for number in range(5))
    assert (pipe.lost, pipe.dropped, pipe.waiting_bytes, pipe.next_s) == (5, 0, 0, math.inf)


@settings(deadline=None, max_examples=30)
@given(data=st.data(), seed=st.integers(0, 99))
def test_the_same_seed_has_the_same_fate(traces: list[str], data: st.DataObject, seed: int) -> None:
    link, events = data.draw(links(traces)), data.draw(happenings(traces))
    once, again = (play(Pipe(link, "up", 0.0, seed), events) for _ in range(2))
    assert once == again


def test_another_seed_has_another_fate() -> None:
    fates = [play(Pipe(parse("loss=50%"), "up", 0.0, seed), burst(64)).accepted for seed in range(4)]
    assert all(one != other for one, other in itertools.combinations(fates, 2))


def test_a_credit_lets_a_packet_begin_as_early_as_it_may_have_come() -> None:
    pipe: Pipe[int] = Pipe(parse("up=8kbit"), "up", 0.0, credit_s=0.25)
    pipe.put(10.0, 1000 - L2_HEADER_BYTES, 0)
    assert pipe.next_s == 10.75
    pipe.put(10.5, 1000 - L2_HEADER_BYTES, 1)
    assert pipe.take(11.0) == [0]
    assert pipe.next_s == 11.75
    assert pipe.take(11.75) == [1]
    pipe.put(11.8, 1000 - L2_HEADER_BYTES, 2)
    assert pipe.next_s == 12.75


def test_a_credit_delivers_no_packet_before_it_was_seen_and_delayed() -> None:
    pipe: Pipe[int] = Pipe(parse("up=8kbit delay=125ms"), "up", 0.0, credit_s=0.5)
    pipe.put(10.0, 250 - L2_HEADER_BYTES, 0)
    assert pipe.next_s == 10.125
    pipe.put(10.0, 500 - L2_HEADER_BYTES, 1)
    assert pipe.take(10.125) == [0]
    assert pipe.take(10.25) == []
    assert pipe.next_s == 10.375


def test_a_packet_of_an_outage_goes_on_after_it() -> None:
    link = parse("up=8kbit+0@1s+8kbit@3s")
    seen = run(link, [(10.5, Put(1000 - L2_HEADER_BYTES))], start_s=10.0)
    assert seen.delivered == [(13.5, 0)]


def test_an_outage_for_good_holds_what_it_has_until_the_profile_changes() -> None:
    pipe: Pipe[int] = Pipe(parse("up=8kbit+0@1s"), "up", 0.0)
    for number in range(2):
        pipe.put(1.0, 1000 - L2_HEADER_BYTES, number)
    assert (pipe.next_s, pipe.take(1e9), pipe.waiting_bytes) == (math.inf, [], 2000)
    pipe.change(parse("up=8kbit"), 1e9)
    assert pipe.take(1e9 + 1) == [0]
    assert pipe.take(1e9 + 2) == [1]


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_change_keeps_what_waits_and_its_order(traces: list[str], data: st.DataObject) -> None:
    pipe: Pipe[int] = Pipe(data.draw(links(traces)), "up", 0.0)
    events = data.draw(in_time(PUTS))
    seen, now_s = play(pipe, events), events[-1][0] if events else 0.0
    for link in data.draw(st.lists(links(traces), min_size=1, max_size=4)):
        take(pipe, now_s, seen)
        before = (pipe.waiting_bytes, pipe.packets, pipe.bytes, pipe.lost, pipe.dropped)
        pipe.change(link, now_s)
        assert (pipe.waiting_bytes, pipe.packets, pipe.bytes, pipe.lost, pipe.dropped) == before
    pipe.change(parse("up=8kbit"), now_s)
    take(pipe, FAR_S, seen)
    assert seen.order == seen.accepted


def test_a_change_sends_the_rest_of_the_packet_in_hand_at_the_new_rate() -> None:
    events: list[Event] = [*burst(3, 1000 - L2_HEADER_BYTES), (0.25, parse("up=16kbit"))]
    assert run(parse("up=8kbit"), events).delivered == [(0.25 + 0.375, 0), (1.125, 1), (1.625, 2)]


@pytest.mark.parametrize(
    ("rate", "change_s", "left_s"),
    [
        ("0+8kbit@10s", 5.0, 6.0),
        ("0+8kbit@10s", 10.5, 11.0),
        ("8kbit+0@500ms", 3.0, 3.5),
        ("8kbit+0@500ms+8kbit@10s", 10.25, 10.5),
        ("16kbit+4kbit@250ms", 0.25, 0.75),
    ],
)
def test_a_change_counts_what_of_the_packet_in_hand_was_sent_by_then(rate: str, change_s: float, left_s: float) -> None:
    events: list[Event] = [*burst(1, 1000 - L2_HEADER_BYTES), (change_s, parse("up=8kbit"))]
    assert [at_s for at_s, _ in run(parse(f"up={rate}"), events).delivered] == pytest.approx([left_s])


@settings(deadline=None, max_examples=40)
@given(BPS, in_time(PUTS), st.lists(st.integers(0, 5000), max_size=20))
def test_changes_to_the_same_rate_change_nothing(bps: int, events: list[Event], changes_ms: list[int]) -> None:
    link = parse(f"up={bps}bit {ROOMY} delay=20ms")
    changes: list[Event] = [(ms / 1000, link) for ms in changes_ms]
    changed = run(link, sorted([*events, *changes], key=lambda event: event[0]))
    plain = run(link, events)
    assert changed.order == plain.order
    assert [at_s for at_s, _ in changed.delivered] == pytest.approx([at_s for at_s, _ in plain.delivered])


def test_changes_that_come_faster_than_packets_are_sent_hold_nothing_up() -> None:
    link = parse("up=8kbit")
    changes: list[Event] = [(tenths / 10, link) for tenths in range(1, 40)]
    seen = play(Pipe(link, "up", 0.0), [*burst(3, 1000 - L2_HEADER_BYTES), *changes])
    assert [at_s for at_s, _ in seen.delivered] == pytest.approx([1, 2, 3])


def test_a_change_counts_the_times_of_its_steps_from_then() -> None:
    pipe: Pipe[int] = Pipe(parse("unlimited"), "up", 0.0)
    pipe.change(parse("up=8kbit+80kbit@1s"), 50.0)
    pipe.put(50.5, 1000 - L2_HEADER_BYTES, 0)
    assert pipe.next_s == 51.05


def test_a_shorter_queue_keeps_what_waits_and_drops_what_comes() -> None:
    pipe: Pipe[int] = Pipe(parse("up=8kbit queue=5000b"), "up", 0.0)
    for number in range(5):
        assert pipe.put(0.0, 1000 - L2_HEADER_BYTES, number)
    pipe.change(parse("up=8kbit queue=2000b"), 0.5)
    assert not pipe.put(0.5, 0, 5)
    assert pipe.take(5.0) == [0, 1, 2, 3, 4]


def test_a_shorter_delay_lets_no_packet_overtake() -> None:
    events: list[Event] = [(0.0, Put(100)), (0.1, parse("delay=0s")), (0.1, Put(100)), (1.5, Put(100))]
    assert run(parse("delay=1s"), events).delivered == [(1.0, 0), (1.0, 1), (1.5, 2)]


def test_a_change_leaves_the_delay_of_what_was_sent() -> None:
    events: list[Event] = [(0.0, Put(100)), (0.1, parse("delay=3s")), (0.1, Put(100))]
    assert run(parse("delay=1s"), events).delivered == [(1.0, 0), (3.1, 1)]


def test_a_trace_passes_a_packet_at_each_of_its_times_from_the_beginning_of_the_pipe(traces: list[str]) -> None:
    sparse = next(text for text in traces if text.endswith("sparse"))
    seen = run(parse(f"up={sparse}"), burst(6, at_s=2000.0), start_s=2000.0)
    moments = [0.007, 0.03, 0.031, 0.1, 0.107, 0.13]
    assert [at_s - 2000 for at_s, _ in seen.delivered] == pytest.approx(moments, abs=1e-9)


@pytest.mark.parametrize("start_s", [0.7, 12_345.678, 1_234_567.891])
def test_no_opportunity_of_a_trace_is_lost_to_rounding(traces: list[str], start_s: float) -> None:
    for text in traces:
        seen = run(parse(f"up={text} {ROOMY}"), burst(100, at_s=start_s), start_s)
        plain = run(parse(f"up={text} {ROOMY}"), burst(100))
        expected = [start_s + at_s for at_s, _ in plain.delivered]
        assert [at_s for at_s, _ in seen.delivered] == pytest.approx(expected, rel=0, abs=1e-6)


def test_a_change_passes_no_more_than_the_opportunities_that_there_were(tmp_path: Path) -> None:
    (tmp_path / "trace").write_text("10\n")
    link = parse(f"up=mahimahi:{tmp_path / 'trace'} {ROOMY}")
    pipe: Pipe[int] = Pipe(link, "up", 0.0)
    for number in range(60):
        pipe.put(0.0, 1000, number)
    for turn in range(1, 21):
        pipe.change(link, 0.011 * turn)
    assert pipe.packets * 1000 <= 20 * MTU_BYTES + 1000
