"""A broker in a process of its own that tells what it counts: `python -m tests.broker.counted [KEY=VALUE ...]`.

It prints its port, then for every line of its standard input its counts and its process's memory as a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from broker.broker_config import BrokerConfig
from broker.program import peak_bytes
from broker.server import Broker
from broker.settings import build, from_assignments


class CountedBroker:
    """The other side of it."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.address = ("127.0.0.1", port)
        self.process = process

    async def counts(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        counts: dict[str, Any] = json.loads(await self.process.stdout.readline())
        return counts


@asynccontextmanager
async def counted_broker(**settings: object) -> AsyncIterator[CountedBroker]:
    command = [sys.executable, "-m", "tests.broker.counted", *(f"{key}={value}" for key, value in settings.items())]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    try:
        yield CountedBroker(process, int(await process.stdout.readline()))
    finally:
        process.kill()
        await process.communicate()


async def main(config: BrokerConfig) -> None:
    async with Broker(config) as broker:
        print(broker.address[1], flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(broker.snapshot() | {"peak_bytes": peak_bytes()}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(build(BrokerConfig, from_assignments(["port=0", *sys.argv[1:]]))))
