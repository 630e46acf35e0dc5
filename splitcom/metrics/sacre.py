"""The metrics that the package sacrebleu works out (Post 2018), each with sacrebleu's defaults."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

from splitcom.errors import ConfigError
from splitcom.metrics.base import check_texts

PACKAGE = "sacrebleu"


def available() -> bool:
    """Whether sacrebleu is installed; without it there is no text metric but METEOR, as all others tokenize by it."""
    return importlib.util.find_spec(PACKAGE) is not None


def sacrebleu(metric: str) -> Any:
    """The package; ConfigError that names the metric and the extra when it is missing."""
    try:
        return importlib.import_module(PACKAGE)
    except ImportError:
        raise ConfigError(f"{metric}: needs the package {PACKAGE}; install splitcom[server]") from None


def bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU in [0, 100] (Papineni et al. 2002): n = 1..4, 13a tokens, case kept, the closest reference length.

    Raises ValueError unless every hypothesis has a reference, ConfigError without the package sacrebleu.
    """
    return _score("bleu", "BLEU", hypotheses, references)


def chrf(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus chrF2 in [0, 100] (Popovic 2015): character n-grams, n = 1..6, no words, recall twice as heavy.

    Of several references each hypothesis is measured against the one that fits it best. Raises as `bleu` does.
    """
    return _score("chrf", "CHRF", hypotheses, references)


def ter(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Translation edit rate in percent (Snover et al. 2006), 0 or more, LOWER is better; case ignored.

    Insertions, deletions, substitutions and shifts to the nearest reference, over the references' mean length in
    words as white space parts them. Raises as `bleu` does.
    """
    return _score("ter", "TER", hypotheses, references)


def _score(metric: str, scorer: str, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    check_texts(hypotheses, references)
    package = sacrebleu(metric)
    # sacrebleu wants streams, the k-th references of all hypotheses, with None where there are fewer than k.
    width = max(len(texts) for texts in references)
    streams = [[texts[k] if k < len(texts) else None for texts in references] for k in range(width)]
    return float(getattr(package, scorer)().corpus_score(list(hypotheses), streams).score)
