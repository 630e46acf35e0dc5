"""What the tests of the broker over real sockets have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import aiomqtt
import pytest

from broker.authority import Authority
from broker.packets import V5, V311, Connack, Disconnect, Packet, Publish
from broker.properties import Property
from broker.server import Broker, BrokerConfig
from tests.broker.raw import PATIENCE_S, RawClient, until

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


async def has_all_and_no_will(broker: Broker, watch: RawClient, count: int) -> None:
    """The watcher gets the messages 0 to `count` of a client `c` that has said goodbye, and then nothing of it."""
    for number in range(count):
        packet = await watch.expect(Publish)
        assert (packet.topic, bytes(packet.payload)) == ("t", b"%d" % number)
    await until(lambda: "c" not in broker._registry.sessions)
    await asyncio.sleep(0)  # a will would be sent in the turn after that
    broker.publish("after", b"")
    assert (await watch.expect(Publish)).topic == "after"
