"""Breaks of what concerns connections: CONNECT, CONNACK, wills, sessions, DISCONNECT."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from broker.admission import UNLIMITED_BYTES
from broker.authority import Everything
from broker.errors import ProtocolError
from broker.packets import Auth, Connack, Connect, Publish, Suback, Subscribe, Will
from broker.properties import Property
from broker.reasons import Reason
from tests.conformance import wire
from tests.conformance.mutation import (
    Mutant,
    after,
    all_of,
    answers,
    any_flags,
    around,
    before,
    connect_flags,
    connects,
    deliveries,
    forwards,
    given,
    handles,
    ignores,
    instead,
    silent,
    with_byte,
)
from tests.conformance.wire import Kind

_Function = Callable[..., Any]

# Strings are decoded in two places, with one function.
LENIENT_TEXT = all_of(
    *(
        instead(f"{module}:decode_text", lambda data: str(data, "utf-8", errors="replace"))
        for module in ("broker.fields", "broker.packet_decoder")
    )
)
SURPLUS_BYTES = instead("broker.fields:Reader.finish", lambda self: None)
STAYS_OPEN = instead("broker.outbox:Outbox.close", lambda self: None)
WILL_IGNORED = all_of(connect_flags(lambda flags: flags & ~0x3C), SURPLUS_BYTES)
WILL_BITS_IGNORED = connect_flags(lambda flags: flags if flags & 4 else flags & ~0x38)
ALWAYS_CLEAN = given("broker.registry:Registry.attach", lambda *args: (*args[:4], True))
NEVER_CLEAN = given("broker.registry:Registry.attach", lambda *args: (*args[:4], False))
ONE_ASSIGNED_ID = instead("broker.admission:secrets.token_hex", lambda size: "same")
SESSION_PRESENT, REASON = 2, 3  # where they are in CONNACK


def _missing_bytes(take: _Function) -> _Function:
    """Where a body ends too early, zeros follow."""

    def changed(self: Any, size: int) -> Any:
        if size > self.left:
            self.position = self.end
            return memoryview(bytes(size))
        return take(self, size)

    return changed


def _named_mqtt(body: bytearray) -> bytes:
    length = int.from_bytes(body[:2], "big")
    return b"\0\4MQTT" + body[2 + length :]


def _of_version(version: int) -> Mutant:
    return connects(lambda body: body[:6] + bytes((version,)) + body[7:])


def _any_first_packet(receive: _Function) -> _Function:
    connect = wire.connect("anyone", wire.V311)[2:]
    return lambda self, first, body: receive(self, 0x10, body if first >> 4 == 1 else memoryview(connect))


def _goes_on(receive: _Function) -> _Function:
    """A refused client is told so and then let in all the same."""
    connect = wire.connect("refused", wire.V311)[2:]

    def changed(self: Any, first: int, body: memoryview) -> Any:
        try:
            return receive(self, first, body)
        except ProtocolError:
            return receive(self, 0x10, memoryview(connect))

    return changed


def _admission(change: Callable[[Any], Any]) -> Mutant:
    def make(admit: _Function) -> _Function:
        return lambda connect, config: change(admit(connect, config))

    return around("broker.introduction:admit", make)


def _told(**properties: Any) -> Mutant:
    """CONNACK has these properties, or lacks them where they are None."""

    def change(admission: Any) -> Any:
        told = {**admission.properties, **{Property[name]: value for name, value in properties.items()}}
        return replace(admission, properties={name: value for name, value in told.items() if value is not None})

    return _admission(change)


def _long_ids_refused(connect: Any, config: Any) -> tuple[Any, ...]:
    if len(connect.client_id) > 22:
        raise ProtocolError("a long client id", Reason.CLIENT_ID_NOT_VALID)
    return connect, config


def _without_method(connect: Any, config: Any) -> tuple[Any, ...]:
    asked = {name: value for name, value in connect.properties.items() if name != Property.AUTHENTICATION_METHOD}
    return replace(connect, properties=asked), config


def _as(client_id: str) -> Mutant:
    """All clients are taken for one."""

    def change(self: Any, outlet: Any, admission: Any, *rest: Any) -> tuple[Any, ...]:
        return self, outlet, replace(admission, client_id=client_id), *rest

    return given("broker.registry:Registry.attach", change)


def _any_version_connack(refuse: _Function) -> _Function:
    return lambda self, *args: refuse(self, *args) or b"\x20\x02\0\x03"


def _refused_with_disconnect(refuse: _Function) -> _Function:
    return lambda self, *args: refuse(self, *args) + b"\xe0\x01\x81"


def _session_expiry_told(explained: _Function) -> _Function:
    def changed(packet: Any, *rest: Any) -> Any:
        return explained(replace(packet, properties={Property.SESSION_EXPIRY: 5}), *rest)

    return changed


def _unlimited(explained: _Function) -> _Function:
    return lambda packet, text, version, limit: explained(packet, text, version, UNLIMITED_BYTES)


def _second_connack(dialogue: Any, packet: Any) -> None:
    dialogue._answer(b"\x20\x03\0\0\0")


def _unlimit(self: Any, *args: Any, **kwargs: Any) -> None:
    self._max_bytes = UNLIMITED_BYTES


def _qos_2_refused(dialogue: Any, packet: Any) -> Any:
    if max((request.qos for request in getattr(packet, "requests", ())), default=getattr(packet, "qos", 0)) == 2:
        raise ProtocolError("QoS 2", Reason.PROTOCOL_ERROR)
    return packet


# Wills


def _wills(change: Callable[[Any], Any]) -> Mutant:
    """Change the will when the connection has ended, where there is one."""
    return given("broker.registry:Registry.detach", lambda self, session, will: (self, session, will and change(will)))


def _remembered() -> AbstractContextManager[None]:
    """A client's will is kept when it was published."""
    wills: dict[str, Any] = {}

    def change(self: Any, session: Any, will: Any) -> tuple[Any, ...]:
        if will:
            wills[session.client_id] = will
        return self, session, wills.get(session.client_id)

    return given("broker.registry:Registry.detach", change)()


def _invented(self: Any, session: Any, will: Any) -> tuple[Any, ...]:
    """A client without a will gets one, under the test's topic, which its id begins with."""
    topic = re.match(r"t\d+", session.client_id)
    return self, session, will or Will(f"{topic[0] if topic else 't'}/will")


def _not_taken_back(self: Any, outlet: Any, admission: Any, *rest: Any) -> None:
    session = self.sessions.get(admission.client_id)
    if session in self._wills:
        self._will_is_due(session)


def _swapped_will(decode_will: _Function) -> _Function:
    def changed(*args: Any) -> Any:
        will = decode_will(*args)
        return replace(will, topic=str(will.payload, "utf-8"), payload=will.topic.encode())

    return changed


# Sessions


def _ends_at_once(dialogue: Any, packet: Any) -> None:
    """A session's subscriptions are lost while the connection is open."""
    dialogue._session.subscriptions and dialogue._router.forget(dialogue._session)


def _expiry_s(seconds: int) -> Mutant:
    return before("broker.registry:Registry.detach", lambda self, session, will: setattr(session, "expiry_s", seconds))


def _retained_too(self: Any, session: Any) -> None:
    for message in list(self.retained._messages.values()):
        self.retained._remove(message)


def _nothing_for_absent(enqueue: _Function) -> _Function:
    return lambda self, delivery: enqueue(self, delivery) if self.outlet else None


BREAKS: list[tuple[tuple[str, ...], Mutant]] = [
    # CONNECT
    (("3.1.1:MQTT-3.1.0-1", "5:MQTT-3.1.0-1"), around("broker.introduction:Introduction.receive", _any_first_packet)),
    (("3.1.1:MQTT-3.1.0-2", "5:MQTT-3.1.0-2"), ignores(Connect)),
    (("3.1.1:MQTT-3.1.2-1", "5:MQTT-3.1.2-1"), connects(_named_mqtt)),
    (("3.1.1:MQTT-3.1.2-2",), with_byte(REASON, lambda reason: 5 if reason == 1 else reason, Kind.CONNACK)),
    (("5:MQTT-3.1.2-2",), _of_version(wire.V5)),
    (("3.1.1:MQTT-3.1.2-3", "5:MQTT-3.1.2-3"), connect_flags(lambda flags: flags & ~1)),
    (("3.1.1:MQTT-3.1.2-6", "5:MQTT-3.1.2-4", "3.1.1:MQTT-3.1.4-3", "5:MQTT-3.1.4-4"), NEVER_CLEAN),
    (("3.1.1:MQTT-3.1.2-4", "5:MQTT-3.1.2-5"), ALWAYS_CLEAN),
    (("3.1.1:MQTT-3.1.2-5",), around("broker.session:Session.enqueue", _nothing_for_absent)),
    (("5:MQTT-3.1.2-6",), with_byte(SESSION_PRESENT, lambda flags: 1, Kind.CONNACK)),
    (("3.1.1:MQTT-3.1.2-7",), after("broker.router:Router.forget", _retained_too)),
    (("3.1.1:MQTT-3.1.2-18", "5:MQTT-3.1.2-16", "3.1.1:MQTT-3.1.2-20", "5:MQTT-3.1.2-18"), SURPLUS_BYTES),
    (("3.1.1:MQTT-3.1.4-1", "5:MQTT-3.1.4-1"), SURPLUS_BYTES),
    (("3.1.1:MQTT-3.1.2-19", "5:MQTT-3.1.2-17"), around("broker.fields:Reader.take", _missing_bytes)),
    (("3.1.1:MQTT-3.1.2-21", "5:MQTT-3.1.2-19"), around("broker.fields:Reader.take", _missing_bytes)),
    (("3.1.1:MQTT-3.1.3-3", "5:MQTT-3.1.3-3"), around("broker.fields:Reader.take", _missing_bytes)),
    (("3.1.1:MQTT-3.1.2-22",), all_of(connect_flags(lambda flags: flags & ~0x40), SURPLUS_BYTES)),
    (
        ("3.1.1:MQTT-3.1.2-24", "5:MQTT-3.1.2-22"),
        instead("broker.keepalive:Keepalive.start", lambda self, keepalive_s: None),
    ),
    (("5:MQTT-3.2.2-22",), given("broker.keepalive:Keepalive.start", lambda self, keepalive_s: (self, 60))),
    (("3.1.1:MQTT-3.1.3-1", "5:MQTT-3.1.3-1"), around("broker.packet_decoder:_decode_will", _swapped_will)),
    (("3.1.1:MQTT-3.1.3-2", "5:MQTT-3.1.3-2"), _as("everybody")),
    (("3.1.1:MQTT-3.1.3-4", "5:MQTT-3.1.3-4"), LENIENT_TEXT),
    (("3.1.1:MQTT-3.1.3-10", "5:MQTT-3.1.3-11", "3.1.1:MQTT-3.1.3-11", "5:MQTT-3.1.3-12"), LENIENT_TEXT),
    (("3.1.1:MQTT-3.1.3-5", "5:MQTT-3.1.3-5"), given("broker.introduction:admit", _long_ids_refused)),
    (("3.1.1:MQTT-3.1.3-6", "5:MQTT-3.1.3-6", "5:MQTT-3.2.2-16"), ONE_ASSIGNED_ID),
    (
        ("3.1.1:MQTT-3.1.3-7", "3.1.1:MQTT-3.1.3-8", "3.1.1:MQTT-3.1.3-9"),
        given("broker.introduction:admit", lambda connect, config: (replace(connect, clean_start=True), config)),
    ),
    (("5:MQTT-3.1.3-7",), _told(ASSIGNED_CLIENT_ID=None)),
    (("5:MQTT-3.1.3-8",), STAYS_OPEN),
    (("5:MQTT-3.1.4-2",), instead("broker.guard:Guard.admit", lambda self, connect, peer: Everything())),
    (("3.1.1:MQTT-3.1.4-2", "5:MQTT-3.1.4-3"), STAYS_OPEN),
    (("3.1.1:MQTT-3.1.4-4", "5:MQTT-3.1.4-5"), with_byte(REASON, lambda reason: reason or 5, Kind.CONNACK)),
    (("3.1.1:MQTT-3.1.4-5", "5:MQTT-3.1.4-6"), around("broker.introduction:Introduction.receive", _goes_on)),
    # CONNACK
    (("3.1.1:MQTT-3.2.0-1", "5:MQTT-3.2.0-1"), answers(lambda kind, packet: b"\xd0\0" + packet, Kind.CONNACK)),
    (("5:MQTT-3.2.0-2",), handles(Connect, _second_connack)),
    (("5:MQTT-3.2.2-1",), with_byte(SESSION_PRESENT, lambda flags: flags | 2, Kind.CONNACK)),
    (("3.1.1:MQTT-3.2.2-1", "5:MQTT-3.2.2-2"), with_byte(SESSION_PRESENT, lambda flags: 1, Kind.CONNACK)),
    (("3.1.1:MQTT-3.2.2-2", "5:MQTT-3.2.2-3"), with_byte(SESSION_PRESENT, lambda flags: 0, Kind.CONNACK)),
    (("3.1.1:MQTT-3.2.2-3",), with_byte(SESSION_PRESENT, lambda flags: 1, Kind.CONNACK)),
    (("3.1.1:MQTT-3.2.2-4", "5:MQTT-3.2.2-6"), with_byte(SESSION_PRESENT, lambda flags: 1, Kind.CONNACK)),
    (("3.1.1:MQTT-3.2.2-5", "5:MQTT-3.2.2-7", "5:MQTT-4.13.2-1"), STAYS_OPEN),
    (("3.1.1:MQTT-3.2.2-6",), around("broker.introduction:Introduction.refuse", _any_version_connack)),
    (("5:MQTT-3.2.2-8",), with_byte(REASON, lambda reason: reason and 0x92, Kind.CONNACK)),
    (("5:MQTT-3.2.2-9",), handles(Publish, _qos_2_refused)),
    (("5:MQTT-3.2.2-10",), handles(Subscribe, _qos_2_refused)),
    (("5:MQTT-3.2.2-19",), around("broker.introduction:explained", _unlimited)),
    (("5:MQTT-3.1.2-28",), _told(RESPONSE_INFORMATION="unasked")),
    # Authentication
    (("5:MQTT-4.12.0-1",), given("broker.introduction:admit", _without_method)),
    (("5:MQTT-4.12.0-6",), _told(AUTHENTICATION_METHOD="unasked")),
    (("5:MQTT-4.12.0-7",), ignores(Auth)),
    (("5:MQTT-3.15.1-1",), all_of(any_flags(Kind.AUTH, 0), ignores(Auth))),
    # Wills
    (("3.1.1:MQTT-3.1.2-8", "5:MQTT-3.1.2-7"), _wills(lambda will: None)),
    (("5:MQTT-3.1.2-8",), _wills(lambda will: replace(will, properties={}))),
    (("3.1.1:MQTT-3.1.2-9", "5:MQTT-3.1.2-9"), WILL_IGNORED),
    (("3.1.1:MQTT-3.1.2-10", "5:MQTT-3.1.2-10"), _remembered),
    (("3.1.1:MQTT-3.1.2-11", "3.1.1:MQTT-3.1.2-13", "5:MQTT-3.1.2-11"), WILL_BITS_IGNORED),
    (("3.1.1:MQTT-3.1.2-15", "5:MQTT-3.1.2-13"), WILL_BITS_IGNORED),
    (("3.1.1:MQTT-3.1.2-12",), given("broker.registry:Registry.detach", _invented)),
    (("3.1.1:MQTT-3.1.2-14", "5:MQTT-3.1.2-12"), _wills(lambda will: replace(will, qos=0))),
    (("3.1.1:MQTT-3.1.2-16", "5:MQTT-3.1.2-14"), _wills(lambda will: replace(will, payload=b"x", retain=True))),
    (("3.1.1:MQTT-3.1.2-17", "5:MQTT-3.1.2-15"), _wills(lambda will: replace(will, retain=False))),
    (("5:MQTT-3.1.3-9",), before("broker.registry:Registry.attach", _not_taken_back)),
    (
        ("5:MQTT-3.1.3-10",),
        forwards(lambda found: {name: value[::-1] for name, value in found.items()}),
    ),
    (
        ("3.1.1:MQTT-3.14.4-3", "5:MQTT-3.14.4-3"),
        around(
            "broker.connection:Connection._finish", lambda finish: lambda self, last, will: finish(self, last, True)
        ),
    ),
    # Sessions
    (("3.1.1:MQTT-4.1.0-1", "5:MQTT-3.1.2-23"), _expiry_s(0)),
    (("3.1.1:MQTT-4.1.0-2", "5:MQTT-4.1.0-1"), after("broker.dialogue:Dialogue.handle", _ends_at_once)),
    (("5:MQTT-4.1.0-2",), _expiry_s(3600)),
    # DISCONNECT
    (("3.1.1:MQTT-3.14.1-1", "5:MQTT-3.14.1-1"), any_flags(Kind.DISCONNECT, 0)),
    (("5:MQTT-3.14.0-1",), around("broker.introduction:Introduction.refuse", _refused_with_disconnect)),
    (("5:MQTT-3.14.2-1",), with_byte(2, lambda reason: 0x11, Kind.DISCONNECT)),
    (("5:MQTT-3.14.2-2",), around("broker.connection:explained", _session_expiry_told)),
    (("5:MQTT-3.14.2-3",), before("broker.connection:Connection.end", _unlimit)),
    (("5:MQTT-3.14.4-1",), answers(lambda kind, packet: packet + b"\xd0\0", Kind.DISCONNECT)),
    (("5:MQTT-3.14.4-2",), STAYS_OPEN),
    (("3.1.1:MQTT-3.12.4-1", "5:MQTT-3.12.4-1"), silent(Kind.PINGRESP)),
    # Malformed packets
    (("3.1.1:MQTT-4.8.0-1", "5:MQTT-4.13.1-1"), all_of(ignores(Connack), ignores(Suback))),
    (("3.1.1:MQTT-3.3.1-1", "5:MQTT-3.3.1-1"), deliveries(dup=lambda fields: False)),
]
"""Statements, and the break under which their test has to fail."""
