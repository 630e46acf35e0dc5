"""Connections and brokers that fail in the middle of transfers: every message comes once, and nothing is left over."""

from __future__ import annotations

import ast
import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from broker.channel import ChannelConfig
from broker.client import MqttChannel
from broker.messages import ActivationUp, GradientDown
from broker.server import Broker, BrokerConfig
from tests.broker.planes import RUN, BrokerProcess, chunks, next_of
from tests.broker.raw import until
from tests.broker.relay import Relay
from tests.broker.traffic import Leaks, emptied, exchange, settled, under_way

TRANSPORT = """
    arrivals backoff client credit dial endpoint inbox lane mqtt_connection mqtt_protocol outgoing ping publisher rate
    reassembler outbox gather slots tcpinfo transfer wire
"""
BIG = bytes(range(256)) * (32 << 12)  # 32 MiB
CONFIG = ChannelConfig(timeout_s=40.0, keepalive_s=1)
Protocol = Literal["5", "3.1.1"]
PROTOCOLS = pytest.mark.parametrize("protocol", ["5", "3.1.1"])


def through(relay: Relay, behind: str, port: int, config: ChannelConfig = CONFIG) -> tuple[MqttChannel, MqttChannel]:
    """Server and agent at the broker's port, one or both `behind` the relay."""
    ports = [relay.port if name in behind.split("+") else port for name in ("server", "a")]
    server = MqttChannel(RUN, "server", "127.0.0.1", ports[0], config)
    return server, MqttChannel(RUN, "a", "127.0.0.1", ports[1], config)


@PROTOCOLS
@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
def test_a_broker_that_is_killed_and_comes_back(kind: str, protocol: Protocol) -> None:
    config = replace(CONFIG, protocol=protocol)

    async def main() -> None:
        with BrokerProcess(kind) as broker:
            async with (
                MqttChannel(RUN, "server", "127.0.0.1", broker.port, config) as server,
                MqttChannel(RUN, "a", "127.0.0.1", broker.port, config) as agent,
            ):

                async def restart() -> None:
                    for _ in range(3):
                        before = agent.tcp()["connections"]
                        broker.kill()
                        await asyncio.to_thread(broker.start)
                        await until(lambda before=before: agent.tcp()["connections"] > before)  # type: ignore[misc]

                await exchange(server, agent, restart)
                await settled(server, agent)
            emptied(server, agent)

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
@pytest.mark.parametrize("way", ["up", "down"])
def test_a_message_interrupted_near_its_end_is_not_sent_from_its_beginning(kind: str, way: str) -> None:
    message: Any = ActivationUp(1, 0, BIG, b"", -1, []) if way == "up" else GradientDown(1, BIG, 0.0)
    name, config = type(message).__name__, ChannelConfig(timeout_s=40.0, chunk_bytes=32768)

    async def main() -> None:
        with BrokerProcess(kind) as broker:
            async with (
                asyncio.timeout(50),
                MqttChannel(RUN, "server", "127.0.0.1", broker.port, config) as server,
                MqttChannel(RUN, "a", "127.0.0.1", broker.port, config) as agent,
                asyncio.TaskGroup() as group,
            ):
                sender, receiver = (agent, server) if way == "up" else (server, agent)
                group.create_task(sender.send("server" if way == "up" else "a", message))
                count = len(BIG) // config.chunk_bytes + 1
                await until(lambda: chunks(receiver.received, name) > 0.9 * count)
                broker.kill()
                await asyncio.to_thread(broker.start)
                assert await next_of(receiver) == message
            assert sender.tcp()["connections"] >= 2
            assert count <= sender.sent[name].chunks < 1.25 * count

    asyncio.run(main())


@PROTOCOLS
@pytest.mark.parametrize("behind", ["server", "a", "server+a"])
def test_connections_that_are_reset_within_a_chunk(behind: str, protocol: Protocol) -> None:
    async def main() -> None:
        async with Leaks(), Broker(BrokerConfig(port=0)) as broker, Relay(broker.address[1]) as relay:
            server, agent = through(relay, behind, broker.address[1], replace(CONFIG, protocol=protocol))
            async with server, agent:

                async def disturb() -> None:
                    for after in (1, 30_000, 100_000):
                        relay.reset(after)
                        count = relay.resets
                        await until(lambda count=count: relay.resets > count)  # type: ignore[misc]

                await exchange(server, agent, disturb)
                await settled(server, agent)
            emptied(server, agent)
            assert relay.resets == 3
            assert broker.snapshot()["queued_bytes"] == 0

    asyncio.run(main())


async def half_open(behind: str, protocol: Protocol) -> None:
    """Again and again both ends of a connection hear nothing more of each other, and nothing tells them."""
    async with Broker(BrokerConfig(port=0)) as broker, Relay(broker.address[1]) as relay:
        server, agent = through(relay, behind, broker.address[1], replace(CONFIG, protocol=protocol))
        async with server, agent:

            async def disturb() -> None:
                for _ in range(3):
                    count, begun = relay.connections, under_way(server, agent)
                    relay.go_deaf()
                    await until(lambda count=count: relay.connections > count)  # type: ignore[misc]
                    await until(begun)

            await exchange(server, agent, disturb, rounds=18)
            await settled(server, agent)
        emptied(server, agent)
        assert relay.connections == 4
        await until(lambda: broker.snapshot()["open_connections"] == 0)
        assert broker.snapshot()["queued_bytes"] == 0
        assert broker.snapshot()["totals"]["ended"].get("keepalive_timeout", 0) <= 3


@pytest.mark.slow
@pytest.mark.parametrize("behind", ["server", "a"])
def test_connections_whose_other_end_is_gone_without_a_word(behind: str) -> None:
    async def main() -> None:
        async with Leaks(), asyncio.timeout(60):
            await asyncio.gather(half_open(behind, "5"), half_open(behind, "3.1.1"))

    asyncio.run(main())


@contextmanager
def relay_process(port: int) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A relay to a port that can be stopped as a whole, and its own port."""
    command = [sys.executable, "-m", "tests.broker.relay", str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


@pytest.mark.slow
def test_a_link_that_stands_still_for_a_while() -> None:
    async def main() -> None:
        async with Broker(BrokerConfig(port=0)) as broker:
            with relay_process(broker.address[1]) as (relay, port):
                async with (
                    MqttChannel(RUN, "server", *broker.address, CONFIG) as server,
                    MqttChannel(RUN, "a", "127.0.0.1", port, CONFIG) as agent,
                ):

                    async def disturb() -> None:
                        relay.send_signal(signal.SIGSTOP)
                        await until(lambda: agent._connection is None)  # it has noticed
                        relay.send_signal(signal.SIGCONT)

                    await exchange(server, agent, disturb)
                    await settled(server, agent)
                emptied(server, agent)

    asyncio.run(main())


def test_no_clock_that_can_be_set_is_read() -> None:
    """Deadlines and rates are of the monotonic clock: a jump of the time of day changes nothing."""
    root = Path(__file__).resolve().parents[2] / "broker"
    read = set()
    for name in TRANSPORT.split():
        for node in ast.walk(ast.parse((root / f"{name}.py").read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime")), name
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "time":
                read.add(node.attr)
    assert read == {"monotonic"}
