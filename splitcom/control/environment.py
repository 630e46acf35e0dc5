"""What a learning controller sees, does and is paid for, as pure functions.

Every gated stream is a decision process of its own; the one-hot of the stream in the state lets one policy serve them
all, so that the same policy fits both shapes and any choice of gated streams.
"""

from __future__ import annotations

import math

from splitcom.config import STREAMS, StreamConfig, StreamName
from splitcom.control.base import Observation

State = tuple[float, ...]

# threshold, upload ratio, perplexity against before training and against the previous one, progress
FEATURES = 5
STATE_SIZE = FEATURES + len(STREAMS)
# Logarithms of ratios are cut off here, so that a run that diverges stays within what a policy has seen.
LOG_LIMIT = 3.0
# Weight of the newest interval in the moving average of the loss.
SMOOTHING = 0.3


def state_of(seen: Observation, stream: StreamConfig) -> State:
    """The STATE_SIZE numbers that the policy sees of a stream.

    The threshold as an action in [-1, 1], the upload ratio, log(perplexity / perplexity before training),
    log(perplexity / previous perplexity), the progress, and a one-hot over STREAMS.
    """
    return (
        action_of(seen.threshold, stream),
        seen.upload_ratio,
        _log_ratio(seen.perplexity, seen.perplexity_before),
        _log_ratio(seen.perplexity, seen.perplexity_previous),
        seen.progress,
        *one_hot(seen.stream),
    )


def one_hot(stream: StreamName) -> State:
    """len(STREAMS) numbers: 1 at the stream's place, else 0."""
    return tuple(float(name == stream) for name in STREAMS)


def action_of(threshold: float, stream: StreamConfig) -> float:
    """The action in [-1, 1] that sets this threshold: -1 is loose, 1 is tight; 0 where both are the same."""
    if stream.tight == stream.loose:
        return 0.0
    return _clip(2 * (threshold - stream.loose) / (stream.tight - stream.loose) - 1, 1)


def threshold_of(action: float, stream: StreamConfig) -> float:
    """The threshold in [loose, tight] that an action in [-1, 1] sets."""
    threshold = stream.loose + (_clip(action, 1) + 1) / 2 * (stream.tight - stream.loose)
    # Rounding may have left the range.
    return max(stream.loose, min(stream.tight, threshold))


class Improvement:
    """How much the smoothed loss fell since the last interval, relative to what it was.

    With average m, smoothing b and loss l of an interval, m' = (1 - b) m + b l, and the improvement is (m - m') / m.
    """

    def __init__(self) -> None:
        self._mean: float | None = None

    def __call__(self, loss: float) -> float:
        """The improvement by the newest interval, 0 for the first, within [-1, 1]; -1 for a loss that is no number."""
        if not math.isfinite(loss):
            return -1.0
        previous = self._mean
        if previous is None:
            self._mean = loss
            return 0.0
        self._mean = (1 - SMOOTHING) * previous + SMOOTHING * loss
        return _clip((previous - self._mean) / previous, 1) if previous > 0 else 0.0


def reward_of(improvement: float, upload_ratio: float, byte_weight: float) -> float:
    """What an action earned: the improvement of the loss less the weighted share of samples that were sent."""
    return improvement - byte_weight * upload_ratio


def _log_ratio(value: float, reference: float) -> float:
    if not (0 < value < math.inf and 0 < reference < math.inf):
        return LOG_LIMIT if value != reference else 0.0
    return _clip(math.log(value / reference), LOG_LIMIT)


def _clip(value: float, limit: float) -> float:
    return max(-limit, min(limit, value))
