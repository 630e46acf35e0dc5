"""CONNACK, and extended authentication, which neither broker offers."""

from __future__ import annotations

from tests.conformance import wire
from tests.conformance.scenes import CLEAN, UNKNOWN_METHOD, payload
from tests.conformance.suite import Subject, statement
from tests.conformance.wire import Kind, P


@statement("3.1.1:MQTT-3.2.0-1", "5:MQTT-3.2.0-1")
def test_connack_comes_before_waiting_messages(broker: Subject) -> None:
    subscriber = broker.client("s", keep=True)
    subscriber.subscribe(broker.topic, qos=1)
    subscriber.disconnect()
    broker.client("p").publish(broker.topic, b"missed", qos=1)
    again = broker.open()
    again.send(
        wire.connect(
            broker.id("s"), broker.version, clean=False, with_properties={P.SESSION_EXPIRY: 3600} if broker.v5 else None
        ),
        wire.packet(Kind.PINGREQ),
    )
    assert again.expect(Kind.CONNACK).reason == 0
    assert {again.receive().kind, again.receive().kind} == {Kind.PUBLISH, Kind.PINGRESP}  # type: ignore[union-attr]


@statement("5:MQTT-3.2.0-2")
def test_there_is_one_connack_in_a_connection(broker: Subject) -> None:
    client = broker.client("c")
    client.send(wire.connect(broker.id("c"), broker.version), wire.connect(broker.id("d"), broker.version))
    assert Kind.CONNACK not in [came.kind for came in client.closed()]


@statement("5:MQTT-3.2.2-1")
def test_reserved_bits_of_connack_are_zero(broker: Subject) -> None:
    # The client reads no others.
    broker.client("c", keep=True).disconnect()
    assert broker.client("c", keep=True).connack.session_present
    broker.open().connect(broker.id("c"), with_properties=UNKNOWN_METHOD)


@statement("3.1.1:MQTT-3.2.2-1", "5:MQTT-3.2.2-2")
def test_no_session_is_present_after_a_clean_start(broker: Subject) -> None:
    broker.client("c", keep=True).disconnect()
    assert not broker.client("c", clean=True).connack.session_present


@statement("3.1.1:MQTT-3.2.2-2", "5:MQTT-3.2.2-3")
def test_a_kept_session_is_said_to_be_present(broker: Subject) -> None:
    assert not broker.client("c", keep=True).connack.session_present
    assert broker.client("c", keep=True).connack.session_present


@statement("3.1.1:MQTT-3.2.2-3")
def test_no_session_is_present_where_none_was_kept(broker: Subject) -> None:
    assert not broker.client("c", keep=True).connack.session_present
    broker.client("d", clean=True).disconnect()
    assert not broker.client("d", keep=True).connack.session_present


@statement("3.1.1:MQTT-3.2.2-4", "5:MQTT-3.2.2-6")
def test_a_refusal_says_that_no_session_is_present(broker: Subject) -> None:
    broker.client("c", keep=True).disconnect()
    client = broker.open()
    if broker.v5:
        connack = client.connect(broker.id("c"), keep=True, with_properties=UNKNOWN_METHOD)
    else:
        connack = client.connect("", clean=False)
    assert connack.reason != 0
    assert not connack.session_present


@statement("3.1.1:MQTT-3.2.2-5", "5:MQTT-3.2.2-7")
def test_a_refusal_ends_the_connection(broker: Subject) -> None:
    client = broker.open()
    connack = client.connect("", clean=False, with_properties=UNKNOWN_METHOD)
    assert connack.reason != 0
    assert client.closed() == []


@statement("5:MQTT-3.2.2-8")
def test_connack_reasons_are_those_of_the_table(broker: Subject) -> None:
    # The client reads no others.
    assert broker.open().connect(broker.id("c")).reason == 0
    assert broker.open().connect(broker.id("c"), with_properties=UNKNOWN_METHOD).reason in (0x8C, 0x87)
    malformed = broker.open()
    malformed.send(wire.connect_of(CLEAN | 1, payload(broker), broker.version))
    for came in malformed.closed():
        assert came.reason in (0x81, 0x82)


@statement("5:MQTT-3.2.2-9")
def test_the_highest_qos_is_told_where_it_is_not_2(broker: Subject) -> None:
    client = broker.client("c")
    highest = client.connack.properties.get(P.MAXIMUM_QOS, 2)
    for qos in range(highest + 1):
        assert client.publish(broker.topic, qos=qos)


@statement("5:MQTT-3.2.2-10")
def test_subscriptions_of_any_qos_are_accepted(broker: Subject) -> None:
    client = broker.client("c")
    for qos in (0, 1, 2):
        assert client.subscribe(f"{broker.topic}/{qos}", qos=qos).reason <= qos


@statement("5:MQTT-3.2.2-19")
def test_a_refusal_fits_the_clients_maximum_packet_size(broker: Subject) -> None:
    client = broker.open()
    connack = client.connect(broker.id("c"), with_properties={**UNKNOWN_METHOD, P.MAXIMUM_PACKET_SIZE: 12})
    assert connack.reason != 0
    assert connack.size <= 12


@statement("5:MQTT-3.1.2-28")
def test_response_information_comes_only_where_it_is_asked_for(broker: Subject) -> None:
    for number, asked in enumerate(({}, {P.REQUEST_RESPONSE_INFORMATION: 0})):
        connack = broker.client(f"c{number}", with_properties=asked).connack
        assert P.RESPONSE_INFORMATION not in connack.properties


@statement("5:MQTT-4.12.0-1")
def test_an_unknown_authentication_method_is_refused(broker: Subject) -> None:
    client = broker.open()
    assert client.connect(broker.id("c"), with_properties=UNKNOWN_METHOD).reason in (0x8C, 0x87)
    assert client.closed() == []


@statement("5:MQTT-4.12.0-6")
def test_without_a_method_there_is_no_authentication_exchange(broker: Subject) -> None:
    client = broker.client("c", username="user", password=b"password")
    assert P.AUTHENTICATION_METHOD not in client.connack.properties
    client.quiet()


@statement("5:MQTT-4.12.0-7")
def test_auth_without_a_method_ends_the_connection(broker: Subject) -> None:
    client = broker.client("c")
    client.send(wire.packet(Kind.AUTH, b"\x19" + wire.properties(UNKNOWN_METHOD, broker.version)))
    client.refused(0x82)
    client = broker.client("d")
    client.send(wire.packet(Kind.AUTH))
    client.refused(0x82)


@statement("5:MQTT-3.15.1-1")
def test_reserved_flags_of_auth_end_the_connection(broker: Subject) -> None:
    client = broker.client("c")
    client.send(wire.packet(Kind.AUTH, flags=1))
    client.refused(0x81, 0x82)
