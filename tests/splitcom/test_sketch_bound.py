"""The error of sketches: its exact variance, the bounds that follow from it, and what they mean for a gate.

Let X be (T, C), M = X X^T, and a = sum over t of s[t] * (X[t] . g) one coordinate of its sketch times sqrt(k), with
signs s and a Gaussian g. Given s, a is Gaussian with variance s^T M s, whose mean square is
tr(M)^2 + 2 * (sum over t != u of M[t, u]^2), at most 3 tr(M)^2. The k coordinates are independent, hence

    E |sketch(X)|^2 = |X|^2,   Var |sketch(X)|^2 = (3 * E (s^T M s)^2 - |X|^4) / k <= 8 / k * |X|^4,

2 / k for a single row and close to 8 / k for rows that are all alike. For X and Y of one shape Cauchy and Schwarz give
Var <sketch(X), sketch(Y)> <= (9 |X|^2 |Y|^2 - <X, Y>^2) / k, and Chebyshev

    P(|<sketch(X), sketch(Y)> - <X, Y>| > e |X| |Y|) <= 9 / (k e^2),

so the norms of X and Y and their product are all within e with probability 1 - 25 / (k e^2) at least; their cosine is
then within 2 e / (1 - e). (Johnson and Lindenstrauss 1984, for this projection.)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest

from splitcom.sketch import Sketcher

T, C = 24, 16
SEEDS = 400
KINDS = ("gaussian", "low rank", "constant over positions", "one token dominates")
DIMENSIONS = (16, 64, 256)
# Standard errors that are left to chance: the seeds are fixed, and the products have heavy tails.
SIGMAS = 4.5

Draw = Callable[[int, int], Sketcher]


def tensor(kind: str, number: int) -> np.ndarray:
    """(T, C) float32 of norm 1; another one of its kind for each number."""
    draw = np.random.default_rng([number, KINDS.index(kind)])
    x = draw.standard_normal((T, C))
    if kind == "low rank":
        x = draw.standard_normal((T, 2)) @ draw.standard_normal((2, C))
    elif kind == "constant over positions":
        x = np.broadcast_to(draw.standard_normal(C), (T, C))
    elif kind == "one token dominates":
        x[3] *= 100
    return (x / np.linalg.norm(x)).astype(np.float32)


X, Y = ({kind: tensor(kind, number) for kind in KINDS} for number in (1, 2))
NOISE = tensor("gaussian", 3)


def variance(x: np.ndarray) -> float:
    """k * Var |sketch(X)|^2 for |X| = 1, exactly."""
    m = x.astype(np.float64) @ x.T
    return float(3 * (np.trace(m) ** 2 + 2 * ((m**2).sum() - (np.diag(m) ** 2).sum())) - 1)


def honest(seed: int, dimensions: int) -> Sketcher:
    return Sketcher(seed, "activation_up", C, dimensions)


def quarter(seed: int, dimensions: int) -> Sketcher:
    """A sketcher with a fourth of the dimensions that it was asked for."""
    return honest(seed, dimensions // 4)


def constant(seed: int, dimensions: int) -> Sketcher:
    """A sketcher whose signs are all 1: it sees no more than the sum over positions."""
    sketcher = honest(seed, dimensions)
    sketcher._signs = np.ones((T, dimensions), np.float32)
    return sketcher


@functools.cache
def sketches(dimensions: int, draw: Draw = honest) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Those of X and Y by kind and of NOISE, each (SEEDS, dimensions)."""
    tensors = [*X.values(), *Y.values(), NOISE]
    rows = []
    for seed in range(SEEDS):
        sketcher = draw(seed, dimensions)
        rows.append([sketcher.sketch(x) for x in tensors])
    *found, noise = np.array(rows, np.float64).swapaxes(0, 1)
    return dict(zip(KINDS, found[:4], strict=True)), dict(zip(KINDS, found[4:], strict=True)), noise


def products(dimensions: int, draw: Draw, kind: str) -> dict[str, tuple[float, np.ndarray]]:
    """|X|^2, |Y|^2 and <X, Y>, each with its estimates over all seeds."""
    a, b = (found[kind] for found in sketches(dimensions, draw)[:2])
    truth = float((X[kind] * Y[kind]).sum())
    return {"xx": (1.0, (a * a).sum(1)), "yy": (1.0, (b * b).sum(1)), "xy": (truth, (a * b).sum(1))}


def is_unbiased(dimensions: int, draw: Draw, kind: str) -> bool:
    """Whether the mean estimates are within their standard error."""
    error = SIGMAS * math.sqrt(9 / dimensions / SEEDS)
    return all(abs(seen.mean() - truth) < error for truth, seen in products(dimensions, draw, kind).values())


def has_the_variance(dimensions: int, draw: Draw, kind: str) -> bool:
    """Whether squared norms vary as the formula says, up to what so many seeds leave open."""
    observed = dimensions * products(dimensions, draw, kind)["xx"][1].var()
    return bool(0.6 < observed / variance(X[kind]) < 1.7)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Those of the rows."""
    return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


def away(kind: str, truth: float) -> float:
    """The factor f for which the cosine of X and X + f * (the part of NOISE that is orthogonal to X) is `truth`."""
    size = math.sqrt(1 - float((X[kind] * NOISE).sum()) ** 2)
    return math.sqrt(1 / truth**2 - 1) / size


def drifted(dimensions: int, kind: str, truth: float) -> np.ndarray:
    """Over all seeds: the cosine that a gate sees where that of the tensors is `truth`; sketches are linear."""
    xs, _, noise = sketches(dimensions)
    orthogonal = noise - float((X[kind] * NOISE).sum()) * xs[kind]
    return cosines(xs[kind], xs[kind] + away(kind, truth) * orthogonal)


every = pytest.mark.parametrize(("kind", "dimensions"), [(kind, k) for kind in KINDS for k in DIMENSIONS])


@every
def test_norms_and_inner_products_are_unbiased(kind: str, dimensions: int) -> None:
    assert is_unbiased(dimensions, honest, kind)


@every
def test_squared_norms_vary_as_the_formula_says(kind: str, dimensions: int) -> None:
    assert has_the_variance(dimensions, honest, kind)


def test_the_bound_is_nearly_reached_by_rows_that_are_alike_and_far_off_for_a_single_row() -> None:
    assert variance(X["constant over positions"]) == pytest.approx(8 - 6 / T, rel=1e-4)
    assert variance(X["one token dominates"]) == pytest.approx(2, rel=0.05)
    assert all(2 - 1e-4 <= variance(x) <= 8 for x in X.values())


@every
def test_inner_products_keep_their_bound_and_large_errors_are_rare(kind: str, dimensions: int) -> None:
    for truth, seen in products(dimensions, honest, kind).values():
        errors = np.abs(seen - truth)
        # The bound holds for the expectation; a mean over seeds of such heavy tails needs room above it.
        assert dimensions * (errors**2).mean() <= 1.5 * (9 - truth**2)
        for rarity in (1 / 2, 1 / 4, 1 / 16):
            size = math.sqrt(9 / dimensions / rarity)
            assert (errors > size).mean() <= rarity


@every
def test_cosines_keep_the_bound_that_norms_and_products_give(kind: str, dimensions: int) -> None:
    found = products(dimensions, honest, kind)
    within = np.max([np.abs(seen - truth) for truth, seen in found.values()], axis=0)
    truth = found["xy"][0]
    errors = np.abs(found["xy"][1] / np.sqrt(found["xx"][1] * found["yy"][1]) - truth)
    for size in (0.1, 0.3, 0.5):
        assert errors[within <= size].max(initial=0) <= 2 * size / (1 - size)
        assert (within > size).mean() <= 25 / (dimensions * size**2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sketch_of_a_fourth_of_the_dimensions_would_be_noticed(kind: str) -> None:
    assert not has_the_variance(64, quarter, kind)


def test_signs_that_do_not_change_with_the_position_would_be_noticed() -> None:
    # The sum over positions counts rows that are alike T times.
    assert not is_unbiased(64, constant, "constant over positions")
    assert products(64, constant, "constant over positions")["xx"][1].mean() == pytest.approx(T, rel=0.1)
    assert not is_unbiased(64, constant, "low rank")


def test_a_sketch_of_a_sum_is_the_sum_of_sketches() -> None:
    sketcher = honest(0, 16)
    whole = sketcher.sketch((X["gaussian"] + 3 * NOISE).astype(np.float32))
    assert np.allclose(whole, sketcher.sketch(X["gaussian"]) + 3 * sketcher.sketch(NOISE), rtol=1e-4, atol=1e-5)


@every
def test_what_a_gate_sees_of_a_drift_is_off_by_a_share_of_the_drift(kind: str, dimensions: int) -> None:
    """(1 - cosine of the sketches) / (1 - cosine of the tensors) is 1 but for (v(X) + v(noise)) / k of variance (delta
    method), however small the drift."""
    spread = math.sqrt((variance(X[kind]) + variance(NOISE)) / dimensions)
    small, tiny = ((1 - drifted(dimensions, kind, truth)) / (1 - truth) for truth in (0.98, 0.9998))
    for ratio in (small, tiny):
        assert abs(np.median(ratio) - 1) < 0.4 * spread
        assert 0.7 < np.log(ratio).std() / spread < 1.3
    assert np.corrcoef(np.log(small), np.log(tiny))[0, 1] > 0.98


@pytest.mark.parametrize(("dimensions", "low", "high"), [(16, 0.94, 0.995), (64, 0.965, 0.99), (256, 0.97, 0.985)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_gate_at_98_decides_rightly_outside_of_a_band(kind: str, dimensions: int, low: float, high: float) -> None:
    """Nine of ten seeds send what is below the band and skip what is above it, and half of them so at its threshold."""
    assert (drifted(dimensions, kind, low) >= 0.98).mean() <= 0.1
    assert (drifted(dimensions, kind, high) >= 0.98).mean() >= 0.9
    assert 0.4 <= (drifted(dimensions, kind, 0.98) >= 0.98).mean() <= 0.62
