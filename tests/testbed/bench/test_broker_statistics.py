"""Medians, intervals, percentiles and trends of the broker's measurements."""

from __future__ import annotations

import random

import pytest

from testbed.bench.broker_statistics import bootstrap, percentile, ratio, trend


def test_an_interval_holds_the_true_median_about_as_often_as_it_says() -> None:
    draw = random.Random(1)
    hits = 0
    for _ in range(100):
        interval = bootstrap([draw.gauss(10, 2) for _ in range(15)])
        assert interval.low <= interval.median <= interval.high
        hits += interval.low <= 10 <= interval.high
    assert 0.85 <= hits / 100 <= 1.0


def test_the_same_values_give_the_same_interval() -> None:
    values = [3.0, 1.0, 4.0, 1.5, 9.0]
    assert bootstrap(values) == bootstrap(values)


def test_one_value_is_its_own_interval() -> None:
    interval = bootstrap([7.0])
    assert (interval.median, interval.low, interval.high) == (7.0, 7.0, 7.0)


def test_a_ratio_is_taken_pair_by_pair() -> None:
    # The machine was ten times slower in the second pair, for both.
    interval = ratio([2.0, 20.0, 4.0], [1.0, 10.0, 2.0])
    assert (interval.median, interval.low, interval.high) == (2.0, 2.0, 2.0)


def test_a_ratio_needs_pairs() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.0, 1)])
def test_a_percentile_is_one_of_the_values(share: float, value: float) -> None:
    values = [float(number) for number in range(1, 101)]
    random.Random(2).shuffle(values)
    assert percentile(values, share) == value


def test_nothing_has_no_statistics() -> None:
    for statistic in (bootstrap, lambda values: percentile(values, 0.5)):
        with pytest.raises(ValueError, match="no values"):
            statistic([])


def test_a_line_has_its_slope_and_no_uncertainty() -> None:
    slope = trend([0.0, 1.0, 2.0, 3.0], [5.0, 7.0, 9.0, 11.0])
    assert slope.mean == pytest.approx(2.0)
    assert slope.half_width == pytest.approx(0.0, abs=1e-9)


def test_a_slope_is_found_under_noise_and_none_where_there_is_none() -> None:
    draw = random.Random(3)
    times = [number / 6 for number in range(180)]
    flat = trend(times, [40 + draw.gauss(0, 2) for _ in times])
    grown = trend(times, [40 + 0.5 * time + draw.gauss(0, 2) for time in times])
    assert not flat.resolved
    assert grown.resolved
    assert grown.half_width is not None
    assert abs(grown.mean - 0.5) <= 2 * grown.half_width


def test_known_least_squares_by_hand() -> None:
    # Residuals 1/6, -1/3, 1/6: variance 1/6 with one degree of freedom, spread 2, t(1) = 12.706.
    slope = trend([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])
    assert slope.mean == pytest.approx(1.5)
    assert slope.half_width == pytest.approx(12.7062 * (1 / 6 / 2) ** 0.5, rel=1e-4)


@pytest.mark.parametrize("times", [[0.0, 1.0], [1.0, 1.0, 1.0]])
def test_a_trend_needs_three_values_at_different_times(times: list[float]) -> None:
    with pytest.raises(ValueError, match="three values"):
        trend(times, [1.0] * len(times))
