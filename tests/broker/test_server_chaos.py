"""Many clients that misbehave at random."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest

from broker.packet_encoder import encode
from broker.packets import (
    V5,
    V311,
    Connect,
    Disconnect,
    Puback,
    Pubcomp,
    Pubrec,
    Pubrel,
    Request,
    Subscribe,
    Unsubscribe,
    Will,
)
from broker.properties import Property
from broker.server import Broker
from tests.broker.raw import PATIENCE_S, open_client, publish
from tests.broker.serving import serving

FILTERS = ("#", "+", "t/#", "a#", "$share/g/#", "$share/h/t", "$share/g")


async def misbehave(broker: Broker, rng: random.Random) -> None:
    """One client of a few ids that subscribes, floods, damages packets, reads little and leaves somehow."""
    version = rng.choice((V311, V5))
    will = rng.choice((None, Will("t", b"w" * 9_000, 1, rng.random() < 0.5)))
    expiry = {Property.SESSION_EXPIRY: rng.choice((0, 1, 100))} if version == V5 else {}
    keep = rng.random() < 0.5
    packets: list[Any] = [Connect(rng.choice("abcdefgh"), version, not keep, 1, will, properties=expiry)]
    for _ in range(rng.randint(0, 25)):
        payload = bytes(rng.choice((0, 10, 5_000, 40_000)))
        made = (
            Subscribe(1, (Request(rng.choice(FILTERS), rng.randint(0, 2)),)),
            publish(rng.choice("tuv"), payload, retain=rng.random() < 0.3),
            publish(rng.choice("tuv"), payload, qos=rng.randint(1, 2), packet_id=rng.randint(1, 9)),
            rng.choice((Puback, Pubrec, Pubrel, Pubcomp))(rng.randint(1, 9)),
            Unsubscribe(3, ("#", "t", "$share/g/#")),
            Disconnect(rng.choice((0, 4))),
        )
        packets.append(rng.choices(made, weights=(6, 5, 5, 8, 1, 1))[0])
    async with open_client(broker.address, version) as rogue:
        with contextlib.suppress(ConnectionError):
            for packet in packets:
                data = bytearray(encode(packet, version))
                if rng.random() < 0.06:
                    data[rng.randrange(len(data))] = rng.randrange(256)
                await rogue.send_bytes(data)
                if rng.random() < 0.3:
                    await rogue.reader.read(1)
        if rng.random() < 0.5:
            rogue.abort()


@pytest.mark.parametrize("seed", range(3))
def test_clients_that_misbehave_at_random_leave_the_books_in_order(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.linger.LINGER_S", 0.1)
    failures: list[dict[str, Any]] = []

    async def scenario() -> None:
        rng = random.Random(seed)
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        async with serving(queue_bytes=20_000, retained_bytes=20_000, max_sessions=6) as broker:
            for _ in range(3):
                async with asyncio.timeout(PATIENCE_S):
                    await asyncio.gather(*(misbehave(broker, rng) for _ in range(20)))
            router, sessions = broker._registry.router, broker._registry.sessions.values()
            assert len(sessions) <= 6
            for session in sessions:
                held = [*session._waiting, *session._in_flight.values()]
                assert session.held_bytes == sum(delivery.message.cost for delivery in held)
            assert router.retained.held_bytes <= 20_000
            for session in list(sessions):
                router.forget(session)
            assert router._tree.match("t") == []
            assert router._tree._root.children == {}
            assert router._groups == {}
        assert broker.snapshot()["open_connections"] == 0

    asyncio.run(scenario())
    assert failures == []
