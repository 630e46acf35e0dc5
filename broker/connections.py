"""The open connections of one broker, and whether there is room for one more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

from broker.reasons import Reason
from broker.token_bucket import TokenBucket

if TYPE_CHECKING:
    from broker.connection import Connection

SURPLUS = 64
"""How many connections beyond the limits may stay until their CONNECT has been answered with the reason."""


class Connections:
    """At most `maximum` connections, accepted at no more than `per_s` a second (0: no bound), and SURPLUS others."""

    def __init__(self, maximum: int, per_s: float) -> None:
        self._maximum = maximum
        self._bucket = TokenBucket(per_s)
        self._open: set[Connection] = set()
        self._surplus: set[Connection] = set()
        self._empty = asyncio.Event()
        self.closing = False

    def __len__(self) -> int:
        return len(self._open) + len(self._surplus)

    def __iter__(self) -> Iterator[Connection]:
        return iter([*self._open, *self._surplus])

    def add(self, connection: Connection, now: float) -> Reason:
        """SUCCESS, or why the connection is one too many."""
        if self.closing:
            reason = Reason.SERVER_SHUTTING_DOWN
        elif not self._bucket.take(now):
            reason = Reason.CONNECTION_RATE_EXCEEDED
        elif len(self._open) >= self._maximum:
            reason = Reason.SERVER_BUSY
        else:
            reason = Reason.SUCCESS
        (self._surplus if reason else self._open).add(connection)
        return reason

    @property
    def overcrowded(self) -> bool:
        """Whether connections beyond the limits have to be cut without an answer."""
        return self.closing or len(self._surplus) > SURPLUS

    def discard(self, connection: Connection) -> None:
        """The connection is closed."""
        self._open.discard(connection)
        self._surplus.discard(connection)
        if not len(self):
            self._empty.set()

    async def all_closed(self) -> None:
        """Wait until no connection is open."""
        while len(self):
            self._empty.clear()
            await self._empty.wait()
