"""What the measures of similarity say, at their edges too."""

from __future__ import annotations

import numpy as np
import pytest

from splitcom.similarity import cosine, relative_l2

MEASURES = [cosine, relative_l2]
ONE = np.ones((3, 4), np.float32)
ZERO = np.zeros((3, 4), np.float32)


@pytest.mark.parametrize("measure", MEASURES)
def test_equal_arrays_are_as_alike_as_can_be_at_any_size(measure) -> None:  # type: ignore[no-untyped-def]
    for size in (0, 1e-38, 1, 3e38):
        array = np.float32(size) * ONE
        assert measure(array, array) == pytest.approx(1)


@pytest.mark.parametrize("measure", MEASURES)
def test_opposite_arrays_and_infinities_are_like_nothing(measure) -> None:  # type: ignore[no-untyped-def]
    for other in (-ONE, np.inf * ONE, np.nan * ONE):
        assert measure(ONE, other) == measure(other, ONE) == pytest.approx(-1)


def test_relative_l2_is_the_distance_in_norms_of_the_reference() -> None:
    assert relative_l2(ONE, ZERO) == 0
    assert relative_l2(ZERO, ONE) == -1
    assert relative_l2(np.float32([3, 4]), np.float32([3, 3])) == pytest.approx(1 - 1 / 5)
    assert relative_l2(ONE, 9 * ONE) == -1


def test_cosine_ignores_size_from_the_smallest_to_the_largest_float32() -> None:
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    assert cosine(zero, zero) == 1
    assert cosine(zero, one) == cosine(one, zero) == 0
    assert cosine(np.float32(1e-38) * one, one) == pytest.approx(1)
    assert cosine(np.float32(3e38) * one, one) == pytest.approx(1)
    assert cosine(np.float32([np.inf, 1, 1]), one) == cosine(np.float32([np.nan, 1, 1]), one) == -1
