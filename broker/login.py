"""How a client introduces itself to a broker, and what the broker's answer means."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import NamedTuple

from broker.errors import ConnectError
from broker.packets import V5, V311, Connack, Connect, Will
from broker.properties import NO_PROPERTIES, Properties, Property
from broker.reasons import Reason, describe

PROTOCOLS = {"5": V5, "3.1.1": V311}
RECEIVE_MAXIMUM = 64  # unacknowledged messages that a broker may send us
TOPIC_ALIAS_MAXIMUM = 16  # topics that it may abbreviate
MAX_PACKET_BYTES = (1 << 24) + (1 << 16)  # the largest chunk, its topic and its properties

_RETURN_CODES = {
    1: "unsupported protocol version",
    2: "the client id is not valid",
    3: "the broker is unavailable",
    4: "bad user name or password",
    5: "not authorized",
}
_OLDER = {V311: 1, V5: Reason.UNSUPPORTED_VERSION}


@dataclass(frozen=True, slots=True)
class Login:
    """Whom to connect to, as whom, and the longest time that each step of it may take; `tls` None is plain TCP."""

    host: str
    port: int
    client_id: str
    keepalive_s: int
    timeout_s: float
    username: str | None = None
    password: str | None = None
    congestion: str = ""
    tls: ssl.SSLContext | None = None


class RefusedError(ConnectError):
    """The broker gave no connection; `older` tells that an older MQTT version may be worth a try.

    `closed` where that was no answer: it only closed the connection.
    """

    def __init__(self, reason: str, older: bool = False, closed: bool = False) -> None:
        super().__init__(reason)
        self.older = older
        self.closed = closed


class Loss(NamedTuple):
    """Why a connection ended; `final` when coming back would only push out the client that took our name.

    `hung_up` when the other end closed it without a word.
    """

    reason: str
    final: bool = False
    hung_up: bool = False


@dataclass(frozen=True, slots=True)
class Terms:
    """What the broker's CONNACK allows: messages under way, seconds of keepalive, bytes of a packet, retained ones."""

    receive_maximum: int = 65535
    keepalive_s: int = 0
    max_packet_bytes: int = 1 << 28
    retain: bool = True


def connect(login: Login, version: int, will: Will) -> Connect:
    """The CONNECT of a session that ends with its connection."""
    properties: Properties = NO_PROPERTIES
    if version == V5:
        properties = {
            Property.SESSION_EXPIRY: 0,
            Property.RECEIVE_MAXIMUM: RECEIVE_MAXIMUM,
            Property.MAXIMUM_PACKET_SIZE: MAX_PACKET_BYTES,
            Property.TOPIC_ALIAS_MAXIMUM: TOPIC_ALIAS_MAXIMUM,
        }
    password = None if login.password is None else login.password.encode()
    return Connect(login.client_id, version, True, login.keepalive_s, will, login.username, password, properties)


def terms(connack: Connack, version: int, login: Login) -> Terms:
    """What a CONNACK of MQTT `version` allows; RefusedError tells why it is none to go on with."""
    if connack.reason:
        raise RefusedError(reason(connack.reason, connack.properties, version), connack.reason == _OLDER[version])
    told = connack.properties
    return Terms(
        told.get(Property.RECEIVE_MAXIMUM, 65535),
        told.get(Property.SERVER_KEEPALIVE, login.keepalive_s),
        told.get(Property.MAXIMUM_PACKET_SIZE, 1 << 28),
        bool(told.get(Property.RETAIN_AVAILABLE, 1)),
    )


def reason(code: int, properties: Properties, version: int = V5) -> str:
    """A reason code, or in MQTT 3.1.1 the return code of a CONNACK, with the reason string that came with it."""
    if version == V311:
        return _RETURN_CODES.get(code, f"return code {code}")
    name = describe(code).replace("_", " ")
    told = properties.get(Property.REASON_STRING, "")
    return f"{name}: {told:.200}" if told else name
