"""Channels with names, passwords and certificates, through both brokers, and what a channel's settings say of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from broker.broker_config import BrokerConfig
from broker.channel import ChannelConfig
from broker.client import MqttChannel
from broker.credentials import Credentials
from broker.engines import is_secure, parse_url
from broker.errors import ConnectError, SettingsError
from broker.messages import End, Hello, State
from tests.broker.lab import BOTH, PASSWORDS, Address, Lab, play

HELLO = Hello("agent0", 1, 1, 10, "base", "test")


def certified(lab: Lab, **values: Any) -> ChannelConfig:
    """A channel's settings with the certificate of whoever uses them."""
    directory = lab.pki.directory
    settings: dict[str, Any] = {
        "timeout_s": 10.0,
        "tls_ca": f"{directory}/ca.crt",
        "tls_certificate": f"{directory}/{{name}}.crt",
        "tls_key": f"{directory}/{{name}}.key",
    }
    return ChannelConfig(**(settings | values))


def with_passwords(directory: Path, **values: Any) -> ChannelConfig:
    """A channel's settings with the password of whoever uses them."""
    for name, password in {**PASSWORDS, "wrong": "wrong"}.items():
        (directory / f"{name}.password").write_text(f"{password}\n")
    settings: dict[str, Any] = {
        "timeout_s": 10.0,
        "username": "{name}",
        "password_file": f"{directory}/{{name}}.password",
    }
    return ChannelConfig(**(settings | values))


async def exchange(address: Address, config: ChannelConfig, name: str) -> None:
    """The server and an agent of a run, and a message each way."""
    async with (
        MqttChannel("run", "server", *address, config) as server,
        MqttChannel("run", name, *address, config) as agent,
    ):
        await agent.send("server", HELLO)
        assert (await told(server)) == (name, HELLO)
        await server.send(name, End(True, "done"))
        assert (await told(agent)) == ("server", End(True, "done"))


async def told(channel: MqttChannel) -> tuple[str, Any]:
    """The next message that is no state, and who sent it."""
    while True:
        sender, message = await channel.receive()
        if not isinstance(message, State):
            return sender, message


@BOTH
def test_server_and_agent_meet_with_their_certificates(kind: str, lab: Lab, tmp_path: Path) -> None:
    async def script(address: Address) -> None:
        await exchange(address, certified(lab), "agent0")

    play(kind, lab.tls(policy="devices"), tmp_path, script)


@BOTH
def test_server_and_agent_meet_with_their_passwords(kind: str, lab: Lab, tmp_path: Path) -> None:
    async def script(address: Address) -> None:
        await exchange(address, with_passwords(tmp_path), "alice")

    play(kind, BrokerConfig(port=0, users=str(lab.users), policy="devices"), tmp_path, script)


@BOTH
def test_a_wrong_password_is_told_at_once(kind: str, lab: Lab, tmp_path: Path) -> None:
    async def script(address: Address) -> None:
        host, port = address
        config = with_passwords(tmp_path, username="alice", password_file=str(tmp_path / "wrong.password"))
        with pytest.raises(ConnectError, match=f"cannot reach broker {host}:{port}: (bad user name|not authorized)"):
            async with MqttChannel("run", "alice", host, port, config):
                pass

    play(kind, BrokerConfig(port=0, users=str(lab.users)), tmp_path, script)


@BOTH
@pytest.mark.parametrize("name", ["revoked", "expired"])
def test_a_certificate_that_is_not_good_is_an_error(kind: str, name: str, lab: Lab, tmp_path: Path) -> None:
    async def script(address: Address) -> None:
        host, port = address
        told = f"cannot reach broker {host}:{port}: .*(certificate {name}|closed the connection)"
        with pytest.raises(ConnectError, match=told):
            async with MqttChannel("run", name, host, port, certified(lab, timeout_s=3.0)):
                pass

    play(kind, lab.tls(policy="devices"), tmp_path, script)


def test_an_agent_of_another_name_is_an_error(lab: Lab, tmp_path: Path) -> None:
    """The certificate is agent1's, the channel agent0's."""
    directory = lab.pki.directory
    config = certified(lab, tls_certificate=f"{directory}/agent1.crt", tls_key=f"{directory}/agent1.key")

    async def script(address: Address) -> None:
        with pytest.raises(ConnectError, match="the client id is not this client's own"):
            async with MqttChannel("run", "agent0", *address, config):
                pass

    play("embedded", lab.tls(policy="devices"), tmp_path, script)


def test_a_broker_of_a_foreign_authority_is_an_error(lab: Lab, tmp_path: Path) -> None:
    config = certified(lab, tls_ca=f"{lab.foreign.directory}/ca.crt")

    async def script(address: Address) -> None:
        with pytest.raises(ConnectError, match="certificate"):
            async with MqttChannel("run", "agent0", *address, config):
                pass

    play("embedded", lab.tls(policy="devices"), tmp_path, script)


def test_a_url_with_mqtts_is_never_plain(lab: Lab, tmp_path: Path) -> None:
    async def script(address: Address) -> None:
        with pytest.raises(ConnectError):
            async with MqttChannel("run", "agent0", *address, ChannelConfig(timeout_s=3.0), secure=True):
                pass

    play("embedded", BrokerConfig(port=0), tmp_path, script)


# Settings


def test_without_settings_nothing_is_shown() -> None:
    assert Credentials.of(ChannelConfig(), "agent0") == Credentials(None, None, None)
    assert Credentials.of(ChannelConfig(), "agent0", secure=True).context is not None


def test_a_password_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "agent0").write_text("wonder \nland\n")
    config = ChannelConfig(username="lab-{name}", password_file=f"{tmp_path}/{{name}}")
    shown = Credentials.of(config, "agent0")
    assert (shown.username, shown.password) == ("lab-agent0", "wonder ")


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "No such file"), (b"", "the first line is empty"), (b"\xff", "no text in UTF-8")]
)
def test_a_password_that_cannot_be_read_is_named(content: bytes | None, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=f"password_file: {path}: {problem}"):
        Credentials.of(ChannelConfig(username="u", password_file=str(path)), "agent0")


@pytest.mark.parametrize(
    ("values", "problem"), [({"tls_key": "k"}, "tls_key: a certificate"), ({"password_file": "p"}, "username: ")]
)
def test_settings_that_do_not_go_together_are_refused(values: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        ChannelConfig(**values)


def test_a_url_names_host_port_and_whether_it_is_tls() -> None:
    assert parse_url("mqtts://broker.example") == ("broker.example", 8883)
    assert parse_url("mqtts://[::1]:4711/") == ("::1", 4711)
    assert is_secure("mqtts://h")
    assert not is_secure("mqtt://h")
    assert not is_secure("embedded")
