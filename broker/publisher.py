"""What a client publishes: what waits, control before bulk, and what waits for its PUBACK. No sockets."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from typing import NamedTuple

from broker.errors import BrokerError
from broker.fields import text
from broker.login import Terms, reason
from broker.packet_codec import publish_head
from broker.packets import Puback
from broker.reasons import Reason

_encoded = functools.lru_cache(64)(text)


class _Message(NamedTuple):
    topic: str
    head: bytes
    body: memoryview
    retain: bool
    done: asyncio.Future[None] | None  # without one, QoS 0


class Publisher:
    """The publishing side of one connection that speaks MQTT `version`; it begins when it is given the broker's terms.

    A message whose future is done before its turn, because it was cancelled, is never sent.
    """

    __slots__ = ("_bulk", "_control", "_last_id", "_version", "in_flight", "terms")

    def __init__(self, version: int) -> None:
        self.terms: Terms | None = None
        self.in_flight: dict[int, asyncio.Future[None]] = {}  # by packet identifier
        self._version = version
        self._control: deque[_Message] = deque()
        self._bulk: deque[_Message] = deque()
        self._last_id = 0

    def add(
        self, topic: str, head: bytes, body: memoryview, retain: bool, bulk: bool, done: asyncio.Future[None] | None
    ) -> None:
        """Queue a PUBLISH of `head` and `body`; with QoS 1 where there is a `done`, which the PUBACK sets."""
        (self._bulk if bulk else self._control).append(_Message(topic, head, body, retain, done))

    def pull(self) -> tuple[bytes, memoryview] | None:
        """The next PUBLISH as (all but the body, body), or None; bulk leaves one place of the broker's to control."""
        if self.terms is None:
            return None
        limit = self.terms.receive_maximum
        for queue, places in ((self._control, limit), (self._bulk, max(1, limit - 1))):
            while queue:
                message = queue[0]
                if message.done is not None and not message.done.done() and len(self.in_flight) >= places:
                    break
                queue.popleft()
                if message.done is None or not message.done.done():
                    return self._head(message, self.terms.retain), message.body
        return None

    def _head(self, message: _Message, may_retain: bool) -> bytes:
        packet_id = 0
        if message.done is not None:
            packet_id = self.free_id()
            self.in_flight[packet_id] = message.done
        head = publish_head(
            _encoded(message.topic),
            len(message.head) + len(message.body),
            qos=int(packet_id > 0),
            retain=message.retain and may_retain,
            dup=False,
            packet_id=packet_id,
            properties=b"",
            version=self._version,
        )
        return head + message.head

    def free_id(self) -> int:
        """A packet identifier that no message in flight has."""
        while True:
            self._last_id = self._last_id % 0xFFFF + 1
            if self._last_id not in self.in_flight:
                return self._last_id

    def acknowledge(self, packet: Puback) -> None:
        """A PUBACK has come: the message's future is set, or fails where the broker refused it."""
        done = self.in_flight.pop(packet.packet_id, None)
        if done is None or done.done():
            return
        if packet.reason >= Reason.UNSPECIFIED:
            done.set_exception(BrokerError(f"the broker refused a message: {reason(packet.reason, packet.properties)}"))
        else:
            done.set_result(None)
