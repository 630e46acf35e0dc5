"""Shared subscriptions."""

from __future__ import annotations

from tests.conformance.client import Client
from tests.conformance.scenes import invalid
from tests.conformance.suite import Subject, statement
from tests.conformance.wire import Kind


def members(broker: Subject, count: int, qos: int = 1) -> list[Client]:
    """Clients that share one subscription, with sessions that last."""
    clients = [broker.client(f"m{number}", keep=True) for number in range(count)]
    for client in clients:
        assert client.subscribe(f"$share/group/{broker.topic}", qos=qos).reason == qos
    return clients


@statement("5:MQTT-4.8.2-1")
def test_a_share_needs_a_name(broker: Subject) -> None:
    one, other = members(broker, 2)
    publisher = broker.client("p")
    for number in range(4):
        publisher.publish(broker.topic, str(number).encode(), qos=1)
    came = []
    for client in (one, other):
        client.ping()
        client.ping()
        while client.pending:
            came.append(client.take().payload)
    assert sorted(came) == [b"0", b"1", b"2", b"3"]
    invalid(broker, f"$share//{broker.topic}", "$share//")


@statement("5:MQTT-4.8.2-2")
def test_a_share_name_is_one_level_without_wildcards_before_a_filter(broker: Subject) -> None:
    t = broker.topic
    invalid(broker, f"$share/a+/{t}", f"$share/#/{t}", f"$share/+/{t}", "$share/name/", "$share/name")
    client = broker.client("c")
    assert client.subscribe(f"$share/näme/{t}/+/#").reason == 0
    broker.client("p").publish(f"{t}/a/b")
    assert client.message().topic == f"{t}/a/b"


@statement("5:MQTT-4.8.2-3")
def test_the_qos_granted_to_a_member_counts(broker: Subject) -> None:
    publisher = broker.client("p")
    for qos in (0, 1, 2):
        (member,) = members(broker, 1, qos)
        publisher.publish(broker.topic, qos=2)
        assert member.take().qos == qos
        member.unsubscribe(f"$share/group/{broker.topic}")


@statement("5:MQTT-4.8.2-4")
def test_a_member_that_comes_back_gets_its_qos_2_message_complete(broker: Subject) -> None:
    first = members(broker, 1, 2)[0]
    broker.client("p").publish(broker.topic, b"once", qos=2)
    packet_id = first.message().packet_id
    other = broker.client("m1", keep=True)
    other.subscribe(f"$share/group/{broker.topic}", qos=2)
    first.break_off()
    other.quiet()
    again = broker.client("m0", keep=True)
    message = again.message()
    assert (message.packet_id, message.payload, message.dup) == (packet_id, b"once", True)
    again.acknowledge(Kind.PUBREC, packet_id)
    assert again.expect(Kind.PUBREL).packet_id == packet_id
    other.quiet()


@statement("5:MQTT-4.8.2-5")
def test_a_qos_2_message_ends_with_the_session_of_its_member(broker: Subject) -> None:
    first = members(broker, 1, 2)[0]
    broker.client("p").publish(broker.topic, b"once", qos=2)
    first.message()
    other = broker.client("m1", keep=True)
    other.subscribe(f"$share/group/{broker.topic}", qos=2)
    first.break_off()
    broker.client("m0", clean=True).quiet()
    other.quiet()


@statement("5:MQTT-4.8.2-6")
def test_a_message_that_a_member_refuses_goes_to_nobody_else(broker: Subject) -> None:
    one, other = members(broker, 2, 2)
    publisher = broker.client("p")
    for qos, kind in ((1, Kind.PUBACK), (2, Kind.PUBREC)):
        publisher.publish(broker.topic, qos=qos)
        for client in (one, other):
            client.ping()
            client.ping()
        (taker,) = [client for client in (one, other) if client.pending]
        taker.acknowledge(kind, taker.message().packet_id, 0x83)
        one.quiet()
        other.quiet()
