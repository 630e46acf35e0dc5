"""SUBSCRIBE and SUBACK."""

from __future__ import annotations

from tests.conformance import wire
from tests.conformance.scenes import invalid, narrow
from tests.conformance.suite import Subject, statement
from tests.conformance.wire import SURROGATE, Filter, Kind


@statement("3.1.1:MQTT-3.8.1-1", "5:MQTT-3.8.1-1")
def test_reserved_flags_of_subscribe_end_the_connection(broker: Subject) -> None:
    packet = wire.subscribe([Filter(broker.topic)], broker.version)
    for flags in (0, 3, 6, 10):
        client = broker.client(f"c{flags}")
        client.send(bytes((Kind.SUBSCRIBE << 4 | flags,)) + packet[1:])
        client.refused(0x81)


@statement("3.1.1:MQTT-3.8.3-1", "5:MQTT-3.8.3-1")
def test_a_filter_that_is_not_utf8_ends_the_connection(broker: Subject) -> None:
    client = broker.client("c")
    client.send(wire.subscribe([Filter(broker.topic), Filter(SURROGATE)], broker.version))
    client.refused(0x81, 0x82, 0x8F)


@statement("3.1.1:MQTT-3.8.3-3", "5:MQTT-3.8.3-2")
def test_a_subscribe_without_filters_ends_the_connection(broker: Subject) -> None:
    client = broker.client("c")
    client.send(wire.subscribe([], broker.version))
    client.refused(0x81, 0x82)


@statement("3.1.1:MQTT-3.8.3-4")
def test_reserved_bits_of_the_requested_qos_end_the_connection(broker: Subject) -> None:
    for options in (3, 4, 8, 0x10, 0x80):
        client = broker.client(f"c{options}")
        client.send(wire.packet(Kind.SUBSCRIBE, b"\0\1" + wire.text(broker.topic) + bytes((options,))))
        client.refused()


@statement("5:MQTT-3.8.3-5")
def test_reserved_subscription_options_end_the_connection(broker: Subject) -> None:
    for options in (0x40, 0x80, 0xC1, 3, 0x30):
        client = broker.client(f"c{options}")
        client.send(wire.packet(Kind.SUBSCRIBE, b"\0\1\0" + wire.text(broker.topic) + bytes((options,))))
        client.refused(0x81, 0x82)


@statement("5:MQTT-3.8.3-3")
def test_no_local_keeps_a_clients_own_messages_away(broker: Subject) -> None:
    client, other = broker.client("c"), broker.client("o")
    client.subscribe(Filter(broker.topic, no_local=True))
    client.publish(broker.topic, b"own")
    client.quiet()
    other.publish(broker.topic, b"other")
    assert client.message().payload == b"other"


@statement("5:MQTT-3.8.3-4")
def test_no_local_on_a_shared_subscription_ends_the_connection(broker: Subject) -> None:
    client = broker.client("c")
    client.send(wire.subscribe([Filter(f"$share/g/{broker.topic}", no_local=True)], broker.version))
    client.refused(0x82)


@statement("3.1.1:MQTT-3.8.4-1", "5:MQTT-3.8.4-1")
def test_a_subscribe_is_answered_with_a_suback(broker: Subject) -> None:
    client = broker.client("c")
    for qos in (0, 1, 2):
        assert client.subscribe(f"{broker.topic}/{qos}", qos=qos).kind is Kind.SUBACK


@statement("3.1.1:MQTT-3.8.4-2", "5:MQTT-3.8.4-2")
def test_a_suback_has_the_identifier_of_its_subscribe(broker: Subject) -> None:
    client, ids = broker.client("c"), (65_535, 1, 256)
    client.send(*(wire.subscribe([Filter(broker.topic)], broker.version, packet_id) for packet_id in ids))
    assert tuple(client.expect(Kind.SUBACK).packet_id for _ in ids) == ids


@statement("3.1.1:MQTT-3.8.4-3", "5:MQTT-3.8.4-3")
def test_the_same_filter_replaces_the_subscription(broker: Subject) -> None:
    subscriber, publisher = broker.client("s"), broker.client("p")
    publisher.publish(broker.topic, b"kept", qos=1, retain=True)
    for qos in (2, 0, 1):
        subscriber.subscribe(broker.topic, qos=qos)
        again = subscriber.take()
        assert (again.payload, again.retain) == (b"kept", True)
    publisher.publish(broker.topic, b"live", qos=2)
    message = subscriber.take()
    assert (message.payload, message.qos) == (b"live", 1)
    subscriber.quiet()


@statement("5:MQTT-3.8.4-4")
def test_replacing_a_subscription_loses_nothing_and_sends_retained_messages_again(broker: Subject) -> None:
    subscriber, publisher = broker.client("s", keep=True), broker.client("p")
    subscriber.subscribe(broker.topic, qos=1)
    publisher.publish(broker.topic, b"kept", qos=1, retain=True)
    publisher.publish(broker.topic, b"live", qos=1)
    subscriber.subscribe(Filter(broker.topic, 1, retain_handling=0))
    assert [subscriber.take().payload for _ in range(3)] == [b"kept", b"live", b"kept"]
    subscriber.quiet()


@statement("3.1.1:MQTT-3.8.4-4", "5:MQTT-3.8.4-5")
def test_several_filters_are_handled_as_if_they_came_one_by_one(broker: Subject) -> None:
    subscriber, publisher = broker.client("s"), broker.client("p")
    levels = ("a", "b", "c")
    asked = [Filter(f"{broker.topic}/{level}", qos) for qos, level in enumerate(levels)]
    assert len(subscriber.subscribe(*asked, Filter(f"{broker.topic}/a", 2)).reasons) == 4
    for level in levels:
        publisher.publish(f"{broker.topic}/{level}", qos=2)
    assert [subscriber.take().qos for _ in levels] == [2, 1, 2]
    subscriber.quiet()


@statement("3.1.1:MQTT-3.8.4-5", "5:MQTT-3.8.4-6")
def test_a_suback_has_a_code_for_each_filter(broker: Subject) -> None:
    client = broker.client("c")
    for count in (1, 2, 7):
        asked = [Filter(f"{broker.topic}/{number}", number % 3) for number in range(count)]
        assert client.subscribe(*asked).reasons == tuple(number % 3 for number in range(count))


@statement("5:MQTT-3.8.4-7")
def test_a_suback_grants_a_qos_or_says_that_the_subscription_failed(broker: Subject) -> None:
    client, publisher = broker.client("c"), broker.client("p")
    for qos in (0, 1, 2):
        granted = client.subscribe(broker.topic, qos=qos).reason
        assert granted <= qos
        publisher.publish(broker.topic, qos=2)
        assert client.take().qos <= granted
    invalid(broker, f"{broker.topic}/#/a")


@statement("3.1.1:MQTT-3.8.4-6", "5:MQTT-3.8.4-8")
def test_a_delivery_has_the_lower_qos_of_message_and_grant(broker: Subject) -> None:
    subscriber, publisher = broker.client("s"), broker.client("p")
    for granted in (0, 1, 2):
        assert subscriber.subscribe(broker.topic, qos=granted).reason == granted
        for sent in (0, 1, 2):
            publisher.publish(broker.topic, qos=sent)
            assert subscriber.take().qos == min(granted, sent)


@statement("3.1.1:MQTT-3.9.3-1", "5:MQTT-3.9.3-1")
def test_codes_of_suback_are_in_the_order_of_the_filters(broker: Subject) -> None:
    client = broker.client("c")
    order = (2, 0, 1, 0, 1)
    asked = [Filter(f"{broker.topic}/{number}", qos) for number, qos in enumerate(order)]
    assert client.subscribe(*asked).reasons == order


@statement("3.1.1:MQTT-3.9.3-2", "5:MQTT-3.9.3-2")
def test_codes_of_suback_are_those_of_the_table(broker: Subject) -> None:
    # The client reads no others.
    client = broker.client("c")
    assert client.subscribe(*(Filter(f"{broker.topic}/{qos}", qos) for qos in (0, 1, 2))).reasons == (0, 1, 2)
    invalid(broker, f"{broker.topic}/#/a", f"{broker.topic}/a#")


@statement("5:MQTT-3.9.2-1")
def test_a_suback_fits_the_clients_maximum_packet_size(broker: Subject) -> None:
    client, maximum = narrow(broker)
    client.send(wire.subscribe([Filter(f"{broker.topic}/#/a")], broker.version))
    answer = client.receive()
    assert answer is None or answer.size <= maximum
