"""CONNECT: what is valid, who is who, and which session a client gets."""

from __future__ import annotations

import pytest

from tests.conformance import wire
from tests.conformance.brokers import KNOWN_PASSWORD, KNOWN_USER
from tests.conformance.scenes import CLEAN, PASSWORD, UNKNOWN_METHOD, USERNAME, WILL, payload, refuses
from tests.conformance.suite import Subject, statement
from tests.conformance.wire import SURROGATE, Kind, P, Will


def refused_in_any_version(broker: Subject, connect: bytes) -> None:
    """Nothing comes, or a CONNACK of MQTT 3.1.1 or 5 that refuses the version; the connection is closed."""
    client = broker.open()
    client.send(connect)
    assert client.rest() in (b"", b"\x20\x02\0\x01", b"\x20\x03\0\x84\0")


@statement("3.1.1:MQTT-3.1.0-1", "5:MQTT-3.1.0-1")
def test_a_first_packet_other_than_connect_ends_the_connection(broker: Subject) -> None:
    for packet in (wire.packet(Kind.PINGREQ), wire.publish(broker.topic, broker.version)):
        client = broker.open()
        client.send(packet)
        assert client.closed() == []


@statement("3.1.1:MQTT-3.1.0-2", "5:MQTT-3.1.0-2")
def test_a_second_connect_ends_the_connection(broker: Subject) -> None:
    client = broker.client("c")
    client.send(wire.connect(broker.id("c"), broker.version))
    client.refused(0x82)


@statement("3.1.1:MQTT-3.1.2-1", "5:MQTT-3.1.2-1")
def test_a_protocol_of_another_name_is_refused(broker: Subject) -> None:
    for name in ("MQIsdp", "MQTTX", "mqtt"):
        refused_in_any_version(broker, wire.connect_of(CLEAN, payload(broker), broker.version, protocol=name))


@statement("3.1.1:MQTT-3.1.2-2")
def test_an_unknown_protocol_level_is_answered_with_return_code_1(broker: Subject) -> None:
    client = broker.open()
    client.send(wire.connect_of(CLEAN, payload(broker), 6))
    assert client.last(Kind.CONNACK).reason == 1


@statement("5:MQTT-3.1.2-2")
def test_an_unknown_protocol_version_is_refused(broker: Subject) -> None:
    for version in (3, 6):
        refused_in_any_version(broker, wire.connect_of(CLEAN, payload(broker), version))


@statement("3.1.1:MQTT-3.1.2-3", "5:MQTT-3.1.2-3")
def test_the_reserved_connect_flag_is_refused(broker: Subject) -> None:
    refuses(broker, wire.connect_of(CLEAN | 1, payload(broker), broker.version))


@statement("3.1.1:MQTT-3.1.2-6", "5:MQTT-3.1.2-4")
def test_a_clean_start_discards_the_session(broker: Subject) -> None:
    subscriber = broker.client("s", keep=True)
    subscriber.subscribe(broker.topic, qos=1)
    subscriber.disconnect()
    publisher = broker.client("p")
    publisher.publish(broker.topic, b"before", qos=1)
    fresh = broker.client("s", clean=True)
    publisher.publish(broker.topic, b"after", qos=1)
    fresh.quiet()
    fresh.disconnect()
    again = broker.client("s", keep=True)
    assert not again.connack.session_present
    again.quiet()


@statement("3.1.1:MQTT-3.1.2-4", "5:MQTT-3.1.2-5")
def test_a_session_is_resumed_with_its_subscriptions_and_messages(broker: Subject) -> None:
    subscriber = broker.client("s", keep=True)
    assert not subscriber.connack.session_present
    subscriber.subscribe(broker.topic, qos=1)
    subscriber.disconnect()
    publisher = broker.client("p")
    publisher.publish(broker.topic, b"missed", qos=1)
    resumed = broker.client("s", keep=True)
    assert resumed.take().payload == b"missed"
    publisher.publish(broker.topic, b"live", qos=1)
    assert resumed.take().payload == b"live"


@statement("3.1.1:MQTT-3.1.2-5")
def test_qos_1_and_2_wait_for_an_absent_client(broker: Subject) -> None:
    subscriber = broker.client("s", keep=True)
    subscriber.subscribe(f"{broker.topic}/+", qos=2)
    subscriber.disconnect()
    publisher = broker.client("p")
    for qos in (1, 2):
        publisher.publish(f"{broker.topic}/{qos}", b"missed", qos=qos)
    resumed = broker.client("s", keep=True)
    assert [resumed.take().qos for _ in range(2)] == [1, 2]


@statement("5:MQTT-3.1.2-6")
def test_without_a_session_a_new_one_begins(broker: Subject) -> None:
    client = broker.client("c", clean=False)
    assert not client.connack.session_present
    assert client.subscribe(broker.topic, qos=1).reason == 1
    broker.client("p").publish(broker.topic, qos=1)
    client.take()


@statement("3.1.1:MQTT-3.1.2-7")
def test_retained_messages_outlive_the_session(broker: Subject) -> None:
    publisher = broker.client("p", keep=True)
    publisher.publish(broker.topic, b"kept", qos=1, retain=True)
    publisher.disconnect()
    broker.client("p", clean=True).disconnect()
    subscriber = broker.client("s")
    subscriber.subscribe(broker.topic)
    assert subscriber.message().payload == b"kept"


@statement("3.1.1:MQTT-3.1.2-18", "5:MQTT-3.1.2-16")
def test_a_user_name_without_its_flag_is_refused(broker: Subject) -> None:
    refuses(broker, wire.connect_of(CLEAN, payload(broker, "somebody"), broker.version))


@statement("3.1.1:MQTT-3.1.2-19", "5:MQTT-3.1.2-17")
def test_a_user_name_flag_without_a_name_is_refused(broker: Subject) -> None:
    refuses(broker, wire.connect_of(CLEAN | USERNAME, payload(broker), broker.version))


@statement("3.1.1:MQTT-3.1.2-20", "5:MQTT-3.1.2-18")
def test_a_password_without_its_flag_is_refused(broker: Subject) -> None:
    refuses(broker, wire.connect_of(CLEAN | USERNAME, payload(broker, "somebody", "secret"), broker.version))


@statement("3.1.1:MQTT-3.1.2-21", "5:MQTT-3.1.2-19")
def test_a_password_flag_without_a_password_is_refused(broker: Subject) -> None:
    refuses(broker, wire.connect_of(CLEAN | USERNAME | PASSWORD, payload(broker, "somebody"), broker.version))


@statement("3.1.1:MQTT-3.1.2-22")
def test_a_password_without_a_user_name_is_refused(broker: Subject) -> None:
    refuses(broker, wire.connect_of(CLEAN | PASSWORD, payload(broker, "secret"), broker.version))


@pytest.mark.slow
@statement("3.1.1:MQTT-3.1.2-24", "5:MQTT-3.1.2-22")
def test_a_silent_client_is_disconnected_after_one_and_a_half_keepalives(broker: Subject) -> None:
    witness = broker.client("w")
    witness.subscribe(broker.topic)
    client = broker.client("c", keepalive=1, will=Will(broker.topic, b"lost"))
    client.refused(0x8D, patience=broker.patience + 1.5)
    # As if the network had failed: the will is published.
    assert witness.message().payload == b"lost"


@pytest.mark.slow
@statement("5:MQTT-3.2.2-22")
def test_the_keepalive_is_the_clients_where_the_broker_names_none(broker: Subject) -> None:
    unlimited, silent = broker.client("u", keepalive=0), broker.client("s", keepalive=1)
    assert P.SERVER_KEEPALIVE not in silent.connack.properties
    silent.closed(patience=broker.patience + 1.5)
    unlimited.ping()


@statement("3.1.1:MQTT-3.1.3-1", "5:MQTT-3.1.3-1")
def test_the_payload_of_connect_is_read_in_its_order(broker: Subject) -> None:
    witness = broker.client("w")
    witness.subscribe(f"{broker.topic}/#")
    will = Will(f"{broker.topic}/will", b"message")
    client = broker.client("c", will=will, username="user", password=b"password")
    client.break_off()
    message = witness.message()
    assert (message.topic, message.payload) == (will.topic, will.payload)


@statement("3.1.1:MQTT-3.1.3-2", "5:MQTT-3.1.3-2")
def test_a_session_belongs_to_its_client_id(broker: Subject) -> None:
    one = broker.client("one", keep=True)
    one.subscribe(broker.topic, qos=1)
    one.disconnect()
    other = broker.client("other", keep=True)
    broker.client("p").publish(broker.topic, b"for one", qos=1)
    assert not other.connack.session_present
    other.quiet()
    again = broker.client("one", keep=True)
    assert again.take().payload == b"for one"


@statement("3.1.1:MQTT-3.1.3-3", "5:MQTT-3.1.3-3")
def test_a_connect_without_a_client_id_field_is_refused(broker: Subject) -> None:
    refuses(broker, wire.connect_of(CLEAN, b"", broker.version))


@statement("3.1.1:MQTT-3.1.3-4", "5:MQTT-3.1.3-4")
def test_a_client_id_that_is_not_utf8_is_refused(broker: Subject) -> None:
    refuses(broker, wire.connect(SURROGATE, broker.version), wire.connect(b"a\xff", broker.version))


@statement("3.1.1:MQTT-3.1.3-5", "5:MQTT-3.1.3-5")
def test_client_ids_of_23_letters_and_digits_are_accepted(broker: Subject) -> None:
    letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    for client_id in ("c", letters[:23], letters[23:46], letters[39:]):
        assert broker.open().connect(client_id).reason == 0


@statement("3.1.1:MQTT-3.1.3-6", "5:MQTT-3.1.3-6")
def test_clients_without_an_id_get_one_each(broker: Subject) -> None:
    one, other = broker.open(), broker.open()
    assert one.connect("").reason == 0
    assert other.connect("").reason == 0
    one.subscribe(broker.topic)
    broker.client("p").publish(broker.topic, b"for one")
    assert one.message().payload == b"for one"
    other.quiet()


@statement("3.1.1:MQTT-3.1.3-7", "3.1.1:MQTT-3.1.3-8", "3.1.1:MQTT-3.1.3-9")
def test_no_client_id_and_a_session_to_keep_is_answered_with_return_code_2(broker: Subject) -> None:
    client = broker.open()
    assert client.connect("", clean=False).reason == 2
    assert client.closed() == []


@statement("5:MQTT-3.1.3-7")
def test_an_assigned_client_id_is_told_and_counts_like_any_other(broker: Subject) -> None:
    client = broker.open()
    assigned = client.connect("", keep=True).properties.get(P.ASSIGNED_CLIENT_ID)
    assert assigned
    client.subscribe(broker.topic, qos=1)
    client.disconnect()
    broker.client("p").publish(broker.topic, b"missed", qos=1)
    again = broker.open()
    connack = again.connect(assigned, keep=True)
    assert connack.session_present
    assert P.ASSIGNED_CLIENT_ID not in connack.properties
    assert again.take().payload == b"missed"


@statement("5:MQTT-3.2.2-16")
def test_an_assigned_client_id_is_nobody_elses(broker: Subject) -> None:
    assigned = {broker.open().connect("").properties.get(P.ASSIGNED_CLIENT_ID) for _ in range(5)}
    assert len(assigned) == 5
    assert not assigned & {"", None}


@statement("3.1.1:MQTT-3.1.3-10", "5:MQTT-3.1.3-11")
def test_a_will_topic_that_is_not_utf8_is_refused(broker: Subject) -> None:
    refuses(broker, wire.connect(broker.id("c"), broker.version, will=Will(SURROGATE)))


@statement("3.1.1:MQTT-3.1.3-11", "5:MQTT-3.1.3-12")
def test_a_user_name_that_is_not_utf8_is_refused(broker: Subject) -> None:
    refuses(broker, wire.connect(broker.id("c"), broker.version, username=SURROGATE))


@statement("3.1.1:MQTT-3.1.4-1", "5:MQTT-3.1.4-1")
def test_a_malformed_connect_ends_the_connection(broker: Subject) -> None:
    valid = wire.connect(broker.id("c"), broker.version, username="somebody")
    head = valid[2:]
    refuses(
        broker,
        wire.packet(Kind.CONNECT),
        wire.packet(Kind.CONNECT, head[:7]),
        wire.packet(Kind.CONNECT, head[:-1]),
        wire.packet(Kind.CONNECT, head + b"\0"),
        wire.packet(Kind.CONNECT, head, flags=1),
    )


@statement("3.1.1:MQTT-3.2.2-6")
def test_what_no_return_code_says_gets_no_connack(broker: Subject) -> None:
    for connect in (
        wire.connect_of(CLEAN | 1, payload(broker), broker.version),
        wire.connect_of(CLEAN | WILL, payload(broker), broker.version),
        wire.connect_of(CLEAN | WILL | 0x18, payload(broker, "will", "payload"), broker.version),
        wire.connect_of(CLEAN | PASSWORD, payload(broker, "secret"), broker.version),
    ):
        client = broker.open()
        client.send(connect)
        assert client.closed() == []


@statement("3.1.1:MQTT-3.1.4-2", "5:MQTT-3.1.4-3")
def test_a_client_that_comes_twice_is_disconnected_at_its_older_connection(broker: Subject) -> None:
    older = broker.client("c")
    newer = broker.client("c")
    came = older.closed()
    assert [packet.reason for packet in came] == ([0x8E] if broker.v5 else [])
    newer.ping()


@statement("3.1.1:MQTT-3.1.4-3", "5:MQTT-3.1.4-4")
def test_a_take_over_with_a_clean_start_discards_the_session(broker: Subject) -> None:
    older = broker.client("c", keep=True)
    older.subscribe(broker.topic, qos=1)
    newer = broker.client("c", clean=True)
    older.closed()
    assert not newer.connack.session_present
    broker.client("p").publish(broker.topic, qos=1)
    newer.quiet()


@statement("5:MQTT-3.1.3-8", kind="guarded")
def test_a_client_id_that_is_refused_ends_the_connection(broker: Subject) -> None:
    client = broker.open()
    refusal = client.connect(broker.id("/+"), username=KNOWN_USER, password=KNOWN_PASSWORD).reason
    if refusal:  # which no broker has to
        assert refusal == 0x85
        assert client.closed() == []


@statement("5:MQTT-3.1.4-2", kind="guarded")
def test_a_client_that_fails_a_further_check_is_disconnected(broker: Subject) -> None:
    assert broker.open().connect(broker.id("c"), username=KNOWN_USER, password=KNOWN_PASSWORD).reason == 0
    for name, password in ((KNOWN_USER, b"wrong"), ("nobody", KNOWN_PASSWORD), (None, None)):
        client = broker.open()
        assert client.connect(broker.id("c"), username=name, password=password).reason in (0x86, 0x87)
        assert client.closed() == []


@statement("3.1.1:MQTT-3.1.4-4", "5:MQTT-3.1.4-5")
def test_a_valid_connect_is_answered_with_success(broker: Subject) -> None:
    will = Will(broker.topic, b"will", qos=1, retain=True)
    connack = broker.open().connect(broker.id("c"), keepalive=60, will=will, username="user", password=b"password")
    assert connack.reason == 0


@statement("3.1.1:MQTT-3.1.4-5", "5:MQTT-3.1.4-6")
def test_nothing_after_a_refused_connect_is_handled(broker: Subject) -> None:
    witness = broker.client("w")
    witness.subscribe(f"{broker.topic}/#")
    refused = broker.open()
    unknown, client_id = ({"with_properties": UNKNOWN_METHOD}, "c") if broker.v5 else ({"clean": False}, "")
    refused.send(
        wire.connect(client_id, broker.version, **unknown),
        wire.publish(f"{broker.topic}/refused", broker.version),
        wire.packet(Kind.PINGREQ),
    )
    assert refused.last(Kind.CONNACK).reason != 0
    witness.quiet()
