"""The streams of one client at one end: the encoders of what this end sends, the decoders of what it gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from splitcom.config import UPWARD, SharedSettings, StreamName
from splitcom.stream import StreamDecoder, StreamEncoder


@dataclass(frozen=True)
class Ends:
    """Encoders and decoders by stream; a stream that is not enabled or not of the shape has neither."""

    encoders: dict[StreamName, StreamEncoder] = field(default_factory=dict)
    decoders: dict[StreamName, StreamDecoder] = field(default_factory=dict)

    def set_thresholds(self, thresholds: Mapping[str, float] | Mapping[StreamName, float]) -> None:
        """From the next packets on, of the streams that this end sends; others are left alone."""
        for name, encoder in self.encoders.items():
            encoder.threshold = thresholds.get(name, encoder.threshold)

    def memory(self) -> dict[str, int]:
        """Bytes of the references that this end keeps, by stream."""
        ends: dict[StreamName, StreamEncoder | StreamDecoder] = {**self.encoders, **self.decoders}
        return {name: end.memory_bytes for name, end in ends.items()}


def open_ends(side: Literal["agent", "server"], settings: SharedSettings, channels: int, max_tokens: int) -> Ends:
    """This side's ends of the streams that the settings name; `channels` is C, `max_tokens` the longest sample."""
    ends, training = Ends(), settings.training
    for name, config in settings.streams.of(settings.shape).items():
        if not config.enabled:
            continue
        if (name in UPWARD) == (side == "agent"):
            ends.encoders[name] = StreamEncoder(name, config, channels, training.seed)
        else:
            ends.decoders[name] = StreamDecoder(name, config, channels, training.seed, max_tokens, training.batch_size)
    return ends
