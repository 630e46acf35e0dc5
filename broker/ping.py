"""When a client asks whether the broker is there, and when it believes that it is not (MQTT 5.0, 3.1.2.10 and 3.12).

No sockets and no clocks: whoever holds the connection looks at it `LOOKS` times in a keepalive. Looks are counted, not
seconds, so that a process that was stopped for a while reads what has come meanwhile before it gives the broker up.
"""

from __future__ import annotations

LOOKS = 4
PATIENCE = 6  # looks without any movement: 1.5 keepalives, which is what a broker gives its clients
QUIET = 2  # looks after which a silent direction is worth a PINGREQ


class Ping:
    """A missing PINGRESP counts only where nothing moved: an upload that makes progress is a sign of life as well.

    Not so what goes out behind the PINGREQ, which a kernel or a proxy may take for a broker that is gone.
    """

    __slots__ = ("_behind", "_packets", "_quiet_in", "_quiet_out", "_received", "_sent", "_still")

    def __init__(self) -> None:
        self._behind: int | None = None  # where the unanswered PINGREQ ends in what is sent
        self._packets = self._received = self._sent = 0
        self._quiet_in = self._quiet_out = self._still = 0

    @property
    def asked(self) -> bool:
        """Whether a PINGREQ is unanswered."""
        return self._behind is not None

    @property
    def lost(self) -> bool:
        """Whether nothing has moved for too long."""
        return self._still >= PATIENCE

    def ask(self, behind: int) -> None:
        """A PINGREQ goes out, and ends after so many bytes of the connection."""
        self._behind = behind

    def answered(self) -> None:
        """A PINGRESP has come."""
        self._behind = None

    def look(self, packets: int, sent: int, received: int) -> bool:
        """Whether a PINGREQ is due.

        `packets` were handed to the transport so far; `sent` bytes have got out of this machine and `received` bytes
        have come.
        """
        heard = received != self._received
        moved = heard or self._telling(sent) != self._telling(self._sent)
        self._still = 0 if moved else self._still + 1
        self._quiet_in = 0 if heard else self._quiet_in + 1
        self._quiet_out = 0 if packets != self._packets else self._quiet_out + 1
        self._packets, self._sent, self._received = packets, sent, received
        return not self.asked and max(self._quiet_in, self._quiet_out) >= QUIET

    def _telling(self, sent: int) -> int:
        """What of these bytes tells that the broker is there."""
        return sent if self._behind is None else min(sent, self._behind)
