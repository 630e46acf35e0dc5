"""The contract of a threshold controller, and what it is shown of one stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from splitcom.config import StreamName

Thresholds = dict[StreamName, float]


@dataclass(frozen=True)
class Observation:
    """One gated stream, all clients together, since the last action (or the start of the run).

    `threshold` has been in force. `upload_ratio` is the share of the stream's samples that were sent, 0 to 1. `loss`
    is the mean training loss of the steps, nats per target token. `perplexity` is the last on the validation set,
    `perplexity_previous` the one before (equal to it while there is only one) and `perplexity_before` the one before
    training. `progress` is the share of the run's steps that are done, 0 to 1.
    """

    stream: StreamName
    threshold: float
    upload_ratio: float
    loss: float
    perplexity: float
    perplexity_before: float
    perplexity_previous: float
    progress: float


class Controller(Protocol):
    """Sets the thresholds of the gated streams while a run goes on.

    `acts` says whether `act` is of use: nobody need observe for a controller that only hears of evaluations.
    """

    acts: ClassVar[bool]

    def evaluated(self, perplexity: float) -> Thresholds:
        """Called after each evaluation, the one before training included; the thresholds that change."""

    def act(self, observations: Sequence[Observation]) -> Thresholds:
        """Called at every interval with one observation per gated stream; the thresholds that change."""

    def values(self) -> dict[str, Any]:
        """Plain numbers worth plotting beside the thresholds."""

    def save(self, directory: Path) -> None:
        """Write the state into an existing directory, over what an earlier call left there."""
