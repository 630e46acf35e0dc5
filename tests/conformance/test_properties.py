"""Properties of PUBLISH, on the way through the broker, and topic aliases."""

from __future__ import annotations

import pytest

from tests.conformance import wire
from tests.conformance.client import Client
from tests.conformance.reading import Received
from tests.conformance.scenes import a_second_passes
from tests.conformance.suite import Subject, statement
from tests.conformance.wire import SURROGATE, P, Properties


def forwarded(broker: Subject, properties: Properties) -> list[dict[P, object]]:
    """The properties of a message as two subscribers, one of them absent at first, get them."""
    absent = broker.client("absent", keep=True)
    absent.subscribe(broker.topic, qos=1)
    absent.disconnect()
    present = broker.client("present")
    present.subscribe(broker.topic)
    broker.client("p").publish(broker.topic, qos=1, with_properties=properties)
    return [present.message().properties, broker.client("absent", keep=True).take().properties]


@statement("5:MQTT-3.3.2-4")
def test_the_payload_format_is_forwarded(broker: Subject) -> None:
    for value in (0, 1):
        assert forwarded(broker, {P.PAYLOAD_FORMAT: value}) == [{P.PAYLOAD_FORMAT: value}] * 2


@statement("5:MQTT-3.3.2-15")
def test_the_response_topic_is_forwarded(broker: Subject) -> None:
    asked = {P.RESPONSE_TOPIC: f"{broker.topic}/ä"}
    assert forwarded(broker, asked) == [asked, asked]


@statement("5:MQTT-3.3.2-16")
def test_the_correlation_data_is_forwarded(broker: Subject) -> None:
    asked = {P.CORRELATION_DATA: bytes(range(256))}
    assert forwarded(broker, asked) == [asked, asked]


@statement("5:MQTT-3.3.2-20")
def test_the_content_type_is_forwarded(broker: Subject) -> None:
    asked = {P.CONTENT_TYPE: "text/ä"}
    assert forwarded(broker, asked) == [asked, asked]


@statement("5:MQTT-3.3.2-17")
def test_user_properties_are_forwarded(broker: Subject) -> None:
    asked = {P.USER_PROPERTY: [("name", "value"), ("", ""), ("ä", "ü" * 300)]}
    assert forwarded(broker, asked) == [asked, asked]


@statement("5:MQTT-3.3.2-18")
def test_user_properties_keep_their_order(broker: Subject) -> None:
    pairs = [("b", "1"), ("a", "2"), ("b", "3"), ("a", "1"), ("b", "1")]
    for properties in forwarded(broker, {P.USER_PROPERTY: pairs}):
        assert properties[P.USER_PROPERTY] == pairs


@statement("5:MQTT-3.3.2-13")
def test_a_response_topic_that_is_not_utf8_ends_the_connection(broker: Subject) -> None:
    client = broker.client("c")
    client.send(wire.publish(broker.topic, broker.version, with_properties={P.RESPONSE_TOPIC: SURROGATE}))
    client.refused(0x81, 0x82)


@statement("5:MQTT-3.3.2-14")
def test_a_response_topic_with_wildcards_ends_the_connection(broker: Subject) -> None:
    for number, topic in enumerate(("a/+", "#")):
        client = broker.client(f"c{number}")
        client.send(wire.publish(broker.topic, broker.version, with_properties={P.RESPONSE_TOPIC: topic}))
        client.refused(0x81, 0x82, 0x90)


@statement("5:MQTT-3.3.2-19")
def test_a_content_type_that_is_not_utf8_ends_the_connection(broker: Subject) -> None:
    client = broker.client("c")
    client.send(wire.publish(broker.topic, broker.version, with_properties={P.CONTENT_TYPE: SURROGATE}))
    client.refused(0x81, 0x82)


@pytest.mark.slow
@statement("5:MQTT-3.3.2-5")
def test_an_expired_message_is_not_delivered(broker: Subject) -> None:
    subscriber = broker.client("s", keep=True)
    subscriber.subscribe(broker.topic, qos=1)
    subscriber.disconnect()
    publisher = broker.client("p")
    publisher.publish(broker.topic, b"expires", qos=1, with_properties={P.MESSAGE_EXPIRY: 1})
    publisher.publish(broker.topic, b"lasts", qos=1)
    retained = f"{broker.topic}/retained"
    publisher.publish(retained, b"expires", qos=1, retain=True, with_properties={P.MESSAGE_EXPIRY: 1})
    a_second_passes(broker)
    back = broker.client("s", keep=True)
    assert back.take().payload == b"lasts"
    back.subscribe(retained)
    back.quiet()


@pytest.mark.slow
@statement("5:MQTT-3.3.2-6")
def test_the_time_that_a_message_waited_is_taken_from_its_expiry(broker: Subject) -> None:
    subscriber = broker.client("s", keep=True)
    subscriber.subscribe(f"{broker.topic}/queued", qos=1)
    subscriber.disconnect()
    publisher = broker.client("p")
    for name in ("queued", "retained"):
        properties = {P.MESSAGE_EXPIRY: 100}
        retain = name == "retained"
        publisher.publish(f"{broker.topic}/{name}", b"x", qos=1, retain=retain, with_properties=properties)
    a_second_passes(broker)
    back = broker.client("s", keep=True)
    queued = back.take()
    back.subscribe(f"{broker.topic}/retained")
    for message in (queued, back.message()):
        assert 80 <= message.properties[P.MESSAGE_EXPIRY] < 100


@statement("5:MQTT-3.3.2-7")
def test_topic_aliases_end_with_their_connection(broker: Subject) -> None:
    client = broker.client("c", keep=True)
    alias = {P.TOPIC_ALIAS: 1}
    client.publish(broker.topic, qos=1, with_properties=alias)
    client.disconnect()
    again = broker.client("c", keep=True)
    again.send(wire.publish("", broker.version, with_properties=alias))
    again.refused(0x82, 0x94)


@statement("5:MQTT-3.3.2-8")
def test_topic_alias_0_ends_the_connection(broker: Subject) -> None:
    client = broker.client("c")
    client.send(wire.publish(broker.topic, broker.version, with_properties={P.TOPIC_ALIAS: 0}))
    client.refused()


@statement("5:MQTT-3.3.2-9")
def test_a_topic_alias_above_the_maximum_ends_the_connection(broker: Subject) -> None:
    client = broker.client("c")
    alias = client.connack.properties.get(P.TOPIC_ALIAS_MAXIMUM, 0) + 1
    client.send(wire.publish(broker.topic, broker.version, with_properties={P.TOPIC_ALIAS: alias}))
    client.refused(0x94)


@statement("5:MQTT-3.3.2-12")
def test_all_topic_aliases_up_to_the_maximum_are_accepted(broker: Subject) -> None:
    subscriber, publisher = broker.client("s"), broker.client("p")
    subscriber.subscribe(f"{broker.topic}/#")
    aliases = range(1, publisher.connack.properties[P.TOPIC_ALIAS_MAXIMUM] + 1)
    for alias in aliases:
        publisher.publish(f"{broker.topic}/{alias}", b"named", with_properties={P.TOPIC_ALIAS: alias})
    for alias in aliases:
        publisher.publish("", b"alias", with_properties={P.TOPIC_ALIAS: alias})
    came = [subscriber.message() for _ in (*aliases, *aliases)]
    assert [message.topic for message in came] == [f"{broker.topic}/{alias}" for alias in (*aliases, *aliases)]
    assert all(P.TOPIC_ALIAS not in message.properties for message in came)


def aliased(broker: Subject, maximum: int | None) -> tuple[list[Received], Client]:
    """What a subscriber with this Topic Alias Maximum gets of five topics, each published three times."""
    asked = {} if maximum is None else {P.TOPIC_ALIAS_MAXIMUM: maximum}
    subscriber, publisher = broker.client("s", with_properties=asked), broker.client("p")
    subscriber.subscribe(f"{broker.topic}/#", qos=1)
    for _ in range(3):
        for number in range(5):
            publisher.publish(f"{broker.topic}/{number}", str(number).encode(), qos=1)
    return [subscriber.take() for _ in range(15)], subscriber


@statement("5:MQTT-3.1.2-26", "5:MQTT-3.3.2-11")
def test_the_brokers_topic_aliases_keep_to_the_clients_maximum(broker: Subject) -> None:
    messages, _ = aliased(broker, 2)
    known: dict[int, str] = {}
    for message in messages:
        alias = message.properties.get(P.TOPIC_ALIAS)
        assert alias is None or 1 <= alias <= 2
        if alias and message.topic:
            known[alias] = message.topic
        assert (message.topic or known[alias or 0]) == f"{broker.topic}/{message.payload.decode()}"


@statement("5:MQTT-3.1.2-27")
def test_the_broker_sends_no_topic_alias_unasked(broker: Subject) -> None:
    for maximum in (None, 0):
        messages, _ = aliased(broker, maximum)
        assert all(message.topic and P.TOPIC_ALIAS not in message.properties for message in messages)


@statement("5:MQTT-3.3.4-6")
def test_a_subscription_identifier_from_a_publisher_ends_the_connection(broker: Subject) -> None:
    client = broker.client("c")
    client.send(wire.publish(broker.topic, broker.version, with_properties={P.SUBSCRIPTION_ID: [1]}))
    client.refused(0x81, 0x82)
