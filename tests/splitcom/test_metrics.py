"""Perplexity and sacrebleu's metrics on known values, and what holds for every metric by name."""

from __future__ import annotations

import math
import random
import sys

import pytest

from splitcom.errors import ConfigError
from splitcom.metrics import METRICS, available, bleu, chrf, perplexity, score, ter

TEXTS = [
    "The hut has ten beds and serves soup.",
    "There is a lodge near the lake, open in winter.",
    "Cocum is a cheap pub by the river; children are welcome.",
]
# The score of texts that equal their only reference, where that is the best that there is.
BEST = {"bleu": 100.0, "chrf": 100.0, "ter": 0.0, "rouge_l": 100.0, "cider": 10.0}


def test_perplexity_of_a_uniform_guess_is_the_number_of_choices() -> None:
    assert perplexity(10 * math.log(7), 10) == pytest.approx(7)


@pytest.mark.parametrize("total", [1e6, 1e308, math.inf])
def test_perplexity_that_overflows_is_infinite(total: float) -> None:
    assert perplexity(total, 1) == math.inf


def test_perplexity_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="tokens: 0; valid: 1 or more"):
        perplexity(0.0, 0)


def test_bleu_takes_any_number_of_references() -> None:
    texts = ["The hut has ten beds and serves soup.", "There is a lodge near the lake."]
    references = [["Something else.", texts[0]], [texts[1]]]
    assert bleu(texts, references) == pytest.approx(100)
    assert bleu(["A cat.", "A dog."], references) < 10
    one = bleu(texts, [["The hut has ten beds."], [texts[1]]])
    assert one < bleu(texts, references)


def test_bleu_wants_a_reference_for_every_hypothesis() -> None:
    for hypotheses, references in ([], []), (["a"], [[]]), (["a", "b"], [["a"]]):
        with pytest.raises(ValueError, match="references: "):
            bleu(hypotheses, references)


def test_chrf_is_the_f_score_of_mean_precisions_and_recalls() -> None:
    """'ab' against 'ac': of 2 single characters 1 is shared, of 1 pair none; longer runs there are none.

    Precision and recall are both (1/2 + 0) / 2 = 1/4, and so is their F score, whatever the weight of recall.
    """
    assert chrf(["ab"], [["ac"]]) == pytest.approx(25)


def test_ter_counts_the_edits_to_the_nearest_reference_over_the_mean_length() -> None:
    """'a b c' is one substitution from 'a b d' and three edits from 'x y z u v'; mean length (3 + 5) / 2 = 4.

    One edit over 4 words is 25 %.
    """
    assert ter(["a b c"], [["a b d", "x y z u v"]]) == pytest.approx(25)


@pytest.mark.parametrize("name", METRICS)
def test_a_text_that_equals_its_only_reference_scores_best(name: str) -> None:
    equal = METRICS[name](TEXTS, [[text] for text in TEXTS])
    worse = METRICS[name]([TEXTS[0], *TEXTS[:2]], [[text] for text in TEXTS])
    assert equal < worse if name == "ter" else equal > worse
    assert equal == pytest.approx(BEST.get(name, equal))


@pytest.mark.parametrize("name", METRICS)
def test_neither_the_order_of_references_nor_that_of_texts_matters(name: str) -> None:
    references = [[TEXTS[k], TEXTS[k - 1], "A hut by the lake."][: k + 1] for k in range(3)]
    hypotheses = ["The hut has beds.", "A lodge near the lake.", "Cocum is a pub, a cheap pub."]
    expected = METRICS[name](hypotheses, references)
    for seed in range(5):
        draw = random.Random(seed)
        pairs = [(h, draw.sample(r, len(r))) for h, r in zip(hypotheses, references, strict=True)]
        draw.shuffle(pairs)
        assert METRICS[name]([h for h, _ in pairs], [r for _, r in pairs]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_an_empty_text_scores_worst_and_spoils_no_other(name: str) -> None:
    references = [[text] for text in TEXTS]
    assert METRICS[name](["", "", ""], references) == (100 if name == "ter" else 0)
    one = METRICS[name](["", *TEXTS[1:]], references)
    all_of_them, none = METRICS[name](TEXTS, references), METRICS[name](["", "", ""], references)
    assert min(all_of_them, none) < one < max(all_of_them, none)


@pytest.mark.parametrize("name", METRICS)
def test_a_reference_without_words_is_no_error(name: str) -> None:
    assert math.isfinite(METRICS[name](TEXTS[:2], [["", TEXTS[0]], [""]]))
    assert math.isfinite(METRICS[name](["", ""], [[""], [""]]))


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_wants_a_reference_for_every_hypothesis(name: str) -> None:
    for hypotheses, references in ([], []), (["a"], [[]]), (["a", "b"], [["a"]]):
        with pytest.raises(ValueError, match="references: "):
            METRICS[name](hypotheses, references)


def test_the_named_metrics_come_in_the_order_of_the_names() -> None:
    references = [[text] for text in TEXTS]
    scores = score(TEXTS, references, ["ter", "bleu"])
    assert list(scores.items()) == [("ter", 0.0), ("bleu", pytest.approx(100))]
    assert list(score(TEXTS, references)) == list(METRICS)
    assert score(TEXTS, references, ["one"], {"one": lambda hypotheses, references: 1.0}) == {"one": 1.0}


def test_an_unknown_metric_is_answered_with_the_valid_ones() -> None:
    said = r"metrics: 'blue' is unknown; valid: bleu, chrf, cider, nist, rouge_l, ter$"
    with pytest.raises(ConfigError, match=said):
        score(["a"], [["a"]], ["bleu", "blue"])


@pytest.mark.parametrize("name", METRICS)
def test_without_the_package_the_extra_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert available()
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    assert not available()
    with pytest.raises(ConfigError, match=rf"^{name}: needs the package sacrebleu; install splitcom\[server\]$"):
        METRICS[name](["a"], [["a"]])
