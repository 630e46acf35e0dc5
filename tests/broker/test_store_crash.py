"""A broker with a store that is killed: what it acknowledged is still there when it comes back."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

import pytest

from broker.packets import V5, Connack, Connect, Publish, Will
from broker.properties import Property
from tests.broker.mortal import Mortal, Receiver, Sender, mortal
from tests.broker.raw import connected, open_client, publish
from tests.broker.serving import FOREVER, VERSIONS, kept

PUBLISHERS = 3
MESSAGES = 400  # of each
KILLS = 3


async def under_load(store: Path, qos: int, seed: int) -> None:
    """Kill the broker while messages go through it, at numbers of acknowledgements that the seed chooses."""
    chosen = random.Random(seed)
    total = PUBLISHERS * MESSAGES
    moments = sorted(chosen.sample(range(20, total - 20), KILLS))
    seen = 0
    due: asyncio.Queue[int] = asyncio.Queue()

    def acknowledged() -> None:
        nonlocal seen
        seen += 1
        if seen in moments:
            due.put_nowait(seen)

    async def killer(broker: Mortal) -> None:
        for _ in moments:
            await due.get()
            await broker.restart()

    async with mortal(store) as broker, asyncio.timeout(120):
        receiver = Receiver(broker, "receiver", qos, total)
        payloads = [[f"{number}-{index}".encode() for index in range(MESSAGES)] for number in range(PUBLISHERS)]
        async with asyncio.TaskGroup() as group:
            group.create_task(receiver.live())
            await receiver.subscribed.wait()
            group.create_task(killer(broker))
            for number in range(PUBLISHERS):
                sender = Sender(broker, f"sender{number}", qos, payloads[number], acknowledged)
                group.create_task(sender.live())
        assert broker.lives == KILLS + 1
    assert set(receiver.counts) == {payload for row in payloads for payload in row}
    if qos == 2:
        assert set(receiver.counts.values()) == {1}


@pytest.mark.parametrize("qos", [1, 2])
def test_acknowledged_messages_arrive_though_the_broker_is_killed(qos: int, tmp_path: Path) -> None:
    asyncio.run(under_load(tmp_path / "store", qos, seed=qos))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 16))
@pytest.mark.parametrize("qos", [1, 2])
def test_acknowledged_messages_arrive_whenever_the_broker_is_killed(qos: int, seed: int, tmp_path: Path) -> None:
    asyncio.run(under_load(tmp_path / "store", qos, seed))


@pytest.mark.slow
def test_another_process_on_the_same_file_is_refused_in_one_line(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = tmp_path / "store"
        async with mortal(store):
            command = [sys.executable, "-m", "broker", "--port", "0", "--store", str(store)]
            second = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
            _, said = await second.communicate()
        assert second.returncode == 2
        assert said.decode().strip() == f"error: store: {store}: another broker uses it"

    asyncio.run(scenario())


@VERSIONS
def test_a_killed_broker_comes_back_with_what_it_held(version: int, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with mortal(tmp_path / "store") as broker:
            async with connected(broker.address, "c", version, **kept(version)) as first:
                await first.subscribe("t/#", 1)
                await first.subscribe("$share/g/s", 1)
            async with connected(broker.address, "other") as other:
                for topic in ("t/a", "s"):
                    await other.send(publish(topic, topic.encode(), qos=1))
                    await other.receive()
                await other.send(publish("kept", b"retained", qos=1, retain=True))
                await other.receive()
            await broker.restart()
            async with connected(broker.address, "c", version, **kept(version)) as again:
                assert again.connack.session_present  # type: ignore[attr-defined]
                assert [(await again.expect(Publish)).payload for _ in range(2)] == [b"t/a", b"s"]
                await again.send(publish("t/b", b"new", qos=0))
                assert (await again.expect(Publish)).payload == b"new"
            async with connected(broker.address, "new") as new:
                await new.subscribe("kept")
                assert (await new.expect(Publish)).payload == b"retained"

    asyncio.run(scenario())


def test_what_a_killed_broker_left_beside_its_file_is_closed_to_others_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with mortal(tmp_path / "store") as broker, connected(broker.address, "c", **kept(V5)):
            await broker.kill()
            for name in ("store", "store-wal"):
                (tmp_path / name).chmod(0o644)
            await broker.start()
            assert [os.stat(tmp_path / name).st_mode & 0o777 for name in ("store", "store-wal")] == [0o600, 0o600]

    asyncio.run(scenario())


@pytest.mark.parametrize(("delay", "leaves_first"), [(0, False), (1, False), (1, True)])
def test_a_will_is_published_by_the_broker_that_comes_back(delay: int, leaves_first: bool, tmp_path: Path) -> None:
    async def scenario() -> None:
        will = Will("will", b"gone", qos=1, properties={Property.WILL_DELAY: delay} if delay else {})
        async with mortal(tmp_path / "store") as broker:
            async with connected(broker.address, "watch", **kept(V5)) as watch:
                await watch.subscribe("will", 1)
            async with open_client(broker.address) as mourned:
                await mourned.send(Connect("mourned", V5, will=will, properties=FOREVER))
                await mourned.expect(Connack)
                if leaves_first:
                    mourned.abort()
                    async with connected(broker.address, "later", properties=FOREVER):
                        pass  # its CONNACK comes after a commit
                await broker.restart()
            async with connected(broker.address, "watch", **kept(V5)) as watch:
                assert (await watch.expect(Publish)).payload == b"gone"

    asyncio.run(scenario())
