"""When what waits for the broker was seen to move last."""

from __future__ import annotations

LOOKS = 4  # how often in a deadline it is looked at


class Progress:
    """Of one message that is sent, and of those whose place it waits for: PUBACKs, and bytes that leave this machine.

    Bytes count only where there are more of them than before, because after a lost connection the same go out again.
    """

    def __init__(self, now: float, freed: int, sent: int) -> None:
        self._moved_at = now
        self._freed = freed
        self._most = sent

    def look(self, now: float, acknowledged_at: float, freed: int, sent: int) -> float:
        """When something moved.

        `freed` counts the chunks that are under way no more, and of those that are, `sent` bytes have left.
        """
        if freed != self._freed:
            self._freed, self._most = freed, sent
        elif sent > self._most:
            self._most, self._moved_at = sent, now
        self._moved_at = max(self._moved_at, acknowledged_at)
        return self._moved_at
