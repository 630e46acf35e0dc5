"""Where the embedded broker listens, and every limit it keeps."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Literal

from broker.fields import MAX_VARINT
from broker.log import LogFormat

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
    client, otherwise MQTT 5 clients are told a shorter one. `receive_maximum` is what MQTT 5 clients are told, and
    `max_inflight` bounds what is sent to any client without its acknowledgement, besides its own receive maximum.
    `topic_alias_maximum` holds for both directions. `connect_bytes` bounds the first packet, and `connections_per_s`,
    0 for no bound, how fast connections are accepted. `congestion` is the TCP congestion control of its connections,
    empty the system's own.

    `users` is a file of user names and passwords and `acl` one of access rules; `policy` "devices" keeps every client
    to its own name and topics. `tls_certificate` and `tls_key` make all connections TLS. Clients may then identify
    themselves with certificates of the authority `tls_ca`, or have to with `tls_require`, which keeps each to client
    ids of its name; `tls_crl` lists those that are revoked. All of these are paths of files, empty for none.

    `websocket_port` is for MQTT over WebSocket on `host`, and `metrics_port` on `metrics_host` for Prometheus; None is
    none, and both may be one. `metrics_clients` adds values of every client. The topics under `$SYS` are brought up to
    date every `sys_interval_s`, 0 for never. `log_format` "json" makes every line of the log an object.

    `store` is a file that keeps sessions, their messages and retained messages when the broker ends, empty for none.
    """

    host: str = "127.0.0.1"
    port: int = 1883
    insecure: bool = False
    users: str = ""
    acl: str = ""
    policy: Literal["none", "devices"] = "none"
    tls_certificate: str = ""
    tls_key: str = ""
    tls_ca: str = ""
    tls_crl: str = ""
    tls_require: bool = False
    max_packet_bytes: int = 64 << 20
    queue_bytes: int = 48 << 20
    retained_bytes: int = 32 << 20
    receive_maximum: int = 1024
    max_inflight: int = 1024
    topic_alias_maximum: int = 16
    max_keepalive_s: int = 0
    connect_timeout_s: float = 10.0
    connect_bytes: int = 256 << 10
    session_expiry_s: int = 86_400
    max_connections: int = 10_000
    connections_per_s: float = 0.0
    max_sessions: int = 10_000
    max_subscriptions: int = 1_000
    congestion: str = ""
    websocket_port: int | None = None
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    metrics_clients: bool = False
    sys_interval_s: float = 10.0
    log_format: LogFormat = "text"
    store: str = ""

    def __post_init__(self) -> None:
        _check("port", self.port, 0, _U16)
        _check("max_packet_bytes", self.max_packet_bytes, 1 << 10, MAX_FORWARDED_BYTES)
        _check("queue_bytes", self.queue_bytes, 1 << 10, 1 << 40)
        _check("retained_bytes", self.retained_bytes, 0, 1 << 40)
        _check("receive_maximum", self.receive_maximum, 1, _U16)
        _check("max_inflight", self.max_inflight, 1, _U16)
        _check("topic_alias_maximum", self.topic_alias_maximum, 0, _U16)
        _check("max_keepalive_s", self.max_keepalive_s, 0, _U16)
        _check("connect_timeout_s", self.connect_timeout_s, 0.01, 3_600)
        _check("connect_bytes", self.connect_bytes, 1 << 6, MAX_FORWARDED_BYTES)
        _check("session_expiry_s", self.session_expiry_s, 0, _U32 - 1)
        _check("max_connections", self.max_connections, 1, 1 << 20)
        _check("connections_per_s", self.connections_per_s, 0, 1e6)
        _check("max_sessions", self.max_sessions, 1, 1 << 20)
        _check("max_subscriptions", self.max_subscriptions, 1, 1 << 20)
        _check("websocket_port", self.websocket_port or 0, 0, _U16)
        _check("metrics_port", self.metrics_port or 0, 0, _U16)
        _check("sys_interval_s", self.sys_interval_s, 0, 86_400)
        self._check_security()

    @property
    def authenticates(self) -> bool:
        """Whether every client has to prove who it is."""
        return bool(self.users) or self.tls_require

    @property
    def binds_client_ids(self) -> bool:
        """Whether a client id has to be the client's own: its name, or `sc-RUN-NAME`."""
        return self.policy == "devices" or self.tls_require

    @property
    def shares_web(self) -> bool:
        """Whether WebSocket and metrics have the same address."""
        websocket, metrics = (self.host, self.websocket_port), (self.metrics_host, self.metrics_port)
        return bool(self.metrics_port) and websocket == metrics

    def _check_security(self) -> None:
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("tls_key: a certificate and its key go together; valid: both, or none")
        for key, value, need in (
            ("tls_ca", self.tls_ca, "tls_certificate"),
            ("tls_crl", self.tls_crl, "tls_ca"),
            ("tls_require", self.tls_require, "tls_ca"),
        ):
            if value and not getattr(self, need):
                raise ValueError(f"{key}: needs {need}; valid: both, or none")
        if self.policy not in ("none", "devices"):
            raise ValueError(f"policy: {self.policy!r} is unknown; valid: none, devices")
        if self.policy == "devices" and not self.authenticates:
            raise ValueError("policy: devices needs clients with names; valid: with users, or with tls_require")
        if not (self.authenticates or self.insecure or is_loopback(self.host)):
            raise ValueError(
                f"host: {self.host!r} can be reached from other machines and anyone may connect; "
                "valid: a loopback address such as 127.0.0.1, or users, or tls_require, or insecure = true"
            )
        if self.metrics_port is not None and not (self.insecure or is_loopback(self.metrics_host)):
            raise ValueError(
                f"metrics_host: {self.metrics_host!r} can be reached from other machines and anyone may read; "
                "valid: a loopback address such as 127.0.0.1, or insecure = true"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address; names other than localhost count as reachable."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
