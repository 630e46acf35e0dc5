"""What a measurement says about a link, from numbers alone."""

from __future__ import annotations

import random
import statistics

import pytest

from testbed.links import check
from testbed.links.calibration import MESSAGES_JITTER
from testbed.links.loss import GilbertElliott, independent
from testbed.links.profile import Direction, parse
from testbed.links.rates import WIRE_PER_PAYLOAD


def transfer(size: int, seconds: float) -> dict[str, float]:
    return {"bytes": size, "first_bytes": 0, "first": 100.0, "last": 100.0 + seconds}


def test_a_rate_is_that_of_layer_2() -> None:
    profile = parse("up=10mbit")
    size = int(10e6 / 8 * 2 / WIRE_PER_PAYLOAD)
    done = check.rate("a", "up", profile, transfer(size, 2.0), 100.0, 0.02)
    assert done.error_percent == pytest.approx(0, abs=0.01)
    assert done.ok


@pytest.mark.parametrize(("seconds", "ok"), [(2.03, True), (1.97, True), (2.06, False), (1.94, False)])
def test_a_rate_fails_beyond_its_bound(seconds: float, ok: bool) -> None:
    size = int(10e6 / 8 * 2 / WIRE_PER_PAYLOAD)
    assert check.rate("a", "up", parse("up=10mbit"), transfer(size, seconds), 100.0, 0.02).ok is ok


def test_a_rate_that_varies_is_held_against_what_passed_meanwhile() -> None:
    profile = parse("up=10mbit+2mbit@1s")
    size = int((10e6 + 2e6) / 8 / WIRE_PER_PAYLOAD)
    assert check.rate("a", "up", profile, transfer(size, 2.0), 100.0, 0.02).error_percent == pytest.approx(0, abs=0.1)


def test_a_short_transfer_is_allowed_two_packets() -> None:
    profile = parse("up=1mbit")
    assert check.rate("a", "up", profile, transfer(14_480, 0.133), 100.0, 0.02).ok
    assert not check.rate("a", "up", profile, transfer(14_480, 0.09), 100.0, 0.02).ok


def test_a_delay_includes_sending_the_message() -> None:
    done = check.delay("a", "down", parse("down=100kbit delay=20ms"), [0.02592] * 5)
    assert done.configured == pytest.approx(25.92)
    assert done.error_percent == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(("measured_s", "ok"), [(0.1005, True), (0.104, True), (0.107, False), (0.09, False)])
def test_a_delay_fails_beyond_5_percent(measured_s: float, ok: bool) -> None:
    assert check.delay("a", "up", parse("delay=100ms"), [measured_s] * 9).ok is ok


@pytest.mark.parametrize("losses", [independent(0.01), GilbertElliott(0.0025, 0.25)])
def test_a_loss_as_configured_passes_and_three_times_as_much_fails(losses: GilbertElliott) -> None:
    """Of 200 drawn links of 20,000 packets: one in a thousand may fail by chance, so two is the most to expect."""
    failed, caught = 0, 0
    for seed in range(200):
        lost = losses.draws(random.Random(seed))
        received = 20_000 - sum(lost() for _ in range(20_000))
        failed += not check.loss("a", "up", losses, 20_000, received).ok
        caught += not check.loss("a", "up", losses, 20_000, 3 * received - 40_000).ok
    assert failed <= 2
    assert caught >= 195


def drawn(delay_s: float, jitter_s: float, seed: int) -> list[float]:
    """Times of as many messages as are sent, as an emulator draws them."""
    draw = random.Random(seed)
    return [max(0.0, draw.gauss(delay_s, jitter_s)) for _ in range(MESSAGES_JITTER)]


@pytest.mark.parametrize(("delay_s", "jitter_s"), [(0.05, 0.01), (0.02, 0.02), (0.0, 0.03)])
def test_a_jitter_as_configured_passes_and_one_that_is_half_or_twice_as_large_fails(
    delay_s: float, jitter_s: float
) -> None:
    """Of 500 drawn links one in a thousand may fail by chance."""
    direction = Direction(delay=f"{delay_s}s", jitter=f"{jitter_s}s")
    right = [check.jitter("a", "up", direction, drawn(delay_s, jitter_s, seed)) for seed in range(500)]
    assert sum(not done.ok for done in right) <= 3
    assert statistics.mean(done.error_percent for done in right) == pytest.approx(0, abs=1.5)
    for factor in (0.5, 2):
        wrong = [check.jitter("a", "up", direction, drawn(delay_s, jitter_s * factor, seed)) for seed in range(500)]
        assert sum(done.ok for done in wrong) <= 25


def test_a_jitter_is_told_in_milliseconds_as_it_is_configured() -> None:
    times = drawn(0.05, 0.01, 1)
    done = check.jitter("a", "up", Direction(delay="50ms", jitter="10ms"), times)
    assert done.what == "jitter"
    assert done.configured == pytest.approx(10, rel=1e-4)
    assert done.measured == pytest.approx(1000 * statistics.stdev(times))
    assert 20 < done.allowed_percent < 40


def test_timers_may_add_a_millisecond_to_a_jitter() -> None:
    direction = Direction(delay="50ms", jitter="1us")
    assert check.jitter("a", "up", direction, [0.0500, 0.0501] * 50).ok
    assert not check.jitter("a", "up", direction, [0.048, 0.052] * 50).ok


def test_a_link_that_passes_nothing_fails_with_a_number() -> None:
    nothing = {"bytes": 0, "first_bytes": 1448, "first": 0.0, "last": 0.0}
    done = check.rate("a", "up", parse("up=1mbit+2mbit@1s"), nothing, 0.0, 0.02)
    assert (done.ok, done.measured, done.error_percent) == (False, 0.0, -100)


def test_a_message_meets_the_first_seconds_of_a_rate_that_varies() -> None:
    done = check.delay("a", "up", parse("up=64kbit+10mbit@60s delay=10ms"), [0.0203] * 9)
    assert done.ok


def test_json_has_the_fields_that_it_promises() -> None:
    table = check.delay("a", "up", parse("delay=100ms"), [0.1]).table()
    assert set(table) >= {"client", "direction", "what", "configured", "measured", "error_percent"}
