"""CIDEr (Vedantam, Zitnick, Parikh 2015): how much a text agrees with what its references say and others do not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from splitcom.metrics.tokens import Ngram, Tokens, ngrams, tokenized

ORDER = 4
SIGMA = 6.0
SCALE = 10.0


def cider(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The mean of the sentences' CIDEr in [0, 10], over lower-cased 13a tokens.

    This is the variant of coco-caption's scorer of that name, which the E2E challenge reports: the paper's CIDEr-D
    without stemming. For n = 1..4, texts are vectors of n-gram counts times ln(inputs / inputs whose references hold
    the n-gram, at least 1); hypothesis h and reference r score sum(min(h, r) r) / (|h| |r|), times
    exp(-(difference in length)^2 / (2 * 6^2)). The score is the mean over n and over references, times 10.

    What is in the references of all inputs weighs nothing, so a single input always scores 0; a text needs four tokens
    to reach the top. Raises ValueError unless every hypothesis has a reference, ConfigError without sacrebleu.
    """
    hyps, refs = tokenized("cider", hypotheses, references)
    inputs: Counter[Ngram] = Counter()
    for texts in refs:
        inputs.update({gram for text in texts for n in range(1, ORDER + 1) for gram in ngrams(text, n)})
    total = 0.0
    for hyp, texts in zip(hyps, refs, strict=True):
        vector = vectorize(hyp, inputs, len(hyps))
        # fsum: the order of the references must not show, not even in the last bit.
        total += math.fsum(vector.likeness(vectorize(text, inputs, len(hyps))) for text in texts) / len(texts)
    return SCALE * total / len(hyps)


@dataclass(frozen=True)
class Vector:
    """A text's number of tokens, and for each n its weighted n-grams and their Euclidean norm."""

    length: int
    weights: tuple[dict[Ngram, float], ...]
    norms: tuple[float, ...]

    def likeness(self, reference: Vector) -> float:
        """In [0, 1]: the mean over n of the clipped cosine, times the penalty on another length."""
        total = 0.0
        for n in range(ORDER):
            own, other, norm = self.weights[n], reference.weights[n], self.norms[n] * reference.norms[n]
            shared = sum(min(weight, other[gram]) * other[gram] for gram, weight in own.items() if gram in other)
            total += shared / norm if norm else 0.0
        return math.exp(-((self.length - reference.length) ** 2) / (2 * SIGMA**2)) * total / ORDER


def vectorize(text: Tokens, inputs: Mapping[Ngram, int], total: int) -> Vector:
    """The text's vector, where `inputs` says how many of the `total` inputs have an n-gram in a reference."""
    weights = tuple(
        {gram: count * math.log(total / max(1, inputs.get(gram, 0))) for gram, count in ngrams(text, n).items()}
        for n in range(1, ORDER + 1)
    )
    return Vector(len(text), weights, tuple(math.hypot(*each.values()) for each in weights))
