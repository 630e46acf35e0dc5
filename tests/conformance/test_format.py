"""Bytes: strings, integers, flags, packet identifiers, and what becomes of a connection whose packets are malformed."""

from __future__ import annotations

from tests.conformance import wire
from tests.conformance.suite import Subject, statement
from tests.conformance.wire import SURROGATE, Filter, Kind, P

OVERLONG = b"a\xc0\xaf"
CUT = b"a\xe2\x82"


@statement("3.1.1:MQTT-1.5.3-1", "5:MQTT-1.5.4-1")
def test_ill_formed_utf8_ends_the_connection(broker: Subject) -> None:
    for number, topic in enumerate((SURROGATE, OVERLONG, CUT, b"a\xff")):
        client = broker.client(f"c{number}")
        client.send(wire.publish(topic, broker.version))
        client.refused()


@statement("3.1.1:MQTT-1.5.3-2", "5:MQTT-1.5.4-2")
def test_a_null_character_in_a_string_ends_the_connection(broker: Subject) -> None:
    client = broker.client("c")
    client.send(wire.publish(f"{broker.topic}/\0", broker.version))
    client.refused()


@statement("3.1.1:MQTT-1.5.3-3", "5:MQTT-1.5.4-3")
def test_a_byte_order_mark_is_a_character_like_others(broker: Subject) -> None:
    subscriber, publisher = broker.client("s"), broker.client("p")
    marked = f"\ufeff{broker.topic}\ufeff"
    subscriber.subscribe(marked, broker.topic)
    publisher.publish(marked, b"marked")
    assert subscriber.message().topic == marked
    publisher.publish(broker.topic, b"plain")
    assert subscriber.message().topic == broker.topic
    subscriber.quiet()


@statement("5:MQTT-1.5.5-1")
def test_lengths_are_as_short_as_they_can_be(broker: Subject) -> None:
    # The client reads nothing but shortest lengths; these sizes lie on both sides of where they grow.
    subscriber, publisher = broker.client("s"), broker.client("p")
    subscriber.subscribe(broker.topic)
    head = 2 + len(broker.topic) + 1
    for size in (127, 128, 16_383, 16_384):
        publisher.publish(broker.topic, bytes(size - head))
        assert len(subscriber.message().payload) == size - head
    for size in (127, 128):
        value = "v" * (size - 6)
        publisher.publish(broker.topic, with_properties={P.USER_PROPERTY: [("n", value)]})
        assert subscriber.message().properties == {P.USER_PROPERTY: [("n", value)]}


@statement("5:MQTT-1.5.7-1")
def test_both_strings_of_a_pair_are_utf8(broker: Subject) -> None:
    for number, pair in enumerate(((SURROGATE, "v"), ("n", SURROGATE), ("n", "\0"))):
        client = broker.client(f"c{number}")
        client.send(wire.publish(broker.topic, broker.version, with_properties={P.USER_PROPERTY: [pair]}))
        client.refused()


@statement("3.1.1:MQTT-2.2.2-1", "5:MQTT-2.1.3-1")
def test_reserved_flags_of_the_broker_are_as_they_must_be(broker: Subject) -> None:
    # The client reads no other flags.
    client, publisher = broker.client("c"), broker.client("p")
    client.subscribe(broker.topic, qos=2)
    publisher.publish(broker.topic, qos=2)
    assert client.take().qos == 2
    assert client.unsubscribe(broker.topic).flags == 0
    assert client.ping().flags == 0
    if broker.v5:
        client.break_off()


@statement("3.1.1:MQTT-2.2.2-2")
def test_a_packet_with_reserved_flags_ends_the_connection(broker: Subject) -> None:
    for kind in (Kind.PUBACK, Kind.PUBREC, Kind.PUBCOMP, Kind.PINGREQ):
        client = broker.client(kind.name)
        client.send(wire.packet(kind, b"" if kind is Kind.PINGREQ else b"\0\1", flags=4))
        client.refused()


@statement("3.1.1:MQTT-4.8.0-1", "5:MQTT-4.13.1-1")
def test_a_packet_that_breaks_the_protocol_ends_the_connection(broker: Subject) -> None:
    no_properties = wire.properties(None, broker.version)
    packets = [
        b"\0\0",  # a type that is reserved
        wire.packet(Kind.CONNACK, b"\0\0" + no_properties),  # one for servers only
        wire.packet(Kind.SUBACK, b"\0\1" + no_properties + b"\0"),
        wire.packet(Kind.PUBLISH, b"\0\x09short"),
        wire.packet(Kind.PUBACK, b"\0"),
        wire.packet(Kind.SUBSCRIBE, b"\0\1" + no_properties + wire.text(broker.topic)),
        b"\x30\xff\xff\xff\xff\x01",  # a remaining length of five bytes
    ]
    if broker.v5:
        twice = b"\x01\x01\x01\x01"
        packets += [wire.packet(Kind.PUBLISH, wire.text("a") + block) for block in (b"\4" + twice, b"\1\x7f", b"\5\1")]
    for number, packet in enumerate(packets):
        client = broker.client(f"c{number}")
        client.send(packet)
        client.refused(0x81, 0x82)


@statement("3.1.1:MQTT-2.3.1-1", "5:MQTT-2.2.1-3")
def test_packet_identifier_0_ends_the_connection(broker: Subject) -> None:
    for number, packet in enumerate(
        (
            wire.subscribe([Filter(broker.topic)], broker.version, packet_id=0),
            wire.unsubscribe([broker.topic], broker.version, packet_id=0),
            wire.publish(broker.topic, broker.version, qos=1, packet_id=0),
        )
    ):
        client = broker.client(f"c{number}")
        client.send(packet)
        client.refused(0x81, 0x82)


@statement("3.1.1:MQTT-2.3.1-4", "5:MQTT-2.2.1-4")
def test_deliveries_in_flight_have_identifiers_of_their_own(broker: Subject) -> None:
    subscriber, publisher = broker.client("s"), broker.client("p")
    subscriber.subscribe(broker.topic, qos=2)
    for number in range(10):
        publisher.publish(broker.topic, qos=1 + number % 2)
    used = [subscriber.message().packet_id for _ in range(10)]
    assert len(set(used)) == 10
    assert 0 not in used


@statement("3.1.1:MQTT-2.3.1-5", "5:MQTT-2.2.1-2")
def test_a_delivery_of_qos_0_has_no_identifier(broker: Subject) -> None:
    subscriber, publisher = broker.client("s"), broker.client("p")
    subscriber.subscribe(broker.topic, qos=0)
    publisher.publish(broker.topic, b"payload", qos=1)
    assert subscriber.message().payload == b"payload"
    publisher.publish(broker.topic, b"payload", qos=0)
    assert subscriber.message().payload == b"payload"


@statement("3.1.1:MQTT-2.3.1-6", "5:MQTT-2.2.1-5")
def test_acknowledgements_carry_the_identifier_of_their_publish(broker: Subject) -> None:
    client = broker.client("c")
    client.send(wire.publish(broker.topic, broker.version, qos=1, packet_id=513))
    assert client.expect(Kind.PUBACK).packet_id == 513
    client.send(wire.publish(broker.topic, broker.version, qos=2, packet_id=65_535))
    assert client.expect(Kind.PUBREC).packet_id == 65_535
    client.acknowledge(Kind.PUBREL, 65_535)
    assert client.expect(Kind.PUBCOMP).packet_id == 65_535
    client.subscribe(broker.topic, qos=2)
    broker.client("p").publish(broker.topic, qos=2)
    packet_id = client.message().packet_id
    client.acknowledge(Kind.PUBREC, packet_id)
    assert client.expect(Kind.PUBREL).packet_id == packet_id


@statement("3.1.1:MQTT-2.3.1-7", "5:MQTT-2.2.1-6")
def test_suback_and_unsuback_carry_the_identifier_of_their_request(broker: Subject) -> None:
    client = broker.client("c")
    client.send(wire.subscribe([Filter(broker.topic)], broker.version, packet_id=513))
    assert client.expect(Kind.SUBACK).packet_id == 513
    client.send(wire.unsubscribe([broker.topic], broker.version, packet_id=514))
    assert client.expect(Kind.UNSUBACK).packet_id == 514


@statement("5:MQTT-2.2.2-1")
def test_a_packet_without_properties_says_so(broker: Subject) -> None:
    subscriber, publisher = broker.client("s"), broker.client("p")
    assert subscriber.subscribe(broker.topic).properties == {}
    publisher.publish(broker.topic, b"payload")
    message = subscriber.message()
    assert (message.properties, message.payload) == ({}, b"payload")
    assert subscriber.unsubscribe(broker.topic).properties == {}


@statement("5:MQTT-4.13.2-1")
def test_an_error_code_ends_the_connection(broker: Subject) -> None:
    client = broker.client("c")
    client.send(wire.publish(broker.topic, broker.version, with_properties={P.TOPIC_ALIAS: 0xFFFF}))
    assert client.last(Kind.DISCONNECT).reason >= 0x80
    refused = broker.open()
    connack = refused.connect(broker.id("r"), with_properties={P.AUTHENTICATION_METHOD: "none such"})
    assert connack.reason >= 0x80
    assert refused.closed() == []
