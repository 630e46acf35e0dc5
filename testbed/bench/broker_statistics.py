"""What few repeated measurements tell: medians with bootstrap intervals, ratios of pairs, percentiles, trends."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from testbed.study.intervals import LEVEL, Estimate, mean, t_quantile

RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A median with the ends of its 95 % interval."""

    median: float
    low: float
    high: float


def bootstrap(values: Sequence[float]) -> Interval:
    """The median and its percentile interval over samples drawn with replacement (Efron, 1979), the same each time.

    ValueError for no values. One value is its own interval, which then tells nothing.
    """
    if not values:
        raise ValueError("no values")
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    beyond = (1 - LEVEL) / 2
    return Interval(statistics.median(values), percentile(medians, beyond), percentile(medians, 1 - beyond))


def ratio(values: Sequence[float], baseline: Sequence[float]) -> Interval:
    """The median of value over baseline; those at the same place were measured next to each other."""
    return bootstrap([value / other for value, other in zip(values, baseline, strict=True)])


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all values does not exceed; ValueError for none."""
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def trend(times: Sequence[float], values: Sequence[float]) -> Estimate:
    """The slope of the least-squares line in values per time, with the interval slope +- t(n - 2) * its error.

    The errors are taken as independent. ValueError for fewer than three points or equal times.
    """
    n = len(values)
    if n < 3 or len(set(times)) == 1:
        raise ValueError("a trend needs three values at different times")
    middle, level = mean(times), mean(values)
    spread = math.fsum((time - middle) ** 2 for time in times)
    slope = math.fsum((t - middle) * (value - level) for t, value in zip(times, values, strict=True)) / spread
    residual = math.fsum((value - level - slope * (t - middle)) ** 2 for t, value in zip(times, values, strict=True))
    return Estimate(slope, t_quantile(n - 2) * math.sqrt(residual / (n - 2) / spread), n)
