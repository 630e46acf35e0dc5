"""The contract of a text metric, and the check that all metrics share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Metric(Protocol):
    """One number for a whole set of generated texts, each beside its own references."""

    def __call__(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        """The score; ValueError unless every hypothesis has at least one reference (their number may differ)."""


def check_texts(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raise ValueError unless there is a hypothesis and each has at least one reference."""
    if len(hypotheses) != len(references):
        raise ValueError(f"references: {len(references)} lists for {len(hypotheses)} hypotheses; valid: one each")
    if not hypotheses or not all(references):
        raise ValueError("references: a hypothesis needs at least one; valid: non-empty lists")
