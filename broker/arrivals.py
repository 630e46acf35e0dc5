"""What has come from one peer: its messages put together, and what it has yet to be told of them."""

from __future__ import annotations

from collections.abc import Callable, Container

from broker.checks import MAX_RUNS
from broker.credit import CONFIRM_BYTES, weight
from broker.messages import State
from broker.reassembler import Placed, Reassembler
from broker.room import Room
from broker.wire import Envelope

NAMED = 1024  # complete messages that a word names


class Arrivals:
    """`confirmed` are the types of the messages of which the peer is told that they have come.

    `robbed` is called when a message had to make place in the `room` for another peer's, and has to come again.
    """

    def __init__(
        self,
        max_message_bytes: int,
        confirmed: Container[int],
        room: Room | None = None,
        robbed: Callable[[], None] = lambda: None,
    ) -> None:
        self._reassembler = Reassembler(
            max_message_bytes, 2 * max_message_bytes, room=room, robbed=robbed, returns=(State.code,)
        )
        self._confirmed = confirmed
        self._untold = 0
        self._complete: dict[int, None] = {}  # since the last word

    def add(self, envelope: Envelope) -> Placed:
        """Take one chunk; WireError when it contradicts its message or the limits."""
        boot = self.boot
        try:
            return self._reassembler.add(envelope)
        finally:
            if self.boot != boot:
                self._untold = 0
                self._complete.clear()
            if envelope.message_type in self._confirmed and envelope.boot == self.boot:
                self._count(envelope)

    def _count(self, envelope: Envelope) -> None:
        # Repetitions too, and of what is refused: whoever sends them does not know yet that they are not wanted.
        self._untold += weight(len(envelope.chunk))
        if self._reassembler.done(envelope):
            self._complete[envelope.message_id] = None

    @property
    def boot(self) -> int | None:
        """The peer's process, None before its first chunk."""
        return self._reassembler.boot

    def due(self, after: int = CONFIRM_BYTES) -> bool:
        """Whether the peer should be told, which it is after so many bytes."""
        return self._untold >= after

    def forget(self) -> None:
        """Release all memory."""
        self._reassembler.forget()

    def word(self, resume: bool) -> tuple[list[int], list[list[int]]]:
        """(complete, partial) of the messages that tell it; with `resume`, of all that is remembered."""
        complete = self._reassembler.complete(self._confirmed) if resume else list(self._complete)
        self._untold, self._complete = 0, {}
        partial = self._reassembler.partial(self._confirmed)
        return complete[-NAMED:], [entry[: 1 + 2 * MAX_RUNS] for entry in partial]

    @property
    def bytes_in_progress(self) -> int:
        """The declared lengths of its partial messages."""
        return self._reassembler.bytes_in_progress
