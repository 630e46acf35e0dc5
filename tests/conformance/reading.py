"""Reads the packets of a server without the broker's own codec, strictly: what it may not send is an AssertionError."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.conformance.wire import BINARY, REPEATED, SIZES, V5, Kind, P, varint

_MESSAGE = {P.PAYLOAD_FORMAT, P.MESSAGE_EXPIRY, P.CONTENT_TYPE, P.RESPONSE_TOPIC, P.CORRELATION_DATA, P.USER_PROPERTY}
_DETAILS = {P.REASON_STRING, P.USER_PROPERTY}
ALLOWED: dict[Kind, set[P]] = {
    Kind.CONNACK: _DETAILS
    | {P.SESSION_EXPIRY, P.ASSIGNED_CLIENT_ID, P.SERVER_KEEPALIVE, P.AUTHENTICATION_METHOD, P.AUTHENTICATION_DATA}
    | {P.RESPONSE_INFORMATION, P.SERVER_REFERENCE, P.RECEIVE_MAXIMUM, P.TOPIC_ALIAS_MAXIMUM, P.MAXIMUM_QOS}
    | {
        P.RETAIN_AVAILABLE,
        P.MAXIMUM_PACKET_SIZE,
        P.WILDCARD_AVAILABLE,
        P.SUBSCRIPTION_ID_AVAILABLE,
        P.SHARED_AVAILABLE,
    },
    Kind.PUBLISH: _MESSAGE | {P.SUBSCRIPTION_ID, P.TOPIC_ALIAS},
    Kind.DISCONNECT: _DETAILS | {P.SERVER_REFERENCE},
    Kind.AUTH: _DETAILS | {P.AUTHENTICATION_METHOD, P.AUTHENTICATION_DATA},
}
"""The properties that a server may send; for all other packets `_DETAILS`."""

_QUOTA = {0x80, 0x83, 0x87, 0x91, 0x97}
_ACCEPTED = {0x00, 0x10, 0x90, 0x99} | _QUOTA
REASONS: dict[Kind, set[int]] = {
    Kind.CONNACK: {0x00, *range(0x80, 0x8B), 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F},
    Kind.PUBACK: _ACCEPTED,
    Kind.PUBREC: _ACCEPTED,
    Kind.PUBREL: {0x00, 0x92},
    Kind.PUBCOMP: {0x00, 0x92},
    Kind.SUBACK: {0x00, 0x01, 0x02, 0x8F, 0x9E, 0xA1, 0xA2} | _QUOTA,
    Kind.UNSUBACK: {0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91},
    Kind.DISCONNECT: {0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, *range(0x93, 0xA3)},
    Kind.AUTH: {0x00, 0x18},
}
"""The reason codes that a server may send in each packet of MQTT 5."""


@dataclass
class Received:
    """A packet of the broker; fields that its type does not have keep their defaults. `size` counts all its bytes."""

    kind: Kind
    size: int
    flags: int = 0
    packet_id: int = 0
    reasons: tuple[int, ...] = ()
    topic: str = ""
    payload: bytes = b""
    session_present: bool = False
    properties: dict[P, Any] = field(default_factory=dict)

    @property
    def qos(self) -> int:
        return self.flags >> 1 & 3

    @property
    def retain(self) -> bool:
        return bool(self.flags & 1)

    @property
    def dup(self) -> bool:
        return bool(self.flags & 8)

    @property
    def reason(self) -> int:
        (reason,) = self.reasons
        return reason


class _Body:
    """What is left of a packet's body."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, size: int) -> bytes:
        assert len(self.data) >= size, "a packet of the broker ends too early"
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def text(self) -> str:
        value = self.take(self.number(2)).decode()
        assert "\0" not in value, "a string of the broker holds U+0000"
        return value

    def varint(self) -> int:
        value, size = 0, 0
        while True:
            byte = self.number(1)
            value |= (byte & 127) << 7 * size
            size += 1
            if byte < 128:
                assert size == len(varint(value)), "a variable byte integer of the broker is not the shortest"
                return value

    def properties(self, kind: Kind) -> dict[P, Any]:
        inner = _Body(self.take(self.varint()))
        found: dict[P, Any] = {}
        while inner.data:
            name = P(inner.number(1))
            assert name in ALLOWED.get(kind, _DETAILS), f"{name.name} in {kind.name} of the broker"
            value = inner.value(name)
            if name in REPEATED:
                found.setdefault(name, []).append(value)
            else:
                assert name not in found, f"{name.name} twice in {kind.name} of the broker"
                found[name] = value
        return found

    def value(self, name: P) -> Any:
        if name in SIZES:
            return self.number(SIZES[name])
        if name is P.SUBSCRIPTION_ID:
            return self.varint()
        if name in BINARY:
            return self.take(self.number(2))
        return (self.text(), self.text()) if name is P.USER_PROPERTY else self.text()


def read(first: int, data: bytes, size: int, version: int) -> Received:
    """The packet of a server with this first byte and body; AssertionError where a server may not send it."""
    found, body = Received(Kind(first >> 4), size, first & 15), _Body(data)
    v5 = version == V5
    if found.kind is Kind.PUBLISH:
        _read_publish(found, body, v5)
        return found
    assert found.flags == (2 if found.kind is Kind.PUBREL else 0), f"flags {found.flags} of {found.kind.name}"
    match found.kind:
        case Kind.CONNACK:
            flags = body.number(1)
            assert flags < 2, "reserved bits of CONNACK are set"
            found.session_present = bool(flags)
            found.reasons = (body.number(1),)
            found.properties = body.properties(found.kind) if v5 else {}
        case Kind.PUBACK | Kind.PUBREC | Kind.PUBREL | Kind.PUBCOMP:
            found.packet_id = body.number(2)
            _read_reason(found, body, v5)
        case Kind.SUBACK | Kind.UNSUBACK:
            found.packet_id = body.number(2)
            found.properties = body.properties(found.kind) if v5 else {}
            found.reasons = tuple(body.take(len(body.data)) if v5 or found.kind is Kind.SUBACK else b"")
        case Kind.DISCONNECT | Kind.AUTH:
            assert v5, f"{found.kind.name} of the broker in MQTT 3.1.1"
            _read_reason(found, body, v5)
        case _:
            assert found.kind is Kind.PINGRESP, f"{found.kind.name} is not for a server"
    assert not body.data, f"{len(body.data)} bytes too many in {found.kind.name}"
    _check_reasons(found, v5)
    return found


def _read_publish(found: Received, body: _Body, v5: bool) -> None:
    assert found.qos < 3, "a PUBLISH of QoS 3 from the broker"
    found.topic = body.text()
    found.packet_id = body.number(2) if found.qos else 0
    found.properties = body.properties(found.kind) if v5 else {}
    found.payload = body.data
    assert found.packet_id or not found.qos, "packet identifier 0 from the broker"


def _read_reason(found: Received, body: _Body, v5: bool) -> None:
    found.reasons = (body.number(1) if v5 and body.data else 0,)
    found.properties = body.properties(found.kind) if v5 and body.data else {}


def _check_reasons(found: Received, v5: bool) -> None:
    valid = REASONS.get(found.kind, set())
    if not v5:
        valid = {Kind.CONNACK: set(range(6)), Kind.SUBACK: {0, 1, 2, 0x80}}.get(found.kind, {0})
    for reason in found.reasons:
        assert reason in valid, f"reason 0x{reason:02X} in {found.kind.name} of the broker"
