"""The controller that gathers training data: thresholds at random, and what came of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from splitcom.config import ControlConfig, StreamConfig, StreamName
from splitcom.control.base import Observation, Thresholds
from splitcom.control.environment import threshold_of
from splitcom.control.transitions import TRANSITIONS_FILE, Recorder, mean_reward, write
from splitcom.data.draws import Draws


class Random:
    """At each action every stream's threshold is drawn uniformly between `loose` and `tight`."""

    acts: ClassVar[bool] = True

    def __init__(self, config: ControlConfig, streams: Mapping[StreamName, StreamConfig], seed: int) -> None:
        self._config = config
        self._streams = dict(streams)
        self._recorder = Recorder(self._streams)
        # A generator for each stream, so that its draws do not depend on which others are gated.
        self._draws = {name: Draws(seed, "control", name).generator() for name in streams}
        self._reward: float | None = None

    def evaluated(self, perplexity: float) -> Thresholds:
        return {}

    def act(self, observations: Sequence[Observation]) -> Thresholds:
        self._reward = mean_reward(self._recorder.close(observations), self._config.byte_weight)
        thresholds: Thresholds = {}
        for seen in observations:
            action = float(self._draws[seen.stream].uniform(-1, 1))
            self._recorder.begin(seen, action)
            thresholds[seen.stream] = threshold_of(action, self._streams[seen.stream])
        return thresholds

    def values(self) -> dict[str, Any]:
        """`reward`: mean over streams of what the last actions earned; `transitions`: how many are recorded."""
        return {"reward": self._reward, "transitions": len(self._recorder.transitions)}

    def save(self, directory: Path) -> None:
        """Write the transitions so far."""
        write(directory / TRANSITIONS_FILE, self._recorder.transitions, self._config.byte_weight)
