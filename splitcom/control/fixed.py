"""The controller that leaves every threshold where the configuration put it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from splitcom.config import ControlConfig, StreamConfig, StreamName
from splitcom.control.base import Observation, Thresholds


class Fixed:
    """Changes nothing, shows nothing, saves nothing."""

    acts: ClassVar[bool] = False

    def __init__(self, config: ControlConfig, streams: Mapping[StreamName, StreamConfig], seed: int) -> None:
        pass

    def evaluated(self, perplexity: float) -> Thresholds:
        return {}

    def act(self, observations: Sequence[Observation]) -> Thresholds:
        return {}

    def values(self) -> dict[str, Any]:
        return {}

    def save(self, directory: Path) -> None:
        pass
