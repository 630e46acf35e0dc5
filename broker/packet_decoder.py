"""Packets from bytes, for MQTT 3.1.1 and 5.0: pure functions that raise nothing but ProtocolError.

A packet is one first byte (type and flags), its remaining length, and a body of that many bytes. `decode` takes the
first byte and the body, as `framer.Framer` cuts them out of a stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from broker.errors import ProtocolError
from broker.fields import Reader, decode_text
from broker.packets import (
    ACKNOWLEDGEMENTS,
    FLAGS,
    REASON_CODES,
    V5,
    V311,
    VERSIONS,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Publish,
    Request,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)
from broker.properties import (
    NO_PROPERTIES,
    PacketType,
    Properties,
    Property,
    read_properties,
)
from broker.reasons import Reason
from broker.topic_filter import check_topic

MAX_BODY_BYTES = 1 << 19
"""The largest body of all packets but PUBLISH: in memory, the shortest topic filter takes forty times its bytes."""


def decode(first: int, body: memoryview, version: int) -> Packet:
    """One packet from its first byte and its body; a PUBLISH payload is a view into `body`, not a copy.

    `version` is the connection's; CONNECT carries its own.
    """
    if first >> 4 == PacketType.PUBLISH:
        return _decode_publish(first, body, version)
    kind = PacketType(first >> 4)
    if kind not in _DECODERS or first & 15 != FLAGS.get(kind, 0):
        raise ProtocolError(f"first byte 0x{first:02X}")
    if len(body) > MAX_BODY_BYTES:
        raise ProtocolError(
            f"{kind.name} of {len(body)} bytes; valid: at most {MAX_BODY_BYTES}", Reason.PACKET_TOO_LARGE
        )
    reader = Reader(body)
    packet: Packet = _DECODERS[kind](reader, version)
    reader.finish()
    return packet


def peek_version(body: memoryview) -> int:
    """The protocol level that a CONNECT body claims, 0 where it claims none; to answer a malformed CONNECT with."""
    return body[6] if len(body) > 6 and bytes(body[:6]) == b"\0\4MQTT" else 0


def _decode_publish(first: int, body: memoryview, version: int) -> Publish:
    qos = first >> 1 & 3
    if qos == 3 or (qos == 0 and first & 8):
        raise ProtocolError(f"first byte 0x{first:02X} of PUBLISH")
    if len(body) < 2:
        raise ProtocolError("PUBLISH without a topic")
    stop = 2 + (body[0] << 8 | body[1])
    if stop > len(body):
        raise ProtocolError("PUBLISH ends within its topic")
    topic = decode_text(body[2:stop])
    packet_id = 0
    if qos:
        packet_id = Reader(body, stop).packet_id()
        stop += 2
    properties = NO_PROPERTIES
    if version == V5:
        reader = Reader(body, stop)
        properties = read_properties(reader, PacketType.PUBLISH)
        stop = reader.position
        _check_response_topic(properties)
    if topic or version != V5:
        check_topic(topic)
    elif Property.TOPIC_ALIAS not in properties:
        raise ProtocolError("neither a topic nor an alias", Reason.PROTOCOL_ERROR)
    return Publish(topic, body[stop:], qos, bool(first & 1), bool(first & 8), packet_id, properties)


def _check_response_topic(properties: Properties) -> None:
    if Property.RESPONSE_TOPIC in properties:
        check_topic(properties[Property.RESPONSE_TOPIC])


def _decode_connect(reader: Reader, _: int) -> Connect:
    name, version = reader.binary(), reader.u8()
    if name != b"MQTT" or version not in VERSIONS:
        raise ProtocolError("neither MQTT 3.1.1 nor MQTT 5", Reason.UNSUPPORTED_VERSION)
    flags, keepalive = reader.u8(), reader.u16()
    if flags & 1 or (not flags & 4 and flags & 0x38) or (version == V311 and flags & 0xC0 == 0x40):
        raise ProtocolError(f"CONNECT flags 0x{flags:02X}")
    properties = read_properties(reader, PacketType.CONNECT) if version == V5 else NO_PROPERTIES
    client_id = reader.text()
    will = _decode_will(reader, flags, version) if flags & 4 else None
    return Connect(
        client_id,
        version,
        bool(flags & 2),
        keepalive,
        will,
        reader.text() if flags & 0x80 else None,
        reader.binary() if flags & 0x40 else None,
        properties,
    )


def _decode_will(reader: Reader, flags: int, version: int) -> Will:
    qos = flags >> 3 & 3
    if qos == 3:
        raise ProtocolError("a will of QoS 3")
    properties = read_properties(reader, PacketType.WILL) if version == V5 else NO_PROPERTIES
    _check_response_topic(properties)
    topic = reader.text()
    check_topic(topic)
    return Will(topic, reader.binary(), qos, bool(flags & 0x20), properties)


def _decode_connack(reader: Reader, version: int) -> Connack:
    flags, reason = reader.u8(), reader.u8()
    if flags > 1:
        raise ProtocolError(f"CONNACK flags 0x{flags:02X}")
    return Connack(bool(flags), reason, _properties(reader, PacketType.CONNACK, version))


def _acknowledgement_decoder(kind: PacketType) -> Callable[[Reader, int], Any]:
    def decode_acknowledgement(reader: Reader, version: int) -> Any:
        packet_id = reader.packet_id()
        reason = _reason(reader, kind, version)
        return ACKNOWLEDGEMENTS[kind](packet_id, reason, _trailing_properties(reader, kind, version))

    return decode_acknowledgement


def _decode_subscribe(reader: Reader, version: int) -> Subscribe:
    packet_id = reader.packet_id()
    properties = _properties(reader, PacketType.SUBSCRIBE, version)
    requests = []
    while reader.left:
        topic_filter, options = reader.text(), reader.u8()
        handling = options >> 4 & 3
        if options & 3 == 3 or handling == 3 or options & (0xC0 if version == V5 else 0xFC):
            raise ProtocolError(f"subscription options 0x{options:02X}")
        requests.append(Request(topic_filter, options & 3, bool(options & 4), bool(options & 8), handling))
    if not requests:
        raise ProtocolError("SUBSCRIBE without a topic filter", Reason.PROTOCOL_ERROR)
    return Subscribe(packet_id, tuple(requests), properties)


def _decode_suback(reader: Reader, version: int) -> Suback:
    packet_id = reader.packet_id()
    properties = _properties(reader, PacketType.SUBACK, version)
    return Suback(packet_id, tuple(reader.rest()), properties)


def _decode_unsubscribe(reader: Reader, version: int) -> Unsubscribe:
    packet_id = reader.packet_id()
    properties = _properties(reader, PacketType.UNSUBSCRIBE, version)
    filters = []
    while reader.left:
        filters.append(reader.text())
    if not filters:
        raise ProtocolError("UNSUBSCRIBE without a topic filter", Reason.PROTOCOL_ERROR)
    return Unsubscribe(packet_id, tuple(filters), properties)


def _decode_unsuback(reader: Reader, version: int) -> Unsuback:
    packet_id = reader.packet_id()
    properties = _properties(reader, PacketType.UNSUBACK, version)
    return Unsuback(packet_id, tuple(reader.rest()) if version == V5 else (), properties)


def _decode_disconnect(reader: Reader, version: int) -> Disconnect:
    reason = _reason(reader, PacketType.DISCONNECT, version)
    return Disconnect(reason, _trailing_properties(reader, PacketType.DISCONNECT, version))


def _decode_auth(reader: Reader, version: int) -> Auth:
    if version != V5:
        raise ProtocolError("AUTH in MQTT 3.1.1", Reason.PROTOCOL_ERROR)
    reason = _reason(reader, PacketType.AUTH, version)
    return Auth(reason, _trailing_properties(reader, PacketType.AUTH, version))


def _reason(reader: Reader, kind: PacketType, version: int) -> int:
    """A reason code that may be left out; ProtocolError where no such packet can have it."""
    reason = reader.u8() if version == V5 and reader.left else 0
    if reason not in REASON_CODES[kind]:
        raise ProtocolError(f"reason code 0x{reason:02X} in {kind.name}", Reason.PROTOCOL_ERROR)
    return reason


def _properties(reader: Reader, carrier: PacketType, version: int) -> Properties:
    return read_properties(reader, carrier) if version == V5 else NO_PROPERTIES


def _trailing_properties(reader: Reader, carrier: PacketType, version: int) -> Properties:
    """Properties at the end of a packet may be left out altogether."""
    return read_properties(reader, carrier) if version == V5 and reader.left else NO_PROPERTIES


_DECODERS: dict[PacketType, Callable[[Reader, int], Any]] = {
    PacketType.CONNECT: _decode_connect,
    PacketType.CONNACK: _decode_connack,
    **{kind: _acknowledgement_decoder(kind) for kind in ACKNOWLEDGEMENTS},
    PacketType.SUBSCRIBE: _decode_subscribe,
    PacketType.SUBACK: _decode_suback,
    PacketType.UNSUBSCRIBE: _decode_unsubscribe,
    PacketType.UNSUBACK: _decode_unsuback,
    PacketType.PINGREQ: lambda reader, version: Pingreq(),
    PacketType.PINGRESP: lambda reader, version: Pingresp(),
    PacketType.DISCONNECT: _decode_disconnect,
    PacketType.AUTH: _decode_auth,
}
