"""The last retained message of every topic, under one byte cap."""

from __future__ import annotations

from broker.application_message import Message
from broker.topic_filter import FilterTree


class Retained:
    """Retained messages by topic; `held_bytes` never exceeds `cap` bytes."""

    def __init__(self, cap: int) -> None:
        self.held_bytes = 0
        self._cap = cap
        self._messages: dict[str, Message] = {}

    def __len__(self) -> int:
        return len(self._messages)

    def keep(self, message: Message) -> bool:
        """Replace the topic's message, or remove it where the payload is empty; False where the cap forbids it."""
        old = self._messages.get(message.topic)
        freed = old.cost if old else 0
        if not len(message.payload):
            self._messages.pop(message.topic, None)
            self.held_bytes -= freed
            return True
        if self.held_bytes - freed + message.cost > self._cap:
            return False
        self._messages[message.topic] = message
        self.held_bytes += message.cost - freed
        return True

    def matching(self, topic_filter: str, now: float) -> list[Message]:
        """The messages under a filter in the order in which their topics first came; expired ones are forgotten."""
        if "+" in topic_filter or "#" in topic_filter:
            tree: FilterTree[bool] = FilterTree()
            tree.add(topic_filter, True)
            found = [message for topic, message in self._messages.items() if tree.match(topic)]
        else:
            found = [self._messages[topic_filter]] if topic_filter in self._messages else []
        alive = []
        for message in found:
            if message.deadline is not None and message.deadline <= now:
                self._forget(message)
            else:
                alive.append(message)
        return alive

    def _forget(self, message: Message) -> None:
        del self._messages[message.topic]
        self.held_bytes -= message.cost
