"""The transports that the channel suite runs over: memory and MQTT through three brokers, and broker processes."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

import pytest

from broker.channel import Channel, ChannelConfig, Count
from broker.client import MqttChannel
from broker.memory import MemoryHub
from broker.messages import Hello, State
from broker.server import Broker, BrokerConfig

RUN = "run"
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")

Join = Callable[[str], Channel]
Plane = Callable[[ChannelConfig], AbstractAsyncContextManager[Join]]


@asynccontextmanager
async def memory(config: ChannelConfig) -> AsyncIterator[Join]:
    hub = MemoryHub(config)
    yield lambda name: hub.server(RUN) if name == "server" else hub.agent(name, RUN)


@asynccontextmanager
async def embedded(config: ChannelConfig) -> AsyncIterator[Join]:
    async with Broker(BrokerConfig(port=0)) as broker:
        host, port = broker.address
        yield lambda name: MqttChannel(RUN, name, host, port, config)


@asynccontextmanager
async def mosquitto(config: ChannelConfig) -> AsyncIterator[Join]:
    with BrokerProcess("mosquitto") as broker:
        yield lambda name: MqttChannel(RUN, name, "127.0.0.1", broker.port, config)


def rabbitmq(port: int) -> Plane:
    """Through the node at `port`, which remembers what it retained: every time in a run of its own."""

    @asynccontextmanager
    async def plane(config: ChannelConfig) -> AsyncIterator[Join]:
        run = f"{RUN}{next(_runs)}"
        yield lambda name: MqttChannel(run, name, "127.0.0.1", port, config)

    return plane


_runs = count()


def speaking(protocol: Literal["auto", "5", "3.1.1"], plane: Plane) -> Plane:
    """The same plane with this version of MQTT."""
    return lambda config: plane(replace(config, protocol=protocol))


PLANES: dict[str, Plane] = {"memory": memory, "embedded": embedded, "mosquitto": mosquitto}

# What the fixture `plane` takes. RabbitMQ 3.10 knows no MQTT 5, so there "auto" falls back to 3.1.1.
OVER_MQTT = [
    *(
        pytest.param((broker, protocol), id=f"{broker}-{protocol}")
        for broker in ("embedded", "mosquitto")
        for protocol in ("5", "3.1.1")
    ),
    pytest.param(("rabbitmq", "auto"), id="rabbitmq-auto", marks=pytest.mark.rabbitmq),
]
EVERYWHERE = [pytest.param(("memory", "auto"), id="memory"), *OVER_MQTT]

HELLO = Hello("a", 1, 1, 10, "base", "test")
CONFIG = ChannelConfig(timeout_s=20.0)

Script = Callable[[Join], Coroutine[Any, Any, None]]


def play(plane: Plane, script: Script, config: ChannelConfig = CONFIG) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), plane(config) as join:
            await script(join)

    asyncio.run(main())


async def next_of(channel: Channel, *kinds: type) -> Any:
    """The next message of these kinds; without any, the next that is no State."""
    while True:
        _, message = await channel.receive()
        if isinstance(message, kinds) if kinds else not isinstance(message, State):
            return message


def chunks(counts: dict[str, Count], kind: str) -> int:
    return counts.get(kind, Count()).chunks


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class BrokerProcess:
    """A real broker in a process of its own, which can be killed and started again on the same port."""

    def __init__(self, kind: str) -> None:
        if kind == "mosquitto" and MOSQUITTO is None:
            pytest.skip("mosquitto is not installed")
        self.kind = kind
        self.port = free_port()

    def __enter__(self) -> BrokerProcess:
        self._directory = tempfile.TemporaryDirectory()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._directory.cleanup()

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
        while self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                continue
            return
        raise RuntimeError(f"{self.kind} ended with status {self._process.returncode}")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _command(self) -> list[str]:
        if self.kind == "embedded":
            return [sys.executable, "-m", "broker", "--port", str(self.port)]
        settings = Path(self._directory.name) / "mosquitto.conf"
        settings.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n")
        return [str(MOSQUITTO), "-c", str(settings)]


@contextmanager
def refusing_mqtt_5(port: int) -> Iterator[Callable[[], AbstractAsyncContextManager[int]]]:
    """A relay in front of the broker at `port` that answers MQTT 5 the way a broker of MQTT 3.1.1 does."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connect = await reader.read(65536)
        level = connect[connect.index(b"MQTT") + 4]
        if level == 5:
            writer.write(b"\x20\x02\x00\x01")
            writer.close()
            return
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
        up_writer.write(connect)
        await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer), return_exceptions=True)

    @asynccontextmanager
    async def listen() -> AsyncIterator[int]:
        server = await asyncio.start_server(relay, "127.0.0.1", 0)
        async with server:
            yield server.sockets[0].getsockname()[1]

    yield listen
