"""What results say: per group and method the bytes and the quality, and the paired differences to a baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from splitcom.errors import ConfigError, choices
from testbed.study.coordinates import varying
from testbed.study.intervals import Estimate, estimate, mean, paired
from testbed.study.record import ALL
from testbed.study.results import Line

ALWAYS = ("data", "shape")
SEED = "seed"


@dataclass(frozen=True)
class Row:
    """One method in one group, means over its seeds; a difference is over the `n` seeds that the baseline has too.

    Bytes are numbers of bytes, `saved` is in percent of the baseline's total, bits are per value of all streams.
    """

    method: str
    seeds: int
    uplink: float
    downlink: float
    total: float
    saved: float | None
    bits_first: float | None
    bits_later: float | None
    perplexity: float | None
    bleu: float | None
    perplexity_difference: Estimate | None
    perplexity_percent: Estimate | None
    bleu_difference: Estimate | None


@dataclass(frozen=True)
class Group:
    """The methods at one place: the baseline first, then from the most bytes to the fewest."""

    place: Mapping[str, str]
    baseline: str
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        """The place in words."""
        return ", ".join(f"{name} {value}" for name, value in self.place.items())


def coordinates(line: Line) -> dict[str, str]:
    """Everything that a line can be grouped by, but for its method."""
    return {"study": line["study"], "base": str(line.get("base", "")), **line["place"]}


def split(lines: Sequence[Line], by: Sequence[str] = ()) -> dict[tuple[str, ...], dict[str, dict[str, Line]]]:
    """Lines by the values of `by`, by method, and by seed; by default `by` is what `group_names` says.

    Raises ConfigError for a name that no line has, and where a group would mix runs that differ in more than seeds.
    """
    names = list(by) or group_names(lines)
    known = {name for line in lines for name in coordinates(line)}
    for name in names:
        if name not in known - {SEED}:
            raise ConfigError(f"--by: {name!r} is unknown; {choices(known - {SEED})}")
    groups: dict[tuple[str, ...], dict[str, dict[str, Line]]] = {}
    for line in lines:
        at = coordinates(line)
        methods = groups.setdefault(tuple(at.get(name, "-") for name in names), {})
        other = methods.setdefault(line["method"], {}).setdefault(at.get(SEED, "-"), line)
        if other is not line:
            apart = varying([coordinates(other), at])
            raise ConfigError(
                f"--by: {other['key']} and {line['key']} fall together; valid: add {', '.join(apart) or 'another file'}"
            )
    return groups


def group_names(lines: Sequence[Line]) -> list[str]:
    """Data and shape, and whatever else the lines differ in, seeds apart."""
    others = [name for name in varying([coordinates(line) for line in lines]) if name not in (*ALWAYS, SEED)]
    return [*ALWAYS, *others]


def compare(lines: Sequence[Line], baseline: str, by: Sequence[str] = ()) -> list[Group]:
    """Every group's methods against the baseline; ConfigError when no group has it."""
    names = list(by) or group_names(lines)
    groups = split(lines, names)
    if not any(baseline in methods for methods in groups.values()):
        known = {line["method"] for line in lines}
        raise ConfigError(f"--baseline: {baseline!r} is in no group; {choices(known)}")
    made = []
    for place, methods in sorted(groups.items()):
        base = methods.get(baseline, {})
        rows = [_row(method, seeds, base) for method, seeds in methods.items()]
        rows.sort(key=lambda row: (row.method != baseline, -row.total))
        made.append(Group(dict(zip(names, place, strict=True)), baseline, tuple(rows)))
    return made


def numbers(groups: Iterable[Group]) -> list[dict[str, Any]]:
    """The groups as plain values."""
    return [asdict(group) for group in groups]


def _row(method: str, lines: Mapping[str, Line], baseline: Mapping[str, Line]) -> Row:
    """One method's row from its lines and the baseline's, both by seed."""
    common = sorted(lines.keys() & baseline.keys())
    pairs = [(lines[seed]["summary"], baseline[seed]["summary"]) for seed in common]
    own, totals = [line["summary"] for line in lines.values()], [(a["total_bytes"], b["total_bytes"]) for a, b in pairs]
    perplexities = [
        (a["perplexity"], b["perplexity"]) for a, b in pairs if None not in (a["perplexity"], b["perplexity"])
    ]
    bleus = [(a["bleu"], b["bleu"]) for a, b in pairs if None not in (a["bleu"], b["bleu"])]
    first, later = zip(*(_bits(line) for line in lines.values()), strict=True)
    is_baseline = all(line is baseline.get(seed) for seed, line in lines.items())
    return Row(
        method=method,
        seeds=len(lines),
        uplink=mean([s["uplink_bytes"] for s in own]),
        downlink=mean([s["downlink_bytes"] for s in own]),
        total=mean([s["total_bytes"] for s in own]),
        saved=100 * (1 - sum(a for a, _ in totals) / sum(b for _, b in totals)) if totals else None,
        bits_first=_mean(first),
        bits_later=_mean(later),
        perplexity=_mean([s["perplexity"] for s in own]),
        bleu=_mean([s["bleu"] for s in own]),
        perplexity_difference=None if is_baseline else _paired(perplexities),
        perplexity_percent=None if is_baseline else _percent(perplexities),
        bleu_difference=None if is_baseline else _paired(bleus),
    )


def _bits(line: Line) -> tuple[float | None, float | None]:
    """Bits per value in the first epoch, and on average in all later ones."""
    bits = line.get("epochs", {}).get("bits", {}).get(ALL, [])
    return (bits[0] if bits else None), _mean(bits[1:])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def _paired(pairs: Sequence[tuple[float, float]]) -> Estimate | None:
    return paired([a for a, _ in pairs], [b for _, b in pairs]) if pairs else None


def _percent(pairs: Sequence[tuple[float, float]]) -> Estimate | None:
    return estimate([100 * (a / b - 1) for a, b in pairs]) if pairs else None
