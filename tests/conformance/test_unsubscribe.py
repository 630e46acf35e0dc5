"""UNSUBSCRIBE and UNSUBACK."""

from __future__ import annotations

from tests.conformance import wire
from tests.conformance.suite import Subject, statement
from tests.conformance.wire import SURROGATE, Kind


@statement("3.1.1:MQTT-3.10.1-1", "5:MQTT-3.10.1-1")
def test_reserved_flags_of_unsubscribe_end_the_connection(broker: Subject) -> None:
    packet = wire.unsubscribe([broker.topic], broker.version)
    for flags in (0, 3, 6, 10):
        client = broker.client(f"c{flags}")
        client.send(bytes((Kind.UNSUBSCRIBE << 4 | flags,)) + packet[1:])
        client.refused(0x81)


@statement("3.1.1:MQTT-3.10.3-1", "5:MQTT-3.10.3-1")
def test_unsubscribing_from_what_is_not_utf8_ends_the_connection(broker: Subject) -> None:
    client = broker.client("c")
    client.send(wire.unsubscribe([broker.topic, SURROGATE], broker.version))
    client.refused(0x81, 0x82, 0x8F)


@statement("3.1.1:MQTT-3.10.3-2", "5:MQTT-3.10.3-2")
def test_an_unsubscribe_without_filters_ends_the_connection(broker: Subject) -> None:
    client = broker.client("c")
    client.send(wire.unsubscribe([], broker.version))
    client.refused(0x81, 0x82)


@statement("3.1.1:MQTT-3.10.4-1", "5:MQTT-3.10.4-1")
def test_unsubscribing_compares_filters_character_by_character(broker: Subject) -> None:
    subscriber, publisher = broker.client("s"), broker.client("p")
    subscriber.subscribe(f"{broker.topic}/+")
    subscriber.unsubscribe(f"{broker.topic}/#", f"{broker.topic}/a", f"{broker.topic}/+/", f"{broker.topic.upper()}/+")
    publisher.publish(f"{broker.topic}/a", b"still")
    assert subscriber.message().payload == b"still"
    subscriber.unsubscribe(f"{broker.topic}/+")
    publisher.publish(f"{broker.topic}/a", b"gone")
    subscriber.quiet()


@statement("3.1.1:MQTT-3.10.4-2", "5:MQTT-3.10.4-2")
def test_nothing_new_comes_after_unsubscribing(broker: Subject) -> None:
    subscriber, publisher = broker.client("s", keep=True), broker.client("p")
    subscriber.subscribe(broker.topic, f"{broker.topic}/other", qos=1)
    subscriber.unsubscribe(broker.topic)
    publisher.publish(broker.topic, b"new", qos=1)
    subscriber.quiet()
    subscriber.disconnect()
    publisher.publish(broker.topic, b"new", qos=1)
    again = broker.client("s", keep=True)
    publisher.publish(f"{broker.topic}/other", b"other", qos=1)
    assert again.take().payload == b"other"


@statement("3.1.1:MQTT-3.10.4-3", "5:MQTT-3.10.4-3")
def test_deliveries_that_began_are_completed_after_unsubscribing(broker: Subject) -> None:
    subscriber, publisher = broker.client("s", keep=True), broker.client("p")
    subscriber.subscribe(broker.topic, qos=2)
    for qos in (1, 2):
        publisher.publish(broker.topic, qos=qos)
    one, two = subscriber.message(), subscriber.message()
    subscriber.unsubscribe(broker.topic)
    subscriber.break_off()
    again = broker.client("s", keep=True)
    assert [again.message().packet_id for _ in range(2)] == [one.packet_id, two.packet_id]
    again.acknowledge(Kind.PUBACK, one.packet_id)
    again.acknowledge(Kind.PUBREC, two.packet_id)
    assert again.expect(Kind.PUBREL).packet_id == two.packet_id


@statement("3.1.1:MQTT-3.10.4-4", "5:MQTT-3.10.4-4")
def test_an_unsubscribe_is_answered_with_an_unsuback(broker: Subject) -> None:
    client, ids = broker.client("c"), (65_535, 1, 256)
    client.subscribe(broker.topic)
    client.send(*(wire.unsubscribe([broker.topic], broker.version, packet_id) for packet_id in ids))
    assert tuple(client.expect(Kind.UNSUBACK).packet_id for _ in ids) == ids


@statement("3.1.1:MQTT-3.10.4-5", "5:MQTT-3.10.4-5")
def test_an_unsubscribe_that_removes_nothing_is_answered_as_well(broker: Subject) -> None:
    client = broker.client("c")
    client.send(wire.unsubscribe([broker.topic, f"{broker.topic}/+"], broker.version, packet_id=513))
    assert client.expect(Kind.UNSUBACK).packet_id == 513


@statement("3.1.1:MQTT-3.10.4-6", "5:MQTT-3.10.4-6")
def test_several_filters_are_removed_with_one_answer(broker: Subject) -> None:
    subscriber, publisher = broker.client("s"), broker.client("p")
    filters = [f"{broker.topic}/{level}" for level in ("a", "b", "c")]
    subscriber.subscribe(*filters)
    answer = subscriber.unsubscribe(*filters[:2], "never")
    assert answer.reasons == ((0, 0, 0x11) if broker.v5 else ())
    for topic in filters:
        publisher.publish(topic)
    assert subscriber.message().topic == filters[2]
    subscriber.quiet()


@statement("5:MQTT-3.11.3-1")
def test_codes_of_unsuback_are_in_the_order_of_the_filters(broker: Subject) -> None:
    client = broker.client("c")
    client.subscribe(f"{broker.topic}/a", f"{broker.topic}/b")
    asked = (f"{broker.topic}/x", f"{broker.topic}/b", f"{broker.topic}/y", f"{broker.topic}/a")
    assert client.unsubscribe(*asked).reasons == (0x11, 0, 0x11, 0)


@statement("5:MQTT-3.11.3-2")
def test_codes_of_unsuback_are_those_of_the_table(broker: Subject) -> None:
    client = broker.client("c")
    client.subscribe(broker.topic)
    assert client.unsubscribe(broker.topic).reasons == (0,)
    assert client.unsubscribe(broker.topic).reasons == (0x11,)
