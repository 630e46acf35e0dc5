"""The settings of the broker, what a client is told of them, and the counters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from broker.admission import admit
from broker.broker_config import BrokerConfig
from broker.counters import ConnectionCount, Counters
from broker.errors import ProtocolError, SettingsError
from broker.packets import V5, V311, Connect
from broker.properties import Property
from broker.reasons import Reason
from broker.settings import build


def test_counters_fold_the_oldest_client_that_has_no_session() -> None:
    counters = Counters(limit=2)
    for name in ("a", "b", "c"):
        counters.of(name, ConnectionCount(connections=1, bytes_in=10), live=["a"])
    assert set(counters) == {"a", "c"}
    assert counters.folded.bytes_in == 10
    assert counters.total() == ConnectionCount(connections=3, bytes_in=30)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"port": 70_000}, "port: 70000"),
        ({"port": "x"}, "port: 'x'"),
        ({"host": "0.0.0.0"}, "insecure = true"),
        ({"host": ""}, "insecure = true"),
        ({"host": "broker.example"}, "insecure = true"),
        ({"queue_bytes": 10}, "queue_bytes: 10"),
        ({"max_packet_bytes": 1 << 30}, "max_packet_bytes: 1073741824"),
        ({"connect_timeout_s": 0}, "connect_timeout_s: 0"),
        ({"receive_maximum": 0}, "receive_maximum: 0"),
        ({"max_inflight": 0}, "max_inflight: 0"),
        ({"connect_bytes": 1}, "connect_bytes: 1"),
        ({"connections_per_s": -1}, "connections_per_s: -1"),
        ({"quota": 1}, "quota: unknown key"),
    ],
)
def test_bad_settings_name_the_key_and_what_is_valid(values: Mapping[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=r"valid|is no") as caught:
        build(BrokerConfig, values)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_permission(host: str) -> None:
    assert BrokerConfig(host=host).host == host
    assert BrokerConfig(host="0.0.0.0", insecure=True).insecure


def test_a_client_is_told_where_the_broker_keeps_to_other_terms() -> None:
    config = BrokerConfig(max_keepalive_s=60, session_expiry_s=100)
    asked = {Property.SESSION_EXPIRY: 1000, Property.RECEIVE_MAXIMUM: 5, Property.MAXIMUM_PACKET_SIZE: 900}
    terms = admit(Connect("", V5, keepalive=0, properties=asked), config)
    assert (terms.keepalive_s, terms.expiry_s, terms.receive_maximum, terms.max_packet_bytes) == (60, 100, 5, 900)
    assert terms.properties[Property.SERVER_KEEPALIVE] == 60
    assert terms.properties[Property.SESSION_EXPIRY] == 100
    assert terms.properties[Property.ASSIGNED_CLIENT_ID] == terms.client_id != ""
    assert not {Property.MAXIMUM_QOS, Property.SHARED_AVAILABLE} & set(terms.properties)
    plain = admit(Connect("c", V5, keepalive=30), config)
    assert Property.SERVER_KEEPALIVE not in plain.properties
    assert Property.SESSION_EXPIRY not in plain.properties
    assert Property.ASSIGNED_CLIENT_ID not in plain.properties
    old = admit(Connect("c", V311, clean_start=False), config)
    assert (old.expiry_s, old.receive_maximum, old.explains) == (100, config.max_inflight, False)


def test_a_client_id_of_256_bytes_is_the_longest() -> None:
    assert admit(Connect("é" * 128), BrokerConfig()).client_id == "é" * 128


def test_topic_aliases_and_messages_in_flight_are_the_lower_of_both_ends() -> None:
    asked = {Property.RECEIVE_MAXIMUM: 500, Property.TOPIC_ALIAS_MAXIMUM: 5}
    connect = Connect("c", V5, properties=asked)
    few, many = BrokerConfig(max_inflight=10, topic_alias_maximum=3), BrokerConfig(topic_alias_maximum=9)
    assert [admit(connect, few).receive_maximum, admit(connect, few).alias_maximum] == [10, 3]
    assert [admit(connect, many).receive_maximum, admit(connect, many).alias_maximum] == [500, 5]
    assert admit(Connect("c", V5), many).alias_maximum == 0


@pytest.mark.parametrize(
    ("connect", "reason"),
    [
        (Connect("", V311, clean_start=False), Reason.CLIENT_ID_NOT_VALID),
        (Connect("c", properties={Property.AUTHENTICATION_METHOD: "x"}), Reason.BAD_AUTHENTICATION_METHOD),
        (Connect("c", properties={Property.AUTHENTICATION_DATA: b"x"}), Reason.PROTOCOL_ERROR),
        (Connect("é" * 129), Reason.CLIENT_ID_NOT_VALID),
        (Connect("c" * 257, V311), Reason.CLIENT_ID_NOT_VALID),
    ],
)
def test_what_cannot_be_offered_is_refused_with_its_reason(connect: Connect, reason: Reason) -> None:
    with pytest.raises(ProtocolError) as caught:
        admit(connect, BrokerConfig())
    assert caught.value.reason_code == reason
