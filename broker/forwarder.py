"""Turns a session's deliveries into the PUBLISH packets of its client's connection. No sockets and no clocks here."""

from __future__ import annotations

from broker.admission import Admission
from broker.aliases import OutboundAliases
from broker.application_message import Delivery
from broker.fields import Buffer, u16, u32, varint
from broker.packet_encoder import publish_head
from broker.packets import V5
from broker.properties import Property
from broker.session import Session

_NO_TOPIC = b"\0\0"


class Forwarder:
    """The packets for one client, in its version and within the limits that it asked for."""

    __slots__ = ("_aliases", "_max_bytes", "_session", "_version")

    def __init__(self, session: Session, admission: Admission) -> None:
        self._session = session
        self._version = admission.version
        self._max_bytes = admission.max_packet_bytes
        self._aliases = OutboundAliases(admission.alias_maximum) if admission.alias_maximum else None

    def next(self, now: float) -> tuple[bytes, Buffer] | None:
        """The next message as (head, payload); those above the client's maximum packet size are dropped."""
        while (delivery := self._session.next_delivery(now)) is not None:
            message = delivery.message
            properties = message.forwarded
            if self._version == V5 and (delivery.subscription_ids or message.deadline is not None):
                properties += _own_properties(delivery, now)
            room = self._max_bytes - len(message.payload)
            if self._aliases is None:
                head = self._head(message.prefix, properties, delivery)
            else:
                head = self._aliased_head(self._aliases, properties, delivery, room)
            if len(head) <= room:
                return head, message.payload
            self._session.drop(delivery)
        return None

    def _aliased_head(self, aliases: OutboundAliases, properties: bytes, delivery: Delivery, room: int) -> bytes:
        """With an alias in place of the topic where the client knows one, or beside it where there is a free one."""
        message = delivery.message
        if known := aliases.known(message.topic):
            return self._head(_NO_TOPIC, properties + _alias(known), delivery)
        if free := aliases.free():
            head = self._head(message.prefix, properties + _alias(free), delivery)
            if len(head) <= room:
                aliases.learn(message.topic)
                return head
        return self._head(message.prefix, properties, delivery)

    def _head(self, topic: bytes, properties: bytes, delivery: Delivery) -> bytes:
        return publish_head(
            topic,
            len(delivery.message.payload),
            qos=delivery.qos,
            retain=delivery.retain,
            dup=delivery.dup,
            packet_id=delivery.packet_id,
            properties=properties,
            version=self._version,
        )


def _own_properties(delivery: Delivery, now: float) -> bytes:
    """What is not the same for all subscribers of a message."""
    properties = b""
    if delivery.message.deadline is not None:
        properties += bytes((Property.MESSAGE_EXPIRY,)) + u32(max(1, round(delivery.message.deadline - now)))
    for identifier in delivery.subscription_ids:
        properties += bytes((Property.SUBSCRIPTION_ID,)) + varint(identifier)
    return properties


def _alias(number: int) -> bytes:
    return bytes((Property.TOPIC_ALIAS,)) + u16(number)
