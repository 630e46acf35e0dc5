"""What a results file keeps of a finished run: the numbers to compare and the series to plot, in a few kilobytes."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from splitcom.errors import DataError
from splitcom.ledger import FLOAT_BYTES
from testbed.study.recipe import nested

SUMMARY = (
    "uplink_bytes",
    "downlink_bytes",
    "total_bytes",
    "cut_layer_bytes",
    "adapter_bytes",
    "saved_percent",
    "perplexity_before",
    "perplexity",
    "bleu",
    "skip_ratios",
    "steps",
    "steps_per_s",
    "wall_s",
    "events",
)
ALL = "all"
Rows = Iterable[Mapping[str, Any]]
Series = dict[str, list[float | None]]


def of_run(directory: Path) -> dict[str, Any]:
    """The summary, the versions and the series of the finished run in a directory.

    Raises DataError for a directory that holds no finished run.
    """
    summary = _json(directory / "summary.json")
    if summary.get("end") != "finished":
        raise DataError(f"{directory}: the run in it has not finished: {summary.get('end')}")
    try:
        return _of_finished(directory, summary)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{directory}: its records are not as a run writes them: {error!r}") from None


def _of_finished(directory: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    versions = _json(directory / "versions.json")
    metrics = list(_rows(directory / "metrics.jsonl"))
    packets = [
        row for path in sorted(directory.glob("ledger-*.jsonl")) for row in _rows(path) if row["row"] == "packet"
    ]
    return {
        "versions": {name: version for name, version in versions.items() if version is not None},
        "summary": {key: summary.get(key) for key in SUMMARY}
        | {"kinds": {way: _nonzero(summary[way]["kinds"]) for way in ("up", "down")}}
        | {"agent_memory_bytes": _largest(summary.get("agent_memory_bytes"))},
        "epochs": series(metrics, packets),
    }


def series(metrics: Rows, packets: Rows) -> dict[str, Any]:
    """Values per epoch, from the rows of a run's metrics and of its ledgers: null for an epoch that has none.

    `perplexity` at the end of the epoch, the mean training `loss`; by stream, and `all` together, the `bits` per value
    (whole packets, over all values that were due, skipped or not) and the `skip_ratio`; the means of the controller's
    `thresholds` by stream, and as `values` those of what else it tells.
    """
    metrics, packets = list(metrics), list(packets)
    evaluations = [row for row in metrics if row["row"] == "evaluation" and row["epoch"] >= 0]
    steps = [row for row in metrics if row["row"] == "step"]
    # A row without ratios tells of thresholds that will hold in the next epoch.
    control = [row for row in metrics if row["row"] == "control" and row.get("upload_ratio")]
    epochs = 1 + max((row["epoch"] for row in [*evaluations, *packets]), default=-1)
    bits, skips = _traffic(packets, epochs)
    found = {
        "perplexity": _by_epoch(evaluations, "perplexity", epochs, 6),
        "loss": _by_epoch(steps, "loss", epochs, 6),
        "bits": bits,
        "skip_ratio": skips,
        "thresholds": _nested_by_epoch(control, "thresholds", epochs),
        "values": _nested_by_epoch(control, "values", epochs),
    }
    return {name: values for name, values in found.items() if values}


def line(head: Mapping[str, Any], settings: Mapping[str, Any], cpu_s: float, run: Mapping[str, Any]) -> dict[str, Any]:
    """The whole line: which run, its recipe, what it took, and what came out."""
    return {**head, "settings": nested(settings), "cpu_s": round(cpu_s, 2), **run}


def _traffic(packets: Rows, epochs: int) -> tuple[Series, Series]:
    """Bits per value and skip ratio of each stream per epoch."""
    # bytes, values, skips and frames
    counts: defaultdict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for row in packets:
        frames = {kind: number for kind, (number, _) in row["kinds"].items()}
        bytes_ = row["framing"] + sum(size for _, size in row["kinds"].values())
        new = (bytes_, row["stages"]["raw"] // FLOAT_BYTES, frames.get("skip", 0), sum(frames.values()))
        for stream in (row["stream"], ALL):
            counts[stream, row["epoch"]] = [a + b for a, b in zip(counts[stream, row["epoch"]], new, strict=True)]
    bits: Series = {}
    skips: Series = {}
    for stream in sorted({name for name, _ in counts}):
        found = [counts[stream, epoch] for epoch in range(epochs)]
        bits[stream] = [short(8 * size / values) if values else None for size, values, _, _ in found]
        skips[stream] = [short(skipped / frames) if frames else None for _, _, skipped, frames in found]
    return bits, skips


def _by_epoch(rows: Rows, key: str, epochs: int, digits: int) -> list[float | None]:
    """The mean of a number over the rows of each epoch."""
    values: defaultdict[int, list[float]] = defaultdict(list)
    for row in rows:
        value = row.get(key)
        if isinstance(value, (int, float)) and value == value and abs(value) != float("inf"):
            values[row["epoch"]].append(value)
    means = [values.get(epoch) for epoch in range(epochs)]
    return [short(sum(mean) / len(mean), digits) if mean else None for mean in means]


def _nested_by_epoch(rows: Rows, key: str, epochs: int) -> Series:
    """The same for every number in a table of the rows."""
    tables = [(row["epoch"], row.get(key) or {}) for row in rows]
    names = sorted({name for _, table in tables for name in table})
    means = {
        name: _by_epoch([{"epoch": epoch, name: table.get(name)} for epoch, table in tables], name, epochs, 4)
        for name in names
    }
    return {name: values for name, values in means.items() if any(value is not None for value in values)}


def short(value: float, digits: int = 4) -> float:
    """The number with so many significant digits, which is enough to plot."""
    return float(f"{value:.{digits}g}")


def _nonzero(kinds: Mapping[str, int]) -> dict[str, int]:
    return {kind: size for kind, size in kinds.items() if size}


def _largest(memory: Any) -> int | None:
    """The most that any one agent's references take, all streams together; None for runs that do not say."""
    return max((sum(streams.values()) for streams in (memory or {}).values()), default=None)


def _json(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; valid: the directory of a finished run") from None
    except ValueError:
        raise DataError(f"{path}: not JSON") from None
    return table if isinstance(table, dict) else {}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for text in file:
            yield json.loads(text)
