"""The settings of the embedded broker as a configuration of mosquitto, with users, access rules and certificates.

Mosquitto 2.1 wants users and rules from its plugins, where 2.0 has options of its own. It also has a limit of sessions,
expiries in seconds, and aliases of topics in both directions. What it has no option for stands in comments of the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Literal

from broker.acl import DEVICES, AccessList, read_acl
from broker.broker_config import BrokerConfig
from broker.errors import SettingsError
from broker.files import PUBLIC, write_file
from broker.users import Users

Version = Literal["2.0", "2.1"]
VERSIONS: tuple[Version, ...] = ("2.0", "2.1")
PLUGINS = Path("/usr/lib")
"""Where mosquitto's own plugins lie in its image."""
DEFAULT_PORT, DEFAULT_WEBSOCKET_PORT = 1883, 8083
AUTOSAVE_S = 60

_QUEUED_BYTES, _FEWEST_QUEUED = 64 << 10, 100
_EXPORTED = frozenset(
    (
        *("host", "port", "websocket_port", "users", "acl", "policy"),
        *("tls_certificate", "tls_key", "tls_ca", "tls_crl", "tls_require"),
        *("max_packet_bytes", "queue_bytes", "max_inflight", "max_connections", "max_keepalive_s"),
        *("session_expiry_s", "topic_alias_maximum", "sys_interval_s", "store"),
        "insecure",  # mosquitto does not ask
    )
)
_ALWAYS_TOLD = frozenset(("retained_bytes", "connect_timeout_s", "connect_bytes", "max_sessions", "max_subscriptions"))
"""What bounds the embedded broker by default; of the others only what was set is told."""


def export(config: BrokerConfig, directory: Path, version: Version, plugins: Path = PLUGINS) -> list[Path]:
    """Write `mosquitto.conf` and what it names to the directory; returns the paths of the files written.

    Certificates and keys stay where they are and are named by their absolute paths. Raises SettingsError for settings
    that mosquitto cannot have.
    """
    files = {}
    if config.users:
        files["password_file"] = _passwords(Users.load(config.users), config.users)
    if rules := _rules(config):
        files["acl_file"] = rules
    named = {option: directory.resolve() / option for option in files}
    lines = [*_notes(config, version), *_limits(config, version), *_files(named, version, plugins)]
    lines += _listeners(config, version)
    directory.mkdir(parents=True, exist_ok=True)
    for option, text in files.items():
        write_file(directory / option, text.encode())
    write_file(directory / "mosquitto.conf", "".join(f"{line}\n" for line in lines).encode(), PUBLIC)
    return [directory / name for name in ("mosquitto.conf", *files)]


def _files(named: dict[str, Path], version: Version, plugins: Path) -> Iterator[str]:
    for option, path in named.items():
        if version == "2.1":
            yield f"global_plugin {plugins}/mosquitto_{option}.so"
            yield f"plugin_opt_{option} {path}"
        else:
            yield f"{option} {path}"


def _listeners(config: BrokerConfig, version: Version) -> Iterator[str]:
    if version == "2.0":
        yield f"allow_anonymous {_anonymous(config)}"
    yield from _listener(config, version, config.port or DEFAULT_PORT, "mqtt")
    if _has_websocket(config):
        yield from _listener(config, version, config.websocket_port or DEFAULT_WEBSOCKET_PORT, "websockets")


def _listener(config: BrokerConfig, version: Version, port: int, protocol: str) -> Iterator[str]:
    yield f"listener {port} {config.host}"
    yield f"protocol {protocol}"
    yield f"max_connections {config.max_connections}"
    yield f"max_topic_alias {config.topic_alias_maximum}"
    if version == "2.1":
        yield f"max_topic_alias_broker {config.topic_alias_maximum}"
        yield f"listener_allow_anonymous {_anonymous(config)}"
    if config.binds_client_ids:
        # Instead of the check of client ids: nobody can push out another, and a device can be in one run at a time.
        yield "use_username_as_clientid true"
    if config.tls_certificate:
        yield from _tls(config)


def _anonymous(config: BrokerConfig) -> str:
    return "false" if config.authenticates else "true"


def _has_websocket(config: BrokerConfig) -> bool:
    """Over WebSocket, mosquitto neither reads names from certificates nor knows which of them are revoked."""
    return config.websocket_port is not None and not config.tls_require


def _notes(config: BrokerConfig, version: Version) -> Iterator[str]:
    missing = [
        known.name
        for known in fields(config)
        if known.name not in _EXPORTED
        and (known.name in _ALWAYS_TOLD or getattr(config, known.name) != known.default)
        and not (known.name == "max_sessions" and version == "2.1")
    ]
    if config.websocket_port is not None and not _has_websocket(config):
        missing.append("websocket_port (with tls_require)")
    yield f"# Mosquitto has no options for: {', '.join(missing)}"
    yield "# Messages of QoS 0 that wait for a subscriber are bounded by max_queued_messages only, whatever their size"
    if config.store:
        yield f"# What has changed is saved every {AUTOSAVE_S} s and at the end, not before it is acknowledged"


def queue_limits(queue_bytes: int) -> Iterator[str]:
    """What mosquitto may hold for one subscriber, such that it comes to about this many bytes.

    Mosquitto lets a connected client have twice `max_inflight_bytes` beyond `max_queued_bytes`, which is why that is
    small. Both are about QoS 1 and 2; what waits in QoS 0 is bounded by `max_queued_messages`, and by nothing else.
    With 0 for no limit, mosquitto 2.0 would also end every connection whose message is forbidden.
    """
    yield f"max_queued_bytes {queue_bytes}"
    yield f"max_queued_messages {max(_FEWEST_QUEUED, queue_bytes // _QUEUED_BYTES)}"
    yield f"max_inflight_bytes {max(1, queue_bytes // 8)}"


def _limits(config: BrokerConfig, version: Version) -> Iterator[str]:
    yield "set_tcp_nodelay true"
    yield f"sys_interval {math.ceil(config.sys_interval_s)}"
    yield from _persistence(config)
    yield f"max_packet_size {config.max_packet_bytes}"
    yield from queue_limits(config.queue_bytes)
    yield f"max_inflight_messages {config.max_inflight}"
    if config.max_keepalive_s:
        yield f"max_keepalive {max(10, config.max_keepalive_s)}"
    if version == "2.1":
        yield f"global_max_clients {config.max_sessions}"
        yield f"persistent_client_expiration {max(1, config.session_expiry_s)}s"
    else:
        yield f"persistent_client_expiration {max(1, math.ceil(config.session_expiry_s / 3600))}h"


def _persistence(config: BrokerConfig) -> Iterator[str]:
    if not config.store:
        yield "persistence false"
        return
    store = Path(config.store).resolve()
    yield "persistence true"
    yield f"persistence_location {store.parent}/"
    yield f"persistence_file {store.name}.mosquitto"
    yield f"autosave_interval {AUTOSAVE_S}"


def _tls(config: BrokerConfig) -> Iterator[str]:
    yield f"certfile {_found('tls_certificate', config.tls_certificate)}"
    yield f"keyfile {_found('tls_key', config.tls_key)}"
    yield "tls_version tlsv1.2"  # and later
    if not config.tls_ca:
        return
    if not config.tls_require:
        raise SettingsError(
            "tls_require: mosquitto takes certificates from all clients or from none; valid: true, or no tls_ca"
        )
    if config.users:
        raise SettingsError("users: with tls_require mosquitto asks for no passwords; valid: one of the two")
    yield f"cafile {_found('tls_ca', config.tls_ca)}"
    yield "require_certificate true"
    yield "use_identity_as_username true"
    if config.tls_crl:
        yield f"crlfile {_found('tls_crl', config.tls_crl)}"


def _found(key: str, path: str) -> Path:
    """The absolute path of a file; SettingsError where it is none that can be read."""
    try:
        with open(path, "rb"):
            return Path(path).resolve()
    except OSError as error:
        raise SettingsError(f"{key}: {path}: {error.strerror}") from None


def _passwords(users: Users, path: str) -> str:
    for name, user in users.items():
        if not user.mosquitto:
            raise SettingsError(f"users: {name!r} of {path} has no hash for mosquitto; valid: set the password again")
    return "".join(f"{name}:{user.mosquitto}\n" for name, user in users.items())


def _rules(config: BrokerConfig) -> str:
    """The lines of the access control list, empty for none."""
    text = DEVICES if config.policy == "devices" else ""
    if config.acl:
        AccessList.load(config.acl)
        # What stands before the first user is for clients without a name, also after the policy's own users.
        text = read_acl(config.acl).rstrip() + "\n" + text
    return text
