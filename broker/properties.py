"""MQTT 5 properties (MQTT 5.0, 2.2.2): one table of identifiers, types and the packets that may carry them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Any

from broker.errors import ProtocolError
from broker.fields import Reader, binary, text, u16, u32, varint
from broker.reasons import Reason


class PacketType(IntEnum):
    """The upper four bits of a packet's first byte; WILL is no packet but a place for properties in CONNECT."""

    WILL = 0
    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


class Property(IntEnum):
    """Property identifiers."""

    PAYLOAD_FORMAT = 0x01
    MESSAGE_EXPIRY = 0x02
    CONTENT_TYPE = 0x03
    RESPONSE_TOPIC = 0x08
    CORRELATION_DATA = 0x09
    SUBSCRIPTION_ID = 0x0B
    SESSION_EXPIRY = 0x11
    ASSIGNED_CLIENT_ID = 0x12
    SERVER_KEEPALIVE = 0x13
    AUTHENTICATION_METHOD = 0x15
    AUTHENTICATION_DATA = 0x16
    REQUEST_PROBLEM_INFORMATION = 0x17
    WILL_DELAY = 0x18
    REQUEST_RESPONSE_INFORMATION = 0x19
    RESPONSE_INFORMATION = 0x1A
    SERVER_REFERENCE = 0x1C
    REASON_STRING = 0x1F
    RECEIVE_MAXIMUM = 0x21
    TOPIC_ALIAS_MAXIMUM = 0x22
    TOPIC_ALIAS = 0x23
    MAXIMUM_QOS = 0x24
    RETAIN_AVAILABLE = 0x25
    USER_PROPERTY = 0x26
    MAXIMUM_PACKET_SIZE = 0x27
    WILDCARD_AVAILABLE = 0x28
    SUBSCRIPTION_ID_AVAILABLE = 0x29
    SHARED_AVAILABLE = 0x2A


Properties = Mapping[Property, Any]
"""Values by identifier: int, str or bytes; USER_PROPERTY is a tuple of (name, value) and SUBSCRIPTION_ID a tuple of
int, since only these two may occur more than once."""

NO_PROPERTIES: Properties = MappingProxyType({})

MAX_BYTES = 1 << 19
"""The largest properties of one packet: in memory, the smallest user property takes thirteen times its five bytes."""


def _pair(value: tuple[str, str]) -> bytes:
    return text(value[0]) + text(value[1])


# Each type is how to read it, how to write it, and the smallest and largest number it may hold.
_Type = tuple[Callable[[Reader], Any], Callable[[Any], bytes], int, int]
_BIT: _Type = (Reader.u8, lambda value: bytes((value,)), 0, 1)
_U16: _Type = (Reader.u16, u16, 0, 0xFFFF)
_U16_POSITIVE: _Type = (Reader.u16, u16, 1, 0xFFFF)
_U32: _Type = (Reader.u32, u32, 0, 0xFFFFFFFF)
_U32_POSITIVE: _Type = (Reader.u32, u32, 1, 0xFFFFFFFF)
_VARINT_POSITIVE: _Type = (Reader.varint, varint, 1, 0xFFFFFFF)
_TEXT: _Type = (Reader.text, text, 0, 0)
_BINARY: _Type = (Reader.binary, binary, 0, 0)
_PAIR: _Type = (lambda reader: (reader.text(), reader.text()), _pair, 0, 0)

_P = PacketType
_MESSAGE = {_P.PUBLISH, _P.WILL}
_SESSION = {_P.CONNECT, _P.CONNACK}
_AUTHENTICATION = {_P.CONNECT, _P.CONNACK, _P.AUTH}
_ANSWERS = {_P.CONNACK, _P.PUBACK, _P.PUBREC, _P.PUBREL, _P.PUBCOMP, _P.SUBACK, _P.UNSUBACK, _P.DISCONNECT, _P.AUTH}
_ANY = set(_P) - {_P.PINGREQ, _P.PINGRESP}

TABLE: dict[Property, tuple[_Type, set[PacketType]]] = {
    Property.PAYLOAD_FORMAT: (_BIT, _MESSAGE),
    Property.MESSAGE_EXPIRY: (_U32, _MESSAGE),
    Property.CONTENT_TYPE: (_TEXT, _MESSAGE),
    Property.RESPONSE_TOPIC: (_TEXT, _MESSAGE),
    Property.CORRELATION_DATA: (_BINARY, _MESSAGE),
    Property.SUBSCRIPTION_ID: (_VARINT_POSITIVE, {_P.PUBLISH, _P.SUBSCRIBE}),
    Property.SESSION_EXPIRY: (_U32, {*_SESSION, _P.DISCONNECT}),
    Property.ASSIGNED_CLIENT_ID: (_TEXT, {_P.CONNACK}),
    Property.SERVER_KEEPALIVE: (_U16, {_P.CONNACK}),
    Property.AUTHENTICATION_METHOD: (_TEXT, _AUTHENTICATION),
    Property.AUTHENTICATION_DATA: (_BINARY, _AUTHENTICATION),
    Property.REQUEST_PROBLEM_INFORMATION: (_BIT, {_P.CONNECT}),
    Property.WILL_DELAY: (_U32, {_P.WILL}),
    Property.REQUEST_RESPONSE_INFORMATION: (_BIT, {_P.CONNECT}),
    Property.RESPONSE_INFORMATION: (_TEXT, {_P.CONNACK}),
    Property.SERVER_REFERENCE: (_TEXT, {_P.CONNACK, _P.DISCONNECT}),
    Property.REASON_STRING: (_TEXT, _ANSWERS),
    Property.RECEIVE_MAXIMUM: (_U16_POSITIVE, _SESSION),
    Property.TOPIC_ALIAS_MAXIMUM: (_U16, _SESSION),
    Property.TOPIC_ALIAS: (_U16, {_P.PUBLISH}),
    Property.MAXIMUM_QOS: (_BIT, {_P.CONNACK}),
    Property.RETAIN_AVAILABLE: (_BIT, {_P.CONNACK}),
    Property.USER_PROPERTY: (_PAIR, _ANY),
    Property.MAXIMUM_PACKET_SIZE: (_U32_POSITIVE, _SESSION),
    Property.WILDCARD_AVAILABLE: (_BIT, {_P.CONNACK}),
    Property.SUBSCRIPTION_ID_AVAILABLE: (_BIT, {_P.CONNACK}),
    Property.SHARED_AVAILABLE: (_BIT, {_P.CONNACK}),
}
_BY_NUMBER = {int(name): (name, kind, carriers) for name, (kind, carriers) in TABLE.items()}


def read_properties(reader: Reader, carrier: PacketType) -> Properties:
    """Read the length and the properties of one packet; ProtocolError where one is unknown, misplaced or repeated."""
    size = reader.varint()
    if size == 0:
        return NO_PROPERTIES
    if size > reader.left:
        raise ProtocolError(f"{size} bytes of properties, {reader.left} left")
    if size > MAX_BYTES:
        raise ProtocolError(f"{size} bytes of properties; valid: at most {MAX_BYTES}", Reason.PACKET_TOO_LARGE)
    found: dict[Property, Any] = {}
    repeated: dict[Property, list[Any]] = {}
    inner = Reader(reader.body, reader.position, reader.position + size)
    while inner.left:
        number = inner.varint()
        if number not in _BY_NUMBER:
            raise ProtocolError(f"property 0x{number:02X} is unknown")
        name, (read, _, low, high), carriers = _BY_NUMBER[number]
        if carrier not in carriers:
            raise ProtocolError(f"{name.name} in {carrier.name}", Reason.PROTOCOL_ERROR)
        value = read(inner)
        if high and not low <= value <= high:
            raise ProtocolError(f"{name.name} is {value}; valid: {low} to {high}", Reason.PROTOCOL_ERROR)
        if _repeats(name, carrier):
            repeated.setdefault(name, []).append(value)
        elif name in found:
            raise ProtocolError(f"{name.name} twice in {carrier.name}", Reason.PROTOCOL_ERROR)
        else:
            found[name] = (value,) if name is Property.SUBSCRIPTION_ID else value
    reader.position = inner.end
    return found | {name: tuple(values) for name, values in repeated.items()}


def write_properties(properties: Properties) -> bytes:
    """The length and the properties, in the mapping's order."""
    if not properties:
        return b"\0"
    encoded = encode_properties(properties)
    return varint(len(encoded)) + encoded


def encode_properties(properties: Properties) -> bytes:
    """The properties without their length."""
    parts: list[bytes] = []
    for name, value in properties.items():
        write = TABLE[name][0][1]
        tag = bytes((name,))
        repeated = name in (Property.USER_PROPERTY, Property.SUBSCRIPTION_ID)
        parts.extend(tag + write(item) for item in (value if repeated else (value,)))
    return b"".join(parts)


def _repeats(name: Property, carrier: PacketType) -> bool:
    return name is Property.USER_PROPERTY or (name is Property.SUBSCRIPTION_ID and carrier is PacketType.PUBLISH)
