"""Two kinds of figures from results: bytes against perplexity, and what controllers did over the epochs."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitcom.config import STREAMS
from splitcom.errors import ConfigError
from testbed.study.intervals import mean
from testbed.study.report import Group, split
from testbed.study.results import Line

if TYPE_CHECKING:
    from matplotlib.axis import Axis

# Okabe and Ito's colours, which readers with any colour vision can tell apart, and shapes for print without colour.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
MARKERS = "osD^vPX*"
GATES = ("cosine", "relative_l2")
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "splitcom",  # ids in the file do not change from one drawing to the next
}


def check_plots() -> None:
    """Raise ConfigError unless the plotting package is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("--plot: needs the package matplotlib; valid: no plots, or the extra splitcom[report]")


def draw(lines: Sequence[Line], groups: Sequence[Group], directory: Path, kind: str) -> list[Path]:
    """Write the figures of every group as `svg` or `png` files; their paths."""
    check_plots()
    import matplotlib

    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    with matplotlib.rc_context(STYLE):
        for group in groups:
            names = list(group.place)
            methods = split(lines, names)[tuple(group.place.values())]
            methods = {row.method: methods[row.method] for row in group.rows}
            stem = re.sub(r"[^A-Za-z0-9.]+", "-", group.title).strip("-")
            paths.append(_bytes_against_perplexity(methods, directory / f"{stem}-bytes.{kind}", group.title))
            for stream in STREAMS:
                series = _controlled(methods, stream)
                if series:
                    title = f"{group.title}: {stream}"
                    looks = {method: look(number) for number, method in enumerate(methods)}
                    paths.append(_over_epochs(series, looks, directory / f"{stem}-{stream}.{kind}", title))
    return paths


def _bytes_against_perplexity(methods: Mapping[str, Mapping[str, Line]], path: Path, title: str) -> Path:
    """One mark per method at its means, a dot per seed; bytes on a logarithmic axis where they differ much."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    totals: list[float] = []
    for number, (method, lines) in enumerate(methods.items()):
        points = [(s["total_bytes"] / 1e6, s["perplexity"]) for s in (line["summary"] for line in lines.values())]
        points = [(x, y) for x, y in points if y is not None]
        if not points:
            continue
        xs, ys = zip(*points, strict=True)
        totals += xs
        colour, marker = look(number)
        if len(xs) > 1:
            axes.plot(xs, ys, ".", color=colour, alpha=0.45, markersize=4)
        axes.plot([mean(xs)], [mean(ys)], marker, color=colour, markersize=7, linestyle="none", label=method)
    if totals and max(totals) > 8 * min(totals):
        axes.set_xscale("log")
        plain_ticks(axes.xaxis)
    axes.set(xlabel="total bytes, MB", ylabel="validation perplexity", title=title)
    figure.legend(loc="outside right upper")
    return _save(figure, path)


def look(number: int) -> tuple[str, str]:
    """Colour and marker of a figure's method by its number; 64 different ones."""
    return COLOURS[number % len(COLOURS)], MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]


def plain_ticks(axis: Axis) -> None:
    """Write the numbers of a logarithmic axis out: 1, 2, 5, 10, 20, ..."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _over_epochs(
    series: Mapping[str, Mapping[str, list[float | None]]], looks: Mapping[str, tuple[str, str]], path: Path, title: str
) -> Path:
    """Threshold, skip ratio and perplexity, a panel each, a line per method."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6.4, 6.0), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True)
    for axes, (key, label) in zip(
        panels,
        [("threshold", "threshold"), ("skip_ratio", "skip ratio"), ("perplexity", "validation perplexity")],
        strict=True,
    ):
        for method, values in series.items():
            known = [(epoch, value) for epoch, value in enumerate(values[key], 1) if value is not None]
            if known:
                colour, marker = looks[method]
                epochs, heights = zip(*known, strict=True)
                axes.plot(epochs, heights, color=colour, marker=marker, markersize=3.5, linewidth=1.3, label=method)
        axes.set_ylabel(label)
    panels[-1].set_yscale("log")  # the first epochs would leave the later ones no room
    plain_ticks(panels[-1].yaxis)
    panels[0].set_title(title)
    panels[-1].set_xlabel("epoch")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper")
    return _save(figure, path)


def _controlled(methods: Mapping[str, Mapping[str, Line]], stream: str) -> dict[str, dict[str, list[float | None]]]:
    """The series of every method that gates a stream, means over its seeds."""
    found = {}
    for method, lines in methods.items():
        gated = [line for line in lines.values() if _settings(line, stream).get("gate") in GATES]
        gated = [line for line in gated if line["epochs"].get("skip_ratio", {}).get(stream)]
        if gated:
            found[method] = {
                "threshold": _means([thresholds(line, stream) for line in gated]),
                "skip_ratio": _means([line["epochs"]["skip_ratio"][stream] for line in gated]),
                "perplexity": _means([line["epochs"]["perplexity"] for line in gated]),
            }
    return found


def thresholds(line: Line, stream: str) -> list[float | None]:
    """The threshold in each epoch: what the controller told, else the last one before, else the configured one."""
    told = line["epochs"].get("thresholds", {}).get(stream, [])
    epochs = len(line["epochs"]["skip_ratio"][stream])
    values: list[float | None] = []
    last = _settings(line, stream)["threshold"]
    for epoch in range(epochs):
        if epoch < len(told) and told[epoch] is not None:
            last = told[epoch]
        values.append(last)
    return values


def _settings(line: Line, stream: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = line["settings"].get("streams", {}).get(stream, {})
    return found


def _means(series: Sequence[list[float | None]]) -> list[float | None]:
    """The mean over several series at each place, of those that have a value there."""
    made: list[float | None] = []
    for place in range(max(map(len, series))):
        values = [values[place] for values in series if place < len(values)]
        known = [value for value in values if value is not None]
        made.append(mean(known) if known else None)
    return made


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=100, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path
