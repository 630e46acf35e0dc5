"""The cheapest setting of a sweep whose validation perplexity stays near the baseline's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from splitcom.errors import ConfigError, choices
from testbed.study.report import Group, Row, compare
from testbed.study.results import Line


@dataclass(frozen=True)
class Choice:
    """A group's sweep, from the most bytes to the fewest, and the method chosen; None when all are too much worse."""

    group: Group
    sweep: tuple[Row, ...]
    chosen: str | None


def choose(lines: Sequence[Line], baseline: str, prefix: str, max_worse: float, by: Sequence[str] = ()) -> list[Choice]:
    """Per group the method of fewest total bytes among those whose name begins with `prefix` and whose mean validation
    perplexity, over the seeds that the baseline has too, is at most `max_worse` percent above the baseline's.

    Only validation figures take part: what is chosen is then measured on the test set once. Raises ConfigError when no
    method has the prefix, or no group the baseline.
    """
    methods = {line["method"] for line in lines}
    if not any(method.startswith(prefix) for method in methods):
        raise ConfigError(f"--among: no method begins with {prefix!r}; {choices(methods)}")
    made = []
    for group in compare(lines, baseline, by):
        sweep = tuple(row for row in group.rows if row.method.startswith(prefix) and row.method != baseline)
        allowed = [row for row in sweep if is_allowed(row, max_worse)]
        chosen = min(allowed, key=lambda row: row.total).method if allowed else None
        made.append(Choice(group, sweep, chosen))
    return made


def is_allowed(row: Row, max_worse: float) -> bool:
    """Whether the method is known to be at most so many percent worse, in the mean."""
    return row.perplexity_percent is not None and row.perplexity_percent.mean <= max_worse
