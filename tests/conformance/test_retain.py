"""Retained messages."""

from __future__ import annotations

from tests.conformance.client import Client
from tests.conformance.reading import Received
from tests.conformance.suite import Subject, statement
from tests.conformance.wire import Filter


def retained(broker: Subject, topic: str, qos: int = 2) -> list[Received]:
    """What a new subscriber gets at once."""
    client = broker.open()
    client.connect("")
    client.subscribe(topic, f"{broker.topic}/sentinel", qos=qos)
    broker.client("sentinel").publish(f"{broker.topic}/sentinel")
    came = []
    while (message := client.take()).topic != f"{broker.topic}/sentinel":
        came.append(message)
    return came


def payloads(broker: Subject) -> list[bytes]:
    """The payloads of the retained messages of the test's topic."""
    return [message.payload for message in retained(broker, broker.topic)]


@statement("3.1.1:MQTT-3.3.1-5", "5:MQTT-3.3.1-5")
def test_a_retained_message_is_stored_with_its_qos_and_replaces_the_last(broker: Subject) -> None:
    publisher = broker.client("p")
    for qos in (1, 2, 0):
        publisher.publish(broker.topic, str(qos).encode(), qos=qos, retain=True)
        (message,) = retained(broker, broker.topic)
        assert (message.payload, message.qos) == (str(qos).encode(), qos)


@statement("3.1.1:MQTT-3.3.1-6")
def test_a_new_subscriber_gets_the_last_retained_message_of_every_topic(broker: Subject) -> None:
    publisher = broker.client("p")
    for payload in (b"old", b"new"):
        for level in ("a", "b"):
            publisher.publish(f"{broker.topic}/{level}", payload, qos=1, retain=True)
    came = sorted((message.topic, message.payload) for message in retained(broker, f"{broker.topic}/+"))
    assert came == [(f"{broker.topic}/a", b"new"), (f"{broker.topic}/b", b"new")]


@statement("3.1.1:MQTT-3.3.1-7")
def test_a_retained_message_of_qos_0_discards_the_last(broker: Subject) -> None:
    publisher = broker.client("p")
    publisher.publish(broker.topic, b"old", qos=1, retain=True)
    publisher.publish(broker.topic, b"new", qos=0, retain=True)
    assert b"old" not in payloads(broker)


@statement("3.1.1:MQTT-3.3.1-8")
def test_what_a_new_subscription_brings_is_marked_as_retained(broker: Subject) -> None:
    broker.client("p").publish(broker.topic, qos=1, payload=b"kept", retain=True)
    (message,) = retained(broker, broker.topic)
    assert message.retain


@statement("3.1.1:MQTT-3.3.1-9")
def test_what_an_existing_subscription_brings_is_not_marked_as_retained(broker: Subject) -> None:
    subscriber = broker.client("s")
    subscriber.subscribe(broker.topic)
    broker.client("p").publish(broker.topic, b"live", retain=True)
    message = subscriber.message()
    assert (message.payload, message.retain) == (b"live", False)


@statement("3.1.1:MQTT-3.3.1-10", "5:MQTT-3.3.1-6")
def test_an_empty_retained_message_is_delivered_and_removes_the_last(broker: Subject) -> None:
    subscriber, publisher = broker.client("s"), broker.client("p")
    publisher.publish(broker.topic, b"kept", qos=1, retain=True)
    subscriber.subscribe(broker.topic)
    assert subscriber.message().payload == b"kept"
    publisher.publish(broker.topic, b"", qos=1, retain=True)
    message = subscriber.message()
    assert (message.payload, message.retain) == (b"", False)
    assert payloads(broker) == []


@statement("3.1.1:MQTT-3.3.1-11", "5:MQTT-3.3.1-7")
def test_an_empty_message_is_not_stored(broker: Subject) -> None:
    broker.client("p").publish(broker.topic, b"", qos=1, retain=True)
    assert payloads(broker) == []


@statement("3.1.1:MQTT-3.3.1-12", "5:MQTT-3.3.1-8")
def test_a_message_without_retain_leaves_the_retained_one_alone(broker: Subject) -> None:
    publisher = broker.client("p")
    publisher.publish(f"{broker.topic}/none", b"passing", qos=1)
    publisher.publish(broker.topic, b"kept", qos=1, retain=True)
    publisher.publish(broker.topic, b"passing", qos=1)
    publisher.publish(broker.topic, b"", qos=1)
    assert payloads(broker) == [b"kept"]
    assert retained(broker, f"{broker.topic}/none") == []


def handled(broker: Subject, handling: int) -> Client:
    """A subscriber to a topic with a retained message, with this Retain Handling."""
    broker.client("p").publish(broker.topic, b"kept", qos=1, retain=True)
    subscriber = broker.client("s")
    subscriber.subscribe(Filter(broker.topic, retain_handling=handling))
    return subscriber


@statement("5:MQTT-3.3.1-9")
def test_retain_handling_0_brings_retained_messages_every_time(broker: Subject) -> None:
    subscriber = handled(broker, 0)
    assert subscriber.message().payload == b"kept"
    subscriber.subscribe(Filter(broker.topic, retain_handling=0))
    assert subscriber.message().retain


@statement("5:MQTT-3.3.1-10")
def test_retain_handling_1_brings_retained_messages_the_first_time(broker: Subject) -> None:
    subscriber = handled(broker, 1)
    assert subscriber.message().payload == b"kept"
    subscriber.subscribe(Filter(broker.topic, retain_handling=1))
    subscriber.quiet()
    subscriber.unsubscribe(broker.topic)
    subscriber.subscribe(Filter(broker.topic, retain_handling=1))
    assert subscriber.message().payload == b"kept"


@statement("5:MQTT-3.3.1-11")
def test_retain_handling_2_brings_no_retained_messages(broker: Subject) -> None:
    handled(broker, 2).quiet()


@statement("5:MQTT-3.3.1-12")
def test_without_retain_as_published_the_flag_is_cleared(broker: Subject) -> None:
    subscriber, publisher = broker.client("s"), broker.client("p")
    subscriber.subscribe(Filter(broker.topic, retain_as_published=False))
    for retain in (True, False):
        publisher.publish(broker.topic, b"live", retain=retain)
        assert not subscriber.message().retain


@statement("5:MQTT-3.3.1-13")
def test_with_retain_as_published_the_flag_is_kept(broker: Subject) -> None:
    subscriber, publisher = broker.client("s"), broker.client("p")
    subscriber.subscribe(Filter(broker.topic, retain_as_published=True))
    for retain in (True, False):
        publisher.publish(broker.topic, b"live", retain=retain)
        assert subscriber.message().retain is retain
