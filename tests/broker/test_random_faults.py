"""Faults at random, from seeds: resets, deafness, pauses and killed brokers in the middle of transfers."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from broker.channel import ChannelConfig
from broker.client import MqttChannel
from tests.broker.planes import RUN, BrokerProcess
from tests.broker.raw import until
from tests.broker.relay import Relay
from tests.broker.test_outages import PROTOCOLS, Protocol, broker_of
from tests.broker.traffic import Leaks, emptied, exchange, settled

SEEDS = range(20)
AT_ONCE = 4
AFTER = (0, 1, 1_000, 50_000, 200_000, 1_000_000)  # bytes from now
PATIENCE_S = 6.0
CLOCKS = {"process": time.process_time, "monotonic": time.monotonic, "wall": time.time}


@dataclass
class Chaos:
    """What may happen to one run, by its own dice."""

    dice: random.Random
    relay: Relay
    broker: BrokerProcess | None  # that may be killed

    async def strike(self) -> None:
        kinds = [self.reset, self.reset, self.reset, self.deafness, self.pause]
        if self.broker is not None:
            kinds.append(self.restart)
        for _ in range(self.dice.randint(1, 5)):
            await self.dice.choice(kinds)()

    async def reset(self) -> None:
        count = self.relay.resets
        self.relay.reset(self.dice.choice(AFTER))
        await self._come(lambda: self.relay.resets > count)

    async def deafness(self) -> None:
        count = self.relay.connections
        self.relay.go_deaf()
        await self._come(lambda: self.relay.connections > count)

    async def pause(self) -> None:
        """For longer or shorter than the keepalive; how long is the fault itself."""
        self.relay.hold(self.dice.choice(AFTER))
        await self._come(lambda: self.relay.holds)
        await asyncio.sleep(self.dice.choice([0.01, 0.3, 2.0]))
        self.relay.flow()

    async def restart(self) -> None:
        assert self.broker is not None
        self.broker.kill()
        await asyncio.to_thread(self.broker.start)

    async def _come(self, condition: Callable[[], bool]) -> None:
        """Wait for it, unless everything has been said already."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await until(condition)
        except TimeoutError:
            pass


def config_of(dice: random.Random, protocol: Protocol) -> ChannelConfig:
    return ChannelConfig(
        timeout_s=40,
        keepalive_s=1,
        protocol=protocol,
        window=dice.choice([1, 2, 4, 8]),
        chunk_bytes=dice.choice([0, 0, 4096, 65536]),
        inbox=dice.choice([1, 4, 64]),
    )


@asynccontextmanager
async def some_broker(dice: random.Random) -> AsyncIterator[tuple[int, BrokerProcess | None]]:
    """One of this process, watched for what it keeps, or one that may be killed."""
    if dice.random() < 0.3:
        with BrokerProcess("embedded") as process:
            yield process.port, process
    else:
        async with broker_of("embedded") as port:
            yield port, None


async def play(seed: int, protocol: Protocol) -> None:
    dice = random.Random(seed)
    config = config_of(dice, protocol)
    async with some_broker(dice) as (port, process), Relay(port) as relay:
        behind = dice.choice(["a", "server", "server+a"]).split("+")
        server, agent = (
            MqttChannel(RUN, name, "127.0.0.1", relay.port if name in behind else port, config)
            for name in ("server", "a")
        )
        async with server, agent:
            await exchange(server, agent, Chaos(dice, relay, process).strike)
            await settled(server, agent)
        emptied(server, agent)


async def timed(seed: int, protocol: Protocol, gate: asyncio.Semaphore) -> None:
    async with gate:
        began = {name: clock() for name, clock in CLOCKS.items()}
        try:
            await play(seed, protocol)
        except BaseException as error:
            took = {name: round(clock() - began[name], 2) for name, clock in CLOCKS.items()}
            error.add_note(f"seed {seed}, MQTT {protocol}, seconds by clock: {took}")
            raise


@pytest.mark.slow
def test_random_faults_lose_and_double_nothing() -> None:
    async def main() -> None:
        gate = asyncio.Semaphore(AT_ONCE)
        async with Leaks():
            runs = [timed(seed, protocol, gate) for seed in SEEDS for protocol in PROTOCOLS]
            results = await asyncio.gather(*runs, return_exceptions=True)
            if failures := [result for result in results if isinstance(result, Exception)]:
                raise ExceptionGroup("some seeds failed", failures)

    asyncio.run(main())
