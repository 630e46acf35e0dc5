"""The brokers that are measured, each a process of its own with caps on its memory."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.engines import Address, engine, find_mosquitto
from broker.errors import BrokerError, SettingsError
from testbed.bench.broker_usage import Usage

READY_S = 30.0
POLL_S = 0.05


@dataclass(frozen=True)
class Subject:
    """A running broker: its name, where it listens, and what its process uses."""

    name: str
    address: Address
    usage: Usage


@asynccontextmanager
async def _engine(name: str, folder: Path) -> AsyncIterator[Subject]:
    """A broker as a run starts it."""
    before = _children()
    async with engine(name, folder) as address:
        (pid,) = _children() - before
        yield Subject(name, address, Usage(_innermost(pid)))


@asynccontextmanager
async def _amqtt(name: str, folder: Path) -> AsyncIterator[Subject]:
    """The program `amqtt` on a free loopback port, without the plug-ins that log each packet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = Address(*probe.getsockname())
    configuration = folder / "amqtt.yaml"
    configuration.write_text(
        f"listeners: {{default: {{type: tcp, bind: '{address.host}:{address.port}'}}}}\n"
        "plugins: {amqtt.plugins.authentication.AnonymousAuthPlugin: {allow_anonymous: true}}\n"
    )
    with (folder / "amqtt.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec("amqtt", "-c", str(configuration), stdout=log, stderr=log)
    try:
        async with asyncio.timeout(READY_S):
            while not await _listens(address):
                if process.returncode is not None:
                    raise BrokerError(f"amqtt ended with status {process.returncode}")
                await asyncio.sleep(POLL_S)
        yield Subject(name, address, Usage(process.pid))
    except TimeoutError:
        raise BrokerError(f"amqtt was not ready within {READY_S:g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


SUBJECTS: dict[str, Callable[[str, Path], AbstractAsyncContextManager[Subject]]] = {
    "embedded": _engine,
    "mosquitto": _engine,
    "amqtt": _amqtt,
}


@asynccontextmanager
async def started(name: str) -> AsyncIterator[Subject]:
    """A fresh broker of that name, ended with the context."""
    if name not in SUBJECTS:
        raise SettingsError(f"broker {name!r} is unknown; valid: one of {', '.join(SUBJECTS)}")
    with tempfile.TemporaryDirectory(prefix="splitcom-bench-") as folder:
        async with SUBJECTS[name](name, Path(folder)) as subject:
            yield subject


def installed() -> list[str]:
    """The brokers that can be started on this machine."""
    there = {"embedded": True, "mosquitto": find_mosquitto() is not None, "amqtt": shutil.which("amqtt") is not None}
    return [name for name in SUBJECTS if there[name]]


def check(names: list[str]) -> None:
    """SettingsError for a broker that is not installed, or named twice."""
    able = installed()
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"{name} is named more than once; valid: each broker once")
        if name not in able:
            raise SettingsError(f"{name} is not installed; valid here: {', '.join(able)}")


def _children() -> set[int]:
    """Processes that this thread has started and that have not been waited for."""
    own = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    return {int(pid) for pid in own.read_text().split()}


async def _listens(address: Address) -> bool:
    try:
        _, writer = await asyncio.open_connection(*address)
    except OSError:
        return False
    writer.close()
    return True


def _innermost(pid: int) -> int:
    """The process that a chain of wrappers runs, such as `broker.attached`."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return _innermost(int(children[0])) if children else pid
