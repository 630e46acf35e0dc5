"""Groups and choices as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from testbed.study.choose import Choice, is_allowed
from testbed.study.intervals import Estimate
from testbed.study.report import Group, Row
from testbed.study.results import Line

NONE = "-"


def render(groups: Iterable[Group], notes: Sequence[str] = ()) -> str:
    """A table per group; what the figures are stands above the first."""
    parts = [
        "MB of 10^6 bytes, everything on the wire; means over seeds. Differences to the baseline are paired by seed, "
        "with Student's 95 % interval over n seeds.",
        *notes,
    ]
    for group in groups:
        parts.append(f"### {group.title}")
        if not any(row.method == group.baseline for row in group.rows):
            parts.append(f"No run of {group.baseline} here, so nothing to compare with.")
        parts.append(markdown([_report_row(row, group.baseline) for row in group.rows]))
    return "\n\n".join(parts)


def render_choices(choices: Iterable[Choice], max_worse: float) -> str:
    """A table per sweep and the method that was chosen from it."""
    parts = []
    for choice in choices:
        baseline = choice.group.baseline
        parts.append(f"### {choice.group.title}")
        rows = [_choice_row(row, max_worse, row.method == choice.chosen, baseline) for row in choice.sweep]
        if rows:
            parts.append(markdown(rows))
        near = f"at most {max_worse:g} % above {baseline}'s validation perplexity"
        parts.append(f"chosen: {choice.chosen}" if choice.chosen else f"chosen: none ({near})")
    return "\n\n".join(parts)


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """Rows under their keys, as Markdown."""
    heads = list(rows[0])
    lines = [heads, ["---"] * len(heads), *([row[head] for head in heads] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def difference(estimate: Estimate | None, digits: int = 2, unit: str = "") -> str:
    """A difference with its interval and n; without the word for an interval that leaves 0 out."""
    if estimate is None:
        return NONE
    text = f"{estimate.mean:+.{digits}f}{unit}"
    if estimate.half_width is not None:
        text += f" ± {estimate.half_width:.{digits}f}"
    return f"{text} (n = {estimate.n})" + ("" if estimate.resolved else ", unresolved")


def mixed(lines: Sequence[Line]) -> list[str]:
    """What should make a reader careful: runs of several versions of the code, or with several numbers of threads."""
    notes = []
    for name, what in (("code", "states of the code"), ("threads", "numbers of threads")):
        values = {line.get(name) for line in lines}
        if len(values) > 1:
            notes.append(f"Note: these runs were made with {len(values)} {what}.")
    return notes


def _report_row(row: Row, baseline: str) -> dict[str, str]:
    percent = row.perplexity_percent
    return {
        "method": row.method,
        "seeds": str(row.seeds),
        "uplink MB": megabytes(row.uplink),
        "downlink MB": megabytes(row.downlink),
        "total MB": megabytes(row.total),
        f"saved against {baseline}": NONE if row.saved is None else f"{row.saved:.1f} %",
        "bits per value, first / later epochs": f"{_number(row.bits_first)} / {_number(row.bits_later)}",
        "perplexity": _number(row.perplexity),
        "difference": difference(row.perplexity_difference),
        "in %": NONE if percent is None else f"{percent.mean:+.1f} %",
        "BLEU": _number(row.bleu, 1),
        "difference of BLEU": difference(row.bleu_difference, 1),
    }


def _choice_row(row: Row, max_worse: float, chosen: bool, baseline: str) -> dict[str, str]:
    return {
        "method": row.method,
        "seeds": str(row.seeds),
        "total MB": megabytes(row.total),
        f"saved against {baseline}": NONE if row.saved is None else f"{row.saved:.1f} %",
        "validation perplexity": _number(row.perplexity),
        "above the baseline's": difference(row.perplexity_percent, 2, " %"),
        f"within {max_worse:g} %": ("chosen" if chosen else "yes") if is_allowed(row, max_worse) else "no",
    }


def megabytes(count: float) -> str:
    """Bytes in MB, with at least three digits."""
    value = count / 1e6
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _number(value: float | None, digits: int = 2) -> str:
    return NONE if value is None else f"{value:.{digits}f}"
