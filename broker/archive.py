"""The broker's values as rows of its store, and back. No decisions here.

The store's times are those of the wall clock, since the clock of an event loop ends with its process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from broker.application_message import Delivery, Message
from broker.fields import Reader, varint
from broker.packets import Request, Will
from broker.properties import PacketType, Properties, Property, encode_properties, read_properties
from broker.store import Store


@dataclass(slots=True, eq=False)
class Filed(Delivery):
    """A delivery with a row: its number, and the batch that brings it to the disk."""

    row: int = 0
    batch: int = 0


@dataclass(slots=True)
class _Holding:
    """The row of a message, and how many other rows name it."""

    row: int
    references: int = 0


class Archive:
    """Files messages, deliveries and wills; a message is written once, however many deliveries it has.

    `clock` is the one of deadlines, in seconds.
    """

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self.store = store
        self.last_row = 0  # ids are counted here for all tables together
        self._clock = clock
        self._holdings: dict[Message, _Holding] = {}

    def next_row(self) -> int:
        """An id that no row has or had."""
        self.last_row += 1
        return self.last_row

    def hold(self, message: Message) -> int:
        """The row of a message that one more row is to name."""
        holding = self._holdings.get(message)
        if holding is None:
            holding = self._holdings[message] = _Holding(self.next_row())
            expires_at = None if message.deadline is None else self.wall_time(message.deadline)
            row = (message.topic, message.payload, message.qos, message.retain, message.forwarded, expires_at)
            self.store.add("message", holding.row, row)
        holding.references += 1
        return holding.row

    def let_go(self, message: Message) -> None:
        """One row less names the message; the last takes it along."""
        holding = self._holdings[message]
        holding.references -= 1
        if not holding.references:
            del self._holdings[message]
            self.store.remove("message", holding.row)

    def file(self, session: int, delivery: Delivery, packet_id: int, offered: bool) -> Filed:
        """Write a delivery of the session with this id; `offered` where its client may get it from now on."""
        message, identifiers = delivery.message, delivery.subscription_ids
        number = self.next_row()
        joined = " ".join(map(str, identifiers))
        row = (session, self.hold(message), delivery.qos, delivery.retain, joined, packet_id, offered)
        self.store.add("delivery", number, row)
        return Filed(message, delivery.qos, delivery.retain, identifiers, packet_id, False, number, self.store.batch)

    def refile(self, session: int, delivery: Filed) -> None:
        """Write a delivery anew whose packet id is another now; its client may get it from now on."""
        joined = " ".join(map(str, delivery.subscription_ids))
        message = self._holdings[delivery.message].row
        row = (session, message, delivery.qos, delivery.retain, joined, delivery.packet_id, True)
        self.store.put("delivery", (delivery.row,), row)
        delivery.batch = self.store.batch

    def discard(self, delivery: Filed) -> None:
        """Remove a delivery."""
        self.store.remove("delivery", delivery.row)
        self.let_go(delivery.message)

    def file_will(self, session: int, will: Will, due_in_s: float | None) -> None:
        """Write the session's will; None while its client is connected."""
        due_at = None if due_in_s is None else time.time() + due_in_s
        properties = encode_properties(will.properties)
        self.store.put("will", (session,), (will.topic, will.payload, will.qos, will.retain, properties, due_at))

    def wall_time(self, deadline: float) -> float:
        """Seconds of the wall clock for those of the event loop's."""
        return deadline - self._clock() + time.time()

    def messages(self) -> dict[int, Message]:
        """All messages of the file, by row; those that nothing holds afterwards are let go by `sweep`."""
        messages = {}
        for number, topic, payload, qos, retain, properties, expires_at in self.store.read("message"):
            deadline = None if expires_at is None else expires_at - time.time() + self._clock()
            decoded = _properties(properties, PacketType.PUBLISH)
            message = messages[number] = Message(topic, payload, qos, bool(retain), decoded, deadline)
            self._holdings[message] = _Holding(number)
            self.last_row = max(self.last_row, number)
        return messages

    def adopt(self, message: Message) -> Message:
        """Count a row of the file that names the message."""
        self._holdings[message].references += 1
        return message

    def sweep(self) -> None:
        """Remove the messages that no row names."""
        for message, holding in list(self._holdings.items()):
            if not holding.references:
                del self._holdings[message]
                self.store.remove("message", holding.row)


def request_of(row: Sequence[Any]) -> tuple[Request, int, int]:
    """(request, granted QoS, identifier) from topic filter and options."""
    topic_filter, qos, no_local, retain_as_published, identifier = row
    return Request(topic_filter, qos, bool(no_local), bool(retain_as_published)), qos, identifier


def will_of(row: Sequence[Any]) -> tuple[Will, int]:
    """(will, delay in seconds) from topic, payload, QoS, retain and properties."""
    topic, payload, qos, retain, encoded = row
    properties = _properties(encoded, PacketType.WILL)
    return Will(topic, payload, qos, bool(retain), properties), properties.get(Property.WILL_DELAY, 0)


def _properties(encoded: bytes, carrier: PacketType) -> Properties:
    return read_properties(Reader(memoryview(varint(len(encoded)) + encoded)), carrier)
