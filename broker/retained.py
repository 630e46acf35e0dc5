"""The last retained message of every topic, under one byte cap."""

from __future__ import annotations

import math

from broker.application_message import Message
from broker.topic_index import TopicIndex

SWEEP_S = 1.0
"""How long after one search for expired messages the next one may be."""


class Retained:
    """Retained messages by topic; `held_bytes` never exceeds `cap` bytes."""

    def __init__(self, cap: int) -> None:
        self.held_bytes = 0
        self._cap = cap
        self._messages: dict[str, Message] = {}
        self._index = TopicIndex()
        self._swept_at = -math.inf

    def __len__(self) -> int:
        return len(self._messages)

    def keep(self, message: Message) -> bool:
        """Replace the topic's message, or remove it where the payload is empty; False where the cap forbids it."""
        old = self._messages.get(message.topic)
        if not len(message.payload):
            if old:
                self._remove(old)
            return True
        if self.held_bytes - (old.cost if old else 0) + message.cost > self._cap:
            return False
        self._put(message)
        return True

    def page(self, topic_filter: str, now: float, start: str, looks: int) -> tuple[list[Message], str | None, int]:
        """The messages under a filter from the topic `start` on, as far as this many looks at topics reach.

        Also where the next page starts, None where there is none, and how many looks were taken. Expired messages are
        forgotten.
        """
        following, taken = None, 1
        if "+" in topic_filter or "#" in topic_filter:
            topics, following, taken = self._index.page(topic_filter, start, looks)
            found = [self._messages[topic] for topic in topics]
        else:
            found = [self._messages[topic_filter]] if topic_filter in self._messages else []
        alive = [message for message in found if not message.expired(now)]
        if len(alive) < len(found):
            self._forget_expired(found, now)
        return alive, following, taken

    def sweep(self, now: float) -> bool:
        """Forget all that has expired, at most once in SWEEP_S; whether there was something."""
        if now < self._swept_at + SWEEP_S:
            return False
        self._swept_at, before = now, len(self._messages)
        self._forget_expired(list(self._messages.values()), now)
        return len(self._messages) < before

    def _put(self, message: Message) -> None:
        old = self._messages.get(message.topic)
        if old is None:
            self._index.add(message.topic)
        self._messages[message.topic] = message
        self.held_bytes += message.cost - (old.cost if old else 0)

    def _remove(self, message: Message) -> None:
        del self._messages[message.topic]
        self._index.remove(message.topic)
        self.held_bytes -= message.cost

    def _forget_expired(self, messages: list[Message], now: float) -> None:
        for message in messages:
            if message.expired(now):
                self._forget(message)

    def _forget(self, message: Message) -> None:
        """Remove a message that has expired."""
        self._remove(message)
