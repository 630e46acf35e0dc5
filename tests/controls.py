"""A world for threshold controllers whose best thresholds are known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from splitcom.config import STREAMS, StreamConfig, StreamName
from splitcom.control import Controller, Observation
from splitcom.control.environment import SMOOTHING

BYTE_WEIGHT = 0.05
GAINS: dict[StreamName, float] = dict(zip(STREAMS, (0.035, 0.045, 0.07, 0.09), strict=True))
# Where the reward gain * u * (2 - u) - weight * u of an upload ratio u = (action + 1) / 2 is greatest.
BEST = {name: 1 - BYTE_WEIGHT / gain for name, gain in GAINS.items()}


def gated_streams(*names: StreamName, loose: float = 0.9, tight: float = 1.0) -> dict[StreamName, StreamConfig]:
    """Streams with a cosine gate; all four by default."""
    return {n: StreamConfig(gate="cosine", threshold=0.95, loose=loose, tight=tight) for n in names or STREAMS}


def observation(stream: StreamName = "activation_up", **changed: float) -> Observation:
    """An observation in the middle of a run."""
    values = {"threshold": 0.95, "upload_ratio": 0.5, "loss": 2.0, "perplexity": 20.0}
    values |= {"perplexity_before": 80.0, "perplexity_previous": 40.0, "progress": 0.5}
    return Observation(stream=stream, **(values | changed))


class World:
    """Uploads u grow linearly from loose to tight, and the smoothed loss falls by a share of gain * u * (2 - u)."""

    def __init__(self, streams: Mapping[StreamName, StreamConfig], seed: int, noise: float = 0.0) -> None:
        self.streams = streams
        self.thresholds = {name: stream.threshold for name, stream in streams.items()}
        self._mean = dict.fromkeys(streams, 2.0)
        self._noise = noise
        self._draw = np.random.default_rng(seed)
        self._steps = 0

    def observe(self) -> list[Observation]:
        """What a controller is shown next."""
        self._steps += 1
        return [self._observe(name) for name in self.streams]

    def run(self, controller: Controller, acts: int) -> list[dict[StreamName, float]]:
        """Let the controller act; the thresholds in force after each action."""
        trace = []
        for _ in range(acts):
            self.thresholds |= controller.act(self.observe())
            trace.append(dict(self.thresholds))
        return trace

    def _observe(self, name: StreamName) -> Observation:
        stream = self.streams[name]
        uploads = (self.thresholds[name] - stream.loose) / (stream.tight - stream.loose)
        uploads = max(0.0, min(1.0, uploads))
        if self._steps == 1:
            loss = self._mean[name]
        else:
            improvement = GAINS[name] * uploads * (2 - uploads) + self._noise * float(self._draw.standard_normal())
            loss = self._mean[name] * (1 - improvement / SMOOTHING)
            self._mean[name] *= 1 - improvement
        return observation(
            name, threshold=self.thresholds[name], upload_ratio=uploads, loss=loss, progress=min(1.0, self._steps / 500)
        )
