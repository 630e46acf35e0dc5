"""The export to mosquitto; that it does the same there is shown where users, rules and TLS are tested with both."""

from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.acl import DEVICES
from broker.broker_config import BrokerConfig
from broker.engines import find_mosquitto
from broker.errors import SettingsError
from broker.mosquitto_config import VERSIONS, Version, export, queue_limits
from broker.packets import Pingreq, Pingresp, Puback, Publish
from broker.users import Scrypt, Users, set_password
from tests.broker.lab import Address, Lab, introduce, opened, play, start_mosquitto
from tests.broker.planes import free_port
from tests.broker.raw import RawClient, publish


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
    assert {line for line in exported(config, tmp_path) if not line.startswith("#")} == {
        "listener 4711 127.0.0.1",
        "protocol mqtt",
        "allow_anonymous true",
        "set_tcp_nodelay true",
        "sys_interval 10",
        "persistence false",
        "max_packet_size 1048576",
        "max_queued_bytes 2097152",
        "max_queued_messages 100",
        "max_inflight_bytes 262144",
        "max_inflight_messages 7",
        "max_connections 9",
        "max_keepalive 60",
        "max_topic_alias 3",
        "persistent_client_expiration 2h",
    }


def test_what_may_wait_comes_to_about_the_bytes_that_were_asked_for() -> None:
    assert list(queue_limits(64 << 20)) == [
        "max_queued_bytes 67108864",
        "max_queued_messages 1024",
        "max_inflight_bytes 8388608",
    ]
    assert list(queue_limits(1))[1:] == ["max_queued_messages 100", "max_inflight_bytes 1"]  # never 0 for no limit


def test_messages_of_qos_0_do_not_pile_up_for_a_subscriber_that_does_not_read(tmp_path: Path) -> None:
    sent = 1_000

    async def script(address: Address) -> None:
        async with opened(address) as slow, opened(address) as publisher:
            for name, client in (("slow", slow), ("publisher", publisher)):
                assert await introduce(client, name) == 0
            await slow.subscribe("t")
            for _ in range(sent):
                await publisher.send(publish("t", bytes(64 << 10)))
            await publisher.send(Pingreq())
            await publisher.expect(Pingresp)  # so that all of it is handled
            received = 0
            while (await next_or_end(slow, publisher)).payload != b"end":
                received += 1
            assert 100 <= received < sent / 2  # those that waited, and what was in the buffers of the connection

    play("mosquitto", BrokerConfig(port=0, queue_bytes=1 << 20), tmp_path, script)


async def next_or_end(subscriber: RawClient, publisher: RawClient) -> Publish:
    """What comes next; until something does, an end is published, again and again since that may be dropped too."""
    reading = asyncio.create_task(subscriber.expect(Publish))
    while not reading.done():
        await publisher.send(publish("t", b"end"), Pingreq())
        await publisher.expect(Pingresp)
    return reading.result()


@pytest.mark.slow
def test_its_own_topics_come_as_often_as_was_asked_for(tmp_path: Path) -> None:
    async def script(address: Address) -> None:
        async with opened(address) as client:
            assert await introduce(client, "c") == 0
            await client.subscribe("$SYS/broker/uptime")
            for _ in range(3):
                await client.expect(Publish)

    assert "sys_interval 0" in exported(BrokerConfig(sys_interval_s=0), tmp_path)
    play("mosquitto", BrokerConfig(port=0, sys_interval_s=0.1), tmp_path, script)  # whole seconds there


def test_a_store_is_kept_beside_the_brokers_own(tmp_path: Path) -> None:
    program = find_mosquitto()
    if program is None:
        pytest.skip("mosquitto is not installed")
    config = BrokerConfig(port=0, store=str(tmp_path / "state.db"))

    async def keep(address: Address) -> None:
        async with opened(address) as client:
            assert await introduce(client, "c") == 0
            await client.send(publish("t", b"kept", qos=1, retain=True))
            await client.expect(Puback)

    async def find(address: Address) -> None:
        async with opened(address) as client:
            assert await introduce(client, "c") == 0
            await client.subscribe("t")
            assert (await client.expect(Publish)).payload == b"kept"

    for script in (keep, find):
        process, port = start_mosquitto(program, config, tmp_path / "conf")
        with process:
            try:
                asyncio.run(script((config.host, port)))
            finally:
                process.terminate()
    assert (tmp_path / "state.db.mosquitto").exists()
    assert any("is saved every 60 s" in line for line in exported(config, tmp_path))


def test_websocket_has_a_listener_of_its_own(tmp_path: Path, lab: Lab) -> None:
    config = BrokerConfig(port=4711, websocket_port=4712, users=str(lab.users), policy="devices")
    lines = exported(config, tmp_path)
    at = lines.index("listener 4712 127.0.0.1")
    assert lines[at + 1] == "protocol websockets"
    assert lines[lines.index("listener 4711 127.0.0.1") + 1] == "protocol mqtt"
    assert lines[at + 2 :] == lines[lines.index("protocol mqtt") + 1 : at]
    assert exported(replace(config, websocket_port=0), tmp_path).count("listener 8083 127.0.0.1") == 1

    async def script(address: Address) -> None:
        async with opened(address) as client:
            assert await introduce(client, "alice", username="alice", password="wonder") == 0

    # Also a mosquitto that was built without WebSocket starts with it.
    play("mosquitto", replace(config, port=0, websocket_port=free_port()), tmp_path, script)


def test_over_websocket_no_certificate_is_asked_for_so_that_there_is_no_such_listener(tmp_path: Path, lab: Lab) -> None:
    lines = exported(lab.tls(websocket_port=4712), tmp_path)
    assert sum(line.startswith("listener ") for line in lines) == 1
    assert untold(lines)[-1] == "websocket_port (with tls_require)"


def untold(lines: list[str]) -> list[str]:
    """The settings that the file says it does not hold."""
    (line,) = (line for line in lines if line.startswith("# Mosquitto has no options for: "))
    return line.rpartition(": ")[2].split(", ")


def test_the_file_says_which_settings_it_does_not_hold(tmp_path: Path) -> None:
    bounds = ["retained_bytes", "connect_timeout_s", "connect_bytes", "max_sessions", "max_subscriptions"]
    assert untold(exported(BrokerConfig(), tmp_path)) == bounds
    bounds.remove("max_sessions")
    assert untold(exported(BrokerConfig(), tmp_path, "2.1")) == bounds
    config = BrokerConfig(metrics_port=0, connections_per_s=5, congestion="cubic", log_format="json")
    assert {"metrics_port", "connections_per_s", "congestion", "log_format"} <= set(untold(exported(config, tmp_path)))


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
        ({"tls_key": "missing"}, "tls_key: missing: No such file"),
        ({"tls_crl": "missing"}, "tls_crl: missing: No such file"),
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
