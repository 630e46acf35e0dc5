"""What a client publishes: what waits, control before bulk, and what waits for its PUBACK. No sockets."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Collection
from typing import NamedTuple

from broker.errors import BrokerError
from broker.fields import text
from broker.login import Terms, reason
from broker.packet_encoder import publish_head
from broker.packets import Puback
from broker.reasons import Reason

_encoded = functools.lru_cache(64)(text)


class _Message(NamedTuple):
    topic: str
    head: bytes
    body: memoryview
    retain: bool
    done: asyncio.Future[None] | None  # without one, QoS 0


class _Sent(NamedTuple):
    done: asyncio.Future[None]
    start: int  # where it begins in what the connection sends
    size: int


class Publisher:
    """The publishing side of one connection that speaks MQTT `version`; it begins when it is given the broker's terms.

    A message whose future is done before its turn, because it was cancelled, is never sent. `taken` are the packet
    identifiers of other packets under way.
    """

    __slots__ = ("_bulk", "_control", "_in_flight", "_last_id", "_taken", "_version", "terms")

    def __init__(self, version: int, taken: Collection[int] = ()) -> None:
        self.terms: Terms | None = None
        self._version = version
        self._taken = taken
        self._in_flight: dict[int, _Sent] = {}  # by packet identifier
        self._control: deque[_Message] = deque()
        self._bulk: deque[_Message] = deque()
        self._last_id = 0

    def add(
        self, topic: str, head: bytes, body: memoryview, retain: bool, bulk: bool, done: asyncio.Future[None] | None
    ) -> None:
        """Queue a PUBLISH of `head` and `body`; with QoS 1 where there is a `done`, which the PUBACK sets."""
        (self._bulk if bulk else self._control).append(_Message(topic, head, body, retain, done))

    def pull(self, start: int) -> tuple[bytes, memoryview] | None:
        """The next PUBLISH as (all but the body, body), or None; bulk leaves one place of the broker's to control.

        It goes out behind `start` bytes of the connection.
        """
        if self.terms is None:
            return None
        limit = self.terms.receive_maximum
        for queue, places in ((self._control, limit), (self._bulk, max(1, limit - 1))):
            while queue:
                message = queue[0]
                if message.done is not None and not message.done.done() and len(self._in_flight) >= places:
                    break
                queue.popleft()
                if message.done is None or not message.done.done():
                    return self._sent(message, self.terms.retain, start), message.body
        return None

    def passed(self, end: int, messages: Collection[asyncio.Future[None]]) -> int:
        """How many bytes of these messages, known by their futures, are among the first `end` of the connection."""
        flying = (sent for sent in self._in_flight.values() if sent.done in messages)
        return sum(min(max(end - sent.start, 0), sent.size) for sent in flying)

    def _sent(self, message: _Message, may_retain: bool, start: int) -> bytes:
        """All but the body of a message that goes out now."""
        packet_id = 0 if message.done is None else self.free_id()
        head = (
            publish_head(
                _encoded(message.topic),
                len(message.head) + len(message.body),
                qos=int(packet_id > 0),
                retain=message.retain and may_retain,
                dup=False,
                packet_id=packet_id,
                properties=b"",
                version=self._version,
            )
            + message.head
        )
        if message.done is not None:
            self._in_flight[packet_id] = _Sent(message.done, start, len(head) + len(message.body))
        return head

    def free_id(self) -> int:
        """A packet identifier that nothing under way has."""
        while True:
            self._last_id = self._last_id % 0xFFFF + 1
            if self._last_id not in self._in_flight and self._last_id not in self._taken:
                return self._last_id

    def acknowledge(self, packet: Puback) -> None:
        """A PUBACK has come: the message's future is set, or fails where the broker refused it."""
        sent = self._in_flight.pop(packet.packet_id, None)
        if sent is None or sent.done.done():
            return
        done = sent.done
        if packet.reason >= Reason.UNSPECIFIED:
            done.set_exception(BrokerError(f"the broker refused a message: {reason(packet.reason, packet.properties)}"))
        else:
            done.set_result(None)
