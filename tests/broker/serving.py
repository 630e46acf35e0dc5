"""What the tests of the broker over real sockets have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import aiomqtt
import pytest

from broker.authority import Authority
from broker.packets import V5, V311, Connack, Disconnect, Packet
from broker.properties import Property
from broker.server import Broker, BrokerConfig
from tests.broker.raw import PATIENCE_S

FOREVER = {Property.SESSION_EXPIRY: 3600}
VERSIONS = pytest.mark.parametrize("version", [V311, V5])


def serving(authority: Authority | None = None, **values: Any) -> Broker:
    """A broker on a free loopback port."""
    return Broker(BrokerConfig(port=0, **values), authority)


def client(broker: Broker, name: str, version: int = V5, **options: Any) -> aiomqtt.Client:
    host, port = broker.address
    protocol = aiomqtt.ProtocolVersion(version)
    return aiomqtt.Client(host, port, identifier=name, protocol=protocol, timeout=PATIENCE_S, **options)


async def next_message(subscriber: aiomqtt.Client) -> aiomqtt.Message:
    async with asyncio.timeout(PATIENCE_S):
        return await anext(aiter(subscriber.messages))


def kept(version: int) -> dict[str, Any]:
    """The fields of a CONNECT whose session outlives its connection, and which resumes one."""
    return {"clean_start": False, "properties": FOREVER if version == V5 else {}}


def reasons(packets: Iterable[Packet]) -> list[int]:
    """The reason codes of the CONNACK or DISCONNECT packets with which a connection ended."""
    found = []
    for packet in packets:
        assert isinstance(packet, Connack | Disconnect), packet
        found.append(packet.reason)
    return found
