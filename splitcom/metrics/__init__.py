"""What is said about texts: a model's perplexity, and what it generates measured against references.

A new text metric is one function and one line here. METEOR is not in the dict: it needs a file to be made from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from splitcom.errors import ConfigError, choices
from splitcom.metrics.base import Metric
from splitcom.metrics.cider import cider
from splitcom.metrics.meteor import Meteor
from splitcom.metrics.nist import nist
from splitcom.metrics.perplexity import perplexity
from splitcom.metrics.rouge import rouge_l
from splitcom.metrics.sacre import available, bleu, chrf, ter

METRICS: dict[str, Metric] = {
    "bleu": bleu,
    "chrf": chrf,
    "ter": ter,
    "nist": nist,
    "rouge_l": rouge_l,
    "cider": cider,
}


def score(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    names: Iterable[str] = tuple(METRICS),
    metrics: Mapping[str, Metric] = METRICS,
) -> dict[str, float]:
    """The named metrics of one set of texts, in the order of the names.

    Raises ConfigError for a name that `metrics` does not hold, or for a metric whose package is missing; ValueError
    unless every hypothesis has a reference.
    """
    wanted = list(names)
    for name in wanted:
        if name not in metrics:
            raise ConfigError(f"metrics: {name!r} is unknown; {choices(metrics)}")
    return {name: metrics[name](hypotheses, references) for name in wanted}


__all__ = [
    "METRICS",
    "Meteor",
    "Metric",
    "available",
    "bleu",
    "chrf",
    "cider",
    "nist",
    "perplexity",
    "rouge_l",
    "score",
    "ter",
]
