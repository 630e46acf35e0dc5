"""The keepalive of one connection: how long its client may be silent (MQTT 5.0, 3.1.2.10)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

FACTOR = 1.5
"""The client has this many times its keepalive."""


class Keepalive:
    """Calls `silent` with a text once nothing was heard for `keepalive_s` times FACTOR; 0 is for ever.

    Any byte counts as a sign of life, so that a large packet on a slow link does not end its own connection.
    """

    __slots__ = ("_loop", "_patience_s", "_silent", "_timer", "heard_at")

    def __init__(self, silent: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._silent = silent
        self._patience_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.heard_at = self._loop.time()

    def start(self, keepalive_s: float) -> None:
        """From now on the client has to be heard."""
        self._patience_s = keepalive_s * FACTOR
        self.heard_at = self._loop.time()
        if keepalive_s:
            self._check()

    def cancel(self) -> None:
        """The connection has ended."""
        if self._timer is not None:
            self._timer.cancel()

    def _check(self) -> None:
        left = self.heard_at + self._patience_s - self._loop.time()
        if left <= 0:
            self._silent(f"nothing came for {self._patience_s:g} s")
        else:
            self._timer = self._loop.call_later(left, self._check)
