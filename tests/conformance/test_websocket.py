"""MQTT over WebSocket."""

from __future__ import annotations

from tests.conformance import wire
from tests.conformance.client import connection
from tests.conformance.suite import Subject, statement
from tests.conformance.websocket import TEXT, WebSocket
from tests.conformance.wire import Kind


def upgraded(broker: Subject) -> WebSocket:
    return WebSocket(connection(broker.address, broker.patience), broker.address[0])


@statement("3.1.1:MQTT-6.0.0-1", "5:MQTT-6.0.0-1", kind="websocket")
def test_packets_are_binary_frames_and_others_end_the_connection(broker: Subject) -> None:
    # The client reads no frames but binary ones.
    carrier = upgraded(broker)
    client = broker.open(carrier)
    assert client.connect(broker.id("c")).reason == 0
    client.ping()
    carrier.send(TEXT, wire.publish(broker.topic, broker.version, b"text"))
    assert [came.kind for came in client.closed()] in ([], [Kind.DISCONNECT])


@statement("3.1.1:MQTT-6.0.0-2", "5:MQTT-6.0.0-2", kind="websocket")
def test_packets_need_not_be_aligned_with_frames(broker: Subject) -> None:
    client = broker.open(upgraded(broker))
    connect = wire.connect(broker.id("c"), broker.version)
    client.send(connect[:1])
    client.send(connect[1:9])
    client.send(connect[9:], wire.packet(Kind.PINGREQ), wire.packet(Kind.PINGREQ)[:1])
    client.expect(Kind.CONNACK)
    client.expect(Kind.PINGRESP)
    client.send(wire.packet(Kind.PINGREQ)[1:])
    client.expect(Kind.PINGRESP)


@statement("3.1.1:MQTT-6.0.0-4", "5:MQTT-6.0.0-4", kind="websocket")
def test_the_subprotocol_is_mqtt(broker: Subject) -> None:
    status, *headers = upgraded(broker).answer.split("\r\n")
    assert " 101 " in status
    fields = dict(header.lower().split(": ", 1) for header in headers)
    assert fields["sec-websocket-protocol"] == "mqtt"
