"""What has come from one peer: its messages put together, and what it has yet to be told of them."""

from __future__ import annotations

from collections.abc import Container

from broker.lane import CONFIRM_BYTES
from broker.reassembler import Placed, Reassembler
from broker.transfer import weight
from broker.wire import Envelope

NAMED = 1024  # complete messages that a word names
RUNS = 500  # runs of chunks that it names of a partial one, so that a word is one chunk


class Arrivals:
    """`confirmed` are the types of the messages of which the peer is told that they have come."""

    def __init__(self, max_message_bytes: int, confirmed: Container[int]) -> None:
        self._reassembler = Reassembler(max_message_bytes, 2 * max_message_bytes)
        self._confirmed = confirmed
        self._untold = 0
        self._complete: list[int] = []  # since the last word

    def add(self, envelope: Envelope) -> Placed:
        """Take one chunk; WireError when it contradicts its message or the limits."""
        boot = self.boot
        placed = self._reassembler.add(envelope)
        if self.boot != boot:
            self._untold = 0
            self._complete.clear()
        if placed.received and envelope.message_type in self._confirmed:
            self._untold += weight(len(envelope.chunk))
            if placed.body is not None:
                self._complete.append(envelope.message_id)
        return placed

    @property
    def boot(self) -> int | None:
        """The peer's process, None before its first chunk."""
        return self._reassembler.boot

    @property
    def due(self) -> bool:
        """Whether the peer should be told."""
        return self._untold >= CONFIRM_BYTES

    def word(self, resume: bool) -> tuple[list[int], list[list[int]]]:
        """(complete, partial) of the messages that tell it; with `resume`, of all that is remembered."""
        complete = self._reassembler.complete(self._confirmed) if resume else self._complete
        self._untold, self._complete = 0, []
        partial = self._reassembler.partial(self._confirmed)
        return complete[-NAMED:], [entry[: 1 + 2 * RUNS] for entry in partial]

    @property
    def bytes_in_progress(self) -> int:
        """The declared lengths of its partial messages."""
        return self._reassembler.bytes_in_progress
