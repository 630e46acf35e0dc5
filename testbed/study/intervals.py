"""Means and Student's intervals of few values: what a comparison over seeds can and cannot tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean of `n` values and half the width of its 95 % interval; None where one value tells nothing of spread."""

    mean: float
    half_width: float | None
    n: int

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.half_width is not None and abs(self.mean) > self.half_width


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean; ValueError for none."""
    if not values:
        raise ValueError("no values")
    return math.fsum(values) / len(values)


def deviation(values: Sequence[float]) -> float:
    """The sample's standard deviation, n - 1 below; ValueError for fewer than two values."""
    if len(values) < 2:
        raise ValueError("fewer than two values")
    middle = mean(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1))


def estimate(values: Sequence[float]) -> Estimate:
    """The mean with the interval mean +- t(n - 1) * s / sqrt(n), which holds for normal values."""
    n = len(values)
    half_width = t_quantile(n - 1) * deviation(values) / math.sqrt(n) if n > 1 else None
    return Estimate(mean(values), half_width, n)


def paired(values: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """The mean difference to the baseline; values at the same place share their seed, whose effect so cancels."""
    return estimate([value - other for value, other in zip(values, baseline, strict=True)])


def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """The t with P(|T| <= t) = level for Student's T, by bisection on its distribution function."""
    if freedom < 1:
        raise ValueError(f"{freedom} degrees of freedom")
    low, high = 0.0, 1.0
    while _within(high, freedom) < level:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """P(|T| <= t): the finite sums in cos(theta), theta = atan(t / sqrt(freedom)), that integer freedom allows.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    theta = math.atan(t / math.sqrt(freedom))
    sine, square = math.sin(theta), math.cos(theta) ** 2
    odd = freedom % 2
    term = math.cos(theta) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= square * (k - 1) / k
        total += term
    return 2 / math.pi * (theta + sine * total) if odd else sine * total
