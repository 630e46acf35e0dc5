"""MQTT packets as bytes, written without the broker's own codec: a mistake that both shared would not show.

Whatever is told is put down, malformed fields among it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

V311 = 4
V5 = 5


class Kind(IntEnum):
    """Packet types."""

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


class P(IntEnum):
    """Property identifiers of MQTT 5."""

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


_BYTES = {P.PAYLOAD_FORMAT, P.REQUEST_PROBLEM_INFORMATION, P.REQUEST_RESPONSE_INFORMATION, P.MAXIMUM_QOS}
_BYTES |= {P.RETAIN_AVAILABLE, P.WILDCARD_AVAILABLE, P.SUBSCRIPTION_ID_AVAILABLE, P.SHARED_AVAILABLE}
_SHORTS = {P.SERVER_KEEPALIVE, P.RECEIVE_MAXIMUM, P.TOPIC_ALIAS_MAXIMUM, P.TOPIC_ALIAS}
_LONGS = {P.MESSAGE_EXPIRY, P.SESSION_EXPIRY, P.WILL_DELAY, P.MAXIMUM_PACKET_SIZE}
SIZES = {**dict.fromkeys(_BYTES, 1), **dict.fromkeys(_SHORTS, 2), **dict.fromkeys(_LONGS, 4)}
BINARY = {P.CORRELATION_DATA, P.AUTHENTICATION_DATA}
REPEATED = {P.USER_PROPERTY, P.SUBSCRIPTION_ID}

Properties = Mapping[P, Any]
"""Values by identifier; USER_PROPERTY and SUBSCRIPTION_ID are lists, since a packet may carry several."""

Text = str | bytes
"""A string, or bytes to be sent in its place whatever they are."""

SURROGATE = b"a\xed\xa0\x80"
"""No UTF-8, although some decoders take it for such."""


# Writing


def varint(value: int) -> bytes:
    """A variable byte integer in its shortest form."""
    encoded = bytearray()
    while value >= 128:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes((*encoded, value))


def u16(value: int) -> bytes:
    return value.to_bytes(2, "big")


def text(value: Text) -> bytes:
    """Two bytes of length, then the string."""
    data = value.encode() if isinstance(value, str) else value
    return u16(len(data)) + data


def packet(kind: Kind, body: bytes = b"", flags: int | None = None) -> bytes:
    """A whole packet; without `flags` its reserved bits are as they have to be."""
    if flags is None:
        flags = 2 if kind in (Kind.PUBREL, Kind.SUBSCRIBE, Kind.UNSUBSCRIBE) else 0
    return bytes((kind << 4 | flags,)) + varint(len(body)) + body


def properties(values: Properties | None, version: int) -> bytes:
    """The properties with their length; nothing at all in MQTT 3.1.1."""
    if version != V5:
        return b""
    encoded = b""
    for name, value in (values or {}).items():
        for item in value if name in REPEATED else (value,):
            encoded += bytes((name,)) + _property(name, item)
    return varint(len(encoded)) + encoded


def _property(name: P, value: Any) -> bytes:
    if name in SIZES:
        return int(value).to_bytes(SIZES[name], "big")
    if name is P.SUBSCRIPTION_ID:
        return varint(value)
    return text(value[0]) + text(value[1]) if name is P.USER_PROPERTY else text(value)


class Will(NamedTuple):
    """The will of a CONNECT."""

    topic: Text
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    properties: Properties | None = None


class Filter(NamedTuple):
    """A topic filter with its subscription options."""

    topic: Text
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


def connect(
    client_id: Text,
    version: int,
    *,
    clean: bool = True,
    keepalive: int = 0,
    will: Will | None = None,
    username: Text | None = None,
    password: bytes | None = None,
    with_properties: Properties | None = None,
) -> bytes:
    """A CONNECT whose flags and payload fit each other; `connect_of` makes the others."""
    flags = clean << 1 | (username is not None) << 7 | (password is not None) << 6
    payload = text(client_id)
    if will:
        flags |= 4 | will.qos << 3 | will.retain << 5
        payload += properties(will.properties, version) + text(will.topic) + text(will.payload)
    payload += b"" if username is None else text(username)
    payload += b"" if password is None else text(password)
    return connect_of(flags, payload, version, keepalive=keepalive, with_properties=with_properties)


def connect_of(
    flags: int,
    payload: bytes,
    version: int,
    *,
    keepalive: int = 0,
    with_properties: Properties | None = None,
    protocol: Text = "MQTT",
) -> bytes:
    """A CONNECT of these flags and this payload."""
    head = text(protocol) + bytes((version, flags)) + u16(keepalive)
    return packet(Kind.CONNECT, head + properties(with_properties, version) + payload)


def publish(
    topic: Text,
    version: int,
    payload: bytes = b"",
    qos: int = 0,
    *,
    packet_id: int = 1,
    retain: bool = False,
    dup: bool = False,
    with_properties: Properties | None = None,
) -> bytes:
    """A PUBLISH; `packet_id` counts for QoS 1 and above only."""
    body = text(topic) + (u16(packet_id) if qos else b"") + properties(with_properties, version) + payload
    return packet(Kind.PUBLISH, body, dup << 3 | qos << 1 | retain)


def acknowledge(kind: Kind, packet_id: int, reason: int = 0) -> bytes:
    """PUBACK, PUBREC, PUBREL or PUBCOMP; a reason other than 0 exists in MQTT 5 only."""
    return packet(kind, u16(packet_id) + (bytes((reason,)) if reason else b""))


def subscribe(
    filters: Sequence[Filter], version: int, packet_id: int = 1, with_properties: Properties | None = None
) -> bytes:
    """A SUBSCRIBE."""
    body = u16(packet_id) + properties(with_properties, version)
    for f in filters:
        options = f.qos | f.no_local << 2 | f.retain_as_published << 3 | f.retain_handling << 4
        body += text(f.topic) + bytes((options,))
    return packet(Kind.SUBSCRIBE, body)


def unsubscribe(filters: Sequence[Text], version: int, packet_id: int = 1) -> bytes:
    """An UNSUBSCRIBE."""
    return packet(Kind.UNSUBSCRIBE, u16(packet_id) + properties(None, version) + b"".join(map(text, filters)))


def disconnect(version: int, reason: int = 0, with_properties: Properties | None = None) -> bytes:
    """A DISCONNECT; reason and properties in MQTT 5 only."""
    tail = (
        bytes((reason,)) + properties(with_properties, version)
        if version == V5 and (reason or with_properties)
        else b""
    )
    return packet(Kind.DISCONNECT, tail)
