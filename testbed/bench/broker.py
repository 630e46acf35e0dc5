"""`splitcom bench broker`: the embedded broker against others, each measurement next to the same one of the other."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from testbed.bench.broker_rows import FULL, KINDS, SIZES, Figures, Key, Row, Scale, measured
from testbed.bench.broker_statistics import Interval, bootstrap, ratio
from testbed.bench.broker_subjects import started
from testbed.bench.broker_targets import judge

Runs = dict[str, list[Figures]]
"""By broker: the figures of each pair, in order."""


def rows(kinds: Sequence[str], sizes: Sequence[str], scale: Scale = FULL) -> list[Row]:
    """The measurements of these kinds; sizes in the order of SIZES."""
    ordered = [size for size in SIZES if size in sizes]
    return [row for kind in kinds for row in KINDS[kind](ordered, scale)]


async def bench_broker(
    brokers: Sequence[str], chosen: Sequence[Row], pairs: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure all rows of all brokers `pairs` times, forwards and backwards in turn: A B, B A, A B ...

    Every figure has a broker of its own that was just started. Returns medians and intervals of the figures and of the
    first broker's ratios to each of the others, and the targets.
    """
    runs: Runs = {name: [] for name in brokers}
    for number in range(pairs):
        for name in brokers:
            runs[name].append({})
        for row in chosen:
            for name in brokers if number % 2 == 0 else reversed(brokers):
                async with started(name) as subject:
                    figures = await measured(row, subject)
                runs[name][-1] |= figures
                say(f"pair {number + 1}/{pairs}, {name}, {row.name}: {_listed(figures)}")
    return {"machine": _machine(), "brokers": list(brokers), "pairs": pairs, **results(runs)}


def results(runs: Runs) -> dict[str, Any]:
    """`values` by broker, `ratios` by "A/B", both nested by the parts of each key, and `targets`."""
    first, *others = runs
    values = {
        name: {key: bootstrap([figures[key] for figures in of_pairs]) for key in of_pairs[0]}
        for name, of_pairs in runs.items()
    }
    ratios = {
        f"{first}/{other}": {
            key: ratio([figures[key] for figures in runs[first]], [figures[key] for figures in runs[other]])
            for key in runs[first][0]
        }
        for other in others
    }
    return {
        "values": {name: _nested(of_broker) for name, of_broker in values.items()},
        "ratios": {name: _nested(of_two) for name, of_two in ratios.items()},
        "targets": judge(values | ratios),
        "runs": {name: [_texts(figures) for figures in of_pairs] for name, of_pairs in runs.items()},
    }


def render(result: Mapping[str, Any]) -> str:
    """Tables of the medians with ratios and their intervals, and of the targets, in Markdown."""
    brokers = result["brokers"]
    head = ["figure", *brokers, *result["ratios"]]
    lines = [_line(head), _line(["---"] * len(head))]
    for key in _leaves(result["values"][brokers[0]]):
        medians = [f"{_at(result['values'][name], key)['median']:.4g}" for name in brokers]
        against = [_interval(_at(of_two, key)) for of_two in result["ratios"].values()]
        lines.append(_line([" ".join(key), *medians, *against]))
    if result["targets"]:
        lines += ["", _line(["target", "bound", "median and interval", ""]), _line(["---"] * 4)]
    for target in result["targets"]:
        what = f"{target['scope']} {target['figure']}"
        bound = f"{target['relation']} {target['bound']:g}"
        lines.append(_line([what, bound, _interval(target), "pass" if target["ok"] else "fail"]))
    return "\n".join(lines)


def _machine() -> dict[str, Any]:
    return {"platform": platform.platform(), "python": platform.python_version(), "processors": os.cpu_count()}


def _listed(figures: Figures) -> str:
    return ", ".join(f"{key[0]} {value:.4g}" for key, value in figures.items())


def _texts(figures: Figures) -> dict[str, float]:
    return {" ".join(key): value for key, value in figures.items()}


def _nested(intervals: Mapping[Key, Interval]) -> dict[str, Any]:
    """{("a", "b"): interval} as {"a": {"b": {"median": ...}}}."""
    tree: dict[str, Any] = {}
    for key, interval in intervals.items():
        branch = tree
        for part in key[:-1]:
            branch = branch.setdefault(part, {})
        branch[key[-1]] = asdict(interval)
    return tree


def _leaves(tree: Mapping[str, Any], above: Key = ()) -> list[Key]:
    if "median" in tree:
        return [above]
    return [key for part, branch in tree.items() for key in _leaves(branch, (*above, part))]


def _at(tree: Mapping[str, Any], key: Key) -> Mapping[str, Any]:
    for part in key:
        tree = tree[part]
    return tree


def _interval(of: Mapping[str, Any]) -> str:
    return f"{of['median']:.3g} ({of['low']:.3g} to {of['high']:.3g})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
