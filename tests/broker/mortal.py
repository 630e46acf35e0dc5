"""A broker as a process that is killed and started again on the same file and port, and clients that outlive it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from broker.packets import (
    V5,
    Connack,
    Connect,
    Packet,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Request,
    Suback,
    Subscribe,
)
from tests.broker.raw import RawClient, open_client
from tests.broker.serving import FOREVER

WINDOW = 16


class Mortal:
    """`python -m broker` on one store; `up` is set while it serves."""

    def __init__(self, store: Path, **settings: object) -> None:
        self.address = ("127.0.0.1", 0)
        self.up = asyncio.Event()
        self.lives = 0
        self._settings = {"store": store, "sys_interval_s": 0, **settings}
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        assignments = [word for key, value in self._settings.items() for word in ("--set", f"{key}={value}")]
        command = [sys.executable, "-m", "broker", "--events", "--port", str(self.address[1]), *assignments]
        self._process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert self._process.stdout is not None
        ready = json.loads(await self._process.stdout.readline())
        self.address = (ready["host"], ready["port"])
        self.lives += 1
        self.up.set()

    async def kill(self) -> None:
        """As the kernel does it, without a last word."""
        self.up.clear()
        assert self._process is not None
        self._process.kill()
        await self._process.communicate()

    async def restart(self) -> None:
        await self.kill()
        await self.start()


@asynccontextmanager
async def mortal(store: Path, **settings: object) -> AsyncIterator[Mortal]:
    broker = Mortal(store, **settings)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.kill()


class Survivor:
    """One client with a session that is kept, on as many connections as the broker's lives make necessary."""

    def __init__(self, broker: Mortal, name: str) -> None:
        self._broker = broker
        self._name = name
        self._known = False

    async def live(self) -> None:
        """Until `finished`, on one connection after the other."""
        while not self.finished:
            await self._broker.up.wait()
            try:
                async with open_client(self._broker.address) as client:
                    await self._converse(client)
            except OSError:
                await asyncio.sleep(0)

    @property
    def finished(self) -> bool:
        raise NotImplementedError

    async def begin(self, client: RawClient) -> None:
        """The session is there."""

    async def answer(self, packet: Packet, client: RawClient) -> None:
        """A packet has come."""

    async def _converse(self, client: RawClient) -> None:
        await client.send(Connect(self._name, V5, clean_start=False, properties=FOREVER))
        connack = await client.receive()
        if connack is None:
            return
        assert isinstance(connack, Connack)
        assert connack.reason == 0
        assert connack.session_present or not self._known
        self._known = True
        await self.begin(client)
        while not self.finished:
            packet = await client.receive()
            if packet is None:
                return
            await self.answer(packet, client)


class Sender(Survivor):
    """Publishes every payload until it is acknowledged; `on_acknowledged` hears of every PUBACK and PUBREC."""

    def __init__(
        self, broker: Mortal, name: str, qos: int, payloads: list[bytes], on_acknowledged: Callable[[], None]
    ) -> None:
        super().__init__(broker, name)
        self._qos = qos
        self._todo = deque(payloads)
        self._on_acknowledged = on_acknowledged
        self._unacknowledged: dict[int, Publish] = {}
        self._unreleased: dict[int, None] = {}
        self._last_id = 0

    @property
    def finished(self) -> bool:
        return not (self._todo or self._unacknowledged or self._unreleased)

    async def begin(self, client: RawClient) -> None:
        again = [replace(message, dup=True) for message in self._unacknowledged.values()]
        await client.send(*again, *(Pubrel(packet_id) for packet_id in self._unreleased))
        await self._fill(client)

    async def answer(self, packet: Packet, client: RawClient) -> None:
        if isinstance(packet, Pubcomp):
            del self._unreleased[packet.packet_id]
        else:
            assert isinstance(packet, Puback | Pubrec)
            assert packet.reason < 0x80
            del self._unacknowledged[packet.packet_id]
            if isinstance(packet, Pubrec):
                self._unreleased[packet.packet_id] = None
                await client.send(Pubrel(packet.packet_id))
            self._on_acknowledged()
        await self._fill(client)

    async def _fill(self, client: RawClient) -> None:
        while self._todo and len(self._unacknowledged) + len(self._unreleased) < WINDOW:
            # The ids come round soon, so that one which the broker still knows would swallow a message.
            self._last_id = self._last_id % (2 * WINDOW) + 1
            if self._last_id not in self._unacknowledged and self._last_id not in self._unreleased:
                message = Publish("load/x", self._todo.popleft(), self._qos, packet_id=self._last_id)
                self._unacknowledged[self._last_id] = message
                await client.send(message)


class Receiver(Survivor):
    """Counts each payload, of QoS 2 by the rules of its receiver, until there are `expected` of them."""

    def __init__(self, broker: Mortal, name: str, qos: int, expected: int) -> None:
        super().__init__(broker, name)
        self.counts: Counter[bytes] = Counter()
        self.subscribed = asyncio.Event()
        self._qos = qos
        self._expected = expected
        self._received: set[int] = set()

    @property
    def finished(self) -> bool:
        return len(self.counts) >= self._expected and not self._received

    async def begin(self, client: RawClient) -> None:
        if not self.subscribed.is_set():
            await client.send(Subscribe(1, (Request("load/#", self._qos),)))

    async def answer(self, packet: Packet, client: RawClient) -> None:
        if isinstance(packet, Suback):
            self.subscribed.set()
        elif isinstance(packet, Pubrel):
            self._received.discard(packet.packet_id)
            await client.send(Pubcomp(packet.packet_id))
        else:
            assert isinstance(packet, Publish)
            if packet.packet_id not in self._received:
                self.counts[bytes(packet.payload)] += 1
            if packet.qos == 2:
                self._received.add(packet.packet_id)
                await client.send(Pubrec(packet.packet_id))
            else:
                await client.send(Puback(packet.packet_id))
