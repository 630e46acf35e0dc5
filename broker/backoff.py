"""When to try to connect again, and when to stop trying; no clock is read here."""

from __future__ import annotations

import random

FIRST_S, LONGEST_S = 0.05, 2.0  # pauses between attempts
LASTING_S = 5.0  # longer than two ends of one name, each with the longest pause, leave each other connected


class Backoff:
    """A row of failures, in which pauses grow and patience ends: after `timeout_s`.

    A connection that lasts or is of use ends the row. One that the other end soon closes does not: with MQTT 3.1.1, and
    from mosquitto 2.0, no client hears that another one took its name. Both come back and push each other out, until
    one gives up.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._pause_s = FIRST_S
        self._since: float | None = None
        self.rival = False  # the row goes on after a connection was made

    def lost(self, now: float, lasted_s: float, hung_up: bool, of_use: bool = False) -> None:
        """A connection has ended; `hung_up` when the other end closed it, `of_use` when it took messages before."""
        self.rival = hung_up and not of_use and lasted_s < LASTING_S and self._since is not None
        if not self.rival:
            self._since, self._pause_s = now, FIRST_S

    def over(self, now: float) -> bool:
        return self._since is not None and now >= self._since + self._timeout_s

    def pause_s(self) -> float:
        """How long to wait before the next attempt, at random, so that many ends do not come at once."""
        pause = self._pause_s
        self._pause_s = min(2 * pause, LONGEST_S)
        return pause * random.uniform(0.5, 1.0)
