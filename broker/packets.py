"""The packets of MQTT 3.1.1 and 5.0 as values; `packet_encoder` turns them into bytes and `packet_decoder` makes them.

Fields that exist only in MQTT 5 (properties, most reason codes, subscription options) keep their defaults in 3.1.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.fields import Buffer
from broker.properties import PacketType, Properties

V311 = 4
V5 = 5
VERSIONS = (V311, V5)
"""Protocol levels as they stand in CONNECT."""


@dataclass(frozen=True)
class Will:
    """The message to publish when the connection ends without a DISCONNECT."""

    topic: str
    payload: Buffer = b""
    qos: int = 0
    retain: bool = False
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True)
class Connect:
    """A client introduces itself; `keepalive` in seconds, `clean_start` is 3.1.1's clean session."""

    client_id: str = ""
    version: int = V5
    clean_start: bool = True
    keepalive: int = 0
    will: Will | None = None
    username: str | None = None
    password: bytes | None = None
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True)
class Connack:
    """The answer to CONNECT; `reason` is a reason code in MQTT 5 and a return code in 3.1.1."""

    session_present: bool = False
    reason: int = 0
    properties: Properties = field(default_factory=dict)


@dataclass(slots=True)
class Publish:
    """An application message. Never changed once made; not frozen, since freezing triples the cost of making it."""

    topic: str
    payload: Buffer = b""
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int = 0
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True)
class Acknowledgement:
    """What PUBACK, PUBREC, PUBREL and PUBCOMP have in common."""

    packet_id: int
    reason: int = 0
    properties: Properties = field(default_factory=dict)


class Puback(Acknowledgement):
    """QoS 1 received."""


class Pubrec(Acknowledgement):
    """QoS 2 received."""


class Pubrel(Acknowledgement):
    """QoS 2 released."""


class Pubcomp(Acknowledgement):
    """QoS 2 complete."""


@dataclass(frozen=True)
class Request:
    """One topic filter of a SUBSCRIBE with its options (MQTT 5.0, 3.8.3.1)."""

    topic_filter: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


@dataclass(frozen=True)
class Subscribe:
    """Ask for the messages of some topic filters."""

    packet_id: int
    requests: tuple[Request, ...]
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True)
class Suback:
    """One reason per request: the QoS granted, or 0x80 and above."""

    packet_id: int
    reasons: tuple[int, ...]
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True)
class Unsubscribe:
    """Ask for them no more."""

    packet_id: int
    topic_filters: tuple[str, ...]
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True)
class Unsuback:
    """One reason per topic filter; in 3.1.1 there are none."""

    packet_id: int
    reasons: tuple[int, ...] = ()
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True)
class Pingreq:
    """Are you there?"""


@dataclass(frozen=True)
class Pingresp:
    """I am."""


@dataclass(frozen=True)
class Disconnect:
    """The last packet of a connection; the broker sends it in MQTT 5 only."""

    reason: int = 0
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True)
class Auth:
    """A step of extended authentication, MQTT 5 only."""

    reason: int = 0
    properties: Properties = field(default_factory=dict)


Packet = (
    Connect
    | Connack
    | Publish
    | Puback
    | Pubrec
    | Pubrel
    | Pubcomp
    | Subscribe
    | Suback
    | Unsubscribe
    | Unsuback
    | Pingreq
    | Pingresp
    | Disconnect
    | Auth
)

FLAGS = {PacketType.PUBREL: 2, PacketType.SUBSCRIBE: 2, PacketType.UNSUBSCRIBE: 2}
"""The low bits of a first byte, where they are not 0 (PUBLISH has its own)."""

ACKNOWLEDGEMENTS: dict[PacketType, type[Puback] | type[Pubrec] | type[Pubrel] | type[Pubcomp]] = {
    PacketType.PUBACK: Puback,
    PacketType.PUBREC: Pubrec,
    PacketType.PUBREL: Pubrel,
    PacketType.PUBCOMP: Pubcomp,
}

_OF_PUBLISH = frozenset((0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99))
_OF_RELEASE = frozenset((0x00, 0x92))
_OF_BOTH_ENDS = {0x00, *range(0x80, 0x84), 0x90, *range(0x93, 0x9A)}
OF_SERVERS = {0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, *range(0x9A, 0xA3)}

REASON_CODES: dict[PacketType, frozenset[int]] = {
    PacketType.PUBACK: _OF_PUBLISH,
    PacketType.PUBREC: _OF_PUBLISH,
    PacketType.PUBREL: _OF_RELEASE,
    PacketType.PUBCOMP: _OF_RELEASE,
    PacketType.DISCONNECT: frozenset({0x04, *_OF_BOTH_ENDS, *OF_SERVERS}),
    PacketType.AUTH: frozenset((0x00, 0x18, 0x19)),
}
"""Those that a packet may have, of the packets that a client may send; either end reads them."""
