"""Numbered messages both ways between a server and an agent, in bulk and control, and what may be left of it: nothing.

As `python -m tests.broker.traffic server|a PORT FIRST [KEY=VALUE ...]` it is one end in a process of its own. It prints
a line of JSON with the numbers that it heard and goes on until its standard input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from broker.channel import ChannelConfig
from broker.client import MqttChannel
from broker.messages import ActivationUp, Failure, GradientDown, State, StepRefused
from broker.settings import build, from_assignments
from tests.broker.planes import RUN, chunks
from tests.broker.raw import until

SIZES = (0, 5_000, 70_000, 300_000, 1_500_000)
ROUNDS = 6
COUNT = ROUNDS * len(SIZES)
LAST = 1 << 30  # the number of what is said when everything has been heard
SETTLE_S = 10.0
Disturb = Callable[[], Awaitable[None]]


def payload(number: int) -> bytes:
    return bytes([number % 251]) * SIZES[number % len(SIZES)]


def bulk(end: MqttChannel, number: int) -> Any:
    if end.name == "server":
        return GradientDown(number, payload(number), 0.0)
    return ActivationUp(number, 0, payload(number), b"", -1, [])


def control(end: MqttChannel, number: int) -> Any:
    return StepRefused(number, "", []) if end.name == "server" else Failure(str(number))


def peer(end: MqttChannel) -> str:
    return "a" if end.name == "server" else "server"


class Heard:
    """What an end has heard: how often each bulk and each control message came."""

    def __init__(self, end: MqttChannel) -> None:
        self.bulk: Counter[int] = Counter()
        self.control: Counter[int] = Counter()
        self.boots: list[int] = []
        self.offline = 0
        self._end = end

    async def listen(self, first: int = 0, last: int = COUNT) -> None:
        """Until all of these numbers have come in both ways."""
        wanted = range(first, last)
        while not all(number in self.bulk and number in self.control for number in wanted):
            await self.next()

    async def next(self) -> None:
        _, message = await self._end.receive()
        match message:
            case State("online"):
                self.boots.append(message.boot)
            case State():
                self.offline += 1
            case ActivationUp() | GradientDown():
                assert message.packet == payload(message.step)
                self.bulk[message.step] += 1
            case Failure():
                self.control[int(message.reason)] += 1
            case StepRefused():
                self.control[message.step] += 1
            case _:
                raise AssertionError(message)

    def once(self, first: int = 0, last: int = COUNT) -> None:
        """All of these numbers came once, and no other number twice."""
        for heard in (self.bulk, self.control):
            assert {number: heard[number] for number in range(first, last)} == dict.fromkeys(range(first, last), 1)
            assert set(heard.values()) <= {1}


async def say(end: MqttChannel, first: int = 0, last: int = COUNT) -> None:
    async def say_all(make: Callable[[MqttChannel, int], Any]) -> None:
        for number in range(first, last):
            await end.send(peer(end), make(end, number))

    async with asyncio.TaskGroup() as group:
        group.create_task(say_all(bulk))
        group.create_task(say_all(control))


def under_way(server: MqttChannel, agent: MqttChannel) -> Callable[[], bool]:
    """Whether some chunks of bulk have come each way from now on."""

    def arrived() -> tuple[int, int]:
        return chunks(server.received, "ActivationUp"), chunks(agent.received, "GradientDown")

    before = arrived()
    return lambda: all(now > then + 9 for now, then in zip(arrived(), before, strict=True))


async def exchange(
    server: MqttChannel, agent: MqttChannel, disturb: Disturb, limit_s: float = 50.0, rounds: int = ROUNDS
) -> None:
    """All messages both ways, disturbed in the middle; each has to arrive once, whatever the order."""
    last = rounds * len(SIZES)
    heard, begun = [Heard(server), Heard(agent)], under_way(server, agent)
    async with asyncio.timeout(limit_s), asyncio.TaskGroup() as group:
        for end, ears in zip((server, agent), heard, strict=True):
            group.create_task(ears.listen(0, last))
            group.create_task(say(end, 0, last))
        await until(begun)
        await disturb()
    async with asyncio.timeout(SETTLE_S), asyncio.TaskGroup() as group:
        for end, ears in zip((server, agent), heard, strict=True):
            group.create_task(say(end, LAST, LAST + 1))
            group.create_task(ears.listen(LAST, LAST + 1))
    for ears in heard:
        ears.once(0, last)


async def settled(*channels: MqttChannel) -> None:
    """Ends that said and heard everything hold nothing of it any more."""
    async with asyncio.timeout(SETTLE_S):
        await until(lambda: all(_idle(channel) for channel in channels))
    for channel in channels:
        assert all(arrivals.bytes_in_progress == 0 for arrivals in channel._arrivals.values())


def emptied(*channels: MqttChannel) -> None:
    """Ends that have left hold nothing that they were to send."""
    for channel in channels:
        assert _idle(channel)
        for lane in channel._lanes.values():
            assert not lane._kept
            assert not lane._work
            assert lane._unconfirmed == 0


def _idle(channel: MqttChannel) -> bool:
    free = all(slots.free == channel.config.window for slots in channel._slots.values())
    return free and not channel._unacknowledged


class Leaks:
    """`async with` one round all, whose tasks and descriptors have to be gone in the end."""

    async def __aenter__(self) -> None:
        self._tasks, self._files = asyncio.all_tasks(), descriptors()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_S):
                    await until(lambda: self._left == (set(), 0))
            assert self._left == (set(), 0)

    @property
    def _left(self) -> tuple[set[asyncio.Task[Any]], int]:
        return asyncio.all_tasks() - self._tasks, max(0, descriptors() - self._files)


def descriptors(process: int | str = "self") -> int:
    """How many files a process has open; 0 where the system does not tell."""
    folder = Path("/proc") / str(process) / "fd"
    return len(os.listdir(folder)) if folder.is_dir() else 0


def sockets(process: int) -> int:
    """How many sockets a process has open; 0 where the system does not tell."""
    count = 0
    for link in Path(f"/proc/{process}/fd").glob("*"):
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            count += os.readlink(link).startswith("socket:")
    return count


async def play(name: str, port: int, first: int, config: ChannelConfig) -> None:
    async with MqttChannel(RUN, name, "127.0.0.1", port, config) as end:
        heard = Heard(end)
        while not heard.boots:
            await heard.next()
        async with asyncio.TaskGroup() as group:
            group.create_task(say(end, first, first + COUNT))
            group.create_task(heard.listen(first, first + COUNT))
        heard.once(first, first + COUNT)
        await settled(end)
        print(json.dumps({"heard": sorted(heard.bulk), "connections": end.tcp()["connections"]}), flush=True)
        leave = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        while not leave.done():
            await asyncio.wait([leave, asyncio.create_task(heard.next())], return_when=asyncio.FIRST_COMPLETED)


if __name__ == "__main__":
    name, port, first, *settings = sys.argv[1:]
    asyncio.run(play(name, int(port), int(first), build(ChannelConfig, from_assignments(settings))))
