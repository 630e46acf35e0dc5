"""Packets to bytes, for MQTT 3.1.1 and 5.0: pure functions that raise nothing but ProtocolError."""

from __future__ import annotations

from broker.fields import binary, text, u16, varint
from broker.packets import (
    ACKNOWLEDGEMENTS,
    FLAGS,
    V5,
    Acknowledgement,
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
)
from broker.properties import PacketType, Properties, encode_properties, write_properties


def encode(packet: Packet, version: int) -> bytes:
    """One whole packet; ProtocolError where a field does not fit."""
    match packet:
        case Publish():
            properties = encode_properties(packet.properties) if packet.properties else b""
            head = publish_head(
                text(packet.topic),
                len(packet.payload),
                qos=packet.qos,
                retain=packet.retain,
                dup=packet.dup,
                packet_id=packet.packet_id,
                properties=properties,
                version=version,
            )
            return b"".join((head, packet.payload))
        case Connect():
            first, body = PacketType.CONNECT << 4, _encode_connect(packet)
        case Connack():
            first = PacketType.CONNACK << 4
            body = bytes((packet.session_present, packet.reason)) + _written(packet.properties, version)
        case Acknowledgement():
            first, body = _encode_acknowledgement(packet, version)
        case Subscribe():
            requests = b"".join(text(r.topic_filter) + bytes((_options(r),)) for r in packet.requests)
            first = PacketType.SUBSCRIBE << 4 | 2
            body = u16(packet.packet_id) + _written(packet.properties, version) + requests
        case Unsubscribe():
            filters = b"".join(map(text, packet.topic_filters))
            first = PacketType.UNSUBSCRIBE << 4 | 2
            body = u16(packet.packet_id) + _written(packet.properties, version) + filters
        case Suback() | Unsuback():
            first = (PacketType.SUBACK if isinstance(packet, Suback) else PacketType.UNSUBACK) << 4
            body = u16(packet.packet_id) + _written(packet.properties, version) + bytes(packet.reasons)
        case Pingreq() | Pingresp():
            first, body = (PacketType.PINGREQ if isinstance(packet, Pingreq) else PacketType.PINGRESP) << 4, b""
        case Disconnect() | Auth():
            first = (PacketType.DISCONNECT if isinstance(packet, Disconnect) else PacketType.AUTH) << 4
            body = _reason_and_properties(packet.reason, packet.properties, version)
    return bytes((first,)) + varint(len(body)) + body


def publish_head(
    topic: bytes,
    size: int,
    *,
    qos: int,
    retain: bool,
    dup: bool,
    packet_id: int,
    properties: bytes,
    version: int,
) -> bytes:
    """All of a PUBLISH but its payload of `size` bytes.

    `topic` is already length-prefixed and `properties` are encoded without their length, so that one message goes
    to many subscribers with little work for each.
    """
    identifier = u16(packet_id) if qos else b""
    block = varint(len(properties)) + properties if version == V5 else b""
    length = varint(len(topic) + len(identifier) + len(block) + size)
    return b"".join((bytes((0x30 | dup << 3 | qos << 1 | retain,)), length, topic, identifier, block))


def _encode_connect(packet: Connect) -> bytes:
    will = packet.will
    flags = packet.clean_start << 1 | (packet.username is not None) << 7 | (packet.password is not None) << 6
    if will:
        flags |= 4 | will.qos << 3 | will.retain << 5
    body = text("MQTT") + bytes((packet.version, flags)) + u16(packet.keepalive)
    body += _written(packet.properties, packet.version) + text(packet.client_id)
    if will:
        body += _written(will.properties, packet.version) + text(will.topic) + binary(will.payload)
    if packet.username is not None:
        body += text(packet.username)
    return body if packet.password is None else body + binary(packet.password)


def _encode_acknowledgement(packet: Acknowledgement, version: int) -> tuple[int, bytes]:
    kind = next(kind for kind, made in ACKNOWLEDGEMENTS.items() if type(packet) is made)
    body = u16(packet.packet_id) + _reason_and_properties(packet.reason, packet.properties, version)
    return kind << 4 | FLAGS.get(kind, 0), body


def _reason_and_properties(reason: int, properties: Properties, version: int) -> bytes:
    if version != V5 or (reason == 0 and not properties):
        return b""
    return bytes((reason,)) + (write_properties(properties) if properties else b"")


def _options(request: Request) -> int:
    return request.qos | request.no_local << 2 | request.retain_as_published << 3 | request.retain_handling << 4


def _written(properties: Properties, version: int) -> bytes:
    return write_properties(properties) if version == V5 else b""
