"""ROUGE-L (Lin 2004): how much of a text is a subsequence of a reference, and the other way round."""

from __future__ import annotations

from collections.abc import Sequence

from splitcom.metrics.tokens import Tokens, tokenized

BETA = 1.2


def rouge_l(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The mean of the sentences' ROUGE-L in percent, in [0, 100], over lower-cased 13a tokens.

    A sentence's score is that of coco-caption, which the E2E challenge reports: of the longest common subsequences
    with its references the largest precision P and, maybe of another reference, the largest recall R give
    (1 + b^2) P R / (R + b^2 P) with b = 1.2. An empty text scores 0.

    Raises ValueError unless every hypothesis has a reference, ConfigError without the package sacrebleu.
    """
    hyps, refs = tokenized("rouge_l", hypotheses, references)
    return 100 * sum(_sentence(hyp, texts) for hyp, texts in zip(hyps, refs, strict=True)) / len(hyps)


def _sentence(hypothesis: Tokens, references: Sequence[Tokens]) -> float:
    common = [(longest_common(hypothesis, reference), len(reference)) for reference in references]
    precision = max(length for length, _ in common) / max(1, len(hypothesis))
    recall = max(length / max(1, words) for length, words in common)
    if precision == 0:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def longest_common(a: Tokens, b: Tokens) -> int:
    """The length of the longest common subsequence, by the usual table of which one row is kept."""
    row = [0] * (len(b) + 1)  # row[j]: of the tokens of a so far and the first j of b
    for token in a:
        diagonal = 0
        for j, other in enumerate(b, start=1):
            above = row[j]
            row[j] = diagonal + 1 if token == other else max(above, row[j - 1])
            diagonal = above
    return row[-1]
