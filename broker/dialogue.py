"""What the broker does with the packets of a client that is connected, and what it answers. No sockets here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from broker.admission import Admission
from broker.aliases import InboundAliases
from broker.application_message import Message
from broker.authority import may_publish
from broker.errors import ProtocolError
from broker.fields import u16
from broker.log import told
from broker.packet_encoder import encode
from broker.packets import (
    V5,
    Packet,
    Pingreq,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)
from broker.properties import Property
from broker.reason_string import Answer, explained
from broker.reasons import Reason
from broker.session import Session
from broker.wanted import Wanted

if TYPE_CHECKING:
    from broker.registry import Registry

MAXIMUM_QOS = 2
LOGGED_TOPICS = 32
"""Topics that are logged for one connection, of what is forbidden or rejected; the others are only counted."""


class Dialogue:
    """One connection of a session; `answer` queues an encoded packet and `clock` gives seconds."""

    __slots__ = (
        "_admission",
        "_aliases",
        "_answer",
        "_clock",
        "_config",
        "_receiving",
        "_router",
        "_session",
        "_told",
        "_totals",
        "_version",
    )

    def __init__(
        self,
        registry: Registry,
        session: Session,
        admission: Admission,
        answer: Callable[[bytes], None],
        clock: Callable[[], float],
    ) -> None:
        self._config = registry.config
        self._router = registry.router
        self._totals = registry.totals
        self._session = session
        self._admission = admission
        self._version = admission.version
        self._answer = answer
        self._clock = clock
        self._aliases = InboundAliases(self._config.topic_alias_maximum)
        self._receiving: set[int] = set()  # QoS 2 ids that came on this connection and are not complete
        self._told: set[tuple[Reason, int]] = set()  # with hashes of topics, which may be long

    @property
    def opened(self) -> bool:
        """Whether CONNACK is on its way: nothing may be sent before it."""
        return True

    def resume(self, connack: bytes) -> None:
        """Welcome the client and release again what it may not have heard, ahead of the messages that come again."""
        self._answer(connack)
        for packet_id in self._session.released:
            self._answer(b"\x62\x02" + u16(packet_id))

    def handle(self, packet: Packet) -> None:
        """Do what the packet asks; ProtocolError where a client may not send it, or not so."""
        handler = self._HANDLERS.get(type(packet))
        if handler is None:
            raise ProtocolError(f"{type(packet).__name__} is not for a broker", Reason.PROTOCOL_ERROR)
        handler(self, packet)

    # Messages from the client

    def _on_publish(self, packet: Publish) -> None:
        topic, properties = packet.topic, packet.properties
        if Property.TOPIC_ALIAS in properties:
            topic = self._aliases.resolve(topic, properties[Property.TOPIC_ALIAS])
        if Property.SUBSCRIPTION_ID in properties:
            raise ProtocolError("a subscription identifier from a publisher", Reason.PROTOCOL_ERROR)
        if packet.qos < 2:
            reason, text = self._accept(packet, topic)
            if packet.qos:
                self._acknowledge(0x40, Puback, packet.packet_id, reason, text)
        else:
            self._receive_once(packet, topic)

    def _receive_once(self, packet: Publish, topic: str) -> None:
        """A QoS 2 message is accepted at its first PUBLISH, so that it need not be kept until its PUBREL."""
        packet_id, received = packet.packet_id, self._session.received
        self._receiving.add(packet_id)
        if self._version == V5 and len(self._receiving) > self._config.receive_maximum:
            raise ProtocolError(
                f"more than {self._config.receive_maximum} messages of QoS 2 at once", Reason.RECEIVE_MAXIMUM_EXCEEDED
            )
        reason, text = Reason.SUCCESS, ""
        if packet_id not in received:
            reason, text = self._accept(packet, topic)
            if reason >= Reason.UNSPECIFIED and self._version == V5:
                self._receiving.discard(packet_id)
            else:
                received.add(packet_id)
        self._acknowledge(0x50, Pubrec, packet_id, reason, text)

    def _accept(self, packet: Publish, topic: str) -> tuple[Reason, str]:
        """Hand the message to the router; the reason and, where it is a failure, its text."""
        if not may_publish(self._session.grants, topic):
            self._refuse(Reason.NOT_AUTHORIZED, topic)
            return Reason.NOT_AUTHORIZED, f"not allowed to publish to {topic!r}"
        now = self._clock()
        message = Message.of(topic, packet.payload, packet.qos, packet.retain, packet.properties, now)
        reason = self._router.publish(message, self._session)
        if reason < Reason.UNSPECIFIED:
            return reason, ""
        self._refuse(reason, topic)
        return reason, "no room for another retained message"

    def _refuse(self, reason: Reason, topic: str) -> None:
        """Count, and log once for each topic, what the client asked for in vain."""
        forbidden = reason is Reason.NOT_AUTHORIZED
        if forbidden:
            self._totals.forbidden += 1
        else:
            self._totals.count_rejected(reason.label)
        if (key := (reason, hash(topic))) not in self._told and len(self._told) < LOGGED_TOPICS:
            self._told.add(key)
            event, code = ("forbidden", None) if forbidden else ("rejected", reason)
            told(event, client=self._session.client_id, peer=self._admission.peer, code=code, topic=topic)

    def _on_pubrel(self, packet: Pubrel) -> None:
        known = packet.packet_id in self._session.received
        self._session.received.discard(packet.packet_id)
        self._receiving.discard(packet.packet_id)
        self._acknowledge(0x70, Pubcomp, packet.packet_id, Reason.SUCCESS if known else Reason.PACKET_ID_NOT_FOUND)

    # Acknowledgements of messages to the client

    def _on_puback(self, packet: Puback) -> None:
        self._go_on(self._session.acknowledge(packet.packet_id))

    def _on_pubrec(self, packet: Pubrec) -> None:
        if packet.reason >= Reason.UNSPECIFIED:
            self._go_on(self._session.reject(packet.packet_id))
        elif self._session.release(packet.packet_id):
            self._acknowledge(0x62, Pubrel, packet.packet_id, Reason.SUCCESS)
        elif self._version == V5:
            self._acknowledge(0x62, Pubrel, packet.packet_id, Reason.PACKET_ID_NOT_FOUND)

    def _on_pubcomp(self, packet: Pubcomp) -> None:
        self._go_on(self._session.complete(packet.packet_id))

    def _go_on(self, freed: bool) -> None:
        if freed and self._session.outlet:
            self._session.outlet.wake()

    # Subscriptions

    def _on_subscribe(self, packet: Subscribe) -> None:
        identifier = packet.properties.get(Property.SUBSCRIPTION_ID, (0,))[0]
        wanted = Wanted(self._session, self._config.max_subscriptions)
        for request in packet.requests:
            wanted.add(request)
        for topic_filter, reason in wanted.refused.items():
            self._refuse(reason, topic_filter)
        for request in wanted.granted.values():
            self._router.subscribe(self._session, request, request.qos, identifier)
        failure = 0 if self._version == V5 else 0x80
        reasons = [failure or int(reason) if reason > MAXIMUM_QOS else int(reason) for reason in wanted.answers]
        text = next((f"{name!r}: {reason.label}" for name, reason in wanted.refused.items()), "")
        self._explain(Suback(packet.packet_id, tuple(reasons)), text)
        for topic_filter in wanted.replayed:
            self._router.send_retained(self._session, topic_filter)

    def _on_unsubscribe(self, packet: Unsubscribe) -> None:
        existed = [self._router.unsubscribe(self._session, known) for known in packet.topic_filters]
        reasons = tuple(Reason.SUCCESS if e else Reason.NO_SUBSCRIPTION_EXISTED for e in existed)
        self._answer(encode(Unsuback(packet.packet_id, reasons if self._version == V5 else ()), self._version))

    def _on_pingreq(self, packet: Pingreq) -> None:
        self._answer(b"\xd0\x00")

    # Answers

    def _acknowledge(
        self,
        first: int,
        kind: type[Puback] | type[Pubrec] | type[Pubrel] | type[Pubcomp],
        packet_id: int,
        reason: Reason,
        text: str = "",
    ) -> None:
        """`first` is the first byte of this kind: the short form, which nearly all have, is put together here."""
        if reason == Reason.SUCCESS or self._version != V5:
            self._answer(bytes((first, 2)) + u16(packet_id))
        else:
            self._explain(kind(packet_id, reason), text)

    def _explain(self, packet: Answer, text: str) -> None:
        text = text if self._admission.explains else ""
        self._answer(explained(packet, text, self._version, self._admission.max_packet_bytes))

    _HANDLERS: ClassVar[dict[type[Packet], Callable[[Dialogue, Any], None]]] = {
        Publish: _on_publish,
        Puback: _on_puback,
        Pubrec: _on_pubrec,
        Pubrel: _on_pubrel,
        Pubcomp: _on_pubcomp,
        Subscribe: _on_subscribe,
        Unsubscribe: _on_unsubscribe,
        Pingreq: _on_pingreq,
    }
