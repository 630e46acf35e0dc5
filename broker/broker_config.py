"""Where the embedded broker listens, and every limit it keeps."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from broker.fields import MAX_VARINT

MAX_FORWARDED_BYTES = MAX_VARINT - (1 << 16)
"""The largest packet to accept: forwarding adds subscription identifiers, and the result has to fit MQTT as well."""

_U16, _U32 = 0xFFFF, 0xFFFFFFFF


def _check(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{key}: {value:.10g} is out of range; valid: {low:.10g} or more, at most {high:.10g}")


@dataclass(frozen=True)
class BrokerConfig:
    """Settings of the embedded broker; sizes in bytes, times in seconds. Raises ValueError('key: ...').

    `port` 0 takes a free one. `queue_bytes` caps what waits for one subscriber, sent but unacknowledged messages
    among it; `retained_bytes` caps all retained messages together. `max_keepalive_s` 0 leaves the keepalive to the
    client, otherwise MQTT 5 clients are told a shorter one. `receive_maximum` and `topic_alias_maximum` are what MQTT 5
    clients are offered; a client's own receive maximum is honoured. `congestion` is the TCP congestion control of its
    connections, empty the system's own.
    """

    host: str = "127.0.0.1"
    port: int = 1883
    insecure: bool = False
    max_packet_bytes: int = 64 << 20
    queue_bytes: int = 64 << 20
    retained_bytes: int = 32 << 20
    receive_maximum: int = 1024
    topic_alias_maximum: int = 16
    max_keepalive_s: int = 0
    connect_timeout_s: float = 10.0
    session_expiry_s: int = 86_400
    max_connections: int = 10_000
    max_sessions: int = 10_000
    max_subscriptions: int = 1_000
    congestion: str = ""

    def __post_init__(self) -> None:
        _check("port", self.port, 0, _U16)
        _check("max_packet_bytes", self.max_packet_bytes, 1 << 10, MAX_FORWARDED_BYTES)
        _check("queue_bytes", self.queue_bytes, 1 << 10, 1 << 40)
        _check("retained_bytes", self.retained_bytes, 0, 1 << 40)
        _check("receive_maximum", self.receive_maximum, 1, _U16)
        _check("topic_alias_maximum", self.topic_alias_maximum, 0, _U16)
        _check("max_keepalive_s", self.max_keepalive_s, 0, _U16)
        _check("connect_timeout_s", self.connect_timeout_s, 0.01, 3_600)
        _check("session_expiry_s", self.session_expiry_s, 0, _U32 - 1)
        _check("max_connections", self.max_connections, 1, 1 << 20)
        _check("max_sessions", self.max_sessions, 1, 1 << 20)
        _check("max_subscriptions", self.max_subscriptions, 1, 1 << 20)
        if not self.insecure and not is_loopback(self.host):
            raise ValueError(
                f"host: {self.host!r} can be reached from other machines and this broker has no authentication; "
                "valid: a loopback address such as 127.0.0.1, or insecure = true"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address; names other than localhost count as reachable."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
