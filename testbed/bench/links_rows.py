"""The table of `splitcom bench links`: its rows, what they must keep to, and how it is printed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

# What each back-end promises (docs/links.md): percent of a completion time or of a trace's integral, of the link of a
# row that is furthest off, by its median over the repeats.
COMPLETION_PERCENT = {"netns": 2.0, "tun": 1.0, "proxy": 1.0}
TRACE_PERCENT = {"netns": 2.0, "tun": 1.0, "proxy": 1.0}
# Milliseconds that a delay may be too long, with real-time priority for the emulator and without, beyond what the same
# messages take on a link of that back-end without a delay.
DELAY_MS = {"fifo": 0.3, "nice": 2.0, "none": 2.0}
RELAY_DELAY_MS = 2.0  # of the proxy, which joins what waits into pieces
AGGREGATE_MBIT = {"netns": 1000, "tun": 400, "proxy": 400}  # in all, up to which that is promised
PACED_MBIT = {"bbr": 400}  # less for what sends every packet at a time of its own
# Reno's goodput by Mathis' formula is an average of a random process; the emulator that the figures come from had
# between 0.82 and 1.19 of it.
LOSS_PERCENT = 30.0


def promised_mbit(backend: str, congestion: str) -> float:
    """The rate of all links together up to which a back-end promises its bounds, on two cores."""
    return min(AGGREGATE_MBIT[backend], PACED_MBIT.get(congestion, math.inf))


@dataclass(frozen=True)
class Row:
    """One line: errors in percent, of medians over repeats the median link and the worst; `largest` of all values.

    `bound` is what `worst` must not exceed in size (None: told only), in percent, or in milliseconds where the row
    gives those.
    """

    backend: str
    what: str
    congestion: str
    clients: int
    median: float
    worst: float
    largest: float
    unit: str = "%"
    bound: float | None = None
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the row keeps to its bound."""
        return self.bound is None or abs(self.worst) <= self.bound

    def text(self) -> str:
        """The row as a line."""
        errors = f"median {self.median:+.2f} {self.unit}, worst {self.worst:+.2f}, largest {self.largest:+.2f}"
        over = "" if self.ok else f", over {self.bound:g} {self.unit}"
        return f"{self.backend} {self.congestion} {self.clients} x {self.what}: {errors}{over}" + (
            f" ({self.note})" if self.note else ""
        )

    def table(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"ok": self.ok}


def row(
    backend: str,
    what: str,
    congestion: str,
    links: Mapping[str, Sequence[float]],
    unit: str = "%",
    bound: float | None = None,
    note: str = "",
) -> Row:
    """A row from the errors of each link, one per repeat."""
    medians = [statistics.median(errors) for errors in links.values()]
    clients = len({link.split()[0] for link in links})
    worst = max(medians, key=abs)
    largest = max((error for errors in links.values() for error in errors), key=abs)
    median, worst, largest = (round(value, 3) for value in (statistics.median(medians), worst, largest))
    return Row(backend, what, congestion, clients, median, worst, largest, unit, bound, note)


def render(result: Mapping[str, Any]) -> str:
    """The rows as a Markdown table, and under it what is over its bound and what was left out."""
    lines = [
        "| back-end | congestion control | clients | what | median | worst link | largest | bound | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for each in result["rows"]:
        bound = "" if each["bound"] is None else f"{each['bound']:g} {each['unit']}"
        lines.append(
            f"| `{each['backend']}` | {each['congestion']} | {each['clients']} | {each['what']} | "
            f"{each['median']:+.2f} {each['unit']} | {each['worst']:+.2f} | {each['largest']:+.2f} | {bound} | "
            f"{each['note']} |"
        )
    over = [each for each in result["rows"] if not each["ok"]]
    lines += ["", f"{len(over)} of {len(result['rows'])} rows are over their bound"]
    lines += [f"left out: {why}" for why in result["left_out"].values()]
    return "\n".join(lines)
