"""The will: when it is published, and as what."""

from __future__ import annotations

import pytest

from tests.conformance import wire
from tests.conformance.client import Client
from tests.conformance.scenes import CLEAN, WILL, WILL_RETAIN, payload, refuses
from tests.conformance.suite import Subject, statement
from tests.conformance.wire import Kind, P, Will

DELAYED = {P.WILL_DELAY: 1}


def witness(broker: Subject, qos: int = 0) -> Client:
    """A subscriber of the test's topic."""
    client = broker.client("w")
    client.subscribe(f"{broker.topic}/#", qos=qos)
    return client


@statement("3.1.1:MQTT-3.1.2-8", "5:MQTT-3.1.2-7")
def test_the_will_is_published_when_the_connection_fails(broker: Subject) -> None:
    seen = witness(broker)
    will = Will(f"{broker.topic}/will", b"gone")
    broker.client("reset", will=will).abort()
    assert seen.message().payload == b"gone"
    broker.client("malformed", will=will).break_off()
    assert seen.message().payload == b"gone"
    closed = broker.client("closed", will=will)
    seen.quiet()
    closed.close()
    assert seen.message().payload == b"gone"


@pytest.mark.slow
@statement("5:MQTT-3.1.2-8")
def test_the_will_is_published_after_its_delay_or_at_the_end_of_the_session(broker: Subject) -> None:
    seen = witness(broker)
    broker.client("d", keep=True, will=Will(f"{broker.topic}/delay", properties=DELAYED)).break_off()
    seen.quiet()
    assert seen.expect(Kind.PUBLISH, broker.patience + 1).topic == f"{broker.topic}/delay"
    ends = Will(f"{broker.topic}/session", properties={P.WILL_DELAY: 600})
    broker.client("e", will=ends, with_properties={P.SESSION_EXPIRY: 1}).break_off()
    seen.quiet()
    assert seen.expect(Kind.PUBLISH, broker.patience + 1).topic == f"{broker.topic}/session"
    broker.client("f", will=Will(f"{broker.topic}/asked")).disconnect(0x04)
    assert seen.message().topic == f"{broker.topic}/asked"
    broker.client("g", will=Will(f"{broker.topic}/normal")).disconnect()
    seen.quiet()


@statement("3.1.1:MQTT-3.1.2-9", "5:MQTT-3.1.2-9")
def test_a_will_flag_asks_for_topic_and_payload(broker: Subject) -> None:
    no_properties = wire.properties(None, broker.version)
    start = payload(broker)
    refuses(
        broker,
        wire.connect_of(CLEAN | WILL, start, broker.version),
        wire.connect_of(CLEAN | WILL, start + no_properties + wire.text(broker.topic), broker.version),
    )
    seen = witness(broker, qos=1)
    broker.client("c", will=Will(f"{broker.topic}/will", b"complete", qos=1)).break_off()
    message = seen.take()
    assert (message.payload, message.qos) == (b"complete", 1)


@statement("3.1.1:MQTT-3.1.2-10", "5:MQTT-3.1.2-10")
def test_a_will_is_published_once(broker: Subject) -> None:
    seen = witness(broker)
    broker.client("c", keep=True, will=Will(f"{broker.topic}/will")).break_off()
    seen.message()
    broker.client("c", keep=True).break_off()
    seen.quiet()
    broker.client("d", keep=True, will=Will(f"{broker.topic}/will")).disconnect()
    broker.client("d", keep=True).break_off()
    seen.quiet()


@statement("3.1.1:MQTT-3.1.2-11")
def test_will_fields_without_the_will_flag_are_refused(broker: Subject) -> None:
    refuses(
        broker,
        wire.connect_of(CLEAN | 0x08, payload(broker), broker.version),
        wire.connect_of(CLEAN | WILL_RETAIN, payload(broker), broker.version),
        wire.connect_of(CLEAN, payload(broker, broker.topic, "payload"), broker.version),
    )


@statement("3.1.1:MQTT-3.1.2-12")
def test_without_a_will_nothing_is_published(broker: Subject) -> None:
    seen = witness(broker)
    broker.client("c").break_off()
    seen.quiet()


@statement("3.1.1:MQTT-3.1.2-13", "5:MQTT-3.1.2-11")
def test_a_will_qos_without_the_will_flag_is_refused(broker: Subject) -> None:
    refuses(broker, *(wire.connect_of(CLEAN | qos << 3, payload(broker), broker.version) for qos in (1, 2)))


@statement("3.1.1:MQTT-3.1.2-14", "5:MQTT-3.1.2-12")
def test_a_will_has_qos_0_1_or_2(broker: Subject) -> None:
    seen = witness(broker, qos=2)
    for qos in (0, 1, 2):
        broker.client(f"c{qos}", will=Will(f"{broker.topic}/will", qos=qos)).break_off()
        assert seen.take().qos == qos
    refuses(broker, wire.connect(broker.id("c"), broker.version, will=Will(f"{broker.topic}/will", qos=3)))


@statement("3.1.1:MQTT-3.1.2-15", "5:MQTT-3.1.2-13")
def test_a_will_retain_without_the_will_flag_is_refused(broker: Subject) -> None:
    refuses(broker, wire.connect_of(CLEAN | WILL_RETAIN, payload(broker), broker.version))


@statement("3.1.1:MQTT-3.1.2-16", "5:MQTT-3.1.2-14")
def test_a_will_that_is_not_to_be_retained_is_not(broker: Subject) -> None:
    seen = witness(broker)
    broker.client("c", will=Will(f"{broker.topic}/will")).break_off()
    seen.message()
    late = broker.client("late")
    late.subscribe(f"{broker.topic}/will")
    late.quiet()


@statement("3.1.1:MQTT-3.1.2-17", "5:MQTT-3.1.2-15")
def test_a_will_that_is_to_be_retained_is(broker: Subject) -> None:
    seen = witness(broker)
    broker.client("c", will=Will(f"{broker.topic}/will", b"gone", retain=True)).break_off()
    seen.message()
    late = broker.client("late")
    late.subscribe(f"{broker.topic}/will")
    message = late.message()
    assert (message.payload, message.retain) == (b"gone", True)


@pytest.mark.slow
@statement("5:MQTT-3.1.3-9")
def test_a_client_that_is_back_in_time_takes_its_will_back(broker: Subject) -> None:
    seen = witness(broker)
    will = Will(f"{broker.topic}/will", b"first", properties=DELAYED)
    broker.client("c", keep=True, will=will).break_off()
    back = broker.client("c", keep=True)
    taken_over = broker.client("d", keep=True, will=will)
    broker.client("d", keep=True)
    taken_over.closed()
    # This one is published after the same delay, when the others would have been.
    broker.client("e", keep=True, will=will._replace(payload=b"last")).break_off()
    assert seen.expect(Kind.PUBLISH, broker.patience + 1).payload == b"last"
    seen.quiet()
    back.quiet()


@statement("5:MQTT-3.1.3-10")
def test_user_properties_of_a_will_keep_their_order(broker: Subject) -> None:
    seen = witness(broker)
    pairs = [("b", "1"), ("a", "2"), ("b", "3"), ("a", "1")]
    broker.client("c", will=Will(f"{broker.topic}/will", properties={P.USER_PROPERTY: pairs})).break_off()
    assert seen.message().properties[P.USER_PROPERTY] == pairs


@statement("3.1.1:MQTT-3.14.4-3", "5:MQTT-3.14.4-3")
def test_a_disconnect_discards_the_will(broker: Subject) -> None:
    seen = witness(broker)
    broker.client("c", will=Will(f"{broker.topic}/will")).disconnect()
    seen.quiet()
