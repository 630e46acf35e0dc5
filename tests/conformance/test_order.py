"""What is sent again when a session is resumed, and in which order things are sent."""

from __future__ import annotations

from tests.conformance import wire
from tests.conformance.scenes import back, waiting
from tests.conformance.suite import Subject, statement
from tests.conformance.wire import Kind


@statement("3.1.1:MQTT-4.4.0-1", "5:MQTT-4.4.0-1")
def test_all_that_is_unacknowledged_is_sent_again_with_its_identifier(broker: Subject) -> None:
    subscriber = waiting(broker, 1, 2, 2)
    one, two, three = (subscriber.message() for _ in range(3))
    subscriber.acknowledge(Kind.PUBREC, two.packet_id)
    subscriber.expect(Kind.PUBREL)
    # Never on a connection that lasts.
    subscriber.quiet()
    subscriber.break_off()
    again = back(broker)
    came = [again.receive() for _ in range(3)]
    assert {(packet.kind, packet.packet_id, packet.dup) for packet in came if packet} == {
        (Kind.PUBLISH, one.packet_id, True),
        (Kind.PUBREL, two.packet_id, False),
        (Kind.PUBLISH, three.packet_id, True),
    }
    again.quiet()


@statement("5:MQTT-4.4.0-2")
def test_what_was_refused_is_not_sent_again(broker: Subject) -> None:
    subscriber = waiting(broker, 1, 2)
    one, two = subscriber.message(), subscriber.message()
    subscriber.acknowledge(Kind.PUBACK, one.packet_id, 0x80)
    subscriber.acknowledge(Kind.PUBREC, two.packet_id, 0x97)
    subscriber.quiet()
    subscriber.break_off()
    back(broker).quiet()


@statement("3.1.1:MQTT-4.6.0-1")
def test_what_is_sent_again_keeps_its_order(broker: Subject) -> None:
    subscriber = waiting(broker, 1, 2, 1, 2, 1)
    sent = [subscriber.message().packet_id for _ in range(5)]
    subscriber.break_off()
    again = back(broker)
    assert [again.message().packet_id for _ in range(5)] == sent


@statement("3.1.1:MQTT-4.6.0-2")
def test_pubacks_come_in_the_order_of_the_messages(broker: Subject) -> None:
    client, ids = broker.client("c"), [7, 3, 9, 1, 5]
    client.send(*(wire.publish(broker.topic, broker.version, qos=1, packet_id=packet_id) for packet_id in ids))
    assert [client.expect(Kind.PUBACK).packet_id for _ in ids] == ids


@statement("3.1.1:MQTT-4.6.0-3")
def test_pubrecs_come_in_the_order_of_the_messages(broker: Subject) -> None:
    client, ids = broker.client("c"), [7, 3, 9, 1, 5]
    client.send(*(wire.publish(broker.topic, broker.version, qos=2, packet_id=packet_id) for packet_id in ids))
    assert [client.expect(Kind.PUBREC).packet_id for _ in ids] == ids


@statement("3.1.1:MQTT-4.6.0-4")
def test_pubrels_come_in_the_order_of_the_pubrecs(broker: Subject) -> None:
    subscriber = waiting(broker, 2, 2, 2, 2)
    sent = [subscriber.message().packet_id for _ in range(4)]
    received = [sent[2], sent[0], sent[3], sent[1]]
    subscriber.send(*(wire.acknowledge(Kind.PUBREC, packet_id) for packet_id in received))
    assert [subscriber.expect(Kind.PUBREL).packet_id for _ in sent] == received


@statement("3.1.1:MQTT-4.6.0-5", "5:MQTT-4.6.0-6")
def test_every_topic_is_ordered(broker: Subject) -> None:
    subscriber, publisher = broker.client("s"), broker.client("p")
    subscriber.subscribe(f"{broker.topic}/#", qos=1)
    for topic in (f"{broker.topic}/a", f"{broker.topic}/b/c"):
        publisher.send(*(wire.publish(topic, broker.version, str(n).encode(), 1, packet_id=n + 1) for n in range(20)))
        assert [subscriber.take().payload for _ in range(20)] == [str(n).encode() for n in range(20)]


@statement("3.1.1:MQTT-4.6.0-6", "5:MQTT-4.6.0-5")
def test_messages_of_a_topic_and_qos_come_in_the_order_of_their_publisher(broker: Subject) -> None:
    subscriber, publisher = broker.client("s"), broker.client("p")
    subscriber.subscribe(broker.topic, qos=2)
    order = [str(number).encode() for number in range(30)]
    for number, payload in enumerate(order):
        qos = number % 3
        publisher.send(wire.publish(broker.topic, broker.version, payload, qos, packet_id=number + 1))
        if qos == 2:
            publisher.answer(Kind.PUBREC)
            publisher.acknowledge(Kind.PUBREL, number + 1)
    came: dict[int, list[bytes]] = {0: [], 1: [], 2: []}
    for _ in order:
        message = subscriber.message()
        came[message.qos].append(message.payload)
        if message.qos == 1:
            subscriber.acknowledge(Kind.PUBACK, message.packet_id)
        elif message.qos == 2:
            subscriber.acknowledge(Kind.PUBREC, message.packet_id)
            subscriber.answer(Kind.PUBREL)
            subscriber.acknowledge(Kind.PUBCOMP, message.packet_id)
    assert came == {qos: order[qos::3] for qos in came}
