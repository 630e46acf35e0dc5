"""Links that carry nothing for a while, in the middle of transfers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import product
from typing import Literal

import pytest

from broker.channel import ChannelConfig
from broker.client import MqttChannel
from broker.errors import ConnectError, DeadlineError
from broker.server import Broker, BrokerConfig
from tests.broker.planes import MOSQUITTO, RUN, BrokerProcess, chunks
from tests.broker.raw import until
from tests.broker.relay import Relay
from tests.broker.traffic import (
    COUNT,
    LAST,
    Heard,
    Leaks,
    bulk,
    emptied,
    exchange,
    say,
    settled,
    sockets,
)

Protocol = Literal["5", "3.1.1"]
PROTOCOLS: tuple[Protocol, ...] = ("5", "3.1.1")
BROKERS = ("embedded", "mosquitto") if MOSQUITTO else ("embedded",)
KEEPALIVES = (1, 60)  # an end that notices and connects again, and one that does not notice


@asynccontextmanager
async def broker_of(kind: str) -> AsyncIterator[int]:
    """A broker's port; when all clients have left it has to hold nothing of them."""
    if kind == "embedded":
        async with Broker(BrokerConfig(port=0)) as broker:
            yield broker.address[1]
            async with asyncio.timeout(10):
                await until(lambda: broker.snapshot()["open_connections"] == 0)
            assert broker.snapshot()["queued_bytes"] == 0
    else:
        with BrokerProcess("mosquitto") as process:
            before = sockets(process.pid)  # other files it may be about to open yet
            yield process.port
            async with asyncio.timeout(10):
                await until(lambda: sockets(process.pid) <= before)


@asynccontextmanager
async def ends(kind: str, behind: str, config: ChannelConfig) -> AsyncIterator[tuple[MqttChannel, MqttChannel, Relay]]:
    """Server and agent, one or both `behind` a relay."""
    async with broker_of(kind) as port, Relay(port) as relay:
        ports = [relay.port if name in behind.split("+") else port for name in ("server", "a")]
        server = MqttChannel(RUN, "server", "127.0.0.1", ports[0], config)
        agent = MqttChannel(RUN, "a", "127.0.0.1", ports[1], config)
        async with server, agent:
            yield server, agent, relay
        emptied(server, agent)


async def outage(kind: str, behind: str, seconds: float, config: ChannelConfig) -> None:
    async with ends(kind, behind, config) as (server, agent, relay):

        async def disturb() -> None:
            relay.hold()
            await asyncio.sleep(seconds)
            assert relay.holds
            relay.flow()

        await exchange(server, agent, disturb, limit_s=seconds + 60)
        await settled(server, agent)
        if seconds >= 10:
            assert (relay.connections > len(behind.split("+"))) == (config.keepalive_s == 1)


def all_at_once(seconds: float, timeout_s: float, behind: str) -> None:
    """In every broker, version and keepalive side by side: they wait most of the time."""

    async def main() -> None:
        async with Leaks(), asyncio.TaskGroup() as group:
            for kind, protocol, keepalive_s in product(BROKERS, PROTOCOLS, KEEPALIVES):
                config = ChannelConfig(timeout_s=timeout_s, keepalive_s=keepalive_s, protocol=protocol)
                group.create_task(outage(kind, behind, seconds, config))

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize("behind", ["a", "server", "server+a"])
def test_a_link_that_is_down_for_a_second(behind: str) -> None:
    all_at_once(1, 40, behind)


@pytest.mark.slow
@pytest.mark.parametrize("behind", ["a", "server+a"])
def test_a_link_that_is_down_for_ten_seconds(behind: str) -> None:
    all_at_once(10, 40, behind)


@pytest.mark.slow
def test_a_link_that_is_down_for_a_minute() -> None:
    all_at_once(60, 90, "a")


async def told(kind: str, protocol: Protocol) -> None:
    """Nobody knows that the link is down: who sends is told after `timeout_s`, and all the other messages come."""
    async with (
        ends(kind, "a", ChannelConfig(protocol=protocol)) as (server, agent, relay),
        asyncio.TaskGroup() as group,
    ):
        heard = Heard(agent)
        ears = group.create_task(heard.listen(LAST, LAST + 1))
        sends = [asyncio.create_task(server.send("a", bulk(server, number))) for number in range(COUNT)]
        await until(lambda: chunks(agent.received, "GradientDown") > 9)
        relay.hold()
        held_at = time.monotonic()
        await asyncio.wait(sends, return_when=asyncio.FIRST_EXCEPTION)
        assert server.config.timeout_s - 1 < time.monotonic() - held_at < server.config.timeout_s + 5
        relay.flow()
        results = await asyncio.gather(*sends, return_exceptions=True)
        await say(server, LAST, LAST + 1)
        await ears
        given_up = [number for number, result in enumerate(results) if isinstance(result, DeadlineError)]
        assert given_up
        assert str(results[given_up[0]]).startswith("a: no progress for 60 s with GradientDown")
        assert {number: heard.bulk[number] for number in range(COUNT)} == {n: n not in given_up for n in range(COUNT)}


async def lost(kind: str, protocol: Protocol) -> None:
    """An end that noticed is without a connection for `timeout_s`; then its channel and earlier sends have failed."""
    async with ends(kind, "a", ChannelConfig(protocol=protocol, keepalive_s=1)) as (server, agent, relay):
        heard = Heard(agent)
        sends = [asyncio.create_task(agent.send("server", bulk(agent, number))) for number in range(COUNT)]
        await until(lambda: chunks(server.received, "ActivationUp") > 9)
        relay.hold()
        with pytest.raises(ConnectError, match="no connection for 60 s"):
            await heard.listen()
        relay.flow()
        results = await asyncio.gather(*sends, return_exceptions=True)
        assert {type(result) for result in results} <= {int, ConnectError, DeadlineError}


@pytest.mark.slow
def test_a_link_that_is_down_for_longer_than_the_timeout() -> None:
    async def main() -> None:
        async with Leaks(), asyncio.timeout(100), asyncio.TaskGroup() as group:
            for kind, protocol in product(BROKERS, PROTOCOLS):
                group.create_task(told(kind, protocol))
                group.create_task(lost(kind, protocol))

    asyncio.run(main())
