"""What tests of several modules do first."""

from __future__ import annotations

from tests.conformance import wire
from tests.conformance.client import Client
from tests.conformance.reading import Received
from tests.conformance.suite import Subject
from tests.conformance.wire import Filter, Kind, P

CLEAN, WILL, WILL_RETAIN, PASSWORD, USERNAME = 0x02, 0x04, 0x20, 0x40, 0x80
UNKNOWN_METHOD = {P.AUTHENTICATION_METHOD: "none such"}
"""What every broker refuses that offers no extended authentication."""


def payload(broker: Subject, *fields: wire.Text, name: str = "c") -> bytes:
    """A CONNECT payload: client id, then the fields."""
    return b"".join(map(wire.text, (broker.id(name), *fields)))


def refuses(broker: Subject, *packets: bytes) -> None:
    """Each of these CONNECTs gets no success, and its connection is closed."""
    for connect in packets:
        client = broker.open()
        client.send(connect)
        for came in client.closed():
            assert came.kind is Kind.CONNACK
            assert came.reason != 0


def a_second_passes(broker: Subject) -> None:
    """Wait, by the broker's own clock, until it publishes a will that it had to hold back for one second."""
    witness = broker.client("clock")
    witness.subscribe(f"{broker.topic}/clock")
    dying = broker.client("dying", keep=True, will=wire.Will(f"{broker.topic}/clock", properties={P.WILL_DELAY: 1}))
    dying.break_off()
    witness.expect(Kind.PUBLISH, broker.patience + 1)


def narrow(broker: Subject) -> tuple[Client, int]:
    """A client with the smallest Maximum Packet Size that its CONNACK fits, and that size."""
    maximum = broker.client("n", with_properties={P.MAXIMUM_PACKET_SIZE: 0xFFFFFFFF}).connack.size
    return broker.client("n", with_properties={P.MAXIMUM_PACKET_SIZE: maximum}), maximum


def invalid(broker: Subject, *filters: str) -> None:
    """A subscription to each of them fails, or ends the connection."""
    for number, topic_filter in enumerate(filters):
        client = broker.client(f"i{number}")
        client.send(wire.subscribe([Filter(topic_filter)], broker.version))
        answer = client.receive()
        if answer and answer.kind is Kind.SUBACK:
            assert answer.reason >= 0x80, topic_filter
        elif answer:
            assert (answer.kind, answer.reason >= 0x80) == (Kind.DISCONNECT, True)


def waiting(broker: Subject, *qos: int) -> Client:
    """A subscriber with a kept session that has been sent messages of these QoS and acknowledged none of them."""
    subscriber = broker.client("s", keep=True)
    subscriber.subscribe(broker.topic, qos=2)
    publisher = broker.client("p")
    for number, each in enumerate(qos):
        publisher.publish(broker.topic, str(number).encode(), qos=each)
    return subscriber


def back(broker: Subject) -> Client:
    """The subscriber's next connection."""
    client = broker.client("s", keep=True)
    assert client.connack.session_present
    return client


def gist(message: Received) -> tuple[int, int, bool, bytes]:
    """Packet identifier, QoS, DUP and payload."""
    return message.packet_id, message.qos, message.dup, message.payload
