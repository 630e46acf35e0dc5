"""Perplexity: how many choices a model hesitates between, on average, at each target token."""

from __future__ import annotations

import math


def perplexity(total_nll: float, tokens: int) -> float:
    """exp(mean negative log-likelihood in nats) over `tokens` target tokens; infinity where that overflows."""
    if tokens < 1:
        raise ValueError(f"tokens: {tokens}; valid: 1 or more target tokens")
    try:
        return math.exp(total_nll / tokens)
    except OverflowError:
        return math.inf
