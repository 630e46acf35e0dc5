"""NIST (Doddington 2002): BLEU's matches, each weighed by the information that it carries."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from splitcom.metrics.tokens import Ngram, Tokens, ngrams, tokenized

ORDER = 5
# The brevity factor is exp(BETA * log(ratio)^2): a half where the hypotheses have two thirds of the references' words.
BETA = math.log(0.5) / math.log(1.5) ** 2


def nist(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus NIST in bits, 0 or more, as in mteval-v13a: n = 1..5 over lower-cased 13a tokens, added up.

    A matched n-gram counts info(w1..wn) = log2(count(w1..wn-1) / count(w1..wn)), counts over all references and
    count() of no word being their number of words; an n-gram matches at most as often as the reference that has it
    most often. The sum for each n is divided by the hypotheses' number of n-grams. Length is that of all hypotheses
    against all inputs' mean reference length. There is no largest value, and a copy of a reference need not reach
    it: leaving out common words may raise the mean information.

    Raises ValueError unless every hypothesis has a reference, ConfigError without the package sacrebleu.
    """
    hyps, refs = tokenized("nist", hypotheses, references)
    counts = reference_counts(text for texts in refs for text in texts)
    total = 0.0
    for n in range(1, ORDER + 1):
        gained, length = 0.0, 0
        for hyp, texts in zip(hyps, refs, strict=True):
            most: Counter[Ngram] = Counter()
            for text in texts:
                most |= ngrams(text, n)
            matched = ngrams(hyp, n) & most
            gained += sum(times * math.log2(counts[gram[:-1]] / counts[gram]) for gram, times in matched.items())
            length += max(0, len(hyp) - n + 1)
        total += gained / max(1, length)
    wanted = sum(sum(map(len, texts)) / len(texts) for texts in refs)
    return total * brevity(sum(map(len, hyps)), wanted)


def reference_counts(texts: Iterable[Tokens]) -> Counter[Ngram]:
    """How often every n-gram up to ORDER occurs in all references; the empty one occurs once per word."""
    counts: Counter[Ngram] = Counter()
    for text in texts:
        counts[()] += len(text)
        for n in range(1, ORDER + 1):
            counts.update(ngrams(text, n))
    return counts


def brevity(words: int, wanted: float) -> float:
    """The factor in [0, 1] for `words` where the references have `wanted`; 1 from there on."""
    if words == 0:
        return 0.0
    return math.exp(BETA * math.log(min(1.0, words / wanted)) ** 2) if wanted else 1.0
