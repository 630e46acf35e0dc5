"""The codec: round trips of every packet, hostile bytes, framing however the stream is cut, topic filters."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import ProtocolError
from broker.framer import Framer
from broker.packet_decoder import decode
from broker.packet_encoder import encode
from broker.packets import (
    ACKNOWLEDGEMENTS,
    REASON_CODES,
    V5,
    V311,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Publish,
    Request,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)
from broker.properties import TABLE, PacketType, Property
from broker.reasons import Reason
from broker.topic_filter import MAX_LEVELS, FilterTree, is_filter

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
TOPIC = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0+#"), min_size=1, max_size=20)
DATA = st.binary(max_size=40)
IDS = st.integers(1, 0xFFFF)
U8, U16, U32 = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
QOS = st.integers(0, 2)
BIT = st.integers(0, 1)
U16_POSITIVE = st.integers(1, 0xFFFF)
SPECIAL: dict[Property, st.SearchStrategy[Any]] = {
    Property.PAYLOAD_FORMAT: BIT,
    Property.RESPONSE_TOPIC: TOPIC,
    Property.CORRELATION_DATA: DATA,
    Property.AUTHENTICATION_DATA: DATA,
    Property.REQUEST_PROBLEM_INFORMATION: BIT,
    Property.REQUEST_RESPONSE_INFORMATION: BIT,
    Property.MAXIMUM_QOS: BIT,
    Property.RETAIN_AVAILABLE: BIT,
    Property.WILDCARD_AVAILABLE: BIT,
    Property.SUBSCRIPTION_ID_AVAILABLE: BIT,
    Property.SHARED_AVAILABLE: BIT,
    Property.SUBSCRIPTION_ID: st.lists(st.integers(1, 0xFFFFFFF), min_size=1, max_size=3).map(tuple),
    Property.USER_PROPERTY: st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3).map(tuple),
    Property.MESSAGE_EXPIRY: U32,
    Property.SESSION_EXPIRY: U32,
    Property.WILL_DELAY: U32,
    Property.SERVER_KEEPALIVE: U16,
    Property.TOPIC_ALIAS_MAXIMUM: U16,
    Property.TOPIC_ALIAS: U16,
    Property.RECEIVE_MAXIMUM: U16_POSITIVE,
    Property.MAXIMUM_PACKET_SIZE: st.integers(1, 0xFFFFFFFF),
}


def properties(carrier: PacketType, version: int) -> st.SearchStrategy[dict[Property, Any]]:
    """Any properties that this packet may carry; none in MQTT 3.1.1."""
    if version != V5:
        return st.just({})
    known = {name: SPECIAL.get(name, TEXT) for name, (_, carriers) in TABLE.items() if carrier in carriers}
    if carrier is PacketType.SUBSCRIBE:
        known[Property.SUBSCRIPTION_ID] = st.integers(1, 0xFFFFFFF).map(lambda value: (value,))
    return st.fixed_dictionaries({}, optional=known)


def requests(version: int) -> st.SearchStrategy[Request]:
    if version != V5:
        return st.builds(Request, TEXT, QOS)
    return st.builds(Request, TEXT, QOS, st.booleans(), st.booleans(), QOS)


def publishes(version: int) -> st.SearchStrategy[Publish]:
    return QOS.flatmap(
        lambda qos: st.builds(
            Publish,
            TOPIC,
            DATA,
            st.just(qos),
            st.booleans(),
            st.booleans() if qos else st.just(False),
            IDS if qos else st.just(0),
            properties(PacketType.PUBLISH, version),
        )
    )


def connects(version: int) -> st.SearchStrategy[Connect]:
    will = st.builds(Will, TOPIC, DATA, QOS, st.booleans(), properties(PacketType.WILL, version))
    return st.builds(
        Connect,
        TEXT,
        st.just(version),
        st.booleans(),
        U16,
        st.none() | will,
        TEXT if version == V311 else st.none() | TEXT,
        st.none() | DATA,
        properties(PacketType.CONNECT, version),
    )


def reason_codes(kind: PacketType, version: int) -> st.SearchStrategy[int]:
    return st.sampled_from(sorted(REASON_CODES[kind])) if version == V5 else st.just(0)


def packets(version: int) -> st.SearchStrategy[Packet]:
    """Every type of packet, as it can stand in this version."""
    kind, filters = PacketType, st.lists(TEXT, min_size=1, max_size=3)
    reasons = st.lists(U8, max_size=3).map(tuple)
    built: list[st.SearchStrategy[Any]] = [
        connects(version),
        publishes(version),
        st.builds(Connack, st.booleans(), U8, properties(kind.CONNACK, version)),
        *(
            st.builds(made, IDS, reason_codes(kind, version), properties(kind, version))
            for kind, made in ACKNOWLEDGEMENTS.items()
        ),
        st.builds(
            Subscribe,
            IDS,
            st.lists(requests(version), min_size=1, max_size=3).map(tuple),
            properties(kind.SUBSCRIBE, version),
        ),
        st.builds(Suback, IDS, reasons, properties(kind.SUBACK, version)),
        st.builds(Unsubscribe, IDS, filters.map(tuple), properties(kind.UNSUBSCRIBE, version)),
        st.builds(Unsuback, IDS, reasons if version == V5 else st.just(()), properties(kind.UNSUBACK, version)),
        st.just(Pingreq()),
        st.just(Pingresp()),
        st.builds(Disconnect, reason_codes(kind.DISCONNECT, version), properties(kind.DISCONNECT, version)),
    ]
    if version == V5:
        built.append(st.builds(Auth, reason_codes(kind.AUTH, version), properties(kind.AUTH, version)))
    return st.one_of(built)


PACKETS = {version: packets(version) for version in (V311, V5)}


def refusal(attempt: Callable[[], object]) -> Reason | None:
    """The reason code where the attempt raises ProtocolError; any other error goes through."""
    try:
        attempt()
    except ProtocolError as error:
        return Reason(error.reason_code)
    return None


def cut_and_decode(stream: bytes, cuts: list[int], version: int, max_bytes: int = 1 << 20) -> list[Packet]:
    """Feed a stream piece by piece through a framer with a small scratch buffer."""
    framer = Framer(memoryview(bytearray(32)), max_bytes)
    found: list[Packet] = []
    edges = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    for start, stop in itertools.pairwise(edges):
        while start < stop:
            room = framer.buffer()
            size = min(len(room), stop - start)
            room[:size] = stream[start : start + size]
            start += size
            found.extend(decode(first, body, version) for first, body in framer.received(size))
    return found


@pytest.mark.parametrize("version", [V311, V5])
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_every_packet_survives_the_round_trip_however_the_stream_is_cut(version: int, data: st.DataObject) -> None:
    sent = data.draw(st.lists(PACKETS[version], min_size=1, max_size=4))
    stream = b"".join(encode(packet, version) for packet in sent)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=6))
    assert cut_and_decode(stream, cuts, version) == sent


@settings(max_examples=120, deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=6), st.sampled_from([V311, V5]))
def test_any_bytes_raise_nothing_but_protocol_errors(stream: bytes, cuts: list[int], version: int) -> None:
    assert refusal(lambda: cut_and_decode(stream, cuts, version)) != Reason.SUCCESS


@pytest.mark.parametrize("version", [V311, V5])
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_any_damaged_packet_raises_nothing_but_protocol_errors(version: int, data: st.DataObject) -> None:
    stream = bytearray(encode(data.draw(PACKETS[version]), version))
    for _ in range(data.draw(st.integers(1, 3))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(U8)
    assert refusal(lambda: cut_and_decode(bytes(stream), [], version)) != Reason.SUCCESS


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 15), st.binary(max_size=80), st.sampled_from([V311, V5]))
def test_any_body_of_any_type_raises_nothing_but_protocol_errors(kind: int, body: bytes, version: int) -> None:
    flags = 2 if kind in (6, 8, 10) else 0
    assert refusal(lambda: decode(kind << 4 | flags, memoryview(body), version)) != Reason.SUCCESS


@pytest.mark.parametrize(
    ("first", "body", "reason"),
    [
        (0x36, b"\0\1a\0\1\0", Reason.MALFORMED_PACKET),
        (0x38, b"\0\1a\0", Reason.MALFORMED_PACKET),
        (0x32, b"\0\1a\0\0\0", Reason.PROTOCOL_ERROR),
        (0x30, b"\0\1#\0", Reason.TOPIC_NAME_INVALID),
        (0x30, b"\0\0\0", Reason.PROTOCOL_ERROR),
        (0x40, b"\0\1\x55", Reason.PROTOCOL_ERROR),
        (0x50, b"\0\1\x92", Reason.PROTOCOL_ERROR),
        (0x62, b"\0\1\x10", Reason.PROTOCOL_ERROR),
        (0x70, b"\0\1\x80", Reason.PROTOCOL_ERROR),
        (0xE0, b"\x55", Reason.PROTOCOL_ERROR),
        (0xF0, b"\x01", Reason.PROTOCOL_ERROR),
        (0x30, b"\0\1\xff\0", Reason.MALFORMED_PACKET),
        (0x30, b"\0\1\0\0", Reason.MALFORMED_PACKET),
        (0x30, b"\0\5a", Reason.MALFORMED_PACKET),
        (0x30, b"\0\1a\x04\x01\0\x01\0", Reason.PROTOCOL_ERROR),
        (0x30, b"\0\1a\x02\x01\x02", Reason.PROTOCOL_ERROR),
        (0x30, b"\0\1a\x02\x7f\x02", Reason.MALFORMED_PACKET),
        (0x30, b"\0\1a\x03\x21\0\1", Reason.PROTOCOL_ERROR),
        (0x30, b"\0\1a\x80\0", Reason.MALFORMED_PACKET),
        (0x80, b"\0\1\0\0\1a\0", Reason.MALFORMED_PACKET),
        (0x82, b"\0\1\0", Reason.PROTOCOL_ERROR),
        (0x82, b"\0\1\0\0\1a\3", Reason.MALFORMED_PACKET),
        (0x00, b"", Reason.MALFORMED_PACKET),
        (0xC0, b"\0", Reason.MALFORMED_PACKET),
        (0x10, b"\0\6MQIsdp\3\2\0\0\0\0", Reason.UNSUPPORTED_VERSION),
        (0x10, b"\0\4MQTT\x06\2\0\0\0\0\0", Reason.UNSUPPORTED_VERSION),
        (0x10, b"\0\4MQTT\5\3\0\0\0\0\0", Reason.MALFORMED_PACKET),
    ],
)
def test_malformed_packets_name_the_reason(first: int, body: bytes, reason: Reason) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(first, memoryview(body), V5)
    assert caught.value.reason_code == reason


def test_packets_of_mqtt_5_alone_are_refused_in_3_1_1() -> None:
    with pytest.raises(ProtocolError):
        decode(0xF0, memoryview(b""), V311)
    with pytest.raises(ProtocolError):
        decode(0x82, memoryview(b"\0\1\0\1a\x04"), V311)


def test_a_large_payload_is_received_into_one_buffer_and_not_copied() -> None:
    payload = bytes(range(256)) * 400
    stream = encode(Publish("t", payload), V311)
    framer = Framer(memoryview(bytearray(64)), 1 << 20)
    room = framer.buffer()
    room[:] = stream[:64]
    assert list(framer.received(64)) == []
    rest = framer.buffer()
    assert len(rest) == len(stream) - 64
    rest[:] = stream[64:]
    ((first, body),) = framer.received(len(rest))
    packet = decode(first, body, V311)
    assert isinstance(packet, Publish)
    assert isinstance(packet.payload, memoryview)
    assert packet.payload == payload
    assert packet.payload.obj is rest.obj


def test_a_packet_above_the_limit_is_refused_before_its_body_comes() -> None:
    with pytest.raises(ProtocolError) as caught:
        cut_and_decode(b"\x30\xff\xff\x7f", [], V5, max_bytes=1000)
    assert caught.value.reason_code == Reason.PACKET_TOO_LARGE
    assert "1000" in str(caught.value)


@pytest.mark.parametrize("length", [b"\x80\x80\x80\x80\x01", b"\xff\xff\xff\xff", b"\x80\x00"])
def test_a_malformed_remaining_length_is_refused(length: bytes) -> None:
    with pytest.raises(ProtocolError):
        cut_and_decode(b"\x30" + length, [1, 2, 3], V5)


@pytest.mark.parametrize(
    ("topic_filter", "topic", "falls_under"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/c", False),
        ("a/b", "a/b/c", False),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/+", "a/", True),
        ("a/+/c", "a/b/c", True),
        ("+/+", "/a", True),
        ("+", "/a", False),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/#", "ab", False),
        ("#", "a/b", True),
        ("#", "/", True),
        ("#", "$SYS/load", False),
        ("+/load", "$SYS/load", False),
        ("$SYS/#", "$SYS/load", True),
        ("$SYS/+", "$SYS/load", True),
        ("a/+", "a/$b", True),
    ],
)
def test_wildcards_match_as_the_standard_says(topic_filter: str, topic: str, falls_under: bool) -> None:
    tree: FilterTree[str] = FilterTree()
    tree.add(topic_filter, "x")
    assert tree.match(topic) == (["x"] if falls_under else [])


@pytest.mark.parametrize("valid", ["a", "/", "+", "#", "a/#", "+/a/+/#", "$SYS/#", "a//b"])
def test_valid_filters(valid: str) -> None:
    assert is_filter(valid)


@pytest.mark.parametrize("invalid", ["", "a#", "#/a", "a/#/b", "a+", "+a/b", "/" * MAX_LEVELS])
def test_invalid_filters(invalid: str) -> None:
    assert not is_filter(invalid)


LEVEL = st.sampled_from(["a", "b", "", "$x", "+"])
FILTER = st.builds(
    lambda levels, tail: "/".join(levels + tail), st.lists(LEVEL, min_size=1, max_size=3), st.sampled_from([[], ["#"]])
)


def naive_match(topic_filter: str, topic: str) -> bool:
    """The rule written down once more, level by level."""
    wanted, given_levels = topic_filter.split("/"), topic.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return False
    if wanted[-1] == "#":
        wanted = wanted[:-1]
        if len(given_levels) < len(wanted):
            return False
        given_levels = given_levels[: len(wanted)]
    same = all(w in ("+", g) for w, g in zip(wanted, given_levels, strict=False))
    return len(wanted) == len(given_levels) and same


@settings(max_examples=120, deadline=None)
@given(
    st.lists(FILTER, max_size=8),
    st.lists(st.sampled_from(["a", "b", "", "$x"]), min_size=1, max_size=4).map("/".join),
    st.data(),
)
def test_the_tree_finds_what_a_walk_over_all_filters_finds(filters: list[str], topic: str, data: st.DataObject) -> None:
    tree: FilterTree[int] = FilterTree()
    for number, topic_filter in enumerate(filters):
        tree.add(topic_filter, number)
    removed = data.draw(st.sets(st.sampled_from(range(len(filters))))) if filters else set()
    for number in removed:
        tree.remove(filters[number], number)
    expected = [n for n, f in enumerate(filters) if n not in removed and naive_match(f, topic)]
    assert sorted(tree.match(topic)) == expected
