"""The brokers that are compared: the embedded one within this process, and the system's mosquitto."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from broker.engines import engine, find_mosquitto
from broker.listener import TcpListener
from broker.server import Broker, BrokerConfig
from broker.users import set_password
from tests.broker import lab

Address = tuple[str, int]
Serve = Callable[[Path], AbstractAsyncContextManager[Address]]

START_S = 20.0
KNOWN_USER, KNOWN_PASSWORD = "known", b"secret"
"""Who is let in by a guarded broker."""


@contextlib.asynccontextmanager
async def embedded(directory: Path) -> AsyncIterator[Address]:
    """The embedded broker with its default settings."""
    async with Broker(BrokerConfig(port=0)) as broker:
        yield broker.address


@contextlib.asynccontextmanager
async def embedded_websocket(directory: Path) -> AsyncIterator[Address]:
    """The embedded broker, which speaks WebSocket at this address."""
    web = pytest.importorskip("broker.web")
    config = BrokerConfig(port=0)
    listener = web.WebListener(TcpListener(config.host, 0), config, websocket=True)
    async with Broker(config, listeners=[listener]) as broker:
        yield broker.address


@contextlib.asynccontextmanager
async def mosquitto(directory: Path) -> AsyncIterator[Address]:
    """Mosquitto as runs start it."""
    if find_mosquitto() is None:
        pytest.skip("no mosquitto on this machine")
    async with engine("mosquitto", directory) as address:
        yield address


@contextlib.asynccontextmanager
async def mosquitto_websocket(directory: Path) -> AsyncIterator[Address]:
    pytest.skip("Debian builds mosquitto without WebSocket")
    yield "", 0


def guarded(name: str) -> Serve:
    """A broker of this name that lets one user in, and that has access rules by client id."""

    @contextlib.asynccontextmanager
    async def serve(directory: Path) -> AsyncIterator[Address]:
        users, rules = directory / "users", directory / "rules"
        set_password(users, KNOWN_USER, KNOWN_PASSWORD.decode())
        rules.write_text("pattern readwrite #\npattern readwrite %c/#\n")
        config = BrokerConfig(port=0, users=str(users), acl=str(rules))
        async with lab.SERVERS[name](config, directory) as address:
            yield address

    return serve


BROKERS: dict[tuple[str, str], Serve] = {
    ("embedded", "plain"): embedded,
    ("embedded", "guarded"): guarded("embedded"),
    ("embedded", "websocket"): embedded_websocket,
    ("mosquitto", "plain"): mosquitto,
    ("mosquitto", "guarded"): guarded("mosquitto"),
    ("mosquitto", "websocket"): mosquitto_websocket,
}
"""By the broker's name and the kind of broker that a test needs."""


@contextlib.contextmanager
def running(serve: Serve) -> Iterator[Address]:
    """The broker in an event loop and a thread of its own; it has ended when the context is left."""
    listening: Future[Address] = Future()
    leave: Future[None] = Future()

    async def main() -> None:
        try:
            with tempfile.TemporaryDirectory() as directory:
                async with serve(Path(directory)) as address:
                    listening.set_result(address)
                    await asyncio.wrap_future(leave)
        except BaseException as error:
            if listening.done():
                raise
            listening.set_exception(error)

    thread = threading.Thread(target=lambda: asyncio.run(main()), name="broker under test")
    thread.start()
    try:
        yield listening.result(START_S)
    finally:
        leave.set_result(None)
        thread.join()


class Brokers:
    """Brokers that were started for some test and serve the tests after it as well."""

    def __init__(self) -> None:
        self._addresses: dict[tuple[str, str], Address] = {}
        self._running = contextlib.ExitStack()

    def address(self, name: str, kind: str) -> Address:
        """Where the broker of this name and kind listens; starts it where it is not running yet."""
        if (name, kind) not in self._addresses:
            self._addresses[name, kind] = self._running.enter_context(running(BROKERS[name, kind]))
        return self._addresses[name, kind]

    def close(self) -> None:
        self._running.close()
