"""The controller with two positions: many uploads while validation perplexity gets worse, few while it gets better."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from splitcom.config import ControlConfig, StreamConfig, StreamName
from splitcom.control.base import Observation, Thresholds

CONTROL_FILE = "control.json"
Position = Literal["start", "loose", "tight"]
# As a number, so that it can be plotted.
POSITIONS: dict[Position, int] = {"loose": -1, "start": 0, "tight": 1}


class BangBang:
    """SplitCom's BBC (arXiv 2602.10564), with a band in which it does not move.

    After each evaluation but the first: perplexity above (1 + hysteresis) times the previous one, or no number at all,
    takes every gated stream to `tight`; below (1 - hysteresis) times, to `loose`; in between all stay where they are.
    """

    acts: ClassVar[bool] = False

    def __init__(self, config: ControlConfig, streams: Mapping[StreamName, StreamConfig], seed: int) -> None:
        self.position: Position = "start"
        self.perplexity: float | None = None
        self._hysteresis = config.hysteresis
        self._streams = dict(streams)
        self._thresholds: Thresholds = {name: stream.threshold for name, stream in streams.items()}

    def evaluated(self, perplexity: float) -> Thresholds:
        previous, self.perplexity = self.perplexity, perplexity
        if previous is None:
            return {}
        # Turned round, so that NaN counts as worse.
        if not perplexity <= previous * (1 + self._hysteresis):
            return self._move("tight")
        return self._move("loose") if perplexity < previous * (1 - self._hysteresis) else {}

    def act(self, observations: Sequence[Observation]) -> Thresholds:
        return {}

    def values(self) -> dict[str, Any]:
        """`position`: 1 tight, -1 loose, 0 while nothing was compared."""
        return {"position": POSITIONS[self.position]}

    def save(self, directory: Path) -> None:
        """Write the last perplexity and the position as JSON."""
        state = {"perplexity": self.perplexity, "position": self.position}
        (directory / CONTROL_FILE).write_text(json.dumps(state) + "\n", encoding="utf-8")

    def _move(self, position: Literal["loose", "tight"]) -> Thresholds:
        self.position = position
        wanted: Thresholds = {name: getattr(stream, position) for name, stream in self._streams.items()}
        changed = {name: value for name, value in wanted.items() if value != self._thresholds[name]}
        self._thresholds = wanted
        return changed
