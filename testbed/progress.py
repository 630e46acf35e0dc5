"""What a person sees while a run goes on: one line that changes on a terminal, a line per epoch elsewhere."""

from __future__ import annotations

import math
import shutil
import sys
import time
from typing import Any, TextIO


class Progress:
    """Turns the events of server and agents into text on `stream` (standard error by default)."""

    def __init__(self, title: str, stream: TextIO | None = None) -> None:
        self.title = title
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.perplexity = math.nan
        self._skip: dict[str, float] = {}
        self._drawn = 0.0
        self._shape = 0
        self._step: dict[str, Any] = {}

    def __call__(self, process: str, event: dict[str, Any]) -> None:
        """Take an event of a process in."""
        kind = event.get("event")
        if kind == "step" and process == "server":
            self._step = event
            if self.live and time.monotonic() - self._drawn > 0.1:
                self._draw()
        elif kind == "step":
            self._skip[process] = event["skip_ratio"]
        elif kind == "begin":
            self.perplexity = event["perplexity"]
            self.say(f"{len(event['clients'])} agents, validation perplexity {self.perplexity:.2f} before training")
        elif kind == "epoch":
            self.perplexity = event["perplexity"]
            self.say(self._line(f"epoch {event['epoch'] + 1} done"))
        elif kind in ("warning", "evaluating", "ended"):
            self.say(f"{process}: {event['text']}" if kind == "warning" else str(event["text"]))

    def say(self, text: str) -> None:
        """A line that stays."""
        self._clear()
        print(f"{self.title}: {text}", file=self.stream, flush=True)

    def pulse(self, text: str) -> None:
        """A line that the next one replaces; only shown on a terminal."""
        if self.live:
            self._clear()
            self.stream.write(self._fit(text, shutil.get_terminal_size().columns - 1))
            self.stream.flush()

    def _fit(self, text: str, room: int) -> str:
        """The text in one line of a terminal: rather without its title and its commas than without its end."""
        shapes = (f"{self.title}: {text}", text, text.replace(",", ""))
        while self._shape < len(shapes) - 1 and len(shapes[self._shape]) > room:
            self._shape += 1  # for good: a line that changes its shape back and forth is hard to read
        return shapes[self._shape][:room]

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        self.pulse(self._line(f"epoch {self._step['epoch'] + 1}"))

    def _line(self, head: str) -> str:
        step = self._step
        if not step:
            return head
        skip = sum(self._skip.values()) / len(self._skip) if self._skip else 0.0
        return (
            f"{head}, step {step['step']}/{step['total_steps']}, up {size(step['uplink_bytes'])}, "
            f"down {size(step['downlink_bytes'])}, skipped {100 * skip:.0f} %, perplexity {self.perplexity:.2f}"
        )

    def _clear(self) -> None:
        if self.live:
            self.stream.write("\r\x1b[K")


def size(count: float) -> str:
    """Bytes in decimal units, three digits: 12.3 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def figure(value: float | None, digits: int = 2) -> str:
    """A number as text; "-" for one that a summary does not have because it is not finite."""
    return "-" if value is None else f"{value:.{digits}f}"


def table(rows: list[dict[str, str]]) -> str:
    """Rows under their keys, aligned: the first column to the left, the others to the right."""
    heads = list(rows[0])
    widths = {head: max(len(head), *(len(row[head]) for row in rows)) for head in heads}

    def line(values: dict[str, str]) -> str:
        first, *rest = heads
        return "  ".join([values[first].ljust(widths[first]), *(values[h].rjust(widths[h]) for h in rest)])

    return "\n".join([line({head: head for head in heads}), *(line(row) for row in rows)])
