"""How long sessions last, and how connections end."""

from __future__ import annotations

import pytest

from tests.conformance import wire
from tests.conformance.scenes import a_second_passes, narrow
from tests.conformance.suite import Subject, statement
from tests.conformance.wire import Kind, P, Will


@statement("3.1.1:MQTT-4.1.0-1", "5:MQTT-3.1.2-23")
def test_the_session_state_is_kept_when_the_connection_ends(broker: Subject) -> None:
    client = broker.client("c", keep=True)
    client.subscribe(broker.topic, qos=2)
    publisher = broker.client("p")
    publisher.publish(broker.topic, b"sent", qos=1)
    assert client.message().payload == b"sent"
    client.send(wire.publish(f"{broker.topic}/own", broker.version, qos=2, packet_id=9))
    client.expect(Kind.PUBREC)
    client.break_off()
    publisher.publish(broker.topic, b"queued", qos=2)
    again = broker.client("c", keep=True)
    assert again.connack.session_present
    assert [again.message().payload, again.message().payload] == [b"sent", b"queued"]
    again.acknowledge(Kind.PUBREL, 9)
    assert again.expect(Kind.PUBCOMP).reason == 0


@pytest.mark.slow
@statement("3.1.1:MQTT-4.1.0-2", "5:MQTT-4.1.0-1")
def test_the_session_lasts_at_least_as_long_as_its_connection(broker: Subject) -> None:
    clean = broker.client("c", clean=True)
    brief = broker.client("b", clean=False, with_properties={P.SESSION_EXPIRY: 1})
    for client in (clean, brief):
        client.subscribe(broker.topic, qos=1)
    if broker.v5:
        a_second_passes(broker)
        a_second_passes(broker)
    broker.client("p").publish(broker.topic, b"live", qos=1)
    assert (clean.take().payload, brief.take().payload) == (b"live", b"live")


@pytest.mark.slow
@statement("5:MQTT-4.1.0-2")
def test_the_session_ends_with_its_expiry(broker: Subject) -> None:
    at_once = broker.client("0", clean=True)
    at_once.subscribe(broker.topic, qos=1)
    at_once.disconnect()
    publisher = broker.client("p")
    assert publisher.publish(broker.topic, qos=1).reason == 0x10
    later = broker.client("1", with_properties={P.SESSION_EXPIRY: 1})
    later.subscribe(broker.topic, qos=1)
    later.disconnect()
    assert publisher.publish(broker.topic, qos=1).reason == 0
    # Nobody subscribes to the topic any more when the session has ended.
    a_second_passes(broker)
    a_second_passes(broker)
    assert publisher.publish(broker.topic, qos=1).reason == 0x10
    assert not broker.client("1", keep=True).connack.session_present


@statement("3.1.1:MQTT-4.5.0-1", "5:MQTT-4.5.0-1")
def test_a_message_is_added_to_every_matching_session(broker: Subject) -> None:
    for name in ("one", "two"):
        client = broker.client(name, keep=True)
        client.subscribe(f"{broker.topic}/+" if name == "one" else f"{broker.topic}/a", qos=1)
        client.disconnect()
    live = broker.client("live")
    live.subscribe(f"{broker.topic}/#", qos=1)
    other = broker.client("other")
    other.subscribe(f"{broker.topic}/b")
    broker.client("p").publish(f"{broker.topic}/a", b"for all", qos=1)
    assert live.take().payload == b"for all"
    for name in ("one", "two"):
        assert broker.client(name, keep=True).take().payload == b"for all"
    other.quiet()


@statement("3.1.1:MQTT-3.12.4-1", "5:MQTT-3.12.4-1")
def test_every_pingreq_is_answered(broker: Subject) -> None:
    client = broker.client("c")
    client.send(wire.packet(Kind.PINGREQ), wire.packet(Kind.PINGREQ))
    assert client.expect(Kind.PINGRESP).size == 2
    assert client.expect(Kind.PINGRESP).size == 2


@statement("3.1.1:MQTT-3.14.1-1", "5:MQTT-3.14.1-1")
def test_reserved_flags_of_disconnect_end_the_connection_like_a_failure(broker: Subject) -> None:
    witness = broker.client("w")
    witness.subscribe(broker.topic)
    client = broker.client("c", will=Will(broker.topic, b"failed"))
    client.send(wire.packet(Kind.DISCONNECT, flags=1))
    client.refused(0x81)
    assert witness.message().payload == b"failed"


@statement("5:MQTT-3.14.0-1")
def test_no_disconnect_comes_before_connack(broker: Subject) -> None:
    for packet in (
        wire.connect_of(1, wire.text(broker.id("c")), broker.version),
        wire.packet(Kind.CONNECT),
        wire.packet(Kind.PINGREQ),
        wire.disconnect(broker.version),
    ):
        client = broker.open()
        client.send(packet)
        assert Kind.DISCONNECT not in [came.kind for came in client.closed()]


@statement("5:MQTT-3.14.2-1")
def test_reasons_of_disconnect_are_those_of_the_table(broker: Subject) -> None:
    # The client reads no others.
    reasons: list[int] = []
    for number, packet in enumerate(
        (
            wire.packet(Kind.SUBSCRIBE, flags=0),
            wire.connect(broker.id("again"), broker.version),
            wire.packet(Kind.CONNACK, b"\0\0\0"),
            wire.publish(broker.topic, broker.version, with_properties={P.TOPIC_ALIAS: 0xFFFF}),
            wire.publish("", broker.version),
        )
    ):
        client = broker.client(f"c{number}")
        client.send(packet)
        reasons.extend(goodbye.reason for goodbye in client.closed())
    assert reasons
    assert min(reasons) >= 0x80


@statement("5:MQTT-3.14.2-2")
def test_the_broker_says_nothing_of_the_session_expiry_in_disconnect(broker: Subject) -> None:
    client = broker.client("c", keep=True)
    client.send(wire.packet(Kind.SUBSCRIBE, flags=0))
    assert P.SESSION_EXPIRY not in client.last(Kind.DISCONNECT).properties


@statement("5:MQTT-3.14.2-3")
def test_a_disconnect_fits_the_clients_maximum_packet_size(broker: Subject) -> None:
    client, maximum = narrow(broker)
    client.send(wire.packet(Kind.SUBSCRIBE, flags=0))
    for goodbye in client.closed():
        assert goodbye.size <= maximum


@statement("5:MQTT-3.14.4-1")
def test_nothing_follows_a_disconnect(broker: Subject) -> None:
    client = broker.client("c")
    client.subscribe(broker.topic)
    bad = wire.packet(Kind.SUBSCRIBE, flags=0)
    client.send(bad, wire.packet(Kind.PINGREQ), wire.publish(broker.topic, broker.version, qos=1), bad)
    assert client.last(Kind.DISCONNECT).reason >= 0x80


@statement("5:MQTT-3.14.4-2")
def test_the_connection_is_closed_after_a_disconnect(broker: Subject) -> None:
    client = broker.client("c")
    client.send(wire.publish("", broker.version))
    assert client.expect(Kind.DISCONNECT).reason >= 0x80
    assert client.closed() == []
