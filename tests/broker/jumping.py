"""Transfers while the wall clock jumps, as a process: `python -m tests.broker.jumping FILE BROKER 5|3.1.1`.

libfaketime, which this process and the broker's have been given, reads the clock's offset from FILE. It prints a line
of JSON: by how many seconds each jump moved the wall clock and the monotonic one.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from broker.channel import ChannelConfig
from broker.client import MqttChannel
from tests.broker.planes import RUN, BrokerProcess
from tests.broker.traffic import Leaks, emptied, exchange, settled

OFFSETS = 3600, -3600, 86_400 * 365, 0


async def play(offset: Path, kind: str, config: ChannelConfig) -> list[tuple[float, float]]:
    jumps = []
    with BrokerProcess(kind) as broker:
        async with (
            MqttChannel(RUN, "server", "127.0.0.1", broker.port, config) as server,
            MqttChannel(RUN, "a", "127.0.0.1", broker.port, config) as agent,
        ):
            for seconds in OFFSETS:

                async def jump(seconds: int = seconds) -> None:
                    wall, monotonic = time.time(), time.monotonic()
                    offset.write_text(f"{seconds:+d}\n")  # noqa: ASYNC240
                    jumps.append((time.time() - wall, time.monotonic() - monotonic))

                await exchange(server, agent, jump)
                await settled(server, agent)
                await asyncio.sleep(2 * config.keepalive_s)  # whatever looks at a clock now and then has looked
            assert server.tcp()["connections"] == agent.tcp()["connections"] == 1
        emptied(server, agent)
    return jumps


async def main(offset: Path, kind: str, config: ChannelConfig) -> None:
    async with Leaks():
        jumps = await play(offset, kind, config)
    print(json.dumps(jumps))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], ChannelConfig(keepalive_s=1, protocol=sys.argv[3])))  # type: ignore[arg-type]
