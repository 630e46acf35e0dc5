"""A broker under attack: what every named attack has in common."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from broker.fields import varint
from broker.packets import Puback, Publish
from broker.reasons import Reason
from broker.server import Broker
from tests.broker.raw import connected, publish
from tests.broker.serving import serving

MIB = 1 << 20


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    """AssertionError where the process takes more than `limit` bytes on top of what it had."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= limit, f"{peak / MIB:.1f} MiB were taken; allowed: {limit / MIB:.1f}"


@asynccontextmanager
async def besieged(limit: int = 4 * MIB, hears: str = "#", **settings: Any) -> AsyncIterator[Broker]:
    """A broker with another client that has to get its own messages afterwards, and nothing else of what it hears."""
    async with serving(sys_interval_s=0, **settings) as broker, connected(broker.address, "bystander") as bystander:
        await bystander.subscribe(hears, 1)
        with memory_below(limit):
            yield broker
            await bystander.send(publish("calm", b"still here", qos=1))
            answers = [await bystander.receive(), await bystander.receive()]
        message = next(answer for answer in answers if isinstance(answer, Publish))
        assert (message.topic, message.payload) == ("calm", b"still here")
        assert Puback(1, Reason.SUCCESS) in answers


def packet(first: int, *parts: bytes) -> bytes:
    """A packet of any first byte and any body, with the right remaining length."""
    body = b"".join(parts)
    return bytes((first,)) + varint(len(body)) + body


def string(data: bytes) -> bytes:
    """Bytes that stand where a string is due."""
    return len(data).to_bytes(2, "big") + data
