"""CIDEr against cases worked by hand.

With two inputs an n-gram that only one of them has weighs L = ln(2/1), one that both have ln(2/2) = 0. L drops out of
every cosine.
"""

from __future__ import annotations

import math

import pytest

from splitcom.metrics import cider

EQUAL = 10.0


def second(hypothesis: str, *references: str) -> float:
    """The score of a sentence beside another one, 'p q r s', that equals its reference and so scores 10."""
    return 2 * cider(["p q r s", hypothesis], [["p q r s"], list(references)]) - EQUAL


def test_a_shorter_text_loses_by_what_it_lacks_and_by_its_length() -> None:
    """'a b' against 'a b c d'. n = 1: 2 LL / (sqrt 2 L * 2 L) = 1 / sqrt 2. n = 2: LL / (L * sqrt 3 L) = 1 / sqrt 3.

    n = 3, 4: 0. Two words less: exp(-4 / 72). The mean over four n, times 10.
    """
    expected = 10 * (1 / math.sqrt(2) + 1 / math.sqrt(3)) / 4 * math.exp(-4 / 72)
    assert second("a b", "a b c d") == pytest.approx(expected)


def test_repeating_a_word_gains_nothing() -> None:
    """'a a a a' against 'a b c d': min(4 L, L) L / (4 L * 2 L) = 1/8 for n = 1, nothing else; lengths are equal."""
    assert second("a a a a", "a b c d") == pytest.approx(10 / 8 / 4)


def test_what_the_references_of_every_input_say_weighs_nothing() -> None:
    """'p' is in both inputs' references. 'p a' against 'p a': n = 1 has a alone, n = 2 'p a': both 1, n = 3, 4: 0."""
    assert second("p a", "p a") == pytest.approx(10 * 2 / 4)
    assert second("p p", "p a") == 0
    assert cider(["a b c d"], [["a b c d"]]) == 0  # one input: everything is in all of them


def test_what_no_reference_says_weighs_most() -> None:
    """Beside three inputs, 'a z' against 'a' and 'a b c d': a is in one input of three and weighs ln 3, as z does.

    Against 'a': n = 1 ln3 ln3 / (sqrt 2 ln3 * ln3) = 1 / sqrt 2, one word more: exp(-1/72).
    Against 'a b c d': ln3 ln3 / (sqrt 2 ln3 * 2 ln3) = 1 / (2 sqrt 2), two words less: exp(-4/72).
    The mean of both over four n; the other two inputs equal their references.
    """
    texts = ["e f g h", "i j k l"]
    scored = cider(["a z", *texts], [["a", "a b c d"], *([text] for text in texts)])
    own = (math.exp(-1 / 72) / math.sqrt(2) + math.exp(-4 / 72) / (2 * math.sqrt(2))) / 2 / 4
    assert scored == pytest.approx(10 * (own + 2) / 3)


def test_an_input_counts_once_however_many_of_its_references_say_the_same() -> None:
    """'a' is in all three references of one input of two, so it weighs L and not ln(2/3)."""
    assert second("a b c d", *["a b c d"] * 3) == pytest.approx(EQUAL)


def test_case_is_ignored() -> None:
    assert second("A b C d", "a B c D") == pytest.approx(EQUAL)
