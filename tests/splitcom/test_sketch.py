"""Sketches keep inner products, and every machine draws the same ones."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from splitcom.similarity import cosine
from splitcom.sketch import Sketcher

SHAPE = (9, 12)
DIMENSIONS = 16
SEEDS = 600


def _pair(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Two tensors of one shape: unrelated, close, or of rank one, for which the projection is at its worst."""
    draw = np.random.default_rng(5)
    x = draw.standard_normal(SHAPE).astype(np.float32)
    if kind == "unrelated":
        return x, draw.standard_normal(SHAPE).astype(np.float32)
    if kind == "close":
        return x, x + 0.1 * draw.standard_normal(SHAPE).astype(np.float32)
    row = np.outer(np.ones(SHAPE[0]), draw.standard_normal(SHAPE[1])).astype(np.float32)
    return row, row


@pytest.mark.parametrize("kind", ["unrelated", "close", "rank one"])
def test_inner_products_are_unbiased_and_within_the_stated_variance(kind: str) -> None:
    x, y = _pair(kind)
    sketchers = [Sketcher(seed, "activation_up", SHAPE[1], DIMENSIONS) for seed in range(SEEDS)]
    products = np.array([float(s.sketch(x) @ s.sketch(y)) for s in sketchers])
    truth, scale = float((x * y).sum()), float(np.linalg.norm(x) * np.linalg.norm(y))
    bound = scale * np.sqrt(9 / DIMENSIONS)
    assert abs(products.mean() - truth) < 4 * bound / np.sqrt(SEEDS)
    assert products.std() < bound


def test_similarity_of_sketches_follows_the_similarity_of_tensors() -> None:
    draw = np.random.default_rng(1)
    sketcher = Sketcher(0, "activation_up", 64, 64)
    x = draw.standard_normal((30, 64)).astype(np.float32)
    noise = draw.standard_normal((30, 64)).astype(np.float32)
    estimated = [cosine(sketcher.sketch(x), sketcher.sketch(x + size * noise)) for size in (0, 0.1, 0.5, 2)]
    exact = [cosine(x, x + size * noise) for size in (0, 0.1, 0.5, 2)]
    assert estimated[0] == 1
    assert estimated == sorted(estimated, reverse=True)
    # The error is relative to 1 - cosine, so that the gate is sharp where thresholds lie.
    assert np.allclose(1 - np.array(estimated), 1 - np.array(exact), rtol=0.7)


def test_equal_names_give_equal_sketches_in_another_process() -> None:
    tensor = "np.arange(140 * 8, dtype=np.float32).reshape(140, 8)"
    program = (
        "import numpy as np; from splitcom.sketch import Sketcher; "
        f"print(Sketcher(3, 'gradient_up', 8, 4).sketch({tensor}).tolist())"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    tensor_here = np.arange(140 * 8, dtype=np.float32).reshape(140, 8)
    assert other.stdout.strip() == str(Sketcher(3, "gradient_up", 8, 4).sketch(tensor_here).tolist())


@pytest.mark.parametrize("other", [(4, "gradient_up"), (3, "gradient_down")])
def test_another_seed_or_stream_projects_otherwise(other: tuple[int, str]) -> None:
    tensor = np.ones((5, 8), np.float32)
    assert not np.array_equal(Sketcher(3, "gradient_up", 8, 4).sketch(tensor), Sketcher(*other, 8, 4).sketch(tensor))


def test_signs_of_a_position_do_not_depend_on_the_lengths_seen_before() -> None:
    long = np.zeros((200, 8), np.float32)
    long[150] = 1
    at_once, in_steps = Sketcher(0, "activation_up", 8, 4), Sketcher(0, "activation_up", 8, 4)
    for tokens in (1, 63, 64, 65, 130):
        in_steps.sketch(long[:tokens])
    assert np.array_equal(at_once.sketch(long), in_steps.sketch(long))


def test_tensors_near_the_top_of_float32_are_sketched_without_a_warning() -> None:
    with np.errstate(all="raise"):
        Sketcher(0, "activation_up", 8, 4).sketch(np.full((200, 8), 3e38, np.float32))
