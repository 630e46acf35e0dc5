"""How messages are cut and paced on a link whose rate changes."""

from __future__ import annotations

import asyncio
from typing import NamedTuple
from unittest import mock

import pytest

from broker.channel import ChannelConfig
from broker.client import MqttChannel
from broker.messages import ActivationUp
from broker.outgoing import Chunk
from broker.server import Broker, BrokerConfig
from tests.broker.narrow import Narrow
from tests.broker.planes import RUN, next_of

KB, MB = 1 << 10, 10**6
KEEPALIVE_S = 2
FAST, SLOW = 6 * MB, 0.8 * MB


class Step(NamedTuple):
    """A chunk of bulk that is handed over, and all that is under way with it."""

    chunk_bytes: int
    under_way: int


@pytest.mark.slow
def test_chunks_and_what_is_under_way_follow_the_rate_of_the_link() -> None:
    steps: list[Step] = []

    async def main() -> None:
        config = ChannelConfig(keepalive_s=KEEPALIVE_S, timeout_s=20.0)
        async with (
            asyncio.timeout(50),
            Broker(BrokerConfig(port=0)) as broker,
            MqttChannel(RUN, "server", *broker.address) as server,
            Narrow(broker.address[1], FAST) as link,
            MqttChannel(RUN, "a", "127.0.0.1", link.port, config) as agent,
        ):
            publish, lane = agent._publish, agent._lane("server", "up")

            def note(chunk: Chunk) -> asyncio.Future[None]:
                if chunk.bulk:
                    steps.append(Step(len(chunk.body), lane._under_way))
                return publish(chunk)

            async def say(size: int) -> list[Step]:
                before = len(steps)
                up = ActivationUp(1, 0, bytes(size), b"", -1, [])
                await asyncio.gather(agent.send("server", up), next_of(server))
                return steps[before:]

            with mock.patch.object(agent, "_publish", note):
                assert {step.chunk_bytes for step in (await say(40 * 64 * KB))[:-1]} == {64 * KB}
                fast = await say(16 * 256 * KB)
                assert {step.chunk_bytes for step in fast[:-1]} == {256 * KB}
                assert max(step.under_way for step in fast) == 4 * 256 * KB
                asyncio.get_running_loop().call_later(0.2, setattr, link, "bytes_per_s", SLOW)
                slow = await say(14 * 256 * KB)
                # The rate fell within the message, which is cut already; what goes out has to fit a quarter of the
                # keepalive as soon as the chunks that were under way are through.
                assert {step.chunk_bytes for step in slow[:-1]} == {256 * KB}
                assert all(step.under_way <= max(256 * KB, SLOW * KEEPALIVE_S / 4) for step in slow[-4:])
                after = await say(4 * 64 * KB)
                assert {step.chunk_bytes for step in after[:-1]} == {64 * KB}
                assert max(step.under_way for step in after) <= 1.1 * SLOW * KEEPALIVE_S / 4
            assert agent.tcp()["connections"] == 1

    asyncio.run(main())


def test_messages_of_one_chunk_tell_the_rate_too() -> None:
    async def main() -> None:
        config = ChannelConfig(keepalive_s=KEEPALIVE_S, timeout_s=20.0)
        async with (
            asyncio.timeout(50),
            Broker(BrokerConfig(port=0)) as broker,
            MqttChannel(RUN, "server", *broker.address) as server,
            Narrow(broker.address[1], 0.2 * MB) as link,
            MqttChannel(RUN, "a", "127.0.0.1", link.port, config) as agent,
        ):
            lane = agent._lane("server", "up")
            up = ActivationUp(1, 0, bytes(50_000), b"", -1, [])
            await asyncio.gather(agent.send("server", up), next_of(server))
            assert 0.1 * MB < agent._rates["server"].lately < 0.25 * MB
            sends = [asyncio.create_task(agent.send("server", up)) for _ in range(6)]
            for _ in range(6):
                await asyncio.sleep(0)
                assert lane._under_way <= 0.15 * MB
                await next_of(server)
            await asyncio.gather(*sends)

    asyncio.run(main())
