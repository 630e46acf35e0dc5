"""ROUGE-L against cases worked by hand."""

from __future__ import annotations

import itertools
import random

import pytest

from splitcom.metrics import rouge_l
from splitcom.metrics.rouge import longest_common


def test_precision_and_recall_may_come_from_different_references() -> None:
    """'a b c d' against 'a x c d e f': 'a c d' is common, P = 3/4, R = 3/6. Against 'a b': P = 2/4, R = 2/2.

    The largest are P = 3/4 and R = 1: (1 + 1.44) * 0.75 * 1 / (1 + 1.44 * 0.75) = 1.83 / 2.08.
    """
    assert rouge_l(["a b c d"], [["a x c d e f", "a b"]]) == pytest.approx(100 * 1.83 / 2.08)


def test_recall_weighs_more_than_precision() -> None:
    """'a b' against 'a b c d': P = 1, R = 1/2: 2.44 / 2 / (0.5 + 1.44) = 1.22 / 1.94.

    The other way round P = 1/2, R = 1: 2.44 / 2 / (1 + 0.72) = 1.22 / 1.72.
    """
    assert rouge_l(["a b"], [["a b c d"]]) == pytest.approx(100 * 1.22 / 1.94)
    assert rouge_l(["a b c d"], [["a b"]]) == pytest.approx(100 * 1.22 / 1.72)


def test_the_score_is_the_mean_over_sentences() -> None:
    """1 for the first, which equals a reference, and 0 for the second, which shares nothing."""
    assert rouge_l(["A, b.", "c"], [["x", "a , b ."], ["d"]]) == pytest.approx(50)


def test_the_table_finds_the_longest_of_all_common_subsequences() -> None:
    def by_trying(a: str, b: str) -> int:
        def has(text: str, part: tuple[str, ...]) -> bool:
            rest = iter(text)
            return all(letter in rest for letter in part)

        return max(n for n in range(len(a) + 1) if any(has(b, part) for part in itertools.combinations(a, n)))

    draw = random.Random(5)
    for _ in range(200):
        a, b = ("".join(draw.choices("abc", k=draw.randrange(8))) for _ in range(2))
        assert longest_common(list(a), list(b)) == by_trying(a, b)
