"""Attacks by name: packets that break MQTT. Each ends its own connection with the right reason, and nothing else."""

from __future__ import annotations

import asyncio
from itertools import product

import pytest

from broker.fields import varint
from broker.packet_encoder import encode
from broker.packets import V5, V311, Connack, Connect, Pingreq, Pingresp, Suback
from broker.reasons import Reason
from tests.broker.raw import connected, open_client
from tests.broker.serving import VERSIONS, reasons
from tests.broker.siege import besieged, packet, string

SURROGATE, NUL, OVERLONG, CUT = b"a\xed\xa0\x80", b"a\0b", b"a\xc0\xaf", b"a\xe2\x82"
NOT_UTF8 = {"surrogate": SURROGATE, "U+0000": NUL, "overlong": OVERLONG, "cut": CUT}
ID = b"\0\1"


def publishing(topic: bytes, version: int, first: int = 0x30, properties: bytes = b"") -> bytes:
    """A PUBLISH of anything; with packet id 1 where its QoS asks for one."""
    block = varint(len(properties)) + properties if version == V5 else b""
    return packet(first, string(topic), ID if first & 6 else b"", block, b"payload")


def subscribing(topic_filter: bytes, version: int, options: int = 0, packet_id: bytes = ID) -> bytes:
    return packet(0x82, packet_id, b"\0" if version == V5 else b"", string(topic_filter), bytes((options,)))


def introducing(version: int, flags: int, *fields: bytes, client_id: bytes = b"x") -> bytes:
    """A CONNECT of anything behind its client id."""
    properties = b"\0" if version == V5 else b""
    return packet(0x10, string(b"MQTT"), bytes((version, flags, 0, 0)), properties, string(client_id), *fields)


async def ended_with(version: int, data: bytes) -> list[int]:
    """The reasons that a client hears whose connection the broker ends because of these bytes."""
    async with besieged() as broker:
        async with connected(broker.address, "attacker", version) as attacker:
            await attacker.send_bytes(data + encode(Pingreq(), version))
            packets = await attacker.ended()
        assert sum(broker.snapshot()["totals"]["ended"].values()) == 1
        return reasons(packets)


def expect_end(version: int, data: bytes, reason: Reason) -> None:
    """MQTT 3.1.1 knows no DISCONNECT from a broker: the connection is closed without a word."""
    assert asyncio.run(ended_with(version, data)) == ([reason] if version == V5 else [])


@VERSIONS
def test_a_remaining_length_of_five_bytes(version: int) -> None:
    expect_end(version, b"\x30\xff\xff\xff\xff\x01", Reason.MALFORMED_PACKET)


@VERSIONS
def test_a_remaining_length_longer_than_it_needs_to_be(version: int) -> None:
    expect_end(version, b"\x30\x85\x80\x00" + bytes(5), Reason.MALFORMED_PACKET)


@VERSIONS
def test_a_remaining_length_that_cuts_the_topic_off(version: int) -> None:
    expect_end(version, b"\x30\x05\x00\x09abc", Reason.MALFORMED_PACKET)


@VERSIONS
def test_a_remaining_length_that_leaves_bytes_over(version: int) -> None:
    expect_end(version, subscribing(b"a", version)[:1] + b"\x0a" + bytes(10), Reason.PROTOCOL_ERROR)
    expect_end(version, packet(0xC0, b"more"), Reason.MALFORMED_PACKET)


@VERSIONS
@pytest.mark.parametrize("topic", [b"#", b"a/#", b"a/#/b", b"a/+", b"a+", b"$share/g/#"])
def test_publishing_to_wildcards(version: int, topic: bytes) -> None:
    expect_end(version, publishing(topic, version), Reason.TOPIC_NAME_INVALID)


@VERSIONS
def test_publishing_to_no_topic(version: int) -> None:
    expect_end(version, publishing(b"", version), Reason.PROTOCOL_ERROR)


@VERSIONS
@pytest.mark.parametrize("topic_filter", [b"", b"a/#/b", b"#/a", b"a#", b"a+", b"+a/b", b"$share", b"$share/g"])
def test_subscribing_to_malformed_filters_is_refused_one_by_one(version: int, topic_filter: bytes) -> None:
    asyncio.run(refused_one_by_one(version, topic_filter))


@VERSIONS
@pytest.mark.parametrize("topic_filter", [b"$share//a", b"$share/+/a", b"$share/g#/a", b"$share/g/", b"$share/g/a#"])
def test_malformed_shared_subscriptions_are_refused_one_by_one(version: int, topic_filter: bytes) -> None:
    asyncio.run(refused_one_by_one(version, topic_filter))


async def refused_one_by_one(version: int, topic_filter: bytes) -> None:
    async with besieged() as broker, connected(broker.address, "attacker", version) as attacker:
        await attacker.send_bytes(subscribing(topic_filter, version))
        refused = Reason.TOPIC_FILTER_INVALID if version == V5 else 0x80
        assert (await attacker.expect(Suback)).reasons == (refused,)
        await attacker.send(Pingreq())
        assert await attacker.receive() == Pingresp()


@VERSIONS
@pytest.mark.parametrize("first", [0x36, 0x37, 0x3E])
def test_publishing_with_qos_3(version: int, first: int) -> None:
    expect_end(version, publishing(b"a", version, first), Reason.MALFORMED_PACKET)


@VERSIONS
def test_subscribing_with_qos_3(version: int) -> None:
    expect_end(version, subscribing(b"a", version, options=3), Reason.MALFORMED_PACKET)


@VERSIONS
@pytest.mark.parametrize("text", NOT_UTF8.values(), ids=NOT_UTF8)
def test_strings_that_are_not_utf_8(version: int, text: bytes) -> None:
    unsubscribing = packet(0xA2, ID, b"\0" if version == V5 else b"", string(text))
    for data in (publishing(text, version), subscribing(text, version), unsubscribing):
        expect_end(version, data, Reason.MALFORMED_PACKET)


@pytest.mark.parametrize("text", NOT_UTF8.values(), ids=NOT_UTF8)
def test_user_properties_that_are_not_utf_8(text: bytes) -> None:
    properties = b"\x26" + string(b"name") + string(text)
    expect_end(V5, publishing(b"a", V5, properties=properties), Reason.MALFORMED_PACKET)


RESERVED = {
    f"type {first >> 4} flags {first & 15}": first
    for first in (kind << 4 | flags for kind, flags in product(range(16), (0, 1, 2, 4, 8)))
    if first >> 4 != 3 and (first == 0 or first & 15 != (2 if first >> 4 in (6, 8, 10) else 0))
}


@VERSIONS
@pytest.mark.parametrize("first", RESERVED.values(), ids=RESERVED)
def test_reserved_bits_of_every_packet_type(version: int, first: int) -> None:
    data = packet(first, ID, b"\0" if version == V5 else b"", string(b"a"), b"\0")
    expect_end(version, data, Reason.MALFORMED_PACKET)


@VERSIONS
def test_reserved_bits_of_subscription_options(version: int) -> None:
    for options in (0x40, 0x80, 0x30) if version == V5 else (0x04, 0x08, 0x10, 0x20, 0x40, 0x80):
        expect_end(version, subscribing(b"a", version, options), Reason.MALFORMED_PACKET)


@VERSIONS
@pytest.mark.parametrize("first", [0x32, 0x34, 0x40, 0x50, 0x62, 0x70, 0x82, 0xA2])
def test_packet_id_0(version: int, first: int) -> None:
    none = b"\0" if version == V5 else b""
    zero = b"\0\0"
    bodies = {3: [string(b"a"), zero, none], 8: [zero, none, string(b"a"), b"\0"], 10: [zero, none, string(b"a")]}
    expect_end(version, packet(first, *bodies.get(first >> 4, [zero])), Reason.PROTOCOL_ERROR)


@VERSIONS
def test_connecting_twice(version: int) -> None:
    expect_end(version, encode(Connect("attacker", version), version), Reason.PROTOCOL_ERROR)


@pytest.mark.parametrize(
    "properties", [b"\x01\1\x01\1", b"\x02\0\0\0\1" * 2, b"\x03\0\1a" * 2, b"\x23\0\1" * 2, b"\x09\0\1a" * 2]
)
def test_a_property_twice(properties: bytes) -> None:
    expect_end(V5, publishing(b"a", V5, properties=properties), Reason.PROTOCOL_ERROR)


@pytest.mark.parametrize("properties", [b"\x7f\0", b"\x26\xff\xff", b"\x80\x80\x80\x80\x01", b"\x02\0"])
def test_properties_that_do_not_exist_or_end_too_early(properties: bytes) -> None:
    expect_end(V5, publishing(b"a", V5, properties=properties), Reason.MALFORMED_PACKET)


@pytest.mark.parametrize("alias", [b"\0\0", b"\0\x11", b"\xff\xff"])
def test_a_topic_alias_of_0_or_above_the_maximum(alias: bytes) -> None:
    expect_end(V5, publishing(b"a", V5, properties=b"\x23" + alias), Reason.TOPIC_ALIAS_INVALID)


INTRODUCTIONS = {
    "reserved flag": (0x03, [], b"x"),
    "will of QoS 3": (0x1E, [string(b"t"), string(b"")], b"x"),
    "will flags without a will": (0x22, [], b"x"),
    "will without a topic": (0x06, [], b"x"),
    "user name left out": (0x82, [], b"x"),
    **{f"client id: {name}": (0x02, [], text) for name, text in NOT_UTF8.items()},
    **{f"user name: {name}": (0x82, [string(text)], b"x") for name, text in NOT_UTF8.items()},
}


@pytest.mark.parametrize("name", INTRODUCTIONS)
def test_a_malformed_introduction(name: str) -> None:
    flags, fields, client_id = INTRODUCTIONS[name]

    async def scenario(version: int) -> None:
        async with besieged() as broker, open_client(broker.address, version) as attacker:
            will = [b"\0", *fields] if version == V5 and flags & 4 else fields
            await attacker.send_bytes(introducing(version, flags, *will, client_id=client_id))
            packets = await attacker.ended()
            assert all(isinstance(answer, Connack) for answer in packets)
            assert reasons(packets) == ([Reason.MALFORMED_PACKET] if version == V5 else [])

    for version in (V311, V5):
        asyncio.run(scenario(version))


@pytest.mark.parametrize("topic", [b"", b"#", b"a+"])
def test_a_will_for_no_topic(topic: bytes) -> None:
    async def scenario() -> None:
        async with besieged() as broker, open_client(broker.address) as attacker:
            await attacker.send_bytes(introducing(V5, 0x06, b"\0", string(topic), string(b"")))
            assert reasons(await attacker.ended()) == [Reason.TOPIC_NAME_INVALID]

    asyncio.run(scenario())
