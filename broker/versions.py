"""Which version of MQTT a client speaks."""

from __future__ import annotations

from broker.login import RefusedError


class Versions:
    """The versions worth a try with one broker, for a `protocol` of "auto", "5" or "3.1.1"."""

    def __init__(self, protocol: str) -> None:
        self._known = ["5", "3.1.1"] if protocol == "auto" else [protocol]  # best first
        self._proven = False

    def attempt(self) -> list[str]:
        """What one attempt to connect tries, in this order."""
        return self._known.copy()

    def worked(self, protocol: str) -> None:
        """A connection was made. Once MQTT 5 has worked, nothing else is tried."""
        if protocol == "5":
            self._known, self._proven = [protocol], True

    def refused(self, protocol: str, error: RefusedError) -> bool:
        """Whether an older version may be taken instead; for good only where the broker said so itself.

        A connection that is closed without an answer may be an accident, so the next attempt begins with MQTT 5 again.
        """
        if not error.older or protocol == self._known[-1]:
            return False
        if not error.closed:
            self._known.remove(protocol)
        return True

    def explained(self, protocol: str, error: RefusedError) -> RefusedError:
        """The error, with what may be behind it."""
        if error.closed and protocol == "5" and not self._proven:
            return RefusedError(f"{error}, perhaps because it speaks no MQTT 5")
        return error
