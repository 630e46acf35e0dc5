"""The bounded inbox of a channel: what does not fit is not acknowledged, so that the transport holds back the rest."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from broker.channel import Malformed
from broker.errors import BrokerError
from broker.messages import Message

log = logging.getLogger(__name__)

MAX_HELD = 256  # entries beyond a full inbox, of those that nobody can hold back

Item = tuple[str, Message | Malformed]


class Inbox:
    """Messages that wait for `get`, at most `limit`, and behind them those that are held unacknowledged."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[Item] = deque()
        self._held: deque[tuple[Item | None, Callable[[], None] | None]] = deque()
        self._arrived = asyncio.Event()
        self._failure: BrokerError | None = None
        self.lost = 0  # messages without an acknowledgement that found no room

    def put(self, item: Item | None, acknowledge: Callable[[], None] | None) -> None:
        """Take what one chunk completed, None for nothing; `acknowledge` is called when there is room for it.

        MQTT wants acknowledgements in order, so whatever comes behind a held message is held as well. Who waits for
        them holds the rest back; what needs none is lost when too much is held.
        """
        if self._held or (item is not None and len(self._items) >= self._limit):
            if acknowledge is not None or len(self._held) < MAX_HELD:
                self._held.append((item, acknowledge))
            elif item is not None:
                self.lost += 1
                log.warning("the inbox is full: a message from %s is lost", item[0])
            return
        if item is not None:
            self._items.append(item)
            self._arrived.set()
        if acknowledge is not None:
            acknowledge()

    async def get(self) -> Item:
        """The oldest message; raises the failure once everything before it has been taken. Cancelling loses nothing."""
        while not self._items:
            if self._failure is not None:
                raise self._failure
            self._arrived.clear()
            await self._arrived.wait()
        item = self._items.popleft()
        while self._held and len(self._items) < self._limit:
            held, acknowledge = self._held.popleft()
            if held is not None:
                self._items.append(held)
            if acknowledge is not None:
                acknowledge()
        return item

    def fail(self, failure: BrokerError) -> None:
        """Nothing can come any more."""
        self._failure = failure
        self._arrived.set()

    def release(self) -> None:
        """Acknowledge what is held, because nobody will take it."""
        while self._held:
            if (acknowledge := self._held.popleft()[1]) is not None:
                acknowledge()
