"""The settings of the embedded broker as a configuration of mosquitto, with users, access rules and certificates.

Mosquitto 2.1 wants users and rules from its plugins, where 2.0 has options of its own. It also has a limit of sessions,
expiries in seconds, and aliases of topics in both directions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
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
DEFAULT_PORT = 1883
OVERHEAD_BYTES = 512
"""What a queued message costs beside its own bytes, as the embedded broker counts it."""


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
    lines = [*_limits(config, version), *_files(named, version, plugins), *_listener(config, version)]
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


def _listener(config: BrokerConfig, version: Version) -> Iterator[str]:
    anonymous = "false" if config.authenticates else "true"
    if version == "2.0":
        yield f"allow_anonymous {anonymous}"
    yield f"listener {config.port or DEFAULT_PORT} {config.host}"
    yield f"max_connections {config.max_connections}"
    yield f"max_topic_alias {config.topic_alias_maximum}"
    if version == "2.1":
        yield f"max_topic_alias_broker {config.topic_alias_maximum}"
        yield f"listener_allow_anonymous {anonymous}"
    if config.policy == "devices":
        # Instead of the check of client ids: nobody can push out another, and a device can be in one run at a time.
        yield "use_username_as_clientid true"
    if config.tls_certificate:
        yield from _tls(config)


def _limits(config: BrokerConfig, version: Version) -> Iterator[str]:
    yield "set_tcp_nodelay true"
    yield "persistence false"
    yield f"max_packet_size {config.max_packet_bytes}"
    yield f"max_queued_bytes {config.queue_bytes}"
    # Not 0 for no limit: mosquitto 2.0 would end every connection whose message is forbidden.
    yield f"max_queued_messages {config.queue_bytes // OVERHEAD_BYTES}"
    yield f"max_inflight_bytes {config.queue_bytes}"
    yield f"max_inflight_messages {config.max_inflight}"
    if config.max_keepalive_s:
        yield f"max_keepalive {max(10, config.max_keepalive_s)}"
    if version == "2.1":
        yield f"global_max_clients {config.max_sessions}"
        yield f"persistent_client_expiration {max(1, config.session_expiry_s)}s"
    else:
        yield f"persistent_client_expiration {max(1, math.ceil(config.session_expiry_s / 3600))}h"


def _tls(config: BrokerConfig) -> Iterator[str]:
    yield f"certfile {Path(config.tls_certificate).resolve()}"
    yield f"keyfile {Path(config.tls_key).resolve()}"
    yield "tls_version tlsv1.2"  # and later
    if not config.tls_ca:
        return
    if not config.tls_require:
        raise SettingsError(
            "tls_require: mosquitto takes certificates from all clients or from none; valid: true, or no tls_ca"
        )
    if config.users:
        raise SettingsError("users: with tls_require mosquitto asks for no passwords; valid: one of the two")
    yield f"cafile {Path(config.tls_ca).resolve()}"
    yield "require_certificate true"
    yield "use_identity_as_username true"
    if config.tls_crl:
        yield f"crlfile {Path(config.tls_crl).resolve()}"


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
