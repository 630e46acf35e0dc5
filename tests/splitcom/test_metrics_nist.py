"""NIST against cases worked by hand; logarithms are to base 2."""

from __future__ import annotations

import math

import pytest

from splitcom.metrics import nist
from splitcom.metrics.nist import brevity


def test_a_match_counts_the_information_that_it_adds_to_its_beginning() -> None:
    """References 'a b' and 'a c': 4 words, a twice, b and c once; pairs 'a b' and 'a c' once.

    info(a) = log(4/2) = 1, info(b) = log(4/1) = 2, info(a b) = log(2/1) = 1.
    Hypotheses 'a b' and 'a b': the first matches a, b and 'a b', the second only a.
    n = 1: (1 + 2 + 1) / 4 words = 1. n = 2: 1 / 2 pairs = 0.5. Lengths are equal: 1.5.
    """
    assert nist(["a b", "a b"], [["a b"], ["a c"]]) == pytest.approx(1.5)


def test_a_match_counts_no_more_often_than_in_the_reference_that_has_it_most() -> None:
    """References of one input: 'a b' and 'a a a c', 6 words with 4 a: info(a) = log(6/4).

    'a a a a' matches a three times, as often as the second reference has it, out of 4 words.
    'a a' is in the references twice (info(a a) = log(4/2) = 1) and three times in the hypothesis, of 3 pairs: 2/3.
    'a a a' occurs once: info = log(2/1) = 1, once among the hypothesis' 2 triples: 1/2. 'a a a a' matches nothing.
    The mean reference length is 3, the hypothesis is longer: no penalty.
    """
    expected = 3 * math.log2(6 / 4) / 4 + 2 / 3 + 1 / 2
    assert nist(["a a a a"], [["a b", "a a a c"]]) == pytest.approx(expected)


def test_two_thirds_of_the_length_cost_half_the_score() -> None:
    """Reference 'a b c': info of each word log 3, info(a b) = log(1/1) = 0. Hypothesis 'a b': (2 log 3) / 2, halved."""
    assert nist(["a b"], [["a b c"]]) == pytest.approx(math.log2(3) / 2)
    assert brevity(2, 3) == pytest.approx(0.5)
    assert brevity(4, 9) == pytest.approx(0.5**4)  # twice the logarithm, four times its square
    assert (brevity(3, 3), brevity(9, 3), brevity(0, 3)) == (1, 1, 0)


def test_length_is_compared_with_the_mean_of_each_inputs_references() -> None:
    """References of 2 and 4 words, 3 on average, against a hypothesis of 3: no penalty; of 2: half the score.

    'x y' and 'x y z u' have 6 words: info(x) = info(y) = log(6/2), info(z) = log 6; pairs add log(2/2) = 0 for 'x y'
    and log(2/1) = 1 for 'y z'; 'x y z' adds log(2/1) = 1.
    """
    references = [["x y", "x y z u"]]
    assert nist(["x y z"], references) == pytest.approx((2 * math.log2(3) + math.log2(6)) / 3 + 1 / 2 + 1)
    assert nist(["x y"], references) == pytest.approx(math.log2(3) / 2)


def test_runs_longer_than_five_words_count_no_more() -> None:
    """Six different words: single ones carry log 6 each, all longer runs nothing, as each has but one beginning."""
    assert nist(["a b c d e f"], [["a b c d e f"]]) == pytest.approx(math.log2(6))


def test_case_is_ignored_and_marks_are_words() -> None:
    """'a b !' has three words: info log 3 each."""
    assert nist(["A B!"], [["a b !"]]) == pytest.approx(math.log2(3))
