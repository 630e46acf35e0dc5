"""The handshake of QoS 2, from both ends."""

from __future__ import annotations

import pytest

from tests.conformance import wire
from tests.conformance.scenes import a_second_passes, back, gist, waiting
from tests.conformance.suite import Subject, statement
from tests.conformance.wire import Kind, P

# QoS 2, sent by the broker


@statement("3.1.1:MQTT-4.3.3-1")
def test_qos_2_is_sent_fresh_released_once_received_and_complete_at_last(broker: Subject) -> None:
    subscriber = waiting(broker, 2, 2)
    one, two = subscriber.message(), subscriber.message()
    assert (one.qos, one.dup, two.dup) == (2, False, False)
    assert 0 != one.packet_id != two.packet_id != 0
    subscriber.acknowledge(Kind.PUBREC, one.packet_id)
    assert subscriber.expect(Kind.PUBREL).packet_id == one.packet_id
    subscriber.break_off()
    again = back(broker)
    came = [again.receive(), again.receive()]
    assert {(packet.kind, packet.packet_id) for packet in came if packet} == {
        (Kind.PUBREL, one.packet_id),
        (Kind.PUBLISH, two.packet_id),
    }
    again.quiet()


@statement("5:MQTT-4.3.3-1")
def test_every_qos_2_message_gets_an_unused_identifier(broker: Subject) -> None:
    subscriber = waiting(broker, *[2] * 6)
    sent = [subscriber.message().packet_id for _ in range(6)]
    subscriber.acknowledge(Kind.PUBREC, sent[2])  # released, so still in use
    subscriber.answer(Kind.PUBREL)
    publisher = broker.client("p")
    for _ in range(3):
        publisher.publish(broker.topic, qos=2)
        sent.append(subscriber.message().packet_id)
    assert len(set(sent)) == len(sent)
    assert 0 not in sent


@statement("5:MQTT-4.3.3-2")
def test_a_first_qos_2_publish_is_no_duplicate(broker: Subject) -> None:
    subscriber = waiting(broker, 2)
    message = subscriber.message()
    assert (message.qos, message.dup, message.packet_id != 0) == (2, False, True)


@statement("5:MQTT-4.3.3-3")
def test_qos_2_is_unacknowledged_until_its_pubrec(broker: Subject) -> None:
    subscriber = waiting(broker, 2)
    message = subscriber.message()
    # Other acknowledgements are not the one that is due.
    subscriber.acknowledge(Kind.PUBACK, message.packet_id)
    subscriber.break_off()
    assert gist(back(broker).message()) == (message.packet_id, 2, True, b"0")


@statement("5:MQTT-4.3.3-4")
def test_a_pubrec_is_answered_with_a_pubrel_of_its_identifier(broker: Subject) -> None:
    subscriber = waiting(broker, 2, 2)
    one, two = subscriber.message(), subscriber.message()
    for message in (two, one):
        subscriber.acknowledge(Kind.PUBREC, message.packet_id)
        assert subscriber.expect(Kind.PUBREL).packet_id == message.packet_id
    subscriber.acknowledge(Kind.PUBCOMP, one.packet_id)
    subscriber.acknowledge(Kind.PUBCOMP, two.packet_id)
    broker.client("p").publish(broker.topic, qos=2)
    subscriber.acknowledge(Kind.PUBREC, subscriber.message().packet_id, 0x10)
    subscriber.expect(Kind.PUBREL)
    broker.client("p").publish(broker.topic, qos=2)
    subscriber.acknowledge(Kind.PUBREC, subscriber.message().packet_id, 0x83)
    subscriber.quiet()


@statement("5:MQTT-4.3.3-5")
def test_a_pubrel_is_unacknowledged_until_its_pubcomp(broker: Subject) -> None:
    subscriber = waiting(broker, 2)
    packet_id = subscriber.message().packet_id
    subscriber.acknowledge(Kind.PUBREC, packet_id)
    subscriber.expect(Kind.PUBREL)
    subscriber.break_off()
    again = back(broker)
    assert again.expect(Kind.PUBREL).packet_id == packet_id
    again.acknowledge(Kind.PUBCOMP, packet_id)
    again.quiet()
    again.break_off()
    back(broker).quiet()


@statement("5:MQTT-4.3.3-6")
def test_a_released_message_is_not_sent_again(broker: Subject) -> None:
    subscriber = waiting(broker, 2)
    packet_id = subscriber.message().packet_id
    subscriber.acknowledge(Kind.PUBREC, packet_id)
    subscriber.expect(Kind.PUBREL)
    subscriber.break_off()
    again = back(broker)
    assert again.expect(Kind.PUBREL).packet_id == packet_id
    again.quiet()


@pytest.mark.slow
@statement("5:MQTT-4.3.3-7")
def test_a_message_that_was_sent_does_not_expire(broker: Subject) -> None:
    subscriber = waiting(broker)
    publisher = broker.client("p")
    publisher.publish(broker.topic, b"sent", qos=2, with_properties={P.MESSAGE_EXPIRY: 1})
    message = subscriber.message()
    subscriber.break_off()
    a_second_passes(broker)
    again = back(broker).message()
    assert (again.packet_id, again.payload, again.dup) == (message.packet_id, b"sent", True)


# QoS 2, received by the broker


@statement("3.1.1:MQTT-4.3.3-2")
def test_qos_2_is_delivered_once_until_it_is_released(broker: Subject) -> None:
    subscriber, publisher = broker.client("s"), broker.client("p")
    subscriber.subscribe(broker.topic)
    for dup in (False, True):
        publisher.send(wire.publish(broker.topic, broker.version, b"once", 2, packet_id=9, dup=dup))
        assert publisher.expect(Kind.PUBREC).packet_id == 9
    publisher.acknowledge(Kind.PUBREL, 9)
    assert publisher.expect(Kind.PUBCOMP).packet_id == 9
    assert subscriber.message().payload == b"once"
    subscriber.quiet()
    publisher.publish(broker.topic, b"new", qos=2, packet_id=9)
    assert subscriber.message().payload == b"new"


@statement("5:MQTT-4.3.3-8")
def test_qos_2_is_answered_with_a_pubrec_of_its_identifier(broker: Subject) -> None:
    client = broker.client("c")
    for packet_id in (1, 256, 65_535):
        client.send(wire.publish(broker.topic, broker.version, qos=2, packet_id=packet_id))
        answer = client.expect(Kind.PUBREC)
        assert (answer.packet_id, answer.reason < 0x80) == (packet_id, True)


@statement("5:MQTT-4.3.3-9")
def test_after_a_refusing_pubrec_an_identifier_stands_for_a_new_message(broker: Subject) -> None:
    subscriber, publisher = broker.client("s"), broker.client("p")
    subscriber.subscribe(broker.topic)
    # No broker lets its clients publish under $SYS.
    publisher.send(wire.publish(f"$SYS/{broker.topic}", broker.version, qos=2, packet_id=9))
    assert publisher.expect(Kind.PUBREC).reason >= 0x80
    publisher.publish(broker.topic, b"new", qos=2, packet_id=9)
    assert subscriber.message().payload == b"new"


@statement("5:MQTT-4.3.3-10")
def test_a_repeated_qos_2_publish_is_acknowledged_and_not_delivered(broker: Subject) -> None:
    subscriber, publisher = broker.client("s"), broker.client("p", keep=True)
    subscriber.subscribe(broker.topic)
    repeated = wire.publish(broker.topic, broker.version, b"once", 2, packet_id=9, dup=True)
    for _ in range(2):
        publisher.send(repeated)
        assert publisher.expect(Kind.PUBREC).packet_id == 9
    publisher.break_off()
    again = broker.client("p", keep=True)
    again.send(repeated)
    assert again.expect(Kind.PUBREC).packet_id == 9
    again.acknowledge(Kind.PUBREL, 9)
    again.expect(Kind.PUBCOMP)
    assert subscriber.message().payload == b"once"
    subscriber.quiet()


@statement("5:MQTT-4.3.3-11")
def test_a_pubrel_is_answered_with_a_pubcomp_of_its_identifier(broker: Subject) -> None:
    client = broker.client("c")
    for packet_id in (9, 8):
        client.send(wire.publish(broker.topic, broker.version, qos=2, packet_id=packet_id))
        client.expect(Kind.PUBREC)
    for packet_id in (9, 8, 7):
        client.acknowledge(Kind.PUBREL, packet_id)
        answer = client.expect(Kind.PUBCOMP)
        assert (answer.packet_id, answer.reason in (0, 0x92)) == (packet_id, True)


@statement("5:MQTT-4.3.3-12")
def test_after_its_pubcomp_an_identifier_stands_for_a_new_message(broker: Subject) -> None:
    subscriber, publisher = broker.client("s"), broker.client("p")
    subscriber.subscribe(broker.topic)
    for number in range(3):
        publisher.publish(broker.topic, str(number).encode(), qos=2, packet_id=9, dup=number == 1)
        assert subscriber.message().payload == str(number).encode()


@pytest.mark.slow
@statement("5:MQTT-4.3.3-13")
def test_the_handshake_goes_on_when_the_message_has_expired(broker: Subject) -> None:
    client = broker.client("c")
    expiry = {P.MESSAGE_EXPIRY: 1}
    client.send(wire.publish(broker.topic, broker.version, qos=2, packet_id=9, with_properties=expiry))
    client.expect(Kind.PUBREC)
    a_second_passes(broker)
    client.send(wire.publish(broker.topic, broker.version, qos=2, packet_id=9, dup=True, with_properties=expiry))
    assert client.expect(Kind.PUBREC).packet_id == 9
    client.acknowledge(Kind.PUBREL, 9)
    answer = client.expect(Kind.PUBCOMP)
    assert (answer.packet_id, answer.reason) == (9, 0)


@statement("5:MQTT-3.6.2-1")
def test_reasons_of_pubrel_are_those_of_the_table(broker: Subject) -> None:
    # The client reads no others.
    subscriber = waiting(broker, 2)
    subscriber.acknowledge(Kind.PUBREC, subscriber.message().packet_id)
    assert subscriber.expect(Kind.PUBREL).reason == 0
    subscriber.acknowledge(Kind.PUBREC, 77)
    assert subscriber.expect(Kind.PUBREL).packet_id == 77


@statement("5:MQTT-3.7.2-1")
def test_reasons_of_pubcomp_are_those_of_the_table(broker: Subject) -> None:
    # The client reads no others.
    client = broker.client("c")
    client.send(wire.publish(broker.topic, broker.version, qos=2, packet_id=9))
    client.expect(Kind.PUBREC)
    client.acknowledge(Kind.PUBREL, 9)
    assert client.expect(Kind.PUBCOMP).reason == 0
    client.acknowledge(Kind.PUBREL, 77)
    assert client.expect(Kind.PUBCOMP).packet_id == 77


@statement("3.1.1:MQTT-3.6.1-1", "5:MQTT-3.6.1-1")
def test_reserved_flags_of_pubrel_end_the_connection(broker: Subject) -> None:
    for flags in (0, 3, 6, 10):
        client = broker.client(f"c{flags}")
        client.send(wire.publish(broker.topic, broker.version, qos=2))
        client.expect(Kind.PUBREC)
        client.send(wire.packet(Kind.PUBREL, b"\0\1", flags=flags))
        client.refused(0x81)
