"""What the tests of security have in common: a laboratory's certificates, and both brokers with the same settings."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.broker_config import BrokerConfig
from broker.engines import find_mosquitto
from broker.mosquitto_config import export
from broker.packets import V5, Connack, Connect
from broker.pki import Pki
from broker.server import Broker
from broker.tls import client_context
from broker.users import set_password
from tests.broker.raw import PATIENCE_S, RawClient

Address = tuple[str, int]
Serve = Callable[[BrokerConfig, Path], AbstractAsyncContextManager[Address]]

PASSWORDS = {"alice": "wonder", "bob": "builder", "server": "central"}


RULES = """\
topic read news/#
user alice
topic readwrite lab/#
topic deny lab/secret
pattern readwrite home/%u/#
pattern write client/%c
"""
ALICE = {"username": "alice", "password": PASSWORDS["alice"]}
BOB = {"username": "bob", "password": PASSWORDS["bob"]}


class Lab:
    """A directory with an authority; `foreign` is another one that nobody trusts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pki = Pki.create(directory / "pki", "lab")
        self.foreign = Pki.create(directory / "foreign", "lab")
        self.users = directory / "users"
        for name, password in PASSWORDS.items():
            set_password(self.users, name, password)
        for name in ("server", "agent0", "agent1", "revoked"):
            self.pki.issue(name)
        self.pki.revoke("revoked")
        self.pki.issue("expired", days=1, begins=dt.datetime.now(dt.UTC) - dt.timedelta(days=10))
        self.foreign.issue("agent0")

    def tls(self, **values: Any) -> BrokerConfig:
        """Settings of a broker that is TLS and wants certificates."""
        return tls(self.pki, **values)

    def context(self, name: str = "") -> ssl.SSLContext:
        """A client's context with the certificate of the name, or with none."""
        return context(self.pki, name)


def tls(pki: Pki, **values: Any) -> BrokerConfig:
    """Settings of a broker that is TLS and wants certificates of the authority."""
    settings: dict[str, Any] = {
        "port": 0,
        "tls_certificate": str(pki.path("broker", "crt")),
        "tls_key": str(pki.path("broker", "key")),
        "tls_ca": str(pki.path("ca", "crt")),
        "tls_crl": str(pki.revocations),
        "tls_require": True,
    }
    return BrokerConfig(**(settings | values))


def context(pki: Pki, name: str = "", own: Pki | None = None) -> ssl.SSLContext:
    """A client's context that trusts `pki`, with the certificate of the name from `own`, or with none."""
    files = [str((own or pki).path(name, ending)) for ending in ("crt", "key")] if name else []
    return client_context(str(pki.path("ca", "crt")), *files)


@asynccontextmanager
async def embedded(config: BrokerConfig, directory: Path) -> AsyncIterator[Address]:
    async with Broker(config) as broker:
        yield broker.address


@asynccontextmanager
async def mosquitto(config: BrokerConfig, directory: Path) -> AsyncIterator[Address]:
    """Mosquitto from the exported settings."""
    program = find_mosquitto()
    if program is None:
        pytest.skip("mosquitto is not installed")
    process, port = await asyncio.to_thread(start_mosquitto, program, config, directory / "mosquitto")
    with process:
        try:
            yield config.host, port
        finally:
            process.kill()


SERVERS: dict[str, Serve] = {"embedded": embedded, "mosquitto": mosquitto}
BOTH = pytest.mark.parametrize("kind", list(SERVERS))


def start_mosquitto(program: str, config: BrokerConfig, directory: Path) -> tuple[subprocess.Popen[str], int]:
    """A mosquitto that listens, and its port; somebody else may take a free port first, so there are a few tries."""
    for _ in range(5):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        settings, *_ = export(replace(config, port=port), directory, "2.0")
        if os.geteuid() == 0:  # it would become a user who may not read what lies in root's temporary directories
            settings.write_text(settings.read_text() + "user root\n")
        process = subprocess.Popen(
            [program, "-c", str(settings)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.rstrip().endswith(" running"):
                return process, port
        process.wait()
        process.stderr.close()
        if "in use" not in said[-1]:
            break
    raise RuntimeError("mosquitto did not start: " + "".join(said))


@asynccontextmanager
async def opened(
    address: Address, context: ssl.SSLContext | None = None, version: int = V5
) -> AsyncIterator[RawClient]:
    """A connection that has not sent anything yet, TLS with a context."""
    host, port = address
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection(host, port, ssl=context)
    client = RawClient(reader, writer, version)
    try:
        yield client
    finally:
        client.abort()


async def introduce(client: RawClient, client_id: str, **fields: Any) -> int:
    """Send a CONNECT; the reason in the CONNACK."""
    if "password" in fields:
        fields["password"] = fields["password"].encode()
    await client.send(Connect(client_id, client.version, **fields))
    connack = await client.expect(Connack)
    return connack.reason


async def reaches(address: Address, context: ssl.SSLContext, client_id: str = "sc-run-agent0") -> int | None:
    """The reason in the CONNACK, None where TLS ends the connection before there is one."""
    with contextlib.suppress(OSError):
        async with opened(address, context) as client:
            await client.send(Connect(client_id, V5))
            packet = await client.receive()
            assert packet is None or isinstance(packet, Connack)
            return packet.reason if packet else None
    return None


def play(kind: str, config: BrokerConfig, directory: Path, script: Callable[[Address], Any]) -> None:
    """Run the script against a broker of the kind."""

    async def main() -> None:
        async with asyncio.timeout(60), SERVERS[kind](config, directory) as address:
            await script(address)

    asyncio.run(main())
