"""How server and agents find each other at a broker that gives no retained messages to wildcard subscriptions."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable

import pytest

from broker.channel import ChannelConfig
from broker.client import MqttChannel
from broker.fields import varint
from broker.framer import SCRATCH_BYTES, Framer
from broker.messages import ActivationUp, State, Welcome
from broker.properties import PacketType
from broker.server import Broker, BrokerConfig
from tests.broker.planes import HELLO, RUN, next_of
from tests.broker.relay import Relay

CONFIG = ChannelConfig(timeout_s=20.0, protocol="3.1.1")  # in MQTT 5 a dropped packet may define a topic alias


def without_retained(dropped: list[int]) -> Callable[[bytes], bytes]:
    """Passes a broker's packets on but for retained messages, which it counts."""
    framer = Framer(memoryview(bytearray(SCRATCH_BYTES)), 1 << 20)

    def change(data: bytes) -> bytes:
        passed, rest = bytearray(), memoryview(data)
        while rest:
            buffer = framer.buffer()
            size = min(len(buffer), len(rest))
            buffer[:size], rest = rest[:size], rest[size:]
            for first, body in framer.received(size):
                if first >> 4 == PacketType.PUBLISH and first & 1:
                    dropped.append(first)
                else:
                    passed += bytes((first,)) + varint(len(body)) + body
        return bytes(passed)

    return change


@pytest.mark.parametrize("first", ["server", "agents"])
def test_whoever_comes_first_agents_answer_the_servers_state_with_their_hello(first: str) -> None:
    async def join(agent: MqttChannel) -> None:
        """What an agent does until it has been welcomed."""
        while await next_of(agent, State, Welcome) != Welcome({}, agent.boot):
            await agent.send("server", dataclasses.replace(HELLO, client=agent.name, boot=agent.boot))

    async def main() -> None:
        dropped: list[int] = []
        async with (
            asyncio.timeout(30),
            Broker(BrokerConfig(port=0)) as broker,
            Relay(broker.address[1], lambda: without_retained(dropped)) as relay,
        ):
            server = MqttChannel(RUN, "server", "127.0.0.1", relay.port, CONFIG)
            agents = [MqttChannel(RUN, name, *broker.address, CONFIG) for name in "ab"]
            order = [server, *agents] if first == "server" else [*agents, server]
            async with order[0], order[1], order[2], asyncio.TaskGroup() as group:
                for agent in agents:
                    group.create_task(join(agent))
                for _ in agents:
                    hello = await next_of(server)
                    await server.send(hello.client, Welcome({}, hello.boot))
            assert len(dropped) == (2 if first == "agents" else 0)

    asyncio.run(main())


def test_a_server_that_returns_gets_what_it_missed_from_agents_of_which_it_hears_nothing() -> None:
    async def main() -> None:
        async with (
            asyncio.timeout(30),
            Broker(BrokerConfig(port=0)) as broker,
            Relay(broker.address[1], lambda: without_retained([])) as relay,
            MqttChannel(RUN, "a", *broker.address, CONFIG) as agent,
            MqttChannel(RUN, "server", "127.0.0.1", relay.port, CONFIG) as server,
        ):
            assert await next_of(agent, State) == State("online", server.boot)
            await agent.send("server", HELLO)
            assert await next_of(server) == HELLO
            relay.reset()
            await server.send("a", Welcome({}, 1))
            await agent.send("server", ActivationUp(1, 0, bytes(200_000), b"", -1, []))
            assert await next_of(agent) == Welcome({}, 1)
            assert (await next_of(server)).step == 1
            assert relay.resets == 1

    asyncio.run(main())
