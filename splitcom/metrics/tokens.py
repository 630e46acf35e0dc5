"""Words and n-grams for the metrics of our own: the 13a tokens of mteval (by sacrebleu), in lower case."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from splitcom.metrics.base import check_texts
from splitcom.metrics.sacre import sacrebleu

Tokens = list[str]
Ngram = tuple[str, ...]


def tokenized(
    metric: str, hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[Tokens], list[list[Tokens]]]:
    """(hypotheses, references) as tokens; punctuation marks are tokens, case is ignored.

    Raises ValueError unless every hypothesis has a reference, ConfigError naming the metric without sacrebleu.
    """
    check_texts(hypotheses, references)
    tokenizer = sacrebleu(metric).BLEU(tokenize="13a").tokenizer

    def words(text: str) -> Tokens:
        return list(tokenizer(text.lower()).split())

    return [words(text) for text in hypotheses], [[words(text) for text in texts] for texts in references]


def ngrams(tokens: Sequence[str], n: int) -> Counter[Ngram]:
    """How often each run of n tokens occurs."""
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
