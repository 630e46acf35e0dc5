"""The export to mosquitto; that it does the same there is shown where users, rules and TLS are tested with both."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from broker.acl import DEVICES
from broker.broker_config import BrokerConfig
from broker.errors import SettingsError
from broker.mosquitto_config import VERSIONS, Version, export
from broker.users import Scrypt, Users, set_password
from tests.broker.lab import Address, Lab, introduce, opened, play


def exported(config: BrokerConfig, directory: Path, version: Version = "2.0") -> list[str]:
    export(config, directory, version)
    return (directory / "mosquitto.conf").read_text().splitlines()


def test_limits_are_those_of_the_settings(tmp_path: Path) -> None:
    config = BrokerConfig(
        port=4711,
        max_packet_bytes=1 << 20,
        queue_bytes=1 << 21,
        max_inflight=7,
        max_connections=9,
        max_keepalive_s=60,
        session_expiry_s=5400,
        topic_alias_maximum=3,
    )
    assert set(exported(config, tmp_path)) == {
        "listener 4711 127.0.0.1",
        "allow_anonymous true",
        "set_tcp_nodelay true",
        "persistence false",
        "max_packet_size 1048576",
        "max_queued_bytes 2097152",
        "max_queued_messages 4096",
        "max_inflight_bytes 2097152",
        "max_inflight_messages 7",
        "max_connections 9",
        "max_keepalive 60",
        "max_topic_alias 3",
        "persistent_client_expiration 2h",
    }


def test_mosquitto_2_1_has_plugins_and_more_limits(tmp_path: Path, lab: Lab) -> None:
    config = BrokerConfig(users=str(lab.users), policy="devices", session_expiry_s=90, max_sessions=5)
    old, new = exported(config, tmp_path / "old"), exported(config, tmp_path / "new", "2.1")
    assert f"password_file {tmp_path}/old/password_file" in old
    assert f"acl_file {tmp_path}/old/acl_file" in old
    assert {line.split()[0] for line in new} - {line.split()[0] for line in old} == {
        "global_plugin",
        "plugin_opt_password_file",
        "plugin_opt_acl_file",
        "listener_allow_anonymous",
        "global_max_clients",
        "max_topic_alias_broker",
    }
    assert {line.split()[0] for line in old} - {line.split()[0] for line in new} == {
        "password_file",
        "acl_file",
        "allow_anonymous",
    }
    assert "persistent_client_expiration 90s" in new
    at = new.index("global_plugin /usr/lib/mosquitto_password_file.so")
    assert new[at + 1] == f"plugin_opt_password_file {tmp_path}/new/password_file"
    assert new.index("listener_allow_anonymous false") > new.index("listener 1883 127.0.0.1")


@pytest.mark.parametrize("version", VERSIONS)
def test_secrets_are_their_owners_only(version: Version, tmp_path: Path, lab: Lab) -> None:
    paths = export(BrokerConfig(users=str(lab.users), policy="devices"), tmp_path, version)
    assert [path.name for path in paths] == ["mosquitto.conf", "password_file", "acl_file"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths[1:]] == [0o600, 0o600]


def test_certificates_are_named_where_they_are(tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lab.directory)
    config = lab.tls(tls_certificate="pki/broker.crt", policy="devices")
    lines = exported(config, tmp_path)
    assert f"certfile {lab.pki.path('broker', 'crt')}" in lines
    assert f"crlfile {lab.pki.revocations}" in lines
    assert {"require_certificate true", "use_identity_as_username true", "use_username_as_clientid true"} <= set(lines)
    assert (tmp_path / "acl_file").read_text() == DEVICES


def test_rules_of_a_file_come_with_the_policys(tmp_path: Path, lab: Lab) -> None:
    (tmp_path / "rules").write_text("topic read news\nuser bob\ntopic read lab")
    config = BrokerConfig(port=0, users=str(lab.users), policy="devices", acl=str(tmp_path / "rules"))
    export(config, tmp_path / "out", "2.0")
    text = (tmp_path / "out" / "acl_file").read_text()
    assert text == f"topic read news\nuser bob\ntopic read lab\n{DEVICES}"


def test_passwords_are_mosquittos_own(tmp_path: Path, lab: Lab) -> None:
    export(BrokerConfig(users=str(lab.users)), tmp_path, "2.0")
    users = Users.load(lab.users)
    lines = (tmp_path / "password_file").read_text().splitlines()
    assert lines == [f"{name}:{user.mosquitto}" for name, user in users.items()]
    assert all("$7$20000$" in line and "scrypt" not in line for line in lines)


def test_mosquittos_own_command_would_have_made_the_same_kind_of_hash(tmp_path: Path) -> None:
    """A hash that `mosquitto_passwd` made is read as the second of a line, and lets its user in there."""
    made = tmp_path / "made"
    made.touch()
    try:
        subprocess.run(["mosquitto_passwd", "-b", str(made), "alice", "wonder"], check=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("mosquitto_passwd is not installed")
    name, theirs = made.read_text().strip().split(":")
    (tmp_path / "users").write_text(f"{name}:{Scrypt.of(b'wonder')}:{theirs}\n")

    async def script(address: Address) -> None:
        async with opened(address) as client:
            assert await introduce(client, "c", username="alice", password="wonder") == 0

    play("mosquitto", BrokerConfig(port=0, users=str(tmp_path / "users")), tmp_path, script)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"tls_require": False}, "tls_require: mosquitto takes certificates from all clients or from none"),
        ({"users": "{users}"}, "users: with tls_require mosquitto asks for no passwords"),
        ({"acl": "missing"}, "acl: missing: No such file"),
    ],
)
def test_what_mosquitto_cannot_have_is_named(values: Any, problem: str, tmp_path: Path, lab: Lab) -> None:
    values = {key: str(lab.users) if value == "{users}" else value for key, value in values.items()}
    with pytest.raises(SettingsError) as caught:
        export(lab.tls(**values), tmp_path / "out", "2.0")
    assert str(caught.value).startswith(problem)
    assert not (tmp_path / "out").exists()


def test_a_user_without_mosquittos_hash_is_named(tmp_path: Path) -> None:
    (tmp_path / "users").write_text(f"alice:{Scrypt.of(b'p')}\n")
    with pytest.raises(SettingsError, match=r"users: 'alice' of .* has no hash for mosquitto"):
        export(BrokerConfig(users=str(tmp_path / "users")), tmp_path / "out", "2.0")


def test_the_command_takes_the_settings_that_stand_before_it(tmp_path: Path) -> None:
    set_password(tmp_path / "users", "alice", "wonder")
    command = [sys.executable, "-m", "broker", "--users", str(tmp_path / "users"), "--port", "4711"]
    command += ["export-mosquitto", str(tmp_path / "out"), "--mosquitto", "2.1", "--plugins", "/opt/plugins"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [str(tmp_path / "out" / name) for name in ("mosquitto.conf", "password_file")]
    lines = (tmp_path / "out" / "mosquitto.conf").read_text().splitlines()
    assert {"listener 4711 127.0.0.1", "global_plugin /opt/plugins/mosquitto_password_file.so"} <= set(lines)
