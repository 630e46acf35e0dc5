"""What a controller sees of a run, when it is asked, and the thresholds that hold because of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from splitcom.config import STREAMS, ControlConfig, StreamConfig, StreamName
from splitcom.control import CONTROLLERS, Observation, Thresholds, gated
from splitcom.frame import PacketStats


class Control:
    """Thresholds of the gated streams, the same for all clients, and the controller that sets them."""

    def __init__(self, config: ControlConfig, streams: dict[StreamName, StreamConfig], seed: int) -> None:
        """`streams` are those of the run's shape; ConfigError for a policy that cannot be used."""
        self._config = config
        self._streams = gated(streams)
        self.thresholds: Thresholds = {name: stream.threshold for name, stream in self._streams.items()}
        self.controller = CONTROLLERS[config.kind](config, self._streams, seed)
        self._interval = self._total_steps = 1
        self._sent: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()
        self._losses: list[float] = []
        self._perplexities: list[float] = []

    def plan(self, steps_per_epoch: int, epochs: int) -> None:
        """Fix how often the controller acts: at least the configured number of times an epoch, at regular intervals,
        and after every step where an epoch has fewer. One that does not act is shown whole epochs."""
        actions = self._config.actions_per_epoch if self.controller.acts else 1
        self._interval = max(1, steps_per_epoch // actions)
        self._total_steps = max(1, steps_per_epoch * epochs)

    def observe(self, stream: StreamName, stats: PacketStats | None) -> None:
        """Book the frames of one packet of a stream."""
        if stats is None or stream not in self._streams:
            return
        frames = sum(count.frames for count in stats.kinds.values())
        self._seen[stream] += frames
        self._sent[stream] += frames - stats.kinds["skip"].frames

    def evaluated(self, perplexity: float) -> dict[str, Any]:
        """Tell the controller of a validation; the row to write, empty when nothing changed."""
        self._perplexities.append(perplexity)
        changes = self.controller.evaluated(perplexity)
        self.thresholds |= changes
        return self._row({}) if changes else {}

    def stepped(self, steps: int, loss: float) -> dict[str, Any]:
        """After the run's step number `steps` (from 1): let the controller act if it is time.

        Returns the row to write when an interval is over, else an empty one.
        """
        self._losses.append(loss)
        if steps % self._interval or not self._streams:
            return {}
        ratios = {name: self._sent[name] / self._seen[name] if self._seen[name] else 0.0 for name in self._streams}
        row = self._row(ratios)
        if self.controller.acts:
            self.thresholds |= self.controller.act(self._observations(ratios, steps / self._total_steps))
            row["values"] = self.controller.values()
        self._losses.clear()
        self._sent.clear()
        self._seen.clear()
        return row

    def save(self, directory: Path) -> None:
        """Write the controller's state into the run directory."""
        self.controller.save(directory)

    def _row(self, ratios: dict[StreamName, float]) -> dict[str, Any]:
        """The thresholds, the share of samples sent under them if an interval is over, and what the controller says."""
        return {
            "thresholds": {name: round(value, 6) for name, value in self.thresholds.items()},
            "upload_ratio": {name: round(ratio, 4) for name, ratio in ratios.items()},
            "values": self.controller.values(),
        }

    def _observations(self, ratios: dict[StreamName, float], progress: float) -> list[Observation]:
        known = self._perplexities or [1.0]
        return [
            Observation(
                stream=name,
                threshold=self.thresholds[name],
                upload_ratio=ratios[name],
                loss=sum(self._losses) / len(self._losses),
                perplexity=known[-1],
                perplexity_before=known[0],
                perplexity_previous=known[-2] if len(known) > 1 else known[-1],
                progress=min(1.0, progress),
            )
            for name in STREAMS
            if name in self._streams
        ]
