"""PUBLISH and its properties, on the way through the broker."""

from __future__ import annotations

from tests.conformance import wire
from tests.conformance.reading import Received
from tests.conformance.suite import Subject, statement
from tests.conformance.wire import SURROGATE, Filter, Kind, P


@statement("3.1.1:MQTT-3.3.1-1", "5:MQTT-3.3.1-1")
def test_what_is_sent_again_is_marked_as_a_duplicate(broker: Subject) -> None:
    subscriber = broker.client("s", keep=True)
    subscriber.subscribe(broker.topic, qos=1)
    broker.client("p").publish(broker.topic, b"again", qos=1)
    assert not subscriber.message().dup
    subscriber.break_off()
    again = broker.client("s", keep=True).message()
    assert (again.dup, again.payload) == (True, b"again")


@statement("3.1.1:MQTT-3.3.1-2", "3.1.1:MQTT-4.3.1-1", "5:MQTT-3.3.1-2", "5:MQTT-4.3.1-1")
def test_qos_0_is_never_a_duplicate(broker: Subject) -> None:
    subscriber, publisher = broker.client("s"), broker.client("p")
    subscriber.subscribe(broker.topic, qos=0)
    publisher.publish(broker.topic, qos=1, dup=True)
    publisher.publish(broker.topic, qos=0)
    for _ in range(2):
        message = subscriber.message()
        assert (message.qos, message.dup) == (0, False)


@statement("3.1.1:MQTT-3.3.1-3", "5:MQTT-3.3.1-3")
def test_a_publishers_dup_is_not_passed_on(broker: Subject) -> None:
    subscriber, publisher = broker.client("s"), broker.client("p")
    subscriber.subscribe(broker.topic, qos=2)
    for qos in (1, 2):
        publisher.publish(broker.topic, qos=qos, dup=True)
        message = subscriber.take()
        assert (message.qos, message.dup) == (qos, False)


@statement("3.1.1:MQTT-3.3.1-4", "5:MQTT-3.3.1-4")
def test_qos_3_ends_the_connection(broker: Subject) -> None:
    client = broker.client("c")
    client.send(wire.publish(broker.topic, broker.version, qos=3))
    client.refused(0x81)


@statement("3.1.1:MQTT-3.3.2-1", "5:MQTT-3.3.2-1")
def test_a_topic_is_a_utf8_string(broker: Subject) -> None:
    subscriber = broker.client("s")
    topic = f"{broker.topic}/ä/\U0001f600"
    subscriber.subscribe(topic)
    publisher = broker.client("p")
    publisher.publish(topic, b"payload")
    message = subscriber.message()
    assert (message.topic, message.payload) == (topic, b"payload")
    publisher.send(wire.publish(SURROGATE, broker.version))
    publisher.refused(0x81, 0x82, 0x90)


@statement("3.1.1:MQTT-3.3.2-2", "3.1.1:MQTT-4.7.1-1", "5:MQTT-3.3.2-2", "5:MQTT-4.7.0-1")
def test_a_wildcard_in_a_topic_ends_the_connection(broker: Subject) -> None:
    for number, level in enumerate(("+", "#", "a+", "#a")):
        client = broker.client(f"c{number}")
        client.send(wire.publish(f"{broker.topic}/{level}", broker.version))
        client.refused(0x81, 0x82, 0x90)


@statement("3.1.1:MQTT-3.3.2-3", "5:MQTT-3.3.2-3")
def test_a_subscriber_gets_the_topics_of_its_filter_only(broker: Subject) -> None:
    subscriber, publisher = broker.client("s"), broker.client("p")
    subscriber.subscribe(f"{broker.topic}/+/x", f"{broker.topic}/deep/#")
    matching = ["a/x", "/x", "deep", "deep/er/still"]
    for topic in ("a/y", "x", "a/x", "a/b/x", "/x", "deep", "deeper", "deep/er/still", "a/x/"):
        publisher.publish(f"{broker.topic}/{topic}")
    assert [subscriber.message().topic for _ in matching] == [f"{broker.topic}/{topic}" for topic in matching]
    subscriber.quiet()


@statement("3.1.1:MQTT-3.3.4-1", "5:MQTT-3.3.4-1")
def test_each_qos_has_its_answer(broker: Subject) -> None:
    client = broker.client("c")
    client.send(wire.publish(broker.topic, broker.version, qos=0), wire.packet(Kind.PINGREQ))
    assert client.expect(Kind.PINGRESP)
    client.send(wire.publish(broker.topic, broker.version, qos=1))
    assert client.expect(Kind.PUBACK).reason in (0, 0x10)
    client.send(wire.publish(broker.topic, broker.version, qos=2))
    assert client.expect(Kind.PUBREC).reason in (0, 0x10)
    client.acknowledge(Kind.PUBREL, 1)
    assert client.expect(Kind.PUBCOMP).reason == 0


@statement("3.1.1:MQTT-3.3.5-2")
def test_a_publish_that_is_not_allowed_is_acknowledged_or_ends_the_connection(broker: Subject) -> None:
    # No broker lets its clients publish under $SYS.
    topic = f"$SYS/{broker.topic}"
    witness, client = broker.client("w"), broker.client("c")
    witness.subscribe(topic)
    client.send(wire.publish(topic, broker.version, qos=1, packet_id=7))
    answer = client.receive()
    assert answer is None or (answer.kind, answer.packet_id) == (Kind.PUBACK, 7)
    witness.quiet()


# Overlapping subscriptions


@statement("3.1.1:MQTT-3.3.5-1", "5:MQTT-3.3.4-2")
def test_of_overlapping_subscriptions_the_highest_qos_counts(broker: Subject) -> None:
    subscriber, publisher = broker.client("s"), broker.client("p")
    subscriber.subscribe(*(Filter(topic, qos) for qos, topic in enumerate((f"{broker.topic}/a", f"{broker.topic}/+"))))
    subscriber.subscribe(f"{broker.topic}/#", qos=2)
    publisher.publish(f"{broker.topic}/a", qos=2)
    publisher.publish(f"{broker.topic}/end", qos=0)
    copies = []
    while (message := subscriber.take()).topic == f"{broker.topic}/a":
        copies.append(message.qos)
    assert max(copies) == 2


def identified(broker: Subject) -> list[Received]:
    """The copies that a client with three overlapping subscriptions, two of them with an identifier, gets."""
    subscriber, publisher = broker.client("s"), broker.client("p")
    subscriber.subscribe(f"{broker.topic}/a", with_properties={P.SUBSCRIPTION_ID: [1]})
    subscriber.subscribe(f"{broker.topic}/+", with_properties={P.SUBSCRIPTION_ID: [268_435_455]})
    subscriber.subscribe(f"{broker.topic}/#")
    publisher.publish(f"{broker.topic}/a")
    publisher.publish(f"{broker.topic}/end/of/it")
    copies = []
    while (message := subscriber.message()).topic == f"{broker.topic}/a":
        copies.append(message)
    assert copies
    return copies


@statement("5:MQTT-3.3.4-3")
def test_subscription_identifiers_come_with_the_message(broker: Subject) -> None:
    came = [identifier for copy in identified(broker) for identifier in copy.properties.get(P.SUBSCRIPTION_ID, [])]
    assert sorted(came) == [1, 268_435_455]


@statement("5:MQTT-3.3.4-4")
def test_a_single_copy_names_all_identifiers(broker: Subject) -> None:
    copies = identified(broker)
    if len(copies) == 1:
        assert sorted(copies[0].properties[P.SUBSCRIPTION_ID]) == [1, 268_435_455]
