"""Breaks of what concerns messages: strings and identifiers, PUBLISH, retained messages."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import replace
from typing import Any

from broker.admission import UNLIMITED_BYTES
from broker.errors import ProtocolError
from broker.packets import (
    Pingreq,
    Publish,
    Subscribe,
)
from broker.properties import Property
from broker.reasons import Reason
from tests.conformance.mutants_connect import LENIENT_TEXT
from tests.conformance.mutation import (
    Mutant,
    after,
    all_of,
    answers,
    any_flags,
    around,
    before,
    bodies,
    deliveries,
    forwards,
    given,
    handles,
    instead,
    silent,
    with_byte,
)
from tests.conformance.wire import V311, Kind

_Function = Callable[..., Any]
ACKNOWLEDGEMENTS = (Kind.PUBACK, Kind.PUBREC, Kind.PUBREL, Kind.PUBCOMP)


# Strings, integers, identifiers


def _texts(change: Callable[[_Function, Any], str]) -> Mutant:
    modules = ("broker.fields", "broker.packet_decoder")
    make = lambda decode_text: lambda data: change(decode_text, data)  # noqa: E731
    return all_of(*(around(f"{module}:decode_text", make) for module in modules))


NULLS_ALLOWED = _texts(lambda decode_text, data: decode_text(bytes(data).replace(b"\0", b"0")))
MARKS_REMOVED = _texts(lambda decode_text, data: decode_text(data).replace("\ufeff", ""))


def _long_varint(varint: _Function) -> _Function:
    def changed(value: int) -> bytes:
        shortest: bytes = varint(value)
        return shortest[:-1] + bytes((shortest[-1] | 0x80, 0))

    return changed


LONG_VARINTS = all_of(*(around(f"broker.{module}:varint", _long_varint) for module in ("packet_encoder", "properties")))
ONE_PACKET_ID = instead("broker.session:Session._free_id", lambda self: 1)
OTHER_PACKET_ID = with_byte(3, lambda low: low ^ 1, *ACKNOWLEDGEMENTS, Kind.SUBACK, Kind.UNSUBACK)


def _qos_0_with_id(publish_head: _Function) -> _Function:
    def changed(topic: bytes, size: int, **fields: Any) -> Any:
        if fields["qos"]:
            return publish_head(topic, size, **fields)
        return publish_head(topic, size + 2, **fields) + b"\0\1"

    return changed


# PUBLISH


def _qos_3_is_2(decode_publish: _Function) -> _Function:
    return lambda first, *rest: decode_publish(first & ~2 if first & 6 == 6 else first, *rest)


def _without(name: Property) -> Mutant:
    return forwards(lambda found: {key: value for key, value in found.items() if key is not name})


def _user_properties(change: Callable[[Any], Any]) -> Mutant:
    return forwards(
        lambda found: {key: change(value) if key is Property.USER_PROPERTY else value for key, value in found.items()}
    )


def _lasting_aliases() -> AbstractContextManager[None]:
    topics: dict[int, str] = {}
    return after("broker.aliases:InboundAliases.__init__", lambda self, maximum: setattr(self, "_topics", topics))()


def _some_topic(first: int, body: bytes) -> tuple[int, bytes]:
    """An empty topic is taken for another."""
    return first, b"\0\1x" + body[2:] if body[:2] == b"\0\0" else body


def _any_alias(resolve: _Function) -> _Function:
    return lambda self, topic, alias: topic or resolve(self, topic, alias)


def _not_the_last_alias(self: Any, topic: str, alias: int) -> None:
    if alias == self._maximum:
        raise ProtocolError("the last alias", Reason.TOPIC_ALIAS_INVALID)


def _limits(**limits: int) -> Mutant:
    """What the client asked for is not what it gets."""

    def change(self: Any, session: Any, admission: Any) -> tuple[Any, ...]:
        return self, session, replace(admission, **limits)

    return given("broker.forwarder:Forwarder.__init__", change)


def _receive_maximum(value: int) -> Mutant:
    def change(self: Any, outlet: Any, admission: Any, *rest: Any) -> tuple[Any, ...]:
        return self, outlet, replace(admission, receive_maximum=value), *rest

    return given("broker.registry:Registry.attach", change)


def _released_do_not_count(next_delivery: _Function) -> _Function:
    def changed(self: Any, now: float) -> Any:
        released = len(self._released)
        self.receive_maximum += released
        try:
            return next_delivery(self, now)
        finally:
            self.receive_maximum -= released

    return changed


def _more_room(self: Any, packet_id: int) -> None:
    self.receive_maximum += 1


def _waits(dialogue: Any, packet: Any) -> Any:
    """Nothing but acknowledgements is handled while the client holds as many messages as it can."""
    session = dialogue._session
    return packet if session.in_flight < session.receive_maximum else None


def _unidentified(dialogue: Any, packet: Any) -> Any:
    kept = {key: value for key, value in packet.properties.items() if key is not Property.SUBSCRIPTION_ID}
    return replace(packet, properties=kept)


def _combined(change: Callable[[Any, Any], Any]) -> Mutant:
    """Change what overlapping subscriptions add up to."""

    def make(combine: _Function) -> _Function:
        return lambda session, subscriptions, *rest: change(combine(session, subscriptions, *rest), subscriptions)

    return around("broker.router:_combine", make)


def reason(reason: int, kind: Kind) -> Mutant:
    return answers(lambda _, packet: packet[:1] + b"\3" + packet[2:4] + bytes((reason,)), kind)


def _oversized_answers() -> Mutant:
    def send(self: Any, packet: bytes) -> None:
        self._outbox.answer(packet)
        self.wake()

    def make(explained: _Function) -> _Function:
        return lambda packet, text, version, limit: explained(packet, text, version, UNLIMITED_BYTES)

    return all_of(around("broker.dialogue:explained", make), instead("broker.connection:Connection._answer", send))


def _explains(self: Any, registry: Any, session: Any, admission: Any, *rest: Any) -> tuple[Any, ...]:
    return self, registry, session, replace(admission, explains=True), *rest


# Retained messages


def _keeps(change: Callable[[Any, Any], Any]) -> Mutant:
    """Keep `change(retained, message)` in place of a message, nothing where it is None."""

    def make(keep: _Function) -> _Function:
        def changed(self: Any, message: Any) -> Any:
            new = change(self, message)
            return True if new is None else keep(self, new)

        return changed

    return around("broker.retained:Retained.keep", make)


def _at_qos_0(self: Any, message: Any) -> Any:
    changed = copy(message)
    changed.qos = 0
    return changed


def _stores(self: Any, message: Any) -> bool:
    self._put(message)
    return True


def requests(**changes: Any) -> Mutant:
    """The options of subscriptions are not those that were asked for."""

    def change(dialogue: Any, packet: Any) -> Any:
        return replace(packet, requests=tuple(replace(request, **changes) for request in packet.requests))

    return handles(Subscribe, change)


BREAKS: list[tuple[tuple[str, ...], Mutant]] = [
    (("3.1.1:MQTT-1.5.3-1", "5:MQTT-1.5.4-1", "5:MQTT-1.5.7-1"), LENIENT_TEXT),
    (("3.1.1:MQTT-1.5.3-2", "5:MQTT-1.5.4-2", "3.1.1:MQTT-4.7.3-2", "5:MQTT-4.7.3-2"), NULLS_ALLOWED),
    (("3.1.1:MQTT-1.5.3-3", "5:MQTT-1.5.4-3"), MARKS_REMOVED),
    (("5:MQTT-1.5.5-1",), LONG_VARINTS),
    (("3.1.1:MQTT-2.2.2-1", "5:MQTT-2.1.3-1"), with_byte(0, lambda first: first | 1, Kind.UNSUBACK)),
    (("3.1.1:MQTT-2.2.2-2",), any_flags(Kind.PINGREQ, 0)),
    (
        ("3.1.1:MQTT-2.3.1-1", "5:MQTT-2.2.1-3"),
        instead("broker.fields:Reader.packet_id", lambda reader: reader.u16() or 1),
    ),
    (("3.1.1:MQTT-2.3.1-4", "5:MQTT-2.2.1-4", "5:MQTT-4.3.2-1"), ONE_PACKET_ID),
    (("3.1.1:MQTT-2.3.1-5", "5:MQTT-2.2.1-2"), around("broker.forwarder:publish_head", _qos_0_with_id)),
    (("3.1.1:MQTT-2.3.1-6", "5:MQTT-2.2.1-5", "3.1.1:MQTT-2.3.1-7", "5:MQTT-2.2.1-6"), OTHER_PACKET_ID),
    (("5:MQTT-2.2.2-1",), deliveries(version=lambda fields: V311)),
    # PUBLISH
    (
        ("3.1.1:MQTT-3.3.1-2", "3.1.1:MQTT-4.3.1-1", "5:MQTT-3.3.1-2", "5:MQTT-4.3.1-1"),
        deliveries(dup=lambda fields: fields["dup"] or not fields["qos"]),
    ),
    (("3.1.1:MQTT-3.3.1-3", "5:MQTT-3.3.1-3"), deliveries(dup=lambda fields: True)),
    (("3.1.1:MQTT-3.3.1-4", "5:MQTT-3.3.1-4"), around("broker.packet_decoder:_decode_publish", _qos_3_is_2)),
    (("3.1.1:MQTT-3.3.2-1", "5:MQTT-3.3.2-1", "5:MQTT-3.3.2-13", "5:MQTT-3.3.2-19"), LENIENT_TEXT),
    (
        ("3.1.1:MQTT-3.3.2-2", "3.1.1:MQTT-4.7.1-1", "5:MQTT-3.3.2-2", "5:MQTT-4.7.0-1"),
        instead("broker.packet_decoder:check_topic", lambda topic: None),
    ),
    (("3.1.1:MQTT-4.7.3-1", "5:MQTT-4.7.3-1"), bodies(Kind.PUBLISH, _some_topic)),
    (("3.1.1:MQTT-3.3.4-1", "5:MQTT-3.3.4-1", "3.1.1:MQTT-3.3.5-2"), silent(Kind.PUBACK)),
    (("5:MQTT-3.3.2-4",), _without(Property.PAYLOAD_FORMAT)),
    (("5:MQTT-3.3.2-15",), _without(Property.RESPONSE_TOPIC)),
    (("5:MQTT-3.3.2-16",), _without(Property.CORRELATION_DATA)),
    (("5:MQTT-3.3.2-20",), _without(Property.CONTENT_TYPE)),
    (("5:MQTT-3.3.2-17",), _user_properties(lambda pairs: pairs[:-1])),
    (("5:MQTT-3.3.2-18",), _user_properties(lambda pairs: tuple(sorted(pairs)))),
    (("5:MQTT-3.3.2-14",), instead("broker.packet_decoder:_check_response_topic", lambda properties: None)),
    (("5:MQTT-3.3.2-5",), given("broker.session:Session.next_delivery", lambda self, now: (self, 0.0))),
    (("5:MQTT-3.3.2-6",), given("broker.forwarder:u32", lambda left_s: (100,))),
    (("5:MQTT-3.3.2-7",), _lasting_aliases),
    (("5:MQTT-3.3.2-8", "5:MQTT-3.3.2-9"), around("broker.aliases:InboundAliases.resolve", _any_alias)),
    (("5:MQTT-3.3.2-12",), before("broker.aliases:InboundAliases.resolve", _not_the_last_alias)),
    (("5:MQTT-3.1.2-26", "5:MQTT-3.3.2-11", "5:MQTT-3.1.2-27"), _limits(alias_maximum=5)),
    (("5:MQTT-3.3.4-6",), handles(Publish, _unidentified)),
    (
        ("3.1.1:MQTT-3.3.5-1", "5:MQTT-3.3.4-2"),
        _combined(lambda target, subscriptions: replace(target, qos=min(s.qos for s in subscriptions))),
    ),
    (("5:MQTT-3.3.4-3",), _combined(lambda target, _: replace(target, identifiers=()))),
    (("5:MQTT-3.3.4-4",), _combined(lambda target, _: replace(target, identifiers=target.identifiers[:1]))),
    # Flow control and packet sizes
    (("5:MQTT-3.3.4-7",), before("broker.dialogue:Dialogue.handle", lambda self, packet: self._receiving.clear())),
    (("5:MQTT-3.3.4-9",), around("broker.session:Session.next_delivery", _released_do_not_count)),
    (("5:MQTT-4.9.0-1",), _receive_maximum(65_535)),
    (("5:MQTT-4.9.0-2",), before("broker.session:Session.acknowledge", _more_room)),
    (("5:MQTT-3.3.4-10", "5:MQTT-4.9.0-3"), handles(Pingreq, _waits)),
    (("5:MQTT-3.1.2-24",), _limits(max_packet_bytes=UNLIMITED_BYTES)),
    (("5:MQTT-3.1.2-25",), instead("broker.session:Session.drop", lambda self, delivery: None)),
    (("5:MQTT-3.4.2-1",), reason(0x92, Kind.PUBACK)),
    (("5:MQTT-3.5.2-1",), reason(0x92, Kind.PUBREC)),
    (("5:MQTT-3.4.2-2", "5:MQTT-3.5.2-2", "5:MQTT-3.9.2-1"), _oversized_answers()),
    (("5:MQTT-3.1.2-29",), given("broker.dialogue:Dialogue.__init__", _explains)),
    # Retained messages
    (("3.1.1:MQTT-3.3.1-5", "5:MQTT-3.3.1-5"), _keeps(_at_qos_0)),
    (("3.1.1:MQTT-3.3.1-6",), _keeps(lambda self, message: None if message.topic in self._messages else message)),
    (("3.1.1:MQTT-3.3.1-7",), _keeps(lambda _, message: message if message.qos else None)),
    (("3.1.1:MQTT-3.3.1-8",), deliveries(retain=lambda fields: False)),
    (("3.1.1:MQTT-3.3.1-9", "5:MQTT-3.3.1-12"), deliveries(retain=lambda fields: True)),
    (("3.1.1:MQTT-3.3.1-10", "5:MQTT-3.3.1-6"), _keeps(lambda _, message: message if message.payload else None)),
    (("3.1.1:MQTT-3.3.1-11", "5:MQTT-3.3.1-7"), instead("broker.retained:Retained.keep", _stores)),
    (
        ("3.1.1:MQTT-3.3.1-12", "5:MQTT-3.3.1-8"),
        before("broker.router:Router.publish", lambda self, message, source: self.retained.keep(message)),
    ),
    (("5:MQTT-3.3.1-9",), requests(retain_handling=2)),
    (("5:MQTT-3.3.1-10", "5:MQTT-3.3.1-11"), requests(retain_handling=0)),
    (("5:MQTT-3.3.1-13",), requests(retain_as_published=False)),
]
"""Statements, and the break under which their test has to fail."""
