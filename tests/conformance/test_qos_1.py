"""The handshake of QoS 1, from both ends."""

from __future__ import annotations

from tests.conformance import wire
from tests.conformance.scenes import back, gist, waiting
from tests.conformance.suite import Subject, statement
from tests.conformance.wire import Kind


@statement("3.1.1:MQTT-4.3.2-1")
def test_qos_1_is_sent_fresh_and_counts_until_its_puback(broker: Subject) -> None:
    subscriber = waiting(broker, 1, 1)
    one, two = subscriber.message(), subscriber.message()
    assert (one.qos, one.dup, two.dup) == (1, False, False)
    assert 0 != one.packet_id != two.packet_id != 0
    subscriber.acknowledge(Kind.PUBACK, one.packet_id)
    subscriber.ping()
    subscriber.break_off()
    again = back(broker)
    assert gist(again.message()) == (two.packet_id, 1, True, b"1")
    again.quiet()


@statement("5:MQTT-4.3.2-1")
def test_every_qos_1_message_gets_an_unused_identifier(broker: Subject) -> None:
    subscriber = waiting(broker, *[1] * 6)
    sent = [subscriber.message().packet_id for _ in range(6)]
    subscriber.acknowledge(Kind.PUBACK, sent.pop(2))
    subscriber.ping()
    publisher = broker.client("p")
    for _ in range(3):
        publisher.publish(broker.topic, qos=1)
        sent.append(subscriber.message().packet_id)
    assert len(set(sent)) == len(sent)
    assert 0 not in sent


@statement("5:MQTT-4.3.2-2")
def test_a_first_qos_1_publish_is_no_duplicate(broker: Subject) -> None:
    subscriber = waiting(broker, 1)
    message = subscriber.message()
    assert (message.qos, message.dup, message.packet_id != 0) == (1, False, True)


@statement("5:MQTT-4.3.2-3")
def test_qos_1_is_unacknowledged_until_its_own_puback(broker: Subject) -> None:
    subscriber = waiting(broker, 1, 1)
    one, two = subscriber.message(), subscriber.message()
    subscriber.acknowledge(Kind.PUBACK, one.packet_id)
    subscriber.acknowledge(Kind.PUBACK, 65_535)
    subscriber.ping()
    subscriber.break_off()
    again = back(broker)
    assert gist(again.message()) == (two.packet_id, 1, True, b"1")
    again.quiet()


@statement("3.1.1:MQTT-4.3.2-2", "5:MQTT-4.3.2-5")
def test_after_its_puback_an_identifier_stands_for_a_new_message(broker: Subject) -> None:
    subscriber, publisher = broker.client("s"), broker.client("p")
    subscriber.subscribe(broker.topic)
    for number, dup in enumerate((False, True, False)):
        answer = publisher.publish(broker.topic, str(number).encode(), qos=1, packet_id=9, dup=dup)
        assert answer.packet_id == 9
        assert subscriber.message().payload == str(number).encode()


@statement("5:MQTT-4.3.2-4")
def test_qos_1_is_answered_with_a_puback_of_its_identifier(broker: Subject) -> None:
    client = broker.client("c")
    for packet_id in (1, 256, 65_535):
        client.send(wire.publish(broker.topic, broker.version, qos=1, packet_id=packet_id))
        assert client.expect(Kind.PUBACK).packet_id == packet_id
