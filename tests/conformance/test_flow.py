"""Receive maximum, maximum packet size, and what acknowledgements may say (MQTT 5)."""

from __future__ import annotations

from tests.conformance import wire
from tests.conformance.scenes import narrow
from tests.conformance.suite import Subject, statement
from tests.conformance.wire import Filter, Kind, P


@statement("5:MQTT-3.3.4-7")
def test_more_messages_than_the_receive_maximum_end_the_connection(broker: Subject) -> None:
    client = broker.client("c")
    maximum = client.connack.properties.get(P.RECEIVE_MAXIMUM, 65_535)
    ids = range(1, maximum + 2)
    client.send(*(wire.publish(broker.topic, broker.version, qos=2, packet_id=packet_id) for packet_id in ids))
    came = client.closed()
    assert [packet.kind for packet in came[:-1]] == [Kind.PUBREC] * (len(came) - 1)
    assert (came[-1].kind, came[-1].reason) == (Kind.DISCONNECT, 0x93)


@statement("5:MQTT-3.3.4-9")
def test_a_message_counts_until_its_handshake_is_over(broker: Subject) -> None:
    subscriber, publisher = broker.client("s", with_properties={P.RECEIVE_MAXIMUM: 1}), broker.client("p")
    subscriber.subscribe(broker.topic, qos=2)
    for number in range(3):
        publisher.publish(broker.topic, str(number).encode(), qos=2)
    completed = subscriber.message()
    subscriber.acknowledge(Kind.PUBREC, completed.packet_id)
    subscriber.answer(Kind.PUBREL)
    subscriber.quiet()
    subscriber.acknowledge(Kind.PUBCOMP, completed.packet_id)
    refused = subscriber.message()
    subscriber.quiet()
    subscriber.acknowledge(Kind.PUBREC, refused.packet_id, 0x80)
    assert [m.payload for m in (completed, refused, subscriber.message())] == [b"0", b"1", b"2"]


@statement("5:MQTT-4.9.0-1")
def test_no_more_than_the_receive_maximum_are_sent_at_first(broker: Subject) -> None:
    subscriber, publisher = broker.client("s", keep=True), broker.client("p")
    subscriber.subscribe(broker.topic, qos=2)
    subscriber.disconnect()
    for number in range(5):
        publisher.publish(broker.topic, qos=1 + number % 2)
    back = broker.client("s", keep=True, with_properties={P.RECEIVE_MAXIMUM: 3})
    for _ in range(3):
        back.message()
    back.quiet()


@statement("5:MQTT-4.9.0-2")
def test_an_acknowledgement_makes_room_for_one_message(broker: Subject) -> None:
    subscriber, publisher = broker.client("s", with_properties={P.RECEIVE_MAXIMUM: 2}), broker.client("p")
    subscriber.subscribe(broker.topic, qos=1)
    for _ in range(5):
        publisher.publish(broker.topic, qos=1)
    sent = [subscriber.message(), subscriber.message()]
    while len(sent) < 5:
        subscriber.quiet()
        subscriber.acknowledge(Kind.PUBACK, sent[-2].packet_id)
        sent.append(subscriber.message())
    subscriber.quiet()


@statement("5:MQTT-3.3.4-10", "5:MQTT-4.9.0-3")
def test_other_packets_do_not_wait_for_acknowledgements(broker: Subject) -> None:
    subscriber, publisher = broker.client("s", with_properties={P.RECEIVE_MAXIMUM: 1}), broker.client("p")
    subscriber.subscribe(broker.topic, qos=1)
    for _ in range(3):
        publisher.publish(broker.topic, qos=1)
    subscriber.message()
    subscriber.ping()
    assert subscriber.subscribe(f"{broker.topic}/a", qos=1).reason == 1
    assert subscriber.unsubscribe(f"{broker.topic}/a").reason == 0
    assert subscriber.publish(f"{broker.topic}/b", qos=1)
    assert subscriber.publish(f"{broker.topic}/b", qos=2)
    subscriber.quiet()


@statement("5:MQTT-3.1.2-24")
def test_no_packet_is_above_the_clients_maximum_size(broker: Subject) -> None:
    subscriber, publisher = broker.client("s", with_properties={P.MAXIMUM_PACKET_SIZE: 60}), broker.client("p")
    subscriber.subscribe(broker.topic)
    overhead = 2 + 2 + len(broker.topic) + 1
    for size in (60, 61, 1000, 59):
        publisher.publish(broker.topic, bytes(size - overhead))
    assert [subscriber.message().size for _ in range(2)] == [60, 59]
    subscriber.quiet()
    tiny = broker.open()
    tiny.send(wire.connect(broker.id("t"), broker.version, with_properties={P.MAXIMUM_PACKET_SIZE: 6}))
    assert all(packet.size <= 6 for packet in tiny.closed())


@statement("5:MQTT-3.1.2-25")
def test_a_message_that_is_too_large_counts_as_delivered(broker: Subject) -> None:
    limits = {P.MAXIMUM_PACKET_SIZE: 60, P.RECEIVE_MAXIMUM: 1}
    subscriber, publisher = broker.client("s", keep=True, with_properties=limits), broker.client("p")
    subscriber.subscribe(broker.topic, qos=1)
    publisher.publish(broker.topic, bytes(100), qos=1)
    publisher.publish(broker.topic, b"small", qos=1)
    assert subscriber.take().payload == b"small"
    subscriber.disconnect()
    again = broker.client("s", keep=True)
    assert again.connack.session_present
    again.quiet()


# Reasons of acknowledgements


@statement("5:MQTT-3.4.2-1")
def test_puback_reasons_are_those_of_the_table(broker: Subject) -> None:
    # The client reads no others.
    client = broker.client("c")
    assert client.publish(broker.topic, qos=1).reason in (0, 0x10)
    client.subscribe(broker.topic)
    assert client.publish(broker.topic, qos=1).reason == 0
    client.send(wire.publish(f"$SYS/{broker.topic}", broker.version, qos=1))
    client.message()
    client.receive()


@statement("5:MQTT-3.5.2-1")
def test_pubrec_reasons_are_those_of_the_table(broker: Subject) -> None:
    # The client reads no others.
    client = broker.client("c")
    assert client.publish(broker.topic, qos=2).reason in (0, 0x10)
    client.subscribe(broker.topic)
    assert client.publish(broker.topic, qos=2).reason == 0
    client.message()
    client.send(wire.publish(f"$SYS/{broker.topic}", broker.version, qos=2))
    client.receive()


@statement("5:MQTT-3.4.2-2")
def test_a_puback_fits_the_clients_maximum_packet_size(broker: Subject) -> None:
    client, maximum = narrow(broker)
    client.send(wire.publish(f"$SYS/{broker.topic}", broker.version, qos=1))
    answer = client.receive()
    assert answer is None or answer.size <= maximum


@statement("5:MQTT-3.5.2-2")
def test_a_pubrec_fits_the_clients_maximum_packet_size(broker: Subject) -> None:
    client, maximum = narrow(broker)
    client.send(wire.publish(f"$SYS/{broker.topic}", broker.version, qos=2))
    answer = client.receive()
    assert answer is None or answer.size <= maximum


@statement("5:MQTT-3.1.2-29")
def test_reason_strings_come_only_where_they_are_wanted(broker: Subject) -> None:
    requests = (
        wire.subscribe([Filter("a/#/b"), Filter("$share/broken")], broker.version),
        wire.unsubscribe(["never"], broker.version),
        wire.publish(f"$SYS/{broker.topic}", broker.version, qos=1),
        wire.publish(f"$SYS/{broker.topic}", broker.version, qos=2),
    )
    for number, request in enumerate(requests):
        client = broker.client(f"c{number}", with_properties={P.REQUEST_PROBLEM_INFORMATION: 0})
        client.send(request)
        answer = client.receive()
        if answer is not None and answer.kind is not Kind.DISCONNECT:
            assert not {P.REASON_STRING, P.USER_PROPERTY} & answer.properties.keys()
