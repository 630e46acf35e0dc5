"""The comparison that `splitcom demo` makes: the same data, seeds and code under three scenarios."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testbed.progress import figure, size, table

METHODS = ("splitlora", "splitcom", "frozen-head")
KEYS = (
    "uplink_bytes",
    "downlink_bytes",
    "total_bytes",
    "saved_percent",
    "perplexity_before",
    "perplexity",
    "bleu",
    "wall_s",
    "steps_per_s",
)


def compare(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The result as `--json` prints it: per method its numbers, saved against the first method's total."""
    baseline = next(iter(summaries.values()))["total_bytes"]
    methods = {}
    for name, summary in summaries.items():
        methods[name] = {key: summary[key] for key in KEYS}
        methods[name]["saved_percent"] = round(100 * (1 - summary["total_bytes"] / baseline), 2)
    return {"methods": methods, "run_dirs": [summary["run_dir"] for summary in summaries.values()]}


def render(result: Mapping[str, Any]) -> str:
    """The table for a person, 80 columns wide at most."""
    rows = []
    for name, method in result["methods"].items():
        rows.append(
            {
                "method": name,
                "up": size(method["uplink_bytes"]),
                "down": size(method["downlink_bytes"]),
                "total": size(method["total_bytes"]),
                "saved": f"{method['saved_percent']:.1f}%",
                "perplexity": f"{figure(method['perplexity_before'], 0)} > {figure(method['perplexity'], 1)}",
                "BLEU": figure(method["bleu"], 1),
                "time": f"{method['wall_s']:.0f} s",
                "step/s": f"{method['steps_per_s']:.1f}",
            }
        )
    return table(rows)
