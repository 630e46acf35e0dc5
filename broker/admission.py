"""Decides from a CONNECT alone what a client gets: its id, keepalive, expiry, and what CONNACK tells it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from broker.broker_config import BrokerConfig
from broker.errors import ProtocolError
from broker.packets import V5, Connect
from broker.properties import Properties, Property
from broker.reasons import Reason

UNLIMITED_BYTES = 0xFFFFFFFF
MAX_ID_BYTES = 256
"""Of a client id; the broker counts for many of them what their clients did, and remembers that when they are gone."""


@dataclass(frozen=True)
class Admission:
    """The terms of a connection: times in seconds, keepalive 0 for none; `properties` are CONNACK's.

    `receive_maximum`, `max_packet_bytes` and `alias_maximum` bound what is sent to the client, and `explains` says
    whether acknowledgements may carry a reason string; `peer` is where the client is, for the log.
    """

    client_id: str
    version: int
    keepalive_s: int
    expiry_s: int
    receive_maximum: int
    max_packet_bytes: int = UNLIMITED_BYTES
    alias_maximum: int = 0
    explains: bool = False
    properties: Properties = field(default_factory=dict)
    peer: str = ""


def admit(connect: Connect, config: BrokerConfig) -> Admission:
    """The terms for this client; ProtocolError with the reason code where it is refused."""
    asked = connect.properties
    if Property.AUTHENTICATION_METHOD in asked:
        raise ProtocolError("extended authentication is not offered", Reason.BAD_AUTHENTICATION_METHOD)
    if Property.AUTHENTICATION_DATA in asked:
        raise ProtocolError("authentication data without a method", Reason.PROTOCOL_ERROR)
    if len(connect.client_id.encode()) > MAX_ID_BYTES:
        raise ProtocolError(f"a client id of more than {MAX_ID_BYTES} bytes", Reason.CLIENT_ID_NOT_VALID)
    if not connect.client_id and connect.version != V5 and not connect.clean_start:
        raise ProtocolError("a session to keep without a client id", Reason.CLIENT_ID_NOT_VALID)
    client_id = connect.client_id or f"auto-{secrets.token_hex(8)}"
    if connect.version != V5:
        expiry = 0 if connect.clean_start else config.session_expiry_s
        return Admission(client_id, connect.version, connect.keepalive, expiry, config.max_inflight)
    keepalive, expiry = _keepalive(connect, config), _expiry(connect, config)
    told: dict[Property, object] = {
        Property.RECEIVE_MAXIMUM: config.receive_maximum,
        Property.MAXIMUM_PACKET_SIZE: config.max_packet_bytes,
        Property.TOPIC_ALIAS_MAXIMUM: config.topic_alias_maximum,
    }
    if client_id != connect.client_id:
        told[Property.ASSIGNED_CLIENT_ID] = client_id
    if keepalive != connect.keepalive:
        told[Property.SERVER_KEEPALIVE] = keepalive
    if expiry != asked.get(Property.SESSION_EXPIRY, 0):
        told[Property.SESSION_EXPIRY] = expiry
    return Admission(
        client_id,
        connect.version,
        keepalive,
        expiry,
        min(asked.get(Property.RECEIVE_MAXIMUM, 0xFFFF), config.max_inflight),
        asked.get(Property.MAXIMUM_PACKET_SIZE, UNLIMITED_BYTES),
        min(asked.get(Property.TOPIC_ALIAS_MAXIMUM, 0), config.topic_alias_maximum),
        bool(asked.get(Property.REQUEST_PROBLEM_INFORMATION, 1)),
        told,
    )


def _keepalive(connect: Connect, config: BrokerConfig) -> int:
    limit = config.max_keepalive_s
    return limit if limit and not 0 < connect.keepalive <= limit else connect.keepalive


def _expiry(connect: Connect, config: BrokerConfig) -> int:
    asked: int = connect.properties.get(Property.SESSION_EXPIRY, 0)
    return min(asked, config.session_expiry_s)
