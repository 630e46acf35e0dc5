"""The load of a soak: clients that come, publish and go in every way, at random with a seed, until told to end.

What they leave at the broker is bounded, so that whatever grows does so because the broker keeps it: their names and
their topics are few, sessions expire soon, and messages are small.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
import struct
import sys
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Any

from broker.errors import BrokerError
from broker.framer import Framer
from broker.packet_decoder import decode
from broker.packet_encoder import encode
from broker.packets import (
    V5,
    VERSIONS,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Request,
    Subscribe,
    Will,
)
from broker.properties import Properties, Property
from testbed.bench.broker_job import Job

MESSAGES = 30  # a life's most
MESSAGE_BYTES = 1 << 15
KEEPALIVE_S = 2
STALL_S = 1.5 * KEEPALIVE_S + 1  # until the broker must have noticed
EXPIRY_S = 5
PAUSE_S = 0.2  # on average between two messages or two lives
LONGEST_PAUSE_S = 1.0
PATIENCE_S = 20.0
RETAINED_TOPICS = 32


def churn(job: Job) -> dict[str, Any]:
    """Let `clients` live until standard input ends; how often each thing happened, by name."""
    return dict(asyncio.run(_churn(job)))


async def _churn(job: Job) -> Counter[str]:
    counts: Counter[str] = Counter()
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), over.set)
    lives = [asyncio.create_task(_lives(number, job, counts)) for number in range(job.clients[0])]
    ending = asyncio.create_task(over.wait())
    await asyncio.wait([ending, *lives], return_when=asyncio.FIRST_COMPLETED)
    ending.cancel()
    for task in lives:
        task.cancel()
    for failure in await asyncio.gather(*lives, return_exceptions=True):
        if isinstance(failure, Exception):
            raise failure  # a client goes on until it is cancelled
    return counts


async def _lives(number: int, job: Job, counts: Counter[str]) -> None:
    draw = random.Random(f"{job.seed}/{number}")
    while True:
        try:
            reader, writer = await asyncio.open_connection(job.host, job.port)
        except OSError as error:
            raise BrokerError(f"client {number}: no connection: {error}") from None
        life = _Life(f"soak-{number}", draw, reader, writer, counts, job.clients[0])
        try:
            await life.run()
        except (BrokerError, OSError):
            counts["broken"] += 1
        finally:
            writer.transport.abort()
        await _pause(draw)


class _Life:
    """One connection from CONNECT to its end."""

    def __init__(
        self,
        name: str,
        draw: random.Random,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        counts: Counter[str],
        clients: int,
    ) -> None:
        self._name, self._draw, self._counts, self._clients = name, draw, counts, clients
        self._reader, self._writer = reader, writer
        self._version = draw.choice(VERSIONS)
        self._framer = Framer(memoryview(bytearray(1 << 14)), 1 << 20)
        self._packets: deque[Packet] = deque()
        self._ids = itertools.count(1)

    async def run(self) -> None:
        """Live; BrokerError or OSError where the broker ends it before its time."""
        await self._connect()
        listening = asyncio.create_task(self._listen())
        try:
            acting = asyncio.create_task(self._act())
            done, _ = await asyncio.wait([listening, acting], return_when=asyncio.FIRST_COMPLETED)
            acting.cancel()
            for task in done:
                task.result()
            end = self._draw.choice(list(ENDS))
            self._counts[end] += 1
            await ENDS[end](self, listening)
        finally:
            listening.cancel()
            acting.cancel()
            await asyncio.gather(listening, acting, return_exceptions=True)

    async def _connect(self) -> None:
        draw, will = self._draw, None
        properties: Properties = {}
        if draw.random() < 0.5:
            will = Will(self._retained_topic(), draw.randbytes(draw.randint(0, 200)), draw.randint(0, 2), True)
        if self._version == V5:
            properties = {Property.SESSION_EXPIRY: draw.choice((0, EXPIRY_S))}
        clean = draw.random() < 0.7
        self._send(Connect(self._name, self._version, clean, KEEPALIVE_S, will, properties=properties))
        async with asyncio.timeout(PATIENCE_S):
            answer = await self._receive()
        if not isinstance(answer, Connack) or answer.reason:
            self._counts["refused"] += 1
            raise BrokerError(f"refused: {answer}")
        self._counts["connected"] += 1
        self._counts["wills"] += will is not None

    async def _act(self) -> None:
        draw = self._draw
        filters = [self._topic() for _ in range(4)] + ["kept/+", f"+/{self._name}"]
        chosen = draw.sample(filters, draw.randint(0, len(filters)))
        if chosen:
            self._send(Subscribe(next(self._ids), tuple(Request(name, draw.randint(0, 2)) for name in chosen)))
        for _ in range(draw.randint(0, MESSAGES)):
            qos, retain = draw.randint(0, 2), draw.random() < 0.1
            topic = self._retained_topic() if retain else self._topic()
            payload = draw.randbytes(int(MESSAGE_BYTES ** draw.random()) - 1)
            self._send(Publish(topic, payload, qos, retain, packet_id=next(self._ids) if qos else 0))
            self._counts[f"published with QoS {qos}"] += 1
            self._counts["retained"] += retain
            await self._writer.drain()
            await _pause(draw)

    async def _listen(self) -> None:
        """Answer as a client has to, until the broker ends the connection."""
        while True:
            match packet := await self._receive():
                case Publish(qos=qos):
                    self._counts[f"received with QoS {qos}"] += 1
                    if qos:
                        self._send((Puback if qos == 1 else Pubrec)(packet.packet_id))
                case Pubrec(reason=reason) if reason < 0x80:
                    self._send(Pubrel(packet.packet_id))
                case Pubrel():
                    self._send(Pubcomp(packet.packet_id))
                case Disconnect():
                    raise BrokerError(f"ended: {packet}")

    async def disconnect(self, listening: asyncio.Task[None]) -> None:
        """Take leave as MQTT wants it."""
        self._send(Disconnect())
        await self.close(listening)

    async def close(self, _: asyncio.Task[None]) -> None:
        """Close the TCP connection without a DISCONNECT."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def reset(self, _: asyncio.Task[None]) -> None:
        """End the TCP connection with a reset."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def stall(self, listening: asyncio.Task[None]) -> None:
        """Neither read nor write any more, until the broker must have noticed."""
        listening.cancel()
        await asyncio.sleep(STALL_S)

    async def _receive(self) -> Packet:
        while not self._packets:
            room = self._framer.buffer()
            data = await self._reader.read(len(room))
            if not data:
                raise BrokerError("the broker closed the connection")
            room[: len(data)] = data
            self._packets.extend(decode(*packet, self._version) for packet in self._framer.received(len(data)))
        return self._packets.popleft()

    def _send(self, packet: Packet) -> None:
        self._writer.write(encode(packet, self._version))

    def _topic(self) -> str:
        return f"soak/soak-{self._draw.randrange(self._clients)}"

    def _retained_topic(self) -> str:
        return f"kept/{self._draw.randrange(RETAINED_TOPICS)}"


ENDS: dict[str, Callable[[_Life, asyncio.Task[None]], Awaitable[None]]] = {
    "disconnect": _Life.disconnect,
    "close": _Life.close,
    "reset": _Life.reset,
    "stall": _Life.stall,
}


async def _pause(draw: random.Random) -> None:
    await asyncio.sleep(min(LONGEST_PAUSE_S, draw.expovariate(1 / PAUSE_S)))
