"""Processes at one end that die or stand still in the middle of a chunk; the other end and the broker go on."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import product

import pytest

from broker.channel import ChannelConfig
from broker.client import MqttChannel
from tests.broker.planes import RUN
from tests.broker.raw import until
from tests.broker.relay import Relay
from tests.broker.test_outages import BROKERS, PROTOCOLS, Protocol, broker_of
from tests.broker.traffic import COUNT, Heard, Leaks, emptied, say, settled

LIVES = 3
CHUNK_BYTES = 1 << 18
PATIENCE_S = 60.0


class Life:
    """One end as a process; it hears and says the numbers from `first` on."""

    def __init__(self, name: str, port: int, first: int, config: ChannelConfig) -> None:
        settings = [f"{key}={getattr(config, key)}" for key in ("keepalive_s", "timeout_s", "protocol", "chunk_bytes")]
        self._command = [sys.executable, "-m", "tests.broker.traffic", name, str(port), str(first), *settings]

    async def __aenter__(self) -> Life:
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(*self._command, stdin=pipe, stdout=pipe)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()

    async def report(self) -> dict[str, object]:
        """What it says when it has heard everything; then it leaves in order."""
        assert self.process.stdout is not None
        report = json.loads(await self.process.stdout.readline())
        await self.process.communicate(b"")
        assert self.process.returncode == 0
        return report  # type: ignore[no-any-return]


@asynccontextmanager
async def survivor(kind: str, name: str, config: ChannelConfig) -> AsyncIterator[tuple[MqttChannel, Heard, Relay]]:
    """The end that lives, and the relay to the broker that the other end is to use."""
    async with broker_of(kind) as port, Relay(port) as relay:
        async with MqttChannel(RUN, name, "127.0.0.1", port, config) as end:
            yield end, Heard(end), relay
            await settled(end)
        emptied(end)


async def middle_of_a_chunk(relay: Relay) -> None:
    """Some chunks further, the relay holds what follows: of the chunk under way a part has passed."""
    relay.hold(after=10 * CHUNK_BYTES + CHUNK_BYTES // 2)
    await until(lambda: relay.holds)


async def dies_again_and_again(kind: str, protocol: Protocol, mortal: str) -> None:
    config = ChannelConfig(timeout_s=40, protocol=protocol, chunk_bytes=CHUNK_BYTES)
    lasting = "a" if mortal == "server" else "server"
    async with asyncio.timeout(PATIENCE_S), survivor(kind, lasting, config) as (end, heard, relay):
        for number in range(LIVES):
            async with Life(mortal, relay.port, number * COUNT, config) as life, asyncio.TaskGroup() as group:
                while len(heard.boots) == number:
                    await heard.next()
                words = group.create_task(say(end, number * COUNT, (number + 1) * COUNT))
                ears = group.create_task(heard.listen(number * COUNT, (number + 1) * COUNT))
                await middle_of_a_chunk(relay)
                life.process.kill()
                await life.process.wait()
                relay.flow()
                await until(lambda number=number: heard.offline > number)  # type: ignore[misc]
                words.cancel()
                ears.cancel()
        first = LIVES * COUNT
        async with Life(mortal, relay.port, first, config) as life, asyncio.TaskGroup() as group:
            group.create_task(heard.listen(first, first + COUNT))
            await until(lambda: len(heard.boots) > LIVES)
            group.create_task(say(end, first, first + COUNT))
            report = await life.report()
        heard.once(first, first + COUNT)
        assert len(set(heard.boots)) == LIVES + 1
        assert report["connections"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("mortal", ["server", "a"])
@pytest.mark.parametrize("kind", BROKERS)
def test_an_end_that_is_killed_within_a_chunk_and_started_again(kind: str, mortal: str) -> None:
    async def main() -> None:
        async with Leaks(), asyncio.TaskGroup() as group:
            for protocol in PROTOCOLS:
                group.create_task(dies_again_and_again(kind, protocol, mortal))

    asyncio.run(main())


async def stands_still_again_and_again(kind: str, protocol: Protocol, sleeper: str) -> None:
    config = ChannelConfig(timeout_s=40, protocol=protocol, keepalive_s=1, chunk_bytes=CHUNK_BYTES)
    lasting = "a" if sleeper == "server" else "server"
    async with asyncio.timeout(PATIENCE_S), survivor(kind, lasting, config) as (end, heard, relay):
        async with Life(sleeper, relay.port, 0, config) as life, asyncio.TaskGroup() as group:
            while not heard.boots:
                await heard.next()
            group.create_task(say(end))
            group.create_task(heard.listen())
            for number in range(LIVES):
                await middle_of_a_chunk(relay)
                life.process.send_signal(signal.SIGSTOP)
                relay.flow()
                await until(lambda number=number: heard.offline > number)  # type: ignore[misc]
                life.process.send_signal(signal.SIGCONT)
            report = await life.report()
        heard.once()
        assert len(set(heard.boots)) == 1
        assert int(str(report["connections"])) > LIVES


@pytest.mark.slow
@pytest.mark.parametrize("sleeper", ["server", "a"])
def test_an_end_that_is_stopped_within_a_chunk_until_the_broker_gives_it_up(sleeper: str) -> None:
    async def main() -> None:
        async with Leaks(), asyncio.TaskGroup() as group:
            for kind, protocol in product(BROKERS, PROTOCOLS):
                group.create_task(stands_still_again_and_again(kind, protocol, sleeper))

    asyncio.run(main())
